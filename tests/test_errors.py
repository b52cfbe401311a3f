"""The errors: whose fault, said in a sentence, and the facts beside it as attributes."""

from __future__ import annotations

import copy
import pickle

import pytest

from koko.errors import (
    Close,
    CloseError,
    ErrBadHandshake,
    ErrCloseSent,
    ErrReadLimit,
    HandshakeError,
    ProtocolError,
    WebSocketError,
)
from koko.http import Response

pytestmark = pytest.mark.once

BYE = Close(1000, "bye")
EVERY = [
    WebSocketError("what happened"),
    HandshakeError(403, "origin 'null' is foreign"),
    ErrBadHandshake("status is 302, expected 101", Response(302, "elsewhere")),
    CloseError(1000, "bye", sent=BYE, received=BYE, by_peer=True),
    ErrCloseSent(1000, "bye", sent=BYE),
    ProtocolError(1002, "peer sent reserved opcode 3", "§5.2"),
    ErrReadLimit("peer sent a message of at least 6 bytes, read_limit=5"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_error_is_a_websocket_error(error):
    assert isinstance(error, WebSocketError)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_error_can_be_copied(error):
    other = copy.copy(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_errors_can_be_sent_to_another_process(error):
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


# Handshakes


def test_a_handshake_error_says_its_status_and_why():
    assert str(HandshakeError(403, "foreign origin")) == "403: foreign origin"


def test_a_handshake_that_never_came_to_a_status_says_only_why():
    assert str(HandshakeError(0, "server speaks TLS")) == "server speaks TLS"


def test_a_bad_handshake_carries_the_servers_answer():
    response = Response(404, "no such chat")
    error = ErrBadHandshake("status is 404, expected 101", response)
    assert error.response is response
    assert error.status == 404
    assert str(error) == "404: status is 404, expected 101"


# Ends


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            CloseError(1001, "x", sent=Close(1001, ""), received=Close(1001, "x"), by_peer=True),
            "peer closed with 1001 (going away) 'x'; we answered 1001",
        ),
        (
            CloseError(3000, received=Close(3000, ""), by_peer=True),
            "peer closed with 3000; we could not answer",
        ),
        (
            CloseError(1005, sent=BYE, received=Close(1005, "")),
            "we closed with 1000 (normal) 'bye'; peer answered 1005",
        ),
        (CloseError(1006, "reset"), "connection lost; reset"),
        (
            CloseError(1006, "reset", sent=BYE),
            "connection lost; we had sent 1000 (normal) 'bye'; reset",
        ),
        (
            ErrCloseSent(1000, "bye", sent=BYE),
            "nothing can be sent after a Close; we sent 1000 (normal) 'bye'",
        ),
        (
            ErrCloseSent(1000, sent=BYE, received=Close(1000, "")),
            "nothing can be sent after a Close; "
            "we closed with 1000 (normal) 'bye'; peer answered 1000",
        ),
        (ProtocolError(1002, "bad", "§5.2"), "bad (RFC 6455 §5.2)"),
        (ProtocolError(1007, "bad", "RFC 7692 §7.2.2"), "bad (RFC 7692 §7.2.2)"),
        (ProtocolError(1002, "bad"), "bad"),
        (ErrReadLimit("too large"), "too large"),
    ],
)
def test_an_end_is_a_sentence_with_both_sides_in_it(error, sentence):
    assert str(error) == sentence


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_a_peer_that_leaves_politely_is_ordinary(code):
    assert CloseError(code, received=Close(code, ""), by_peer=True).ordinary


@pytest.mark.parametrize("code", [1002, 1006, 1011, 3000])
def test_any_other_code_of_the_peers_is_not_ordinary(code):
    answered = Close(code, "")
    assert not CloseError(code, received=answered, sent=answered, by_peer=True).ordinary


def test_our_own_close_is_ordinary_whatever_became_of_it():
    assert CloseError(1011, sent=BYE, received=Close(1011, "")).ordinary
    assert CloseError(1006, "no answer", sent=BYE).ordinary


def test_a_lost_connection_is_not_ordinary():
    assert not CloseError(1006, "reset").ordinary


def test_a_violation_is_never_ordinary():
    error = ProtocolError(1002, "bad")
    error.sent = Close(1002, "bad")
    assert not error.ordinary


def test_a_message_too_large_is_closed_with_1009():
    assert ErrReadLimit("too large").code == 1009


# A refusal, as an application writes it


@pytest.mark.parametrize(
    "error",
    [
        HandshakeError(401, "no token"),
        HandshakeError(status=401, reason="no token"),
        HandshakeError("no token", status=401),
    ],
)
def test_a_refusal_says_its_status_and_its_reason_in_any_order_that_is_clear(error):
    assert (error.status, error.reason, str(error)) == (401, "no token", "401: no token")
    assert pickle.loads(pickle.dumps(error)).status == 401


@pytest.mark.parametrize("said", [("no token", 401), ("401", "no token"), (401, b"no"), (True, "")])
def test_a_refusal_that_is_none_is_told(said):
    with pytest.raises(TypeError, match="an HTTP status and a sentence, as in HandshakeError"):
        HandshakeError(*said)
