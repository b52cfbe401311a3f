"""When to dial again and after how long: no clock, no chance, no network."""

from __future__ import annotations

import socket
import ssl

import pytest
from multidict import CIMultiDict

from koko import Close, CloseError, ErrBadHandshake, ErrReadLimit, HandshakeError, ProtocolError
from koko.http import Response
from koko.reconnecting import LONGEST, Attempts, Backoff, is_transient, retry_after


def refused(status, **headers):
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return ErrBadHandshake("refused", Response(status, b"", fields))


def attempts(retry=is_transient, **options):
    return Attempts("ws://a.example/", Backoff(random=lambda: 1.0, **options), retry)


LOST = CloseError(1006, "the peer's stream ended without a Close")


# How long


def test_the_longest_wait_doubles_up_to_the_cap():
    backoff = Backoff(base=1, cap=10, random=lambda: 1.0)
    assert [backoff.delay(failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay(10_000) == 10


def test_the_jitter_is_full():
    for chance in (0.0, 0.25, 1.0):
        assert Backoff(base=8, random=lambda chance=chance: chance).delay(1) == 8 * chance


def test_clients_that_lost_a_server_together_come_back_one_by_one():
    delays = [Backoff(base=60).delay(1) for _ in range(100)]
    assert len(set(delays)) > 90
    assert 0 <= min(delays) < 20 < 40 < max(delays) <= 60


@pytest.mark.parametrize("name", ["base", "cap", "healthy"])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
def test_what_is_no_number_of_seconds_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value!r}, expected 0 seconds or more"):
        Backoff(**{name: value})


def test_each_failure_in_a_row_makes_the_wait_longer():
    plan = attempts()
    assert [plan.failed(ConnectionRefusedError()) for _ in range(4)] == [1, 2, 4, 8]


def test_a_healthy_spell_begins_the_count_anew():
    plan = attempts(healthy=10)
    assert [plan.failed(LOST), plan.failed(LOST), plan.failed(LOST)] == [1, 2, 4]
    assert plan.ended(LOST, lasted=10.0) == 1
    assert plan.failed(ConnectionRefusedError()) == 2


def test_a_server_that_lets_in_and_drops_at_once_is_not_dialed_without_end():
    plan = attempts(healthy=10)
    assert [plan.ended(LOST, lasted=0.1) for _ in range(4)] == [1, 2, 4, 8]


def test_who_asks_for_another_connection_waits_as_well():
    plan = attempts(healthy=10)
    assert [plan.ended(None, lasted=0.1) for _ in range(3)] == [1, 2, 4]
    assert plan.ended(None, lasted=60) == 1


# What the server asks for


def test_retry_after_is_honoured_and_the_jitter_comes_on_top():
    assert attempts().failed(refused(503, Retry_After="120")) == 121
    assert attempts().failed(refused(429, Retry_After=" 7 ")) == 8


def test_a_retry_after_of_a_year_costs_an_hour():
    assert attempts().failed(refused(503, Retry_After="9" * 40)) == LONGEST + 1


def test_a_date_counts_from_the_servers_own_clock():
    response = refused(
        503, Retry_After="Wed, 21 Oct 2015 07:28:30 GMT", Date="Wed, 21 Oct 2015 07:28:00 GMT"
    ).response
    assert retry_after(response) == 30


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry_After": ""},
        {"Retry_After": "-5"},
        {"Retry_After": "soon"},
        {"Retry_After": "²"},
        {"Retry_After": "Wed, 21 Oct 2015 07:28:30 GMT"},
        {"Retry_After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "today"},
        {"Retry_After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Fri, 1 Jan 2016 00:00:00 GMT"},
        {"Retry_After": "Wed, 99 Oct 99999 77:28:30 GMT", "Date": "Fri, 1 Jan 2016 00:00:00 GMT"},
    ],
)
def test_what_asks_for_nothing_that_can_be_read_is_nothing(headers):
    assert retry_after(refused(503, **headers).response) == 0


# What is worth another try


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError("the handshake with ws://x/ did not finish within 10 s: no answer came"),
        OSError(113, "No route to host"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        HandshakeError(0, "server closed the connection after 0 bytes of its answer"),
        *(refused(status) for status in (408, 425, 429, 500, 502, 503, 504, 520, 599)),
        LOST,
        *(
            CloseError(code, received=Close(code, ""), by_peer=True)
            for code in (1001, 1005, 1011, 1012, 1013, 1014, 3001, 4000, 4999)
        ),
        CloseError(1000, sent=Close(1000, ""), received=Close(1000, "")),
        CloseError(1006, "no answer within 10 s", sent=Close(1000, "")),
    ],
    ids=repr,
)
def test_these_are_worth_another_try(error):
    assert is_transient(error)
    assert attempts().failed(error) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("URL has the scheme 'http', write 'ws'"),
        TypeError("no"),
        ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate"),
        *(refused(status) for status in (200, 400, 401, 403, 404, 407, 426, 501, 505, 511)),
        *(
            CloseError(code, received=Close(code, ""), by_peer=True)
            for code in (1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003)
        ),
        ProtocolError(1002, "server sent a masked frame", "§5.1"),
        ErrReadLimit("message exceeds the 10-byte limit"),
        ZeroDivisionError("what a ping_handler raised"),
    ],
    ids=repr,
)
def test_these_are_not_and_are_raised(error):
    assert not is_transient(error)
    with pytest.raises(type(error)) as raised:
        attempts().ended(error, lasted=1.0)
    assert raised.value is error


def test_a_close_with_1000_is_followed_by_another_try_and_no_hot_loop():
    done = CloseError(1000, sent=Close(1000, ""), received=Close(1000, ""), by_peer=True)
    plan = attempts(healthy=10)
    assert [plan.ended(done, lasted=0.0) for _ in range(4)] == [1, 2, 4, 8]
    assert plan.ended(done, lasted=10.0) == 1


def test_each_end_and_the_wait_behind_it_are_one_line(caplog):
    caplog.set_level("INFO", "koko.client")
    plan = attempts()
    plan.failed(ConnectionRefusedError(111, "Connection refused"))
    plan.ended(None, lasted=0.1)
    plan.left(LOST)
    with pytest.raises(ErrBadHandshake):
        plan.failed(refused(404))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "[Errno 111] Connection refused; next try in 1.0 s",
        "the application asked for another; next try in 2.0 s",
        f"{LOST}; the application left the loop",
        f"{refused(404)}; another try would not help",
    ]


def test_the_caller_may_judge_otherwise():
    assert attempts(lambda error: True).failed(refused(404)) == 1
    with pytest.raises(ConnectionRefusedError):
        attempts(lambda error: False).failed(ConnectionRefusedError())


def test_what_ends_the_process_is_no_failure_to_judge():
    with pytest.raises(KeyboardInterrupt):
        attempts(lambda error: True).failed(KeyboardInterrupt())
