"""What a control frame of ours may carry (§5.5)."""

from __future__ import annotations

import pytest

from koko.core.control import check_payload, close_payload, parse_close, shorten
from koko.core.wire import CLOSE_CODES
from koko.errors import Close


@pytest.mark.parametrize("payload", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_any_buffer_is_a_payload(payload):
    assert check_payload(payload) == b"x"
    assert type(check_payload(payload)) is bytes


@pytest.mark.parametrize("payload", ["x", 5, None])
def test_nothing_but_a_buffer_is_a_payload(payload):
    with pytest.raises(TypeError):
        check_payload(payload)


def test_a_payload_has_at_most_125_bytes():
    assert len(check_payload(bytes(125))) == 125
    with pytest.raises(ValueError, match=r"at most 125 bytes, not 126 \(RFC 6455 §5\.5\)"):
        check_payload(bytes(126))


@pytest.mark.parametrize(
    ("payload", "close"),
    [(b"\x03\xe8", (1000, "")), (b"\x0b\xb8\xc3\xa9", (3000, "é")), (b"", (1005, ""))],
)
def test_a_close_says_its_code_and_its_reason_and_1005_is_none(payload, close):
    assert parse_close(payload) == close
    assert close_payload(Close(*close)) == payload


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe8\xff"])
def test_half_a_code_or_a_reason_that_is_not_utf8_makes_no_close(payload):
    with pytest.raises(ValueError, match=r"two bytes of code|utf-8"):
        parse_close(payload)


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536, -1])
def test_codes_that_may_never_appear_on_the_wire_make_no_close(code):
    assert code not in CLOSE_CODES
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        close_payload(Close(code, ""))


def test_a_reason_without_a_code_makes_no_close():
    with pytest.raises(ValueError, match="close code 1005 may not be sent"):
        close_payload(Close(1005, "bye"))


def test_a_reason_is_cut_between_characters():
    assert shorten("short") == "short"
    assert shorten("x" + "é" * 62) == "x" + "é" * 61  # 123 bytes, not 125
    assert shorten("é" * 62) == "é" * 61  # 122: the next would be cut in two
