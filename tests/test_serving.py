"""What a server decides on both faces: whom it serves, and what the end of a handler means."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from koko.errors import Close, CloseError
from koko.http import Request
from koko.opening.head import ResponseParser
from koko.serving import (
    MOST_REFUSED,
    REFUSE_TIMEOUT,
    Admission,
    admission,
    check_limit,
    close_code_of,
    is_for_http,
    linger_until,
    refusal_octets,
    server_full,
)

# max_connections


def test_without_a_limit_everybody_is_served():
    assert admission(None, 10**9, 0) is Admission.SERVE


def test_up_to_the_limit_everybody_is_served_and_then_refused():
    assert [admission(2, served, 0) for served in (0, 1, 2, 3)] == [
        Admission.SERVE, Admission.SERVE, Admission.REFUSE, Admission.REFUSE,
    ]  # fmt: skip


def test_more_than_are_refused_at_a_time_are_dropped():
    assert admission(2, 2, MOST_REFUSED - 1) is Admission.REFUSE
    assert admission(2, 2, MOST_REFUSED) is Admission.DROP


def test_the_answer_is_a_503_that_says_which_limit():
    error = server_full(2)
    response = ResponseParser().feed(refusal_octets(error))
    assert response is not None
    assert response.status == error.status == 503
    assert response.body.decode() == error.reason
    assert "(max_connections=2), try again later" in error.reason


@pytest.mark.parametrize(
    ("limit", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("9", TypeError)],
)
def test_what_is_no_number_of_connections_is_refused(limit, error):
    with pytest.raises(error, match=f"^max_connections={limit!r}: a whole number above 0"):
        check_limit(limit)


# Requests and answers


@pytest.mark.parametrize(
    ("handler", "http", "upgrade", "answers"),
    [
        (True, None, False, False),
        (True, True, True, False),
        (True, True, False, True),
        (None, True, True, True),
        (None, True, False, True),
    ],
)
def test_http_answers_what_asks_for_no_websocket_and_without_a_handler_everything(
    handler, http, upgrade, answers
):
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if upgrade else {}
    request = Request("GET", "/", CIMultiDictProxy(CIMultiDict(headers)))
    assert is_for_http(handler, http, request) is answers


def test_a_client_that_was_answered_has_two_seconds_to_hang_up_within_its_handshake():
    assert REFUSE_TIMEOUT == 2.0
    assert linger_until(100.0, None) == 102.0
    assert linger_until(100.0, 110.0) == 102.0
    assert linger_until(109.0, 110.0) == 110.0


# The end of a handler


def ordinary() -> CloseError:
    return CloseError(1001, received=Close(1001, ""))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 1000),
        (ordinary(), 1000),
        (ExceptionGroup("", [ordinary(), ordinary()]), 1000),
        (ExceptionGroup("", [ordinary(), ExceptionGroup("", [ordinary()])]), 1000),
        (ExceptionGroup("", [ordinary(), ValueError()]), 1011),
        (ExceptionGroup("", [ExceptionGroup("", [ValueError()])]), 1011),
        (BaseExceptionGroup("", [ordinary(), SystemExit()]), 1011),
        (ValueError(), 1011),
        (SystemExit(), 1011),
    ],
)
def test_a_handler_that_only_finds_connections_closed_ends_with_1000(error, code):
    assert close_code_of(error) == code
