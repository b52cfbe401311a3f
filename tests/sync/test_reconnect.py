"""A client of threads that keeps coming back to real servers, with next to no time between."""

from __future__ import annotations

import logging
from concurrent.futures import Future

import pytest

from compliance.ports import free_port
from koko import CloseError, ErrBadHandshake, HandshakeError, Request, Response
from koko.sync import Backoff, Conn, Dialer, Server, Upgrader, reconnect
from tests.sync.conftest import PATIENCE, in_thread, until

HERE = "127.0.0.1"
SOON = Backoff(base=0.001, cap=0.01)


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


def url(server: Server) -> str:
    return f"ws://{HERE}:{server.address[1]}/"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "koko.client"]


def test_a_connection_that_is_lost_is_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    def drop(conn: Conn) -> None:
        conn.recv()
        conn.abort()

    caplog.set_level(logging.INFO, "koko.client")
    said = []
    with Server(drop, HERE) as server:
        address = url(server)
        for conn in reconnect(address, backoff=SOON, proxy=None):
            if len(said) == 3:
                break
            try:
                conn.send("hi")
                conn.recv()
            except CloseError as error:
                said.append(error.code)
                continue
    assert said == [1006] * 3
    assert len(lines(caplog)) == 4
    assert lines(caplog)[3].endswith("; the application left the loop")
    assert lines(caplog)[0].startswith(f"{address}: connection lost; ")
    assert "Traceback" not in caplog.text


def test_a_server_that_is_not_there_yet_is_dialed_until_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.client")
    port = free_port()

    def first() -> str | bytes:
        for conn in reconnect(f"ws://{HERE}:{port}/", backoff=SOON, proxy=None):
            conn.send("at last")
            return conn.recv()
        raise AssertionError("it ends only by return")

    client = in_thread(first)
    until(lambda: len(lines(caplog)) >= 3)
    with Server(echo, HERE, port):
        assert client.result(PATIENCE) == "at last"


def test_a_refusal_for_now_is_tried_again_and_one_for_good_is_raised() -> None:
    answers = [503, 429, 502, 401]

    def refuse(request: Request, error: HandshakeError) -> Response:
        return Response(answers.pop(0), b"not you, not now")  # and no Retry-After

    upgrader = Upgrader(check_origin=lambda request: False, error=refuse)
    with Server(echo, HERE, upgrader=upgrader) as server:
        with pytest.raises(ErrBadHandshake, match="401"):
            for _ in reconnect(url(server), backoff=SOON, proxy=None):
                pass
    assert answers == []


def test_a_close_with_1000_is_followed_by_another_connection() -> None:
    heard = []
    with Server(lambda conn: conn.send("that is all"), HERE) as server:
        for conn in reconnect(url(server), backoff=SOON, proxy=None):
            heard += list(conn)
            if len(heard) == 3:
                break
    assert heard == ["that is all"] * 3


def test_break_closes_the_connection() -> None:
    ended: Future[BaseException | None] = Future()

    def note(conn: Conn) -> None:
        conn.wait_closed()
        ended.set_result(conn.ending)

    with Server(note, HERE) as server:
        for _ in reconnect(url(server), proxy=None):
            break
        said = str(ended.result(PATIENCE))
        assert said == "peer closed with 1000 (normal); we answered 1000"


def test_an_exception_in_the_body_leaves_the_loop_and_nothing_open() -> None:
    conns: list[Conn] = []
    with Server(echo, HERE) as server:
        with pytest.raises(ZeroDivisionError):
            for conn in reconnect(url(server), proxy=None):
                conns.append(conn)
                raise ZeroDivisionError
        conns[0].wait_closed(PATIENCE)


def test_an_open_connection_is_closed_before_the_next_is_dialed() -> None:
    conns: list[Conn] = []
    with Server(echo, HERE) as server:
        for conn in reconnect(url(server), backoff=SOON, proxy=None):
            assert all(earlier.ending for earlier in conns)
            conns.append(conn)
            if len(conns) == 3:
                break


def test_what_cannot_be_used_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="scheme 'http'"):
        reconnect("http://example.org/")
    with pytest.raises(TypeError, match="not both: origin"):
        reconnect("ws://example.org/", dialer=Dialer(), origin="https://example.org")
