"""The server's side of the opening handshake, for threads."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from koko import hijacking, upgrading
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.errors import CloseError, HandshakeError
from koko.http import Headers, Request, Response
from koko.misuse import check_returned
from koko.opening.address import written
from koko.opening.handshake import refusal
from koko.opening.head import write_response
from koko.serving import CLIENT, ended, handler_failed
from koko.sync.clock import deadline_in
from koko.sync.conn import Conn
from koko.sync.driver import Driver
from koko.sync.tls import LentStream
from koko.sync.transport import PlainStream, Stream, write_by
from koko.upgrading import Accepted, Incoming, Refused


class Upgrader(upgrading.Upgrader):
    """Decides which requests become connections; the options are ``koko.upgrading.Upgrader``'s."""

    def upgrade(self, request: Any, headers: Headers | None = None) -> Conn:
        """Make an open connection of a request that another handler was given.

        The request is what Koko's server gave to ``http=``, a WSGI ``environ`` or a request
        object that has one (Flask's, Django's), or a handler of ``http.server``. The servers
        that let go of their socket are werkzeug's, gunicorn (gthread, gevent), gevent.pywsgi
        and wsgiref's; with gevent, ``monkey.patch_all()`` comes first.

        From here on the server has no part in the connection: whatever the view returns in
        the end goes nowhere. It may return while the connection lives on elsewhere, unless
        the server itself ends TLS: then it must stay.

        ``headers`` are added to the 101, ``Set-Cookie`` for one.

        Raises:
            HandshakeError: the client is refused. Nothing was sent: its ``response`` is the
                answer to give, as Koko's server and ``koko.adapters`` do by themselves.
                Status 500: the server does not let go of its socket, and which ones do.
            OSError: the client is gone; nobody can be answered.
            ValueError: ``headers`` has a name that only the handshake may write.
        """
        door = request.door if isinstance(request, Incoming) else _Elsewhere(request)
        decision = self.decide(door.request, headers, secure=door.secure)
        if isinstance(decision, Refused):
            decision.error.response = door.answer(decision.response)
            raise decision.error
        return open_conn(self, door, decision, deadline_in(self.handshake_timeout))


class Door(Protocol):
    """Where a request came in, and where its answer goes out."""

    request: Request
    secure: bool

    def answer(self, response: Response) -> Response:
        """Return ``response`` as it may be given here."""

    def take(self) -> tuple[Stream, bytes]:
        """Return the stream, from now on ours alone, and what was read behind the request."""

    def opened(self, conn: Conn) -> None:
        """Take note of what became of it."""


class _Elsewhere:
    """The door of another server."""

    def __init__(self, request: Any) -> None:
        self._asked = asked = hijacking.asked(request)
        self.request, self.secure, self.answer = asked.request, asked.secure, asked.answer

    def take(self) -> tuple[Stream, bytes]:
        try:
            sock, early = self._asked.take()
        except HandshakeError as error:
            error.response = self.answer(refusal(error))
            raise
        return (LentStream(sock) if isinstance(sock, ssl.SSLSocket) else PlainStream(sock)), early

    def opened(self, conn: Conn) -> None:
        pass


def open_conn(
    upgrader: upgrading.Upgrader, door: Door, accepted: Accepted, deadline: float | None
) -> Conn:
    """Tell an accepted client so and return the connection."""
    octets = write_response(accepted.response)
    stream, early = door.take()
    try:
        write_by(stream, octets, deadline)
        core = Connection(Role.SERVER, upgrader, accepted.agreed, monotonic())
        driver = Driver(core, stream, early)
        conn = Conn(driver, door.request, accepted.response, accepted.subprotocol)
    except BaseException:
        stream.shutdown()
        stream.close()
        raise
    try:
        door.opened(conn)
    except BaseException:
        conn.abort()
        raise
    return conn


# The rest of a connection's life, when nobody but us looks after it


def run_handler(
    conn: Conn,
    handler: Callable[[], object],
    logger: logging.Logger,
    others: Callable[[], int | None] = lambda: None,
) -> None:
    """Run a handler, close its connection with the code it deserves, log how it ended."""
    error = None
    try:
        check_returned("handler", handler, handler())
    except BaseException as raised:
        error = raised
    end_with(conn, error, logger, others)


def end_with(
    conn: Conn,
    error: BaseException | None,
    logger: logging.Logger,
    others: Callable[[], int | None],
) -> None:
    """Close the connection of a handler that came out, perhaps with an error, and log that.

    ``others`` tells how many are open still, None where nobody knows. What is no ``Exception``
    - ``sys.exit()``, a test's failure - is raised again, for whoever runs this thread; the
    connection is over all the same.
    """
    code = 1000
    try:
        if error is not None and not isinstance(error, CloseError):
            code = 1011
            sentence, values, shown = handler_failed(conn, error)
            complain(logger, sentence, *values, exc_info=shown)
        if error is not None and not isinstance(error, Exception):
            conn._driver.start_close(code, "")
            raise error
        conn.close(code)
    finally:
        conn.abort()
        if logger.isEnabledFor(logging.INFO):
            peer, target = written(conn.remote_address), conn.request.shown
            ending = ended(conn._core, conn._driver.clock.now(), others())
            complain(logger, CLIENT, peer, target, ending, level=logging.INFO)


def complain(logger: logging.Logger, sentence: str, *values: object, **how: Any) -> None:
    """Log something; what a log handler of the application's raises ends no thread of ours."""
    try:
        logger.log(how.pop("level", logging.ERROR), sentence, *values, **how)
    except BaseException:
        if threading.current_thread() is threading.main_thread():  # not ours
            raise
