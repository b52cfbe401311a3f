"""The bytes of a message read in pieces: what a read gives, and messages read as one."""

from __future__ import annotations

import pytest

from koko.core.incoming import ALL, LINE, Incoming, Joined
from koko.message import Kind
from tests.core.ends import said, server


def test_read_of_a_size_gives_what_is_there():
    stream = Incoming(Kind.BINARY)
    assert stream.measure(5) is None
    stream.add(b"abc")
    stream.add(b"def")
    assert stream.take(stream.measure(2)) == b"ab"
    assert stream.take(stream.measure(100)) == b"cdef"
    assert stream.measure(0) == 0
    stream.add(b"", final=True)
    assert stream.take(stream.measure(5)) == b""
    assert stream.over


def test_read_of_all_waits_for_the_end():
    stream = Incoming(Kind.BINARY)
    stream.add(b"abc")
    assert stream.take(1) == b"a"
    assert stream.measure(ALL) is None
    stream.add(b"def", final=True)
    assert stream.take(stream.measure(ALL)) == b"bcdef"


def test_read_of_a_line_waits_for_its_end():
    stream = Incoming(Kind.TEXT)
    for piece in (b"a", b"b", b"c\nd\n"):
        assert stream.measure(LINE) is None
        stream.add(piece)
    assert stream.take(1) == b"a"
    assert stream.take(stream.measure(LINE)) == b"bc\n"
    assert stream.take(stream.measure(LINE)) == b"d\n"
    stream.add(b"rest", final=True)
    assert stream.take(stream.measure(LINE)) == b"rest"
    assert stream.take(stream.measure(LINE)) == b""


def test_small_reads_of_a_large_piece_do_not_copy_it_each_time():
    stream = Incoming.whole(bytes(1 << 20))
    assert sum(len(stream.take(100)) for _ in range(11_000)) == 1 << 20


def test_closed_message_keeps_nothing():
    stream = Incoming.whole("text")
    stream.close()
    stream.add(b"more", final=True)
    assert not stream
    assert stream.over


# Messages joined into one


def test_joined_messages_are_taken_over_as_they_come():
    end = server()
    joined = Joined(end, b"|")
    assert joined.read(10) is None
    end.feed(said("0 000 0001", b"ab"), 1.0)
    assert joined.read(10) == b"ab"
    assert joined.read(10) is None
    end.feed(said("1 000 0000") + said("1 000 0010", b"c"), 1.0)
    assert [joined.read(1), joined.read(1), joined.read(1)] == [b"|", b"c", b"|"]
    joined.close()
    with pytest.raises(ValueError, match="closed reader"):
        joined.read(1)


def test_joined_messages_can_be_closed_in_the_middle_of_one():
    end = server()
    joined = Joined(end, b"")
    end.feed(said("0 000 0001", b"ab"), 1.0)
    assert joined.read(1) == b"a"
    joined.close()
    end.feed(said("1 000 0000") + said("1 000 0001", b"next"), 1.0)
    assert end.next_message() == "next"
