"""What every framework for threads has in common: one request, one conversation.

A conversation runs in the thread of its view, which the server lends, or in one of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

from koko import serving
from koko.errors import HandshakeError
from koko.hijacking import hijackable, lives_on
from koko.http import Response
from koko.misuse import check_face, check_handler, refuse_async
from koko.opening.address import written
from koko.opening.handshake import is_refusal, refusal
from koko.sync.conn import Conn
from koko.sync.handling import run_handler
from koko.sync.logs import tell
from koko.sync.monitor import hold
from koko.sync.upgrade import Upgrader
from koko.upgrading import source_of

_LOGGER = logging.getLogger("koko.server")

OVER = Response(101)  # what a view returns after the conversation: only the access log shows it

# The threads of our own in which conversations run, and the clients of each.
running: dict[threading.Thread, str] = {}


def check_view(upgrader: object, max_connections: int | None) -> None:
    """Raise for what ``websocket()`` cannot make views with; at once, not at its first function."""
    check_face("websocket()", "upgrader", upgrader, Upgrader)
    if upgrader is None:
        raise TypeError("websocket() got None as upgrader, expected a koko.sync.Upgrader")
    serving.check_limit(max_connections)


class Conversations:
    """All conversations of one view.

    Args:
        upgrader: which requests become connections.
        handler: what the view was made of; looked at, and named.
        thread: give each conversation a thread of its own and the server its thread back.
        max_connections: how many there may be at once; any more get 503.
    """

    def __init__(
        self,
        upgrader: Upgrader,
        handler: Callable[..., object],
        thread: bool,
        max_connections: int | None,
    ) -> None:
        if handler is None:
            raise TypeError("websocket() got None as handler, expected a function that gets a Conn")
        check_handler("websocket()", handler)
        refuse_async("websocket()", "handler", handler)
        self._named = handler
        self._upgrader = upgrader
        self._thread = thread
        self._limit = max_connections
        self._lock = threading.Lock()
        self._open = 0
        self._told = False  # that the thread cannot be given back

    def begin(self, request: Any, handler: Callable[[Conn], object]) -> Response:
        """Upgrade a request, have ``handler`` run; return what the view is to answer."""
        update_wrapper(handler, self._named)  # what is said of it names the application's
        if not hold(self._lock, self._enter):
            full = serving.server_full(self._limit)
            self._tell(request, str(full))
            return hijackable(request).answer(refusal(full))
        handed_over = False
        try:
            try:
                conn = self._upgrader.upgrade(request)
            except OSError:  # the client is gone
                self._tell(request, serving.HUNG_UP_ANSWERING)
                return OVER
            handed_over = self._thread and self._hand_over(conn, handler)
            if not handed_over:
                _converse(conn, handler)
        except HandshakeError as error:
            if not is_refusal(error):
                raise
            level = logging.ERROR if error.status >= 500 else serving.level_of(error)
            self._tell(request, serving.sentence_of(error), level)
            return error.response or refusal(error)
        finally:
            if not handed_over:
                hold(self._lock, self._leave)
        return OVER

    def _tell(self, request: Any, sentence: str, level: int = logging.INFO) -> None:
        """Log what became of a client that got no connection."""
        known = hijackable(request)
        source = source_of(self._upgrader, known.request, known.peer, known.secure)
        peer = written(source.address or known.peer)
        tell(_LOGGER, level, serving.CLIENT, peer, known.request.shown, sentence)

    def _hand_over(self, conn: Conn, handler: Callable[[Conn], object]) -> bool:
        """Start the thread of a conversation; tell whether it has one."""
        if not lives_on(conn.socket):
            if not self._told:
                self._told = True
                tell(_LOGGER, logging.WARNING, serving.KEEPS_THREAD)
            return False
        # A daemon: a conversation may last for ever, and the process has to end before.
        peer = written(conn.remote_address)
        arguments, name = (conn, handler, peer), f"koko-{peer}"
        try:
            threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()
        except RuntimeError:  # the system has no thread for it: then the server's has to do
            return False
        return True

    def _run(self, conn: Conn, handler: Callable[[Conn], object], peer: str) -> None:
        running[threading.current_thread()] = peer
        try:
            _converse(conn, handler)
        finally:
            running.pop(threading.current_thread(), None)
            hold(self._lock, self._leave)

    def _enter(self) -> bool:
        free = self._limit is None or self._open < self._limit
        self._open += free
        return free

    def _leave(self) -> None:
        self._open -= 1


def _converse(conn: Conn, handler: Callable[[Conn], object]) -> None:
    try:
        run_handler(conn, partial(handler, conn), _LOGGER)
    except BaseException:
        # It is logged, and the client has its 1011. gunicorn's worker would take the SystemExit of
        # one conversation for its own end, and with it for that of all others. An interrupt of the
        # main thread is the process's.
        if threading.current_thread() is threading.main_thread():
            raise


def fields(response: Response) -> list[tuple[str, str]]:
    """Return the headers of a response; PEP 3333 forbids subclasses of ``str``."""
    return [(str(name), str(value)) for name, value in response.headers.items()]
