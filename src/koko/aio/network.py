"""From a name and a port to a connected socket; a cancelled call leaves nothing open."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
from contextlib import suppress
from typing import Any

from koko.dial_steps import Attempts, CallNetDial, Connect, Connecting, ConnectUnix, Resolve
from koko.dialing import check_connected, check_socket
from koko.opening.eyeballs import ROOM, Address


async def connect(step: Connecting, deadline: float | None) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError: no connection was accepted.
    """
    match step:
        case Connect():
            return await Race(step.attempts).run()
        case ConnectUnix():
            return await _connect_unix(step.path)
        case CallNetDial():
            return await _call_net_dial(step, deadline)


async def resolve(step: Resolve) -> list[Address]:
    """Return the addresses of a host, as ``getaddrinfo`` does.

    Raises:
        socket.gaierror: the name is unknown.
        OSError: there is no thread to ask in.
    """
    family = socket.AF_INET if step.only_ipv4 else socket.AF_UNSPEC
    try:
        return await ask_resolver(step.host, step.port, family=family, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{error.strerror}: {step.host!r}") from None


async def ask_resolver(host: str | None, port: int, **hints: Any) -> list[Address]:
    """Return what ``loop.getaddrinfo`` does, but for an address without its thread.

    Raises:
        OSError: the name is unknown, or there is no thread to ask in.
    """
    with suppress(socket.gaierror):  # not an address: a name
        flags = hints.get("flags", 0) | socket.AI_NUMERICHOST
        return list(socket.getaddrinfo(host, port, **{**hints, "flags": flags}))
    try:
        return list(await asyncio.get_running_loop().getaddrinfo(host, port, **hints))
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise OSError(errno.EAGAIN, f"cannot look up {host!r} now: {error}") from error


async def _call_net_dial(step: CallNetDial, deadline: float | None) -> socket.socket:
    left = None if deadline is None else deadline - asyncio.get_running_loop().time()
    dialed = step.function(step.host, step.port, left)
    sock: socket.socket = await dialed if inspect.isawaitable(dialed) else dialed
    try:
        check_socket(sock)
        check_connected(sock)
    except (TypeError, OSError):
        if isinstance(sock, socket.socket):
            sock.close()
        raise
    # Moved into an object of ours: the application could close its own later, and with it an
    # unrelated file that has the same descriptor by then.
    return socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


async def _connect_unix(path: str | bytes) -> socket.socket:
    # Not sock_connect: when the queue is full the loops mistake the socket for connected.
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                await asyncio.sleep(ROOM)
    except BaseException:
        sock.close()
        raise


async def _connect(address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


class Race:
    """Attempts to connect that run side by side; the first to succeed is the connection."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._running: dict[asyncio.Task[socket.socket], Address] = {}

    async def run(self) -> socket.socket:
        """Return the first socket that is connected; all others are closed.

        Raises:
            OSError: every address refused.
        """
        attempts = self._attempts
        try:
            while attempts.left or self._running:
                # Each round starts one more: after the delay, or at once when one has failed.
                if attempts.left:
                    address = attempts.begin()
                    self._running[asyncio.ensure_future(_connect(address))] = address
                await asyncio.wait(
                    self._running,
                    timeout=attempts.patience,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if winner := self._finish():
                    return winner
        finally:
            await self._give_up()
        raise attempts.error()

    def _finish(self) -> socket.socket | None:
        for task in [each for each in self._running if each.done()]:
            address = self._running.pop(task)
            try:
                return task.result()
            except OSError as error:
                self._attempts.failed(address, error)
        return None

    async def _give_up(self) -> None:
        for task in self._running:
            task.cancel()
        # A cancelled attempt closes its own socket, but one may have just connected.
        for outcome in await asyncio.gather(*self._running, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()
