"""The server's side of the opening handshake, for threads."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from koko import hijacking, upgrading
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.errors import HandshakeError
from koko.hijacking import Hijackable
from koko.http import Headers, Request
from koko.misuse import check_face_of
from koko.opening.forwarded import Source
from koko.opening.handshake import refusal
from koko.opening.head import write_response
from koko.sync.clock import deadline_in
from koko.sync.conn import Conn
from koko.sync.driver import Driver
from koko.sync.tls import LentStream
from koko.sync.transport import PlainStream, Stream, peer_name, write_by
from koko.upgrading import Accepted, Refused, UpgradableRequest, source_of


class Upgrader(upgrading.Upgrader):
    """Decides which requests become connections; the options are ``koko.upgrading.Upgrader``'s."""

    def upgrade(self, request: Any, headers: Headers | None = None) -> Conn:
        """Make an open connection of a request that another handler was given.

        The request is what Koko's server gave to ``http=``, a WSGI ``environ`` or a request
        object that has one (Flask's, Django's), or a handler of ``http.server``. The servers
        that hand over their socket are werkzeug's, gunicorn (gthread, gevent), gevent.pywsgi,
        uWSGI and wsgiref's; with gevent, ``monkey.patch_all()`` comes first.

        From now on the connection is not the server's: whatever the view returns in the end is
        not sent. The view may return while another thread uses the connection, unless the
        server itself does TLS: then the view must stay until the connection is over.

        ``headers`` are added to the 101, such as ``Set-Cookie``.

        Raises:
            HandshakeError: the client is refused. Nothing was sent: its ``response`` is the
                answer to give, as Koko's server and ``koko.adapters`` do by themselves.
                Status 500: the server does not hand over its socket; the reason names those
                that do.
            OSError: the client is gone; no answer can reach it.
            ValueError: ``headers`` has a name that only the handshake may write.
        """
        if ours := isinstance(request, UpgradableRequest):
            check_face_of(request.handshake, "take", "sync", "aio")
        hijackable = request.handshake if ours else _OtherServers(hijacking.hijackable(request))
        source = hijackable.source_for(self)
        decision = self.decide(hijackable.request, headers, secure=source.secure, host=source.host)
        if isinstance(decision, Refused):
            decision.error.response = hijackable.answer(decision.response)
            raise decision.error
        deadline = deadline_in(self.handshake_timeout)
        return open_conn(self, hijackable, decision, source, deadline, hijackable.opened)


class _OtherServers:
    """A request to another server, with a stream on its socket."""

    def __init__(self, hijackable: Hijackable[socket.socket]) -> None:
        self.request = hijackable.request
        self.answer = hijackable.answer
        self.peer = hijackable.peer
        self._hijackable = hijackable

    def source_for(self, upgrader: upgrading.Upgrader) -> Source:
        return source_of(upgrader, self.request, self._hijackable.peer, self._hijackable.secure)

    def take(self) -> tuple[Stream, bytes]:
        try:
            sock, early = self._hijackable.take()
        except HandshakeError as error:
            error.response = self.answer(refusal(error))
            raise
        return (LentStream(sock) if isinstance(sock, ssl.SSLSocket) else PlainStream(sock)), early

    def opened(self, conn: Conn) -> None:
        pass


class Upgradable(Protocol):
    """A request that becomes a connection: its stream can be taken."""

    request: Request

    @property
    def peer(self) -> Any:
        """The address at the other end, as far as it was known before: a lost socket has none."""

    def take(self) -> tuple[Stream, bytes]:
        """Return the stream, and the bytes read behind the request."""


def open_conn(
    upgrader: upgrading.Upgrader,
    upgradable: Upgradable,
    accepted: Accepted,
    source: Source,
    deadline: float | None,
    on_open: Callable[[Conn], object],
) -> Conn:
    """Send the 101 of an accepted request; call ``on_open`` with the connection; return it."""
    octets = write_response(accepted.response)
    stream, early = upgradable.take()
    try:
        write_by(stream, octets, deadline)
        core = Connection(Role.SERVER, upgrader, accepted.agreed, monotonic())
        driver = Driver(core, stream, early)
        response, subprotocol = accepted.response, accepted.subprotocol
        address = source.address or peer_name(stream.socket) or upgradable.peer
        conn = Conn(driver, upgradable.request, response, subprotocol, address)
    except BaseException:
        stream.shutdown()
        stream.close()
        raise
    try:
        on_open(conn)
    except BaseException:
        conn.abort()
        raise
    return conn
