"""One message to many: nobody waits for a slow one, and everybody is counted."""

from __future__ import annotations

import pytest

from koko import Kind, PreparedMessage
from koko.core import deflate
from koko.core.deflate import Compression
from koko.core.wire import Role
from koko.sync import Delivery
from tests.conversation.conftest import Talk

KIB = 1024


@pytest.mark.parametrize(
    ("message", "bits", "payload"),
    [
        ("grüße", "1 000 0001", "grüße".encode()),
        (b"\x00\xff", "1 000 0010", b"\x00\xff"),
        (PreparedMessage(Kind.TEXT, b"made before"), "1 000 0001", b"made before"),
    ],
)
def test_everybody_hears_the_message(
    talk: Talk, message: str | bytes | PreparedMessage, bits: str, payload: bytes
) -> None:
    opened = [talk.open(Role.SERVER) for _ in range(3)]
    assert talk.broadcast([us for us, _ in opened], message) == Delivery(3, 0, 0, 0)
    for _, peer in opened:
        peer.hears(bits, payload)
        peer.hears_nothing()


def test_clients_may_broadcast_and_mask_each_copy(talk: Talk) -> None:
    opened = [talk.open(Role.CLIENT) for _ in range(2)]
    talk.broadcast([us for us, _ in opened], "hello")
    for _, peer in opened:
        peer.hears("1 000 0001", b"hello")


def test_a_compressed_message_is_compressed_once(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed = deflate.answer(Compression(), ["permessage-deflate"])
    assert agreed is not None
    opened = [talk.open(Role.SERVER, agreed[1]) for _ in range(3)]
    message = PreparedMessage(Kind.TEXT, "tick " * 400)
    talk.broadcast([us for us, _ in opened], message)
    frames = [peer.hears("1 100 0001") for _, peer in opened]
    assert frames[0] == frames[1] == frames[2]
    assert len(message._forms) == 1


def test_who_is_over_is_passed_by_and_counted(talk: Talk) -> None:
    us, peer = talk.open()
    aborted, _ = talk.open()
    aborted.abort()
    closing, _ = talk.open()
    closing.start_close()
    lost, breaking = talk.open()
    breaking.breaks()
    talk.clock.advance(1)
    assert talk.broadcast([aborted, us, closing, lost], "hello") == Delivery(1, 0, 0, 3)
    peer.hears("1 000 0001", b"hello")


def test_slow_one_is_not_sent_the_message_and_nobody_waits_for_it(talk: Talk) -> None:
    us, peer = talk.open()
    slow, deaf = talk.open()
    deaf.stops_reading()
    slow.start_send(bytes(100 * KIB))
    assert talk.broadcast([slow, us], "hello") == Delivery(1, 1, 0, 0)
    peer.hears("1 000 0001", b"hello")
    deaf.reads_on()
    talk.clock.advance(1)
    assert talk.broadcast([slow, us], "again") == Delivery(2, 0, 0, 0)
    deaf.hears("1 000 0010", bytes(100 * KIB))
    deaf.hears("1 000 0001", b"again")


def test_slow_one_is_closed_with_1013_where_the_caller_says_so(talk: Talk) -> None:
    us, peer = talk.open()
    slow, deaf = talk.open(close_timeout=10)
    deaf.stops_reading()
    slow.start_send(bytes(100 * KIB))
    assert talk.broadcast([slow, us], "hello", slow="close") == Delivery(1, 0, 1, 0)
    peer.hears("1 000 0001", b"hello")
    assert talk.broadcast([slow, us], "again", slow="close") == Delivery(1, 0, 0, 1)
    deaf.reads_on()
    talk.clock.advance(1)
    deaf.hears("1 000 0010", bytes(100 * KIB))
    deaf.hears_close(1013, "too slow for what is broadcast")


def test_slow_one_that_does_not_even_read_the_1013_is_dropped(talk: Talk) -> None:
    slow, deaf = talk.open(close_timeout=10)
    deaf.stops_reading()
    sending = slow.start_send(bytes(200 * KIB))
    talk.broadcast([slow], "hello", slow="close")
    assert not deaf.line.dropped
    talk.clock.advance(11)
    assert deaf.line.dropped
    assert not sending.waits
    assert "we had sent 1013 (try again later)" in str(slow.conn.ending)


def test_what_waits_for_one_who_never_reads_is_bounded(talk: Talk) -> None:
    slow, deaf = talk.open(ping_interval=None)
    deaf.stops_reading()
    message = bytes(16 * KIB)
    delivered = [talk.broadcast([slow], message) for _ in range(100)]
    assert 1 <= delivered.count(Delivery(1, 0, 0, 0)) <= 6
    assert delivered[-1] == Delivery(0, 1, 0, 0)


def test_who_is_named_twice_hears_it_once(talk: Talk) -> None:
    us, peer = talk.open()
    assert talk.broadcast([us, us], "hello") == Delivery(1, 0, 0, 0)
    peer.hears("1 000 0001", b"hello")
    peer.hears_nothing()


def test_nobody_at_all_is_no_error(talk: Talk) -> None:
    assert talk.broadcast([], "hello") == Delivery(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("message", "options", "error", "sentence"),
    [
        ("x", {"slow": "wait"}, ValueError, "slow='wait', expected 'drop' the message or 'close'"),
        ("x", {"timeout": -1}, ValueError, "timeout=-1, expected 0 seconds or more"),
        (17, {}, TypeError, "a message is str or bytes, not int"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_sent(
    talk: Talk, message: object, options: dict[str, object], error: type[Exception], sentence: str
) -> None:
    us, peer = talk.open()
    with pytest.raises(error, match=sentence):
        talk.broadcast([us], message, **options)
    peer.hears_nothing()


def test_who_has_a_write_deadline_to_come_is_not_slow(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.write_deadline = talk.clock.seconds + 5
    assert talk.broadcast([us], "to all", slow="close") == Delivery(1, 0, 0, 0)
    peer.hears("1 000 0001", b"to all")


def test_nothing_is_broadcast_after_the_write_deadline(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.write_deadline = talk.clock.seconds + 5
    talk.clock.advance(5.1)
    assert talk.broadcast([us], "to all", timeout=1) == Delivery(0, 1, 0, 0)
    peer.hears_nothing()
