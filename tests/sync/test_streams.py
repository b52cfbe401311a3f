"""Readers and writers are ``io`` objects: what the standard library does with them, over TCP."""

from __future__ import annotations

import gc
import io
import json
import pickle
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from multidict import CIMultiDict

from koko.core.connection import Connection
from koko.core.deflate import Agreed
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.errors import CloseError
from koko.http import Request, Response
from koko.message import Kind
from koko.sync import Conn, join_messages
from koko.sync.driver import Driver
from koko.sync.streams import MessageReader
from koko.sync.transport import PlainStream
from tests.sync.conftest import PATIENCE, Link, in_thread, tcp_pair
from tests.wire import wire

MIB = 1 << 20
Pair = Callable[..., tuple[Conn, Conn]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Make both ends of a connection."""
    made: list[Conn] = []

    def make(agreed: Agreed | None = None, **options: Any) -> tuple[Conn, Conn]:
        for role, sock in zip(Role, tcp_pair(), strict=True):
            core = Connection(role, ConnectionOptions(**options), agreed, monotonic())
            request = Request("GET", "/", CIMultiDict())
            made.append(Conn(Driver(core, PlainStream(sock)), request, Response(101), None))
        return made[-2], made[-1]

    yield make
    for conn in made:
        conn.abort()


def send_in_parts(conn: Conn, payload: bytes) -> None:
    with conn.next_writer(Kind.BINARY) as writer:
        writer.write(payload)


# Reading


def test_copyfileobj_copies_a_message_from_end_to_end(pair: Pair) -> None:
    ours, theirs = pair(read_limit=None)
    payload = bytes(range(256)) * 8192

    def send() -> None:
        with theirs.next_writer(Kind.BINARY) as writer:
            shutil.copyfileobj(io.BytesIO(payload), writer)

    sending = in_thread(send)
    received = io.BytesIO()
    kind, reader = ours.next_reader()
    shutil.copyfileobj(reader, received)
    sending.result(PATIENCE)
    assert kind is Kind.BINARY
    assert received.getvalue() == payload


def test_json_is_loaded_and_dumped_without_a_copy_in_between(pair: Pair) -> None:
    ours, theirs = pair(write_buffer_size=100)
    value = {"ä": list(range(1000))}
    with theirs.next_writer(Kind.TEXT) as writer:
        json.dump(value, io.TextIOWrapper(writer, write_through=True, encoding="utf-8"))
    with theirs.next_writer(Kind.TEXT) as writer:
        json.dump(value, writer)
    kind, reader = ours.next_reader()
    assert (kind, json.load(reader)) == (Kind.TEXT, value)
    assert json.load(io.TextIOWrapper(ours.next_reader()[1], encoding="utf-8")) == value


@pytest.mark.parametrize("payload", [b"", b"  ", b'{"a": ', b"[1, 2"])
def test_json_cut_short_is_an_error_and_the_connection_unharmed(link: Link, payload: bytes) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 0001  1 len", payload) + wire("1 000 0001  1 len", b"[1]"))
    with pytest.raises(ValueError, match=r"Expecting"):
        json.load(conn.next_reader()[1])
    assert conn.read_json() == [1]
    peer.sends(wire("1 000 1000  1 0000010", b"\x03\xe8"))
    with pytest.raises(CloseError):
        conn.next_reader()


def test_lines_and_delimiters_are_read_through_a_buffered_reader(pair: Pair) -> None:
    ours, theirs = pair()
    lines = [b"x" * size + b"\n" for size in (0, 1, 4095, 4096, 20_000)]
    in_thread(send_in_parts, theirs, b"".join(lines) + b"rest")
    buffered = io.BufferedReader(ours.next_reader()[1])
    assert [buffered.readline() for _ in lines] == lines
    assert buffered.read(3) == b"res"
    assert buffered.read() == b"t"


def test_text_wrapper_decodes_characters_cut_by_fragments(pair: Pair) -> None:
    ours, theirs = pair(write_buffer_size=1)
    text = "zwölf Boxkämpfer\njagen Viktor\n"
    in_thread(send_in_parts, theirs, text.encode())
    assert list(io.TextIOWrapper(ours.next_reader()[1], encoding="utf-8")) == text.splitlines(True)


def test_reader_is_an_io_object_that_reads_and_cannot_seek(link: Link) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 0010  1 len", b"one\ntwo\nthree"))
    _, reader = conn.next_reader()
    assert (reader.readable(), reader.writable(), reader.seekable()) == (True, False, False)
    assert reader.readline(2) == b"on"
    assert next(reader) == b"e\n"
    assert reader.readlines() == [b"two\n", b"three"]
    with pytest.raises(io.UnsupportedOperation):
        reader.seek(0)
    with reader:
        pass
    with pytest.raises(ValueError, match="closed reader"):
        reader.read()


def test_archive_is_unpacked_as_it_comes(pair: Pair) -> None:
    ours, theirs = pair(read_limit=None)
    content = bytes(range(256)) * 1000

    def send() -> None:
        with (
            theirs.next_writer(Kind.BINARY) as writer,
            tarfile.open(fileobj=writer, mode="w|gz") as archive,
        ):
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    sending = in_thread(send)
    with tarfile.open(fileobj=ours.next_reader()[1], mode="r|gz") as archive:
        [unpacked] = [archive.extractfile(entry).read() for entry in archive]  # type: ignore[union-attr]
    sending.result(PATIENCE)
    assert unpacked == content


def test_objects_are_unpickled_through_a_buffer(pair: Pair) -> None:
    ours, theirs = pair(write_buffer_size=10)
    value = {"key": list(range(5000))}
    in_thread(send_in_parts, theirs, pickle.dumps(value))
    assert pickle.load(io.BufferedReader(ours.next_reader()[1])) == value


def test_joined_messages_are_read_line_by_line(link: Link) -> None:
    conn, peer = link()
    peer.sends(b"".join(wire("1 000 0001  1 len", text) for text in (b"one", b"two")))
    peer.sends(wire("1 000 1000  1 0000010", b"\x03\xe8"))
    assert list(join_messages(conn, "\n")) == [b"one\n", b"two\n"]


# Writing


def test_writer_is_an_io_object_that_writes(link: Link) -> None:
    conn, peer = link()
    with conn.next_writer(Kind.TEXT) as writer:
        assert (writer.readable(), writer.writable(), writer.seekable()) == (False, True, False)
        print("hello", file=writer)
        writer.flush()
    peer.reads(wire("1 000 0001  0 0000110", b"hello\n"))


def test_text_wrapper_that_is_closed_ends_the_message(link: Link) -> None:
    conn, peer = link()
    with io.TextIOWrapper(conn.next_writer(Kind.TEXT), encoding="utf-8") as text:
        text.write("grün")
    peer.reads(wire("1 000 0001  0 0000101", "grün".encode()))


def test_who_would_wait_for_himself_is_told_so(link: Link) -> None:
    conn, _ = link()
    with conn.next_writer(Kind.TEXT):
        for send in (
            lambda: conn.send("late"),
            lambda: conn.write_json(1),
            lambda: conn.next_writer(Kind.TEXT),
        ):
            with pytest.raises(RuntimeError, match="this thread is writing a message"):
                send()
    conn.send("in time")


def test_a_failing_block_after_close_harms_nothing(link: Link) -> None:
    conn, peer = link(write_buffer_size=2)
    with pytest.raises(KeyError), conn.next_writer(Kind.TEXT) as writer:
        writer.write("abc")
        writer.close()
        raise KeyError
    peer.reads(wire("0 000 0001  0 0000010", b"ab") + wire("1 000 0000  0 0000001", b"c"))
    assert conn.ending is None


def test_message_of_a_handler_waits_for_the_message_that_is_written(link: Link) -> None:
    conn, peer = link(write_buffer_size=2)
    conn.ping_handler = lambda payload: conn.send(payload.decode())
    writer = conn.next_writer(Kind.TEXT)
    writer.write("abc")
    peer.sends(wire("1 000 1001  1 len", b"ping") + wire("1 000 0001  1 len", b"text"))
    assert conn.recv() == "text"
    writer.close()
    peer.reads(wire("0 000 0001  0 0000010", b"ab") + wire("1 000 0000  0 0000001", b"c"))
    peer.reads(wire("1 000 0001  0 0000100", b"ping"))


def test_messages_that_were_gathered_leave_before_the_parts_of_another(link: Link) -> None:
    conn, peer = link(write_buffer_size=2)
    with conn.cork():
        conn.send("1")
        with conn.next_writer(Kind.TEXT) as writer:
            writer.write("abc")
        conn.send("2")
    peer.reads(wire("1 000 0001  0 0000001", b"1") + wire("0 000 0001  0 0000010", b"ab"))
    peer.reads(wire("1 000 0000  0 0000001", b"c") + wire("1 000 0001  0 0000001", b"2"))


def test_handler_cannot_open_a_writer(link: Link) -> None:
    conn, peer = link()
    conn.ping_handler = lambda payload: conn.next_writer(Kind.TEXT)
    peer.sends(wire("1 000 1001  1 0000000", b""))
    with pytest.raises(RuntimeError, match=r"next_writer\(\) called from a handler"):
        conn.recv()


def test_writer_that_becomes_garbage_amid_its_message_ends_the_connection(link: Link) -> None:
    conn, peer = link(write_buffer_size=2)
    with pytest.warns(ResourceWarning, match="was never closed"):
        conn.next_writer(Kind.TEXT).write("abc")
    peer.reads(wire("0 000 0001  0 0000010", b"ab"))
    said = b"\x03\xf3a message was cut off in the middle"
    peer.reads(wire("1 000 1000  0 len", said))


def test_readers_that_become_garbage_are_skipped(link: Link) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 0001  1 len", b"first") + wire("1 000 0001  1 len", b"second"))
    io.TextIOWrapper(conn.next_reader()[1]).read(1)
    gc.collect()
    assert conn.recv() == "second"


def test_control_frames_of_many_threads_stand_whole_between_the_fragments(pair: Pair) -> None:
    ours, theirs = pair(write_buffer_size=100, read_limit=None)
    pongs: list[bytes] = []
    theirs.pong_handler = pongs.append

    def heartbeat(number: int) -> None:
        for beat in range(10):
            ours.write_control(
                Kind.PONG, b"%d.%d" % (number, beat), deadline=monotonic() + PATIENCE
            )

    receiving = in_thread(theirs.recv, PATIENCE)
    with ours.next_writer(Kind.BINARY) as writer:
        beating = [in_thread(heartbeat, number) for number in range(10)]
        for _ in range(1000):
            writer.write(bytes(100))
        for future in beating:
            future.result(PATIENCE)
    assert receiving.result(PATIENCE) == bytes(100_000)
    assert sorted(pongs) == sorted(b"%d.%d" % (i, beat) for i in range(10) for beat in range(10))


def test_reader_whose_making_was_interrupted_can_be_closed() -> None:
    with MessageReader.__new__(MessageReader) as reader:
        pass
    assert reader.closed


# Memory


@pytest.mark.parametrize("agreed", [None, Agreed()], ids=["plain", "compressed"])
def test_large_message_passes_through_bounded_memory(pair: Pair, agreed: Agreed | None) -> None:
    ours, theirs = pair(agreed, read_limit=None)
    size, chunk = 32 * MIB, bytes(MIB)

    def send() -> None:
        with theirs.next_writer(Kind.BINARY) as writer:
            for _ in range(size // len(chunk)):
                writer.write(chunk)

    tracemalloc.start()
    try:
        sending = threading.Thread(target=send)
        sending.start()
        _, reader = ours.next_reader()
        received = sum(len(octets) for octets in iter(lambda: reader.read(MIB), b""))
        sending.join(PATIENCE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == size
    assert peak < 8 * MIB


@pytest.mark.parametrize("fails", [False, True])
def test_a_buffer_is_there_only_while_a_message_is_written(pair: Pair, fails: bool) -> None:
    ours, theirs = pair(write_buffer_size=8 * MIB, read_limit=None)
    payload = bytes(4 * MIB)
    receiving = in_thread(lambda: shutil.copyfileobj(theirs.next_reader()[1], io.BytesIO()))
    tracemalloc.start()
    try:
        with suppress(KeyError), ours.next_writer(Kind.BINARY) as writer:
            idle, _ = tracemalloc.get_traced_memory()
            writer.write(payload)
            full, _ = tracemalloc.get_traced_memory()
            if fails:
                raise KeyError
        if fails:
            ours.abort()
        with suppress(CloseError):
            receiving.result(PATIENCE)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert idle < 128 << 10
    assert full > 4 * MIB
    assert after < 128 << 10
