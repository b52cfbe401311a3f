"""Kinds, close codes, prepared messages and the helpers round them."""

from __future__ import annotations

import pytest

from koko.errors import CloseError, ErrCloseSent, ProtocolError
from koko.message import (
    CloseCode,
    Kind,
    PreparedMessage,
    check_kind,
    format_close_message,
    is_close_error,
    is_unexpected_close_error,
    kind_of,
)

# Kinds


def test_text_is_str_and_binary_is_any_buffer():
    assert kind_of("x") is Kind.TEXT
    for message in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert kind_of(message) is Kind.BINARY


@pytest.mark.parametrize("message", [{}, 5, None, ["x"]])
def test_what_is_neither_is_refused_with_the_way_out(message):
    name = type(message).__name__
    with pytest.raises(TypeError, match=rf"str or bytes, not {name}; write_json"):
        kind_of(message)


def test_bytes_may_be_given_as_text_but_str_not_as_binary():
    check_kind(Kind.TEXT, b"x")
    with pytest.raises(TypeError, match="a binary message is bytes, not str"):
        check_kind(Kind.BINARY, "x")


@pytest.mark.parametrize("kind", [0, Kind.CLOSE, Kind.PING, Kind.PONG])
def test_control_frames_are_no_messages(kind):
    with pytest.raises(ValueError, match="not TEXT or BINARY"):
        check_kind(kind, b"")


# Prepared messages


def test_a_prepared_message_keeps_what_it_was_given():
    payload = bytearray(b"x")
    prepared = PreparedMessage(Kind.BINARY, payload)
    payload[0] = 0
    assert (prepared.kind, prepared.payload) == (Kind.BINARY, b"x")
    assert PreparedMessage(1, "é").payload == b"\xc3\xa9"


@pytest.mark.parametrize(
    ("kind", "message", "error"),
    [
        (Kind.PING, b"", ValueError),
        (99, b"", ValueError),
        (Kind.BINARY, "x", TypeError),
        (Kind.BINARY, 5, TypeError),  # bytes(5) is five zeros
    ],
)
def test_what_could_not_be_sent_cannot_be_prepared(kind, message, error):
    with pytest.raises(error):
        PreparedMessage(kind, message)


# Close frames


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (1000, "", b"\x03\xe8"),
        (CloseCode.GOING_AWAY, "é", b"\x03\xe9\xc3\xa9"),
        (4999, "", b"\x13\x87"),
        (1005, "", b""),
        (1005, "dropped", b""),
        (1000, "x" * 123, b"\x03\xe8" + b"x" * 123),
    ],
)
def test_a_close_payload_is_the_code_and_the_reason(code, reason, payload):
    assert format_close_message(code, reason) == payload


@pytest.mark.parametrize("code", [-1, 0, 999, 5000, 70000])
def test_what_is_no_close_code_makes_no_payload(code):
    with pytest.raises(ValueError, match=f"close code {code} is not in 1000 to 4999"):
        format_close_message(code)


def test_a_reason_of_124_bytes_is_too_long():
    with pytest.raises(ValueError, match="at most 123 bytes, this one 124"):
        format_close_message(1000, "é" * 62)


# Telling ends apart


def caused_by(error):
    outer = RuntimeError("the job failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error", [CloseError(1001), ErrCloseSent(1001), ProtocolError(1001, "bad")]
)
def test_a_close_error_is_told_by_its_code(error):
    assert is_close_error(error, 1000, 1001)
    assert not is_close_error(error, 1000)
    assert not is_close_error(error)


def test_an_unexpected_close_error_has_none_of_the_codes():
    assert is_unexpected_close_error(CloseError(1006), 1000, 1001)
    assert not is_unexpected_close_error(CloseError(1001), 1000, 1001)
    assert is_unexpected_close_error(CloseError(1001))


def test_what_caused_an_error_counts():
    assert is_close_error(caused_by(CloseError(1001)), 1001)
    assert is_unexpected_close_error(caused_by(CloseError(1006)), 1001)


@pytest.mark.parametrize("error", [None, OSError(), caused_by(OSError())])
def test_other_errors_are_neither(error):
    assert not is_close_error(error, 1000)
    assert not is_unexpected_close_error(error, 1000)
