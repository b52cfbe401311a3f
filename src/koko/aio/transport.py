"""From a socket to a transport: our own where it was built and can do the job, else the loop's.

Also what Koko does with a transport of either kind: see how much waits in it, and end it.

Our own is for plain TCP and Unix sockets on Linux, with the native codec. If aiofastnet is
installed it does TLS: for a small message it needs a third of the loops' time
(``bench/run.py --only tls``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from koko import hung_up
from koko.core.codec import IMPLEMENTATION
from koko.core.keepalive import Backlog
from koko.native import EXTENSIONS
from koko.send_queue import backlog_on

OURS = "koko.aio._native_transport"
LOOK = 0.5  # seconds after a read over TLS until uvloop's sockets are asked whether they were reset

ours: Any = None
if IMPLEMENTATION == "native" and OURS in EXTENSIONS:
    ours = import_module(OURS)

aiofastnet: Any = None
with suppress(ImportError):
    import aiofastnet

P = TypeVar("P", bound=asyncio.Protocol)

Made = Coroutine[Any, Any, tuple[asyncio.Transport, asyncio.Protocol]]
Connect = Callable[[Callable[[], asyncio.Protocol], socket.socket], Made]


def connector(loop: asyncio.AbstractEventLoop, tls: dict[str, Any]) -> Connect:
    """Return what makes a transport of an accepted socket; ``tls`` are options of the loop's."""
    if tls and aiofastnet is not None:
        quiet, fast = QuietLoop(loop), aiofastnet.connect_accepted_socket
        return lambda protocol, sock: fast(quiet, protocol, sock, **tls)
    return lambda protocol, sock: loop.connect_accepted_socket(protocol, sock, **tls)


class QuietLoop:
    """The loop that aiofastnet gets: it does not report a TLS handshake that failed.

    aiofastnet raises the error to the caller, which is enough. It also calls the loop's exception
    handler, with a class in the place of the exception if the client hung up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # These are called for every message: found without __getattr__.
        self.add_reader: Callable[..., object] = loop.add_reader
        self.remove_reader: Callable[[int], object] = loop.remove_reader
        if type(loop).__module__.startswith("uvloop"):
            self._readers: dict[int, Callable[[], object]] = {}
            self._have_read: set[int] = set()  # descriptors, which may be another's by now
            self.add_reader, self.remove_reader = self._add_reader, self._remove_reader
        self.add_writer, self.remove_writer = loop.add_writer, loop.remove_writer
        self.call_soon, self.call_later = loop.call_soon, loop.call_later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def _add_reader(self, descriptor: int, read: Callable[[], object]) -> None:
        """Have ``read`` called, and again, if need be, until it sees a reset.

        uvloop watches a socket no longer that its peer has reset, and calls once for what came
        before. aiofastnet then reads that, perhaps not the reset behind it. To ask the system
        after each read would cost an echo a tenth, so it is asked soon after.
        """
        have_read = self._have_read

        def read_on() -> None:
            if not have_read:
                self.call_later(LOOK, self._look)
            have_read.add(descriptor)
            read()

        self._readers[descriptor] = read_on
        self._loop.add_reader(descriptor, read_on)

    def _remove_reader(self, descriptor: int) -> object:
        self._readers.pop(descriptor, None)
        return self._loop.remove_reader(descriptor)

    def _look(self) -> None:
        descriptors = tuple(self._have_read)
        self._have_read.clear()
        for descriptor in descriptors:
            read_on = self._readers.get(descriptor)
            if read_on is not None and hung_up.was_reset(descriptor):
                read_on()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if context["message"] != "SSL handshake failed":
            self._loop.call_exception_handler(context)


async def attach(sock: socket.socket, protocol: P) -> P:
    """Give a connected socket to a protocol, whose ``connection_made`` is called."""
    if ours is not None:
        hasten(sock)
        try:
            ours.attach(sock, protocol)
            return protocol
        except NotImplementedError:
            pass  # the loop cannot watch descriptors
        except BaseException:
            sock.close()  # for example, the system had no descriptor for the epoll
            raise
    return await attach_to_the_loops(sock, protocol)


async def attach_to_the_loops(sock: socket.socket, protocol: P) -> P:
    """Give a connected socket to a protocol, on a transport of the loop's, which can do TLS."""
    hasten(sock)
    try:
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()  # no harm if a transport has closed it already
        raise
    return protocol


def hasten(sock: socket.socket) -> None:
    """Send small writes at once (TCP_NODELAY): TCP would hold back a second one for 44 ms.

    asyncio does this only for sockets whose ``proto`` is TCP, which most are not.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # it is broken already: the next call will say so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def backlog_of(transport: asyncio.Transport) -> Backlog:
    """Return what waits for the peer: in the transport, in those below it, in the system."""
    return backlog_on(descriptor_of(transport), unsent_in(transport))


def descriptor_of(transport: asyncio.Transport) -> int:
    """Return the descriptor under a transport, -1 if it has none."""
    if ours is not None and type(transport) is ours.SocketTransport:
        return transport.fileno()  # type: ignore[attr-defined, no-any-return]
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else sock.fileno()


def is_secure(transport: asyncio.BaseTransport) -> bool:
    """Tell whether a transport is TLS."""
    return transport.get_extra_info("sslcontext") is not None


def unsent_in(transport: asyncio.Transport) -> int:
    """Return how many bytes wait in a transport and in those below it.

    The TLS of asyncio passes everything on at once, to a transport that it does not show. For
    uvloop's TLS only the system can tell what is unsent.
    """
    unsent = transport.get_write_buffer_size()
    below = below_tls(transport)
    return unsent if below is None else unsent + unsent_in(below)


def below_tls(transport: asyncio.Transport) -> asyncio.Transport | None:
    """Return the transport under that of asyncio's TLS; None for those that do not show it."""
    return getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)


def base_of(transport: asyncio.Transport) -> asyncio.Transport | None:
    """Return the transport of the socket under asyncio's TLS, None where there is none.

    It fails a turn of the loop before those above it say so (until CPython 3.14), and it logs a
    warning for the fifth write after that.
    """
    base = below_tls(transport)
    while base is not None and (below := below_tls(base)) is not None:
        base = below  # TLS in the TLS of a proxy
    return base


def has_failed(transport: asyncio.Transport, base: asyncio.Transport | None) -> bool:
    """Tell whether a transport, or its base, has failed or is closing: nothing may be written."""
    return transport.is_closing() or (base is not None and base.is_closing())


def close(transport: asyncio.Transport) -> None:
    """Close a transport: what waits in it is sent, if the peer takes it.

    Only once: after a second ``close`` the TLS of asyncio ignores ``abort``.
    """
    if not transport.is_closing():
        transport.close()


def end_half(transport: asyncio.Transport) -> None:
    """End our half of the stream, or all of it if the transport knows no halves (TLS)."""
    try:
        if transport.can_write_eof():
            transport.write_eof()
            return
    except OSError:  # the peer has reset it
        pass
    close(transport)
