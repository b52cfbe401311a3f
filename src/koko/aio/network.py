"""From a name and a port to a connected socket; whoever cancels it finds nothing left open."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import socket
from collections import deque
from typing import Any

from koko import dialing
from koko.dial_progress import Progress
from koko.opening.eyeballs import DELAY, ROOM, Address, interleaved, no_connection


async def open_socket(
    dialer: dialing.Dialer, host: str, port: int, progress: Progress
) -> socket.socket:
    """Connect to the first that is on the way: a proxy or the server, as the dialer says.

    Raises:
        OSError: the name is unknown, or no address wants us.
    """
    if dialer.net_dial is not None:
        progress.net_dial()
        sock = await _by_hand(dialer.net_dial, host, port, progress.deadline)
    elif dialer.unix is not None:
        sock = await _connect_unix(os.fspath(dialer.unix), progress)
    else:
        sock = await Race(await resolve(host, port, progress), progress).run(host, port)
    dialing.log.debug("connected to %s port %d: %s", host, port, sock)
    return sock


async def resolve(
    host: str, port: int, progress: Progress, family: int = socket.AF_UNSPEC
) -> list[Address]:
    """Return the addresses of ``host``, as ``getaddrinfo`` does.

    Raises:
        socket.gaierror: the name is unknown.
        OSError: there is no thread to ask in.
    """
    progress.resolve(host)
    try:
        return await ask_resolver(host, port, family=family, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{error.strerror}: {host!r}") from None


async def ask_resolver(host: str | None, port: int, **hints: Any) -> list[Address]:
    """Return what ``loop.getaddrinfo`` does.

    Raises:
        OSError: the name is unknown, or there is no thread to ask in.
    """
    try:
        return list(await asyncio.get_running_loop().getaddrinfo(host, port, **hints))
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise OSError(errno.EAGAIN, f"cannot look up {host!r} now: {error}") from error


async def _by_hand(
    net_dial: dialing.NetDial, host: str, port: int, deadline: float | None
) -> socket.socket:
    left = None if deadline is None else deadline - asyncio.get_running_loop().time()
    dialed = net_dial(host, port, left)
    sock: socket.socket = await dialed if inspect.isawaitable(dialed) else dialed
    try:
        dialing.check_socket(sock)
    except TypeError:
        if isinstance(sock, socket.socket):
            sock.close()
        raise
    # Moved: whoever closes theirs afterwards could else close what has our number next.
    return socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


async def _connect_unix(path: str, progress: Progress) -> socket.socket:
    # Not sock_connect: where the queue is full, the loops take the socket for connected.
    progress.connect_unix(path)
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

    def __init__(self, addresses: list[Address], progress: Progress) -> None:
        self._progress = progress
        self._waiting = deque(interleaved(addresses))
        self._running: dict[asyncio.Task[socket.socket], Address] = {}
        self._failures: list[tuple[Address, OSError]] = []

    async def run(self, host: str, port: int) -> socket.socket:
        """Return the winner; all others are closed.

        Raises:
            OSError: every address refused.
        """
        try:
            while self._waiting or self._running:
                # Every turn starts one more: after the delay, or at once when one failed.
                if self._waiting:
                    address = self._waiting.popleft()
                    self._progress.connect(address)
                    self._running[asyncio.ensure_future(_connect(address))] = address
                patience = DELAY if self._waiting else None
                await asyncio.wait(
                    self._running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if winner := self._finish():
                    return winner
        finally:
            await self._give_up()
        raise no_connection(host, port, self._failures)

    def _finish(self) -> socket.socket | None:
        for attempt in [each for each in self._running if each.done()]:
            address = self._running.pop(attempt)
            try:
                return attempt.result()
            except OSError as error:
                self._failures.append((address, error))
                self._progress.connect_failed(address, error)
        return None

    async def _give_up(self) -> None:
        for attempt in self._running:
            attempt.cancel()
        # Each closes its own socket, but one may have connected in the same moment.
        for outcome in await asyncio.gather(*self._running, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()
