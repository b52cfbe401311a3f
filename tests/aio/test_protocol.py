"""What only asyncio can do to a connection: cancel, wake inline, gather writes, run coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from koko import CloseError, ProtocolError
from koko.aio import Conn
from koko.core.wire import Role
from tests.conversation.talk_aio import AioTalk
from tests.wire import wire

HELLO = "1 000 0001"


@pytest.fixture
def talk() -> Iterator[AioTalk]:
    talk = AioTalk()
    yield talk
    talk.end()


async def echo(conn: Conn) -> None:
    async for message in conn:
        await conn.send(message)


# Cancelling


def test_recv_that_is_cancelled_loses_nothing(talk: AioTalk) -> None:
    us, peer = talk.open()
    frame = peer.frame("1 000 0001", b"half before, half after")
    call = us.start_recv()
    peer.sends(frame[:10])
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        call.result()
    peer.sends(frame[10:])
    assert us.recv() == "half before, half after"


def test_message_that_arrives_together_with_the_cancellation_is_kept(talk: AioTalk) -> None:
    us, peer = talk.open()
    call = us.start_recv()

    async def both() -> None:  # from inside a task the reader is woken a little later
        us.conn._protocol.data_received(peer.frame("1 000 0001", b"kept"))
        call.task.cancel()

    talk.clock.run_until_complete(both())
    talk.clock.settle()
    assert call.task.cancelled()
    assert us.recv() == "kept"


def test_who_cancels_a_receiver_may_receive_at_once(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def take_over() -> str | bytes:
        first = asyncio.create_task(us.conn.recv())
        await asyncio.sleep(0)
        first.cancel()
        message = await us.conn.recv()
        assert first.cancelled()
        return message

    taking_over = talk.clock.create_task(take_over())
    talk.clock.settle()
    peer.says("1 000 0001", b"for the second")
    assert taking_over.result() == "for the second"


def test_receiver_that_is_cancelled_twice_takes_nobody_else_along(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def take_over() -> str | bytes:
        first = asyncio.create_task(us.conn.recv())
        await asyncio.sleep(0)
        talk.clock.call_soon(first.cancel)
        first.cancel()
        return await us.conn.recv()

    taking_over = talk.clock.create_task(take_over())
    talk.clock.settle()
    peer.says("1 000 0001", b"for the second")
    assert taking_over.result() == "for the second"


def test_receiver_that_is_cancelled_once_woken_takes_nobody_else_along(talk: AioTalk) -> None:
    us, peer = talk.open()
    protocol = us.conn._protocol

    async def take_over() -> str | bytes:
        first = asyncio.create_task(us.conn.recv())
        await asyncio.sleep(0)
        talk.clock.call_soon(first.cancel)
        protocol.data_received(peer.frame("1 000 0001", b"wakes the first"))
        assert await us.conn.recv() == "wakes the first"
        return await us.conn.recv()

    taking_over = talk.clock.create_task(take_over())
    talk.clock.settle()
    peer.says("1 000 0001", b"for the second")
    assert taking_over.result() == "for the second"


def test_timeouts_of_asyncio_lose_nothing_either(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def patient() -> str | bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await us.conn.recv()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(us.conn.recv(), 5)
        return await us.conn.recv()

    waiting = talk.clock.create_task(patient())
    talk.clock.advance(11)
    peer.says("1 000 0001", b"still")
    assert waiting.result() == "still"


def test_send_that_is_cancelled_while_it_waits_sends_nothing(talk: AioTalk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    us.send(bytes(100_000))
    for call in [us.start_send("one"), us.start_send("two")]:
        assert call.waits
        call.cancel()
    peer.reads_on()
    us.send("three")
    peer.hears("1 000 0010", bytes(100_000))
    peer.hears("1 000 0001", b"three")


def test_send_that_is_never_awaited_is_told_of_each_time(talk: AioTalk) -> None:
    us, _ = talk.open()
    us.send("awaited")
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            us.conn.send("lost")


def test_close_that_is_cancelled_goes_on_within_its_bounds(talk: AioTalk) -> None:
    us, peer = talk.open(close_timeout=10)
    call = us.start_close()
    call.cancel()
    peer.hears_close(1000)
    assert not peer.line.dropped
    talk.clock.advance(10)
    assert peer.line.dropped


def test_block_that_is_cancelled_closes_with_1001(talk: AioTalk) -> None:
    us, peer = talk.open(Role.SERVER)

    async def wait_in_block() -> None:
        async with us.conn:
            await us.conn.recv()

    waiting = talk.clock.create_task(wait_in_block())
    talk.clock.settle()
    waiting.cancel()
    talk.clock.settle()
    peer.hears_close(1001)
    peer.closes(1001)
    assert waiting.cancelled()


# Waking


def test_what_was_awaited_is_not_awaited_again(talk: AioTalk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0001", b"first")
    peer.says("1 000 0001", b"second")

    async def twice(awaited: Any, closed: Any) -> None:
        await awaited
        closed.close()
        for over in (awaited, closed):
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await over

    for begin in (us.conn.recv, us.conn.__anext__, lambda: us.conn.send("once")):
        talk.clock.run_until_complete(twice(begin(), begin()))
        peer.says("1 000 0001", b"next")
    peer.hears("1 000 0001", b"once")
    peer.hears_nothing()


def test_second_receiver_is_told_the_name_of_the_first(talk: AioTalk) -> None:
    us, _ = talk.open()
    talk.clock.create_task(us.conn.recv(), name="first")
    talk.clock.settle()
    with pytest.raises(
        RuntimeError, match=r"^recv\(\) is already running in task 'first'; one rec"
    ):
        us.recv()


def test_what_is_sent_in_a_cork_leaves_together(talk: AioTalk) -> None:
    us, peer = talk.open()
    left: list[bytes] = []

    async def send_two() -> None:
        with us.conn.cork():
            await us.conn.send("a")
            await us.conn.send("b")
            left.append(bytes(peer.line.written))

    talk.clock.create_task(send_two())
    talk.clock.settle()
    assert left == [b""]
    peer.hears("1 000 0001", b"a")
    peer.hears("1 000 0001", b"b")


def test_reply_is_written_before_data_received_returns(talk: AioTalk) -> None:
    us, peer = talk.open()
    talk.clock.create_task(echo(us.conn))
    talk.clock.settle()
    written: list[bytes] = []

    def arrive() -> None:
        us.conn._protocol.data_received(peer.frame("1 000 0001", b"quick"))
        written.append(bytes(peer.line.written))

    talk.clock.call_soon(arrive)
    talk.clock.settle()
    assert written != [b""]
    peer.hears("1 000 0001", b"quick")


def test_bytes_that_arrive_from_inside_a_task_wake_the_reader_a_little_later(
    talk: AioTalk,
) -> None:
    us, peer = talk.open()
    reading = us.start_recv()

    async def feed() -> bool:
        us.conn._protocol.data_received(peer.frame("1 000 0001", b"from a task"))
        return reading.waits

    assert talk.clock.run_until_complete(feed())
    talk.clock.settle()
    assert reading.result() == "from a task"


def test_reader_that_feeds_another_connection_wakes_its_reader(talk: AioTalk) -> None:
    (us, peer), (other, other_peer) = talk.open(), talk.open()

    async def pass_on() -> None:
        message = await us.conn.recv()
        other.conn._protocol.data_received(other_peer.frame("1 000 0001", message.encode()))
        await asyncio.sleep(0)

    talk.clock.create_task(pass_on())
    reading = other.start_recv()
    peer.says("1 000 0001", b"hop")
    assert reading.result() == "hop"


def test_reader_runs_in_its_own_context(talk: AioTalk) -> None:
    us, peer = talk.open()
    variable: ContextVar[str] = ContextVar("variable")

    async def read() -> str:
        variable.set("the reader's")
        await us.conn.recv()
        return variable.get()

    reading = talk.clock.create_task(read())
    talk.clock.settle()
    peer.says("1 000 0001", b"")
    assert reading.result() == "the reader's"


# Writing


def test_replies_to_what_came_together_leave_together(talk: AioTalk) -> None:
    us, peer = talk.open()
    talk.clock.create_task(echo(us.conn))
    talk.clock.settle()
    peer.sends(b"".join(peer.frame("1 000 0001", b"%d" % number) for number in range(10)))
    assert [peer.hears("1 000 0001").payload for _ in range(10)] == [b"%d" % n for n in range(10)]
    assert peer.line.writes == 1


def test_lone_message_leaves_at_once(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def send() -> int:
        await us.conn.send("now")
        return peer.line.writes

    assert talk.clock.run_until_complete(send()) == 1


def test_gathered_replies_leave_before_a_slow_handler_goes_on(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def reply_and_think() -> None:
        await us.conn.send(await us.conn.recv())
        await asyncio.sleep(60)

    talk.clock.create_task(reply_and_think())
    talk.clock.settle()
    peer.sends(peer.frame("1 000 0001", b"1") + peer.frame("1 000 0001", b"2"))
    peer.hears("1 000 0001", b"1")


def test_replies_gather_up_to_a_bound(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def reply_at_length() -> None:
        async for _ in us.conn:
            await us.conn.send(bytes(30_000))

    talk.clock.create_task(reply_at_length())
    talk.clock.settle()
    peer.sends(peer.frame("1 000 0001", b"") * 6)
    for _ in range(6):
        peer.hears("1 000 0010", bytes(30_000))
    assert peer.line.writes == 2


def test_violation_waits_for_a_handler_that_awaits_before_it_replies(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def reply_later() -> None:
        async for message in us.conn:
            await asyncio.sleep(0.2)
            await us.conn.send(message)

    replying = talk.clock.create_task(reply_later())
    talk.clock.settle()
    peer.sends(peer.frame(HELLO, b"1") + peer.frame(HELLO, b"2") + wire("1 000 0011 0 0000000"))
    talk.clock.advance(0.5)
    peer.hears("1 000 0001", b"1")
    peer.hears("1 000 0001", b"2")
    peer.hears_close(1002)
    with pytest.raises(ProtocolError):
        replying.result()


# Handlers that are coroutines


def test_coroutine_may_answer_pings(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def answer(payload: bytes) -> None:
        await asyncio.sleep(1)
        await us.conn.pong(payload)

    us.conn.ping_handler = answer
    peer.says("1 000 1001", b"when you have time")
    peer.hears_nothing()
    talk.clock.advance(1)
    peer.hears("1 000 1010", b"when you have time")


def test_coroutine_that_raises_ends_the_connection_with_1011(talk: AioTalk) -> None:
    us, peer = talk.open()

    async def fail(payload: bytes) -> None:
        raise ZeroDivisionError(payload)

    us.conn.pong_handler = fail
    call = us.start_recv()
    peer.says("1 000 1010", b"boom")
    with pytest.raises(ZeroDivisionError, match="boom"):
        call.result()
    peer.hears_close(1011)


def test_coroutine_that_fails_after_the_end_is_told_to_the_loop(talk: AioTalk) -> None:
    us, peer = talk.open()
    told: list[dict[str, Any]] = []
    talk.clock.set_exception_handler(lambda _, complaint: told.append(complaint))

    async def fail(code: int, reason: str) -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    us.conn.close_handler = fail
    call = us.start_recv()
    peer.closes(1000)
    with pytest.raises(CloseError):
        call.result()
    talk.clock.advance(1)
    (complaint,) = told
    assert isinstance(complaint["exception"], ZeroDivisionError)
    assert us.conn.ending.code == 1000


def test_coroutine_that_pongs_too_late_does_no_harm(talk: AioTalk) -> None:
    us, peer = talk.open(Role.SERVER)

    async def answer(payload: bytes) -> None:
        await us.conn.pong(payload)

    us.conn.ping_handler = answer
    closing = us.start_close()
    peer.says("1 000 1001", b"crossed with our Close")
    peer.closes(1000)
    closing.result()
    assert us.conn.ending.received == (1000, "")


# Other ends


def test_peer_that_ends_without_reading_gets_the_last_bytes_in_a_bounded_time(
    talk: AioTalk,
) -> None:
    us, peer = talk.open(close_timeout=10)
    peer.stops_reading()
    us.send("last words")
    peer.ends()
    assert not peer.line.dropped
    talk.clock.advance(10)
    assert peer.line.dropped
    with pytest.raises(CloseError, match="without a Close"):
        us.recv()


def test_repr_tells_the_state_and_the_peer(talk: AioTalk) -> None:
    us, _ = talk.open()
    assert repr(us.conn) == "<koko.aio.Conn open with 127.0.0.1:2>"
    us.abort()
    assert repr(us.conn) == "<koko.aio.Conn closed with 127.0.0.1:2>"
