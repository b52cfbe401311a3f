"""What threads may do with a connection, seen from a peer that is a bare socket."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from threading import Event
from time import monotonic

import pytest

from koko.core.deflate import Agreed
from koko.core.wire import Control, Opcode
from koko.errors import CloseError, ErrCloseSent, ProtocolError
from koko.message import Kind, PreparedMessage
from koko.sync.transport import READ
from tests.sync.conftest import PATIENCE, Link, in_thread, look_after, until
from tests.wire import wire

MUCH = 1 << 25  # bytes; more than the system takes for a peer that does not read

HI = wire("1 000 0001  1 0000010", b"hi")
CLOSE_1000 = wire("1 000 1000  1 0000010", b"\x03\xe8")
OUR_CLOSE_1000 = wire("1 000 1000  0 0000010", b"\x03\xe8")


# Receiving


def test_text_is_str_and_binary_is_bytes(link: Link) -> None:
    conn, peer = link()
    peer.sends(HI + wire("1 000 0010  1 0000010", b"\x00\xff"))
    assert conn.read_message() == (Kind.TEXT, "hi")
    assert conn.read_message() == (Kind.BINARY, b"\x00\xff")


def test_a_timeout_loses_nothing_of_a_message_that_had_begun(link: Link) -> None:
    conn, peer = link()
    peer.sends(HI[:5])
    with pytest.raises(TimeoutError, match=r"no message came within 0\.01 s"):
        conn.recv(timeout=0.01)
    peer.sends(HI[5:])
    assert conn.recv(timeout=PATIENCE) == "hi"


def test_a_second_receiver_is_told_who_is_the_first(link: Link) -> None:
    conn, peer = link()
    first = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    with pytest.raises(RuntimeError, match=r"already running in thread 'test-recv'; one receiver"):
        conn.recv()
    peer.sends(HI)
    assert first.result(PATIENCE) == "hi"


def test_a_flood_of_pings_does_not_keep_recv_from_its_timeout(link: Link) -> None:
    conn, peer = link()
    stop = threading.Event()
    pings = wire("1 000 1001  1 0000000", b"") * 20_000

    def flood() -> None:
        peer.sock.settimeout(0.05)
        while not stop.is_set():
            with suppress(TimeoutError):  # the pongs nobody reads have filled the pipe
                peer.sock.send(pings)

    flooding = in_thread(flood)
    try:
        with pytest.raises(TimeoutError, match=r"no message came within 0\.05 s"):
            in_thread(conn.recv, 0.05).result(PATIENCE)
    finally:
        stop.set()
        flooding.result(PATIENCE)
        conn.abort()


def test_pings_are_answered_while_a_thread_receives(link: Link) -> None:
    conn, peer = link()
    received = in_thread(conn.recv)
    peer.sends(wire("1 000 1001  1 0000011", b"are"))
    peer.reads(wire("1 000 1010  0 0000011", b"are"))
    peer.sends(HI)
    assert received.result(PATIENCE) == "hi"


@pytest.mark.parametrize("payload", [b"\x03\xe8", b"\x03\xe9bye", b""])
def test_iteration_ends_where_the_peer_ends_it_in_order(link: Link, payload: bytes) -> None:
    conn, peer = link()
    peer.sends(HI + HI + wire("1 000 1000  1 len", payload))
    assert list(conn) == ["hi", "hi"]


def test_iteration_raises_an_end_out_of_order(link: Link) -> None:
    conn, peer = link()
    peer.sends(HI + wire("1 000 1000  1 0000010", b"\x0f\xa0"))
    messages = iter(conn)
    assert next(messages) == "hi"
    with pytest.raises(CloseError) as caught:
        next(messages)
    assert caught.value.code == 4000
    assert str(caught.value) == "peer closed with 4000; we answered 4000"


def test_the_end_is_the_same_however_often_it_is_asked_for(link: Link) -> None:
    conn, peer = link()
    peer.sends(CLOSE_1000)
    for _ in range(3):
        with pytest.raises(CloseError) as caught:
            conn.recv()
        assert caught.value is conn.ending


def test_a_peer_that_vanishes_is_the_end(link: Link) -> None:
    conn, peer = link()
    peer.closes()
    with pytest.raises(CloseError, match="stream ended without a Close"):
        conn.recv()
    assert conn.socket.fileno() == -1


# Gathering


def test_what_is_sent_in_a_cork_leaves_together_at_its_end(link: Link) -> None:
    conn, peer = link()
    with conn.cork():
        conn.send("a")
        conn.send("b")
        assert peer.has_nothing()
    peer.reads(wire("1 000 0001  0 0000001", b"a") + wire("1 000 0001  0 0000001", b"b"))


def test_what_a_cork_gathered_leaves_before_its_thread_waits(link: Link) -> None:
    conn, peer = link()
    with conn.cork():
        peer.sends(HI + HI)
        for _ in range(2):
            conn.send(conn.recv())
        assert peer.has_nothing()
        with pytest.raises(TimeoutError):
            conn.recv(timeout=0.01)
        peer.reads(wire("1 000 0001  0 0000010", b"hi") * 2)


def test_a_full_cork_overflows(link: Link) -> None:
    conn, peer = link()
    with conn.cork():
        conn.send(bytes(65536))
        peer.reads(b"\x82\x7f" + (65536).to_bytes(8, "big") + bytes(65536))


def test_another_thread_is_not_held_up_by_a_cork(link: Link) -> None:
    conn, peer = link()
    with conn.cork():
        conn.send("a")
        in_thread(conn.send, "b").result(PATIENCE)
        peer.reads(wire("1 000 0001  0 0000001", b"a") + wire("1 000 0001  0 0000001", b"b"))


def test_a_cork_never_falls_back_to_a_thread_that_is_out_of_its_own(link: Link) -> None:
    conn, peer = link()
    with conn.cork():
        inside, leave = threading.Event(), threading.Event()

        def cork_too() -> None:
            with conn.cork():
                inside.set()
                leave.wait(PATIENCE)

        other = in_thread(cork_too)
        inside.wait(PATIENCE)
    leave.set()
    other.result(PATIENCE)
    conn.send("a")
    assert not conn._core.owed
    peer.reads(wire("1 000 0001  0 0000001", b"a"))


def test_a_cork_passes_the_turn_on(link: Link) -> None:
    conn, peer = link()
    senders = [in_thread(conn.send, bytes(MUCH))]
    until(lambda: conn._driver.turns.writer)

    def corked() -> None:
        with conn.cork():
            conn.send("b")

    for count, work in enumerate((corked, lambda: conn.send("c")), 1):
        senders.append(in_thread(work))
        until(lambda count=count: len(conn._driver.message_lock.waiting.tickets) == count)
    peer.reads_messages(3)
    for sender in senders:
        sender.result(PATIENCE)


def test_a_handler_may_cork_and_never_waits(link: Link) -> None:
    conn, peer = link()

    def answer(payload: bytes) -> None:
        with conn.cork():
            conn.send(bytes(MUCH))

    conn.ping_handler = answer
    peer.sends(wire("1 000 1001  1 0000000", b""))
    received = in_thread(conn.recv)
    until(lambda: conn._driver.stream.pending)
    in_thread(conn.pong).result(PATIENCE)  # the lock is free though the peer reads nothing
    conn.abort()
    with pytest.raises(CloseError):
        received.result(PATIENCE)


# A peer that floods


def test_pongs_behind_what_is_stuck_are_bounded(link: Link) -> None:
    conn, peer = link()
    conn.ping_handler = lambda payload: conn.send(bytes(MUCH))
    peer.sends(wire("1 000 1001  1 0000000", b""))
    until(lambda: look_after(conn) or conn._driver.stream.pending)
    conn.ping_handler = None
    stuck = len(conn._driver.stream._rest)
    for _ in range(5):
        peer.sends(wire("1 000 1001  1 0000001", b"a") * 600)
        look_after(conn)
    assert len(conn._driver.stream._rest) <= stuck
    assert len(conn._core.owed) <= 64


@pytest.mark.parametrize("way", ["fast", "by a deadline", "compressed"])
def test_who_sends_on_and_on_answers_pings_and_a_close(link: Link, way: str) -> None:
    agreed = Agreed() if way == "compressed" else None
    conn, peer = link(agreed=agreed)
    if way == "by a deadline":
        conn.write_deadline = monotonic() + PATIENCE

    def send_on() -> None:
        while True:
            conn.send("x" * 500)

    pinged = Event()
    conn.ping_handler = lambda payload: pinged.set()
    heard, sender = in_thread(peer.reads_all), in_thread(send_on)
    peer.sends(wire("1 000 1001  1 0000000", b""))
    until(lambda: look_after(conn) or pinged.is_set())
    peer.sends(wire("1 000 1000  1 0000010", b"\x03\xe8"))
    until(lambda: look_after(conn) or sender.done())
    with pytest.raises(ErrCloseSent):
        sender.result(PATIENCE)
    assert OUR_CLOSE_1000 in heard.result(PATIENCE)[-8:]


def test_what_a_handler_raises_meanwhile_is_not_the_senders_error(link: Link) -> None:
    conn, peer = link()
    conn.ping_handler = lambda payload: 1 / 0
    peer.sends(wire("1 000 1001  1 0000000", b""))
    assert conn._driver.stream.wait(READ, PATIENCE)
    conn._driver.turns.overdue = True
    with pytest.raises(ErrCloseSent, match="1011"):
        conn.send("hi")
    with pytest.raises(ZeroDivisionError):
        conn.recv()


def test_a_flood_is_left_to_the_next_round_of_the_keeper(link: Link) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 1001  1 0000000", b"") * 60_000)
    look_after(conn)
    assert conn._driver.stream.wait(READ, 0) == READ


# Sending


def test_messages_of_many_threads_are_never_interleaved(link: Link) -> None:
    conn, peer = link()
    letters = "abcdefgh"

    def send_all(letter: str) -> None:
        for _ in range(20):
            conn.send(letter * 60_000)

    senders = [in_thread(send_all, letter) for letter in letters]
    messages = peer.reads_messages(20 * len(letters))
    for sender in senders:
        sender.result(PATIENCE)
    assert sorted(messages) == sorted(letter * 60_000 for letter in letters for _ in range(20))


def test_control_frames_of_many_threads_are_never_lost_or_torn(link: Link) -> None:
    conn, peer = link()
    text = "x" * (1 << 22)

    def ping(number: int) -> None:
        for round_ in range(10):
            payload = b"%d of %d" % (round_, number)
            conn.write_control(Kind.PING, payload, deadline=monotonic() + PATIENCE)

    threads = [in_thread(ping, number) for number in range(10)]
    threads.append(in_thread(conn.send, text))
    heard = peer.reads_messages(101)
    for thread in threads:
        thread.result(PATIENCE)
    payloads = [b"%d of %d" % (round_, number) for round_ in range(10) for number in range(10)]
    pings = [each for each in heard if isinstance(each, Control)]
    assert sorted(each.payload for each in pings) == sorted(payloads)
    assert sum(each == text for each in heard) == 1


def test_a_reader_does_not_wait_behind_a_writer_whose_pipe_is_full(link: Link) -> None:
    conn, peer = link(read_limit=None)
    sender = in_thread(conn.send, bytes(MUCH))
    until(lambda: conn._driver.turns.writer)
    peer.sends(wire("1 000 1001  1 0000001", b"?") + HI)
    assert conn.recv(timeout=PATIENCE) == "hi"
    message, pong = peer.reads_messages(2)
    sender.result(PATIENCE)
    assert message == bytes(MUCH)
    assert pong == Control(Opcode.PONG, b"?")


def test_what_a_reader_could_not_write_at_once_leaves_while_it_reads_on(link: Link) -> None:
    conn, peer = link()
    stream = conn._driver.stream
    with conn._driver.turns.lock:
        while stream.write([wire("1 000 0010  0 1111110", bytes(60_000))]):
            pass
    receiver = in_thread(conn.recv)
    peer.sends(wire("1 000 1001  1 0000001", b"?"))
    while True:
        octets = peer.sock.recv(1 << 20)
        if octets.endswith(wire("1 000 1010  0 0000001", b"?")):
            break
    peer.sends(HI)
    assert receiver.result(PATIENCE) == "hi"


def test_a_send_that_gets_no_turn_in_time_sends_nothing_and_harms_nothing(link: Link) -> None:
    conn, peer = link()
    sender = in_thread(conn.send, bytes(MUCH))
    until(lambda: conn._driver.turns.writer)
    with pytest.raises(TimeoutError, match="nothing was sent"):
        conn.send("too late", timeout=0.01)
    first = in_thread(peer.reads_messages, 2)
    sender.result(PATIENCE)
    conn.send("in time", timeout=PATIENCE)
    assert first.result(PATIENCE) == [bytes(MUCH), "in time"]


def test_a_send_that_is_cut_off_in_the_middle_ends_the_connection(link: Link) -> None:
    conn, _ = link()
    with pytest.raises(CloseError, match="cut off in the middle by the timeout"):
        conn.send(bytes(MUCH), timeout=0.01)
    with pytest.raises(CloseError, match="cut off in the middle"):
        conn.recv()
    assert conn.socket.fileno() == -1


def test_a_send_after_our_close_is_refused(link: Link) -> None:
    conn, _ = link()
    conn.write_control(Kind.CLOSE, b"\x03\xe8")
    with pytest.raises(ErrCloseSent, match="nothing can be sent after a Close"):
        conn.send("late")


def test_a_send_into_a_broken_pipe_says_what_the_peer_had_said(link: Link) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 1000  1 0000110", b"\x03\xe9away"))
    # A reset instead of an end: what we write now comes back as an error.
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    peer.sock.shutdown(socket.SHUT_WR)
    peer.closes()
    with pytest.raises(CloseError):
        for _ in range(1000):
            conn.send("x" * 10_000)
    assert isinstance(conn.ending, CloseError)


def test_a_prepared_message_is_sent_to_everybody(link: Link) -> None:
    prepared = PreparedMessage(Kind.TEXT, "hi")
    for conn, peer in (link(), link()):
        conn.write_prepared(prepared)
        peer.reads(wire("1 000 0001  0 0000010", b"hi"))


def test_what_is_neither_text_nor_bytes_is_refused_at_once(link: Link) -> None:
    conn, _ = link()
    with pytest.raises(TypeError, match="a message is str or bytes, not dict"):
        conn.send({})  # type: ignore[arg-type]


def test_a_control_frame_whose_deadline_has_passed_is_not_sent(link: Link) -> None:
    conn, peer = link()
    with pytest.raises(TimeoutError, match="deadline had passed"):
        conn.write_control(Kind.PING, b"late", deadline=monotonic())
    conn.write_control(Kind.PING, b"in time", deadline=monotonic() + PATIENCE)
    peer.reads(wire("1 000 1001  0 0000111", b"in time"))


# Pings


def test_ping_reads_for_its_pong_and_keeps_the_messages_before_it(link: Link) -> None:
    conn, peer = link()
    round_trip = in_thread(conn.ping, b"tick")
    peer.reads(wire("1 000 1001  0 0000100", b"tick"))
    peer.sends(HI + wire("1 000 1010  1 0000100", b"tick"))
    assert 0 < round_trip.result(PATIENCE) == conn.latency
    assert conn.recv() == "hi"


def test_ping_waits_beside_a_receiver(link: Link) -> None:
    conn, peer = link()
    received = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    round_trip = in_thread(conn.ping, b"tick")
    peer.reads(wire("1 000 1001  0 0000100", b"tick"))
    peer.sends(wire("1 000 1010  1 0000100", b"tick"))
    assert round_trip.result(PATIENCE) > 0
    peer.sends(HI)
    assert received.result(PATIENCE) == "hi"


def test_a_receiver_takes_over_when_the_thread_that_read_leaves(link: Link) -> None:
    conn, peer = link()
    pinging = in_thread(conn.ping, b"tick")
    until(lambda: conn._driver.turns.reader)
    received = in_thread(conn.recv)
    until(lambda: conn._driver.link.news.tickets)
    peer.sends(wire("1 000 1010  1 0000100", b"tick"))
    pinging.result(PATIENCE)
    peer.sends(HI)
    assert received.result(PATIENCE) == "hi"


def test_a_ping_without_an_answer_times_out_and_harms_nothing(link: Link) -> None:
    conn, peer = link()
    with pytest.raises(TimeoutError, match=r"no pong came within 0\.01 s"):
        conn.ping(timeout=0.01)
    peer.sends(HI)
    assert conn.recv() == "hi"


def test_a_ping_ends_with_the_connection(link: Link) -> None:
    conn, peer = link()
    pinging = in_thread(conn.ping)
    until(lambda: conn._driver.turns.reader)
    peer.closes()
    with pytest.raises(CloseError):
        pinging.result(PATIENCE)


# Handlers


def test_a_handler_may_send(link: Link) -> None:
    conn, peer = link()
    conn.ping_handler = lambda payload: conn.send(f"pinged with {payload.decode()}")
    receiver = in_thread(conn.recv)
    peer.sends(wire("1 000 1001  1 0000010", b"me"))
    peer.reads(wire("1 000 0001  0 0001110", b"pinged with me"))
    peer.sends(HI)
    assert receiver.result(PATIENCE) == "hi"


def test_the_default_handler_can_be_wrapped_and_restored(link: Link) -> None:
    conn, peer = link()
    default, seen = conn.ping_handler, []

    def watch(payload: bytes) -> None:
        seen.append(payload)
        default(payload)

    conn.ping_handler = watch
    assert conn.ping_handler is watch
    peer.sends(wire("1 000 1001  1 0000001", b"1") + HI)
    assert conn.recv() == "hi"
    peer.reads(wire("1 000 1010  0 0000001", b"1"))
    conn.ping_handler = None
    peer.sends(wire("1 000 1001  1 0000001", b"2") + HI)
    assert conn.recv() == "hi"
    peer.reads(wire("1 000 1010  0 0000001", b"2"))
    assert seen == [b"1"]


def test_a_handler_that_waits_for_the_peer_is_told_why_it_cannot(link: Link) -> None:
    conn, peer = link()
    conn.ping_handler = lambda payload: conn.recv()
    peer.sends(wire("1 000 1001  1 0000000"))
    with pytest.raises(RuntimeError, match="called from a handler would wait for the thread"):
        conn.recv()
    peer.reads(wire("1 000 1000  0 0000010", b"\x03\xf3"))  # 1011


def test_a_close_handler_hears_the_code_before_the_answer(link: Link) -> None:
    conn, peer = link()
    heard = []
    conn.close_handler = lambda code, reason: heard.append((code, reason, conn._core.sent))
    peer.sends(wire("1 000 1000  1 0000101", b"\x03\xe8bye"))
    with pytest.raises(CloseError):
        conn.recv()
    assert heard == [(1000, "bye", None)]
    peer.reads(OUR_CLOSE_1000)


def test_a_handler_may_close(link: Link) -> None:
    conn, peer = link()
    conn.pong_handler = lambda payload: conn.close(4001)
    peer.sends(wire("1 000 1010  1 0000000") + wire("1 000 1000  1 0000010", b"\x0f\xa1"))
    with pytest.raises(CloseError, match="we closed with 4001; peer answered 4001"):
        conn.recv()


# Ending


def test_close_waits_for_the_peers_close_and_gives_the_socket_back(link: Link) -> None:
    conn, peer = link()
    closing = in_thread(conn.close, 1000, "done")
    peer.reads(wire("1 000 1000  0 0000110", b"\x03\xe8done"))
    peer.sends(CLOSE_1000)
    closing.result(PATIENCE)
    peer.reads_end()
    assert conn.socket.fileno() == -1
    assert str(conn.ending) == "we closed with 1000 (normal) 'done'; peer answered 1000"


def test_close_is_bounded_when_the_peer_says_nothing(link: Link) -> None:
    conn, peer = link()
    conn.close(timeout=0.01)
    assert str(conn.ending).startswith(
        "connection lost; we had sent 1000 (normal); no answer within 0.01 s, last heard "
    )
    peer.reads(OUR_CLOSE_1000)
    peer.reads_end()


def test_close_is_bounded_when_the_peer_does_not_even_read(link: Link) -> None:
    conn, _ = link()
    sender = in_thread(conn.send, bytes(MUCH))
    until(lambda: conn._driver.turns.writer)
    conn.close(timeout=0.01)
    with pytest.raises(CloseError):
        sender.result(PATIENCE)
    assert conn.socket.fileno() == -1


def test_close_hears_the_peers_close_behind_a_flood_of_messages(link: Link) -> None:
    conn, peer = link()
    closing = in_thread(conn.close)
    flood = in_thread(peer.sends, wire("1 000 0010  1 len", bytes(60_000)) * 50 + CLOSE_1000)
    closing.result(PATIENCE)
    flood.result(PATIENCE)
    assert isinstance(conn.ending, CloseError)
    assert conn.ending.code == 1000


def test_close_wakes_the_receiver(link: Link) -> None:
    conn, _ = link()
    receiver = in_thread(list, conn)
    until(lambda: conn._driver.turns.reader)
    conn.close(timeout=0.01)
    assert receiver.result(PATIENCE) == []


def test_close_again_is_no_error(link: Link) -> None:
    conn, peer = link()
    peer.sends(CLOSE_1000)
    conn.close()
    conn.close(1011)
    peer.reads(OUR_CLOSE_1000)
    peer.reads_end()


def test_two_threads_may_close_at_once(link: Link) -> None:
    conn, peer = link()
    closers = [in_thread(conn.close) for _ in range(3)]
    peer.reads(OUR_CLOSE_1000)
    peer.sends(CLOSE_1000)
    for closer in closers:
        closer.result(PATIENCE)
    peer.reads_end()


def test_a_close_code_that_may_not_be_sent_is_refused(link: Link) -> None:
    conn, peer = link()
    with pytest.raises(ValueError, match="1006"):
        conn.close(1006)
    peer.sends(HI)
    assert conn.recv() == "hi"


def test_abort_wakes_everybody_and_says_no_goodbye(link: Link) -> None:
    conn, peer = link()
    receiver = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    conn.abort()
    with pytest.raises(CloseError, match="we dropped it"):
        receiver.result(PATIENCE)
    peer.reads_end()
    assert conn.socket.fileno() == -1


def test_a_violation_is_told_to_the_peer_and_to_the_receiver(link: Link) -> None:
    conn, peer = link()
    peer.sends(HI + wire("1 000 0001  0 0000010", b"hi"))
    assert conn.recv() == "hi"
    with pytest.raises(ProtocolError, match="a client must mask every frame") as caught:
        conn.recv()
    assert caught.value.code == 1002
    (close,) = peer.reads_messages(1)
    assert close.payload[:2] == b"\x03\xea"
    peer.reads_end()  # only our half: what the peer still sends is read until it ends, too
    closing = in_thread(conn.close)
    peer.sends(bytes(1000))
    peer.closes()
    closing.result(PATIENCE)
    assert conn.socket.fileno() == -1


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (ValueError, 1011), (KeyboardInterrupt, 1001)]
)
def test_a_block_closes_its_connection_as_it_was_left(
    link: Link, error: type[BaseException] | None, code: int
) -> None:
    conn, peer = link(close_timeout=0.01)

    def leave() -> None:
        with conn:
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(error):
            leave()
    peer.reads(wire("1 000 1000  0 0000010", code.to_bytes(2, "big")))


def test_wait_closed_waits_for_whoever_ends_it(link: Link) -> None:
    conn, peer = link()
    with pytest.raises(TimeoutError):
        conn.wait_closed(timeout=0.01)
    waiting = in_thread(conn.wait_closed)
    peer.sends(CLOSE_1000)
    waiting.result(PATIENCE)
    assert conn.ending is not None


def test_no_thread_belongs_to_a_connection(link: Link) -> None:
    before = set(threading.enumerate())
    conns = [link()[0] for _ in range(10)]
    started = set(threading.enumerate()) - before
    assert {thread.name for thread in started} <= {"koko-housekeeper"}
    assert len(conns) == 10
