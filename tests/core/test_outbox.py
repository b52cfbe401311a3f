"""What is owed to the peer: shared, compressed, and never more pongs than it is worth."""

from __future__ import annotations

import pytest

from koko.core.deflate import Agreed
from koko.core.outbox import MAX_OWED_PONGS, Outbox
from koko.core.wire import Opcode, Role
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, server
from tests.wire import masked

LARGE = "hello " * 100
TAKEOVER = Agreed(server_no_context_takeover=False, client_no_context_takeover=False)


def test_frames_leave_in_the_order_they_were_owed():
    outbox = Outbox(Role.SERVER, None)
    outbox.add(Kind.TEXT, "hello")
    outbox.add_control(Opcode.PING, b"42")
    outbox.add(Kind.BINARY, b"\xff")
    assert outbox.take() == b"\x81\x05hello\x89\x0242\x82\x01\xff"
    assert outbox.owed == []


def test_what_is_owed_is_always_the_same_list():
    outbox = Outbox(Role.SERVER, None)
    owed = outbox.owed
    outbox.add(Kind.TEXT, "hello")
    outbox.take()
    assert outbox.owed is owed


def test_pongs_that_cannot_leave_give_way_to_the_newest():
    outbox = Outbox(Role.SERVER, None)
    for number in range(MAX_OWED_PONGS + 5):
        outbox.add_control(Opcode.PONG, b"%d" % number)
    assert len(outbox.owed) == MAX_OWED_PONGS
    assert outbox.owed[0] == b"\x8a\x010"
    assert outbox.owed[-1] == b"\x8a\x0268"


def test_a_pong_gives_way_to_a_newer_one_and_nothing_else_does():
    outbox = Outbox(Role.SERVER, None)
    for _ in range(MAX_OWED_PONGS):
        outbox.add_control(Opcode.PONG, b"old")
    outbox.add(Kind.TEXT, "hello")
    outbox.add_control(Opcode.PONG, b"new")
    assert outbox.owed[-2:] == [b"\x8a\x03new", b"\x81\x05hello"]


def test_pongs_are_counted_anew_once_they_have_left():
    outbox = Outbox(Role.SERVER, None)
    for number in range(MAX_OWED_PONGS + 1):
        outbox.add_control(Opcode.PONG, b"%d" % number)
    outbox.take()
    outbox.add_control(Opcode.PONG, b"1")
    outbox.add_control(Opcode.PONG, b"2")
    assert outbox.owed == [b"\x8a\x011", b"\x8a\x012"]


def read(end, *frames):
    """Return what ``end`` reads from these frames."""
    end.feed(b"".join(frames), 1.0)
    return list(iter(end.next_message, None))


@pytest.mark.parametrize("payload", ["hello", LARGE])
@pytest.mark.parametrize("agreed", [None, Agreed(), TAKEOVER], ids=["none", "deflate", "takeover"])
@pytest.mark.parametrize(("sender", "reader"), [(server, client), (client, server)])
def test_a_prepared_message_reads_as_if_it_had_been_sent(sender, reader, agreed, payload):
    prepared, peer = PreparedMessage(Kind.TEXT, payload), reader(agreed)
    end = sender(agreed)
    for _ in range(2):
        end.send_prepared(prepared)
    assert read(peer, *end.owed) == [payload] * 2


def plain(frame):
    """Return a frame without the key that masks it, which is another each time."""
    if frame[1] < 0x80:
        return frame
    start = {126: 4, 127: 10}.get(frame[1] & 0x7F, 2)
    return frame[:start] + masked(frame[start + 4 :], frame[start : start + 4])


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.BINARY])
@pytest.mark.parametrize("level", [None, -2, 1, 9])
@pytest.mark.parametrize("end_of", [server, client])
def test_a_prepared_message_is_byte_for_byte_what_would_be_sent(end_of, level, kind):
    payload = bytearray(b"What is sent twice is made once. " * 100)
    prepared, message = PreparedMessage(kind, payload), bytes(payload)
    payload[:] = bytes(len(payload))
    agreed = None if level is None else Agreed(level=level)
    for _ in range(2):
        one, other = end_of(agreed), end_of(agreed)
        one.send_prepared(prepared)
        other.send(kind, message)
        assert plain(one.owed[0]) == plain(other.owed[0])


def test_a_new_level_prepares_the_message_anew():
    prepared, end = PreparedMessage(Kind.TEXT, LARGE), server(Agreed(level=9))
    end.send_prepared(prepared)
    end.compression_level = 0
    end.send_prepared(prepared)
    assert len(end.owed[0]) < len(LARGE) < len(end.owed[1])


def test_servers_share_the_frame():
    prepared, one, other = PreparedMessage(Kind.TEXT, LARGE), server(Agreed()), server(Agreed())
    one.send_prepared(prepared)
    other.send_prepared(prepared)
    assert one.owed[0] is other.owed[0]
    assert one.owed[0][0] == 0b1_100_0001
    assert len(one.owed[0]) < 50


def test_clients_share_no_masking_key():
    prepared, one, other = PreparedMessage(Kind.TEXT, LARGE), client(Agreed()), client(Agreed())
    one.send_prepared(prepared)
    other.send_prepared(prepared)
    assert one.owed[0][2:6] != other.owed[0][2:6]


def test_a_server_that_compresses_and_one_that_does_not_share_nothing():
    prepared = PreparedMessage(Kind.TEXT, LARGE)
    plain, deflating, switched_off = server(), server(Agreed()), server(Agreed())
    switched_off.write_compression = False
    for end in (plain, deflating, switched_off):
        end.send_prepared(prepared)
    assert [end.owed[0][0] for end in (plain, deflating, switched_off)] == [0x81, 0xC1, 0x81]


def test_the_threshold_counts_bytes_of_utf8():
    outbox = Outbox(Role.SERVER, Agreed(threshold=4))
    outbox.add(Kind.TEXT, "éé")
    outbox.add(Kind.TEXT, "éx")
    assert [frame[0] for frame in outbox.owed] == [0xC1, 0x81]


def test_text_that_is_no_unicode_is_never_owed():
    for agreed in (None, Agreed()):
        outbox = Outbox(Role.SERVER, agreed)
        with pytest.raises(UnicodeEncodeError):
            outbox.add(Kind.TEXT, "\ud800")
        assert outbox.owed == []
