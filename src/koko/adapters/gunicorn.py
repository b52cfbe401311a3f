"""Koko under gunicorn's process manager: a goodbye for views, and a worker for asyncio.

``post_worker_init`` is for views on threads, in any worker of gunicorn's own. ``Worker`` serves
handlers of ``koko.aio`` without a framework.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn import sock as listening
from gunicorn.errors import AppImportError
from gunicorn.workers import base

from koko.adapters import _environment as environment
from koko.aio.conn import Conn
from koko.aio.handling import Handler
from koko.aio.serve import Server
from koko.aio.upgrade import Upgrader
from koko.serving import CLIENT

_LOOK = 0.1  # seconds after which a worker that is told to stop is seen
_QUICK = 1.0  # seconds for a goodbye on SIGINT and SIGQUIT, which mean at once
_BEAT = 1.0  # seconds between two signs of life to the arbiter


def _patience(graceful_timeout: float) -> float:
    """Return how long clients get to answer a goodbye.

    The arbiter kills at ``graceful_timeout``: a quarter of it is left for handlers to end.
    """
    return 0.75 * graceful_timeout


# Views on threads


def post_worker_init(worker: Any) -> None:
    """Have every connection told 1001 when a worker of gunicorn is told to stop.

    In ``gunicorn.conf.py``: ``from koko.adapters.gunicorn import post_worker_init``. It is for
    ``Upgrader.upgrade`` and the adapters, under gthread, gevent and sync. ``worker_exit``
    comes too late: the worker waits for its pool before, and so for the conversations.
    """
    quick = threading.Event()
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, partial(_note, quick, signal.getsignal(number)))
    # The sync worker may wait in a ``recv`` that gunicorn has the system resume after a signal.
    signal.siginterrupt(signal.SIGTERM, True)
    # Not a daemon: then the process ends when it has ended.
    arguments, name = (worker, threading.main_thread(), quick), "koko-stopping"
    threading.Thread(target=_say_goodbye, args=arguments, name=name).start()


def _note(quick: threading.Event, before: Any, number: int, frame: Any) -> None:
    quick.set()
    if callable(before):
        before(number, frame)


def _say_goodbye(worker: Any, main: threading.Thread, quick: threading.Event) -> None:
    # Late: gevent has patched what this imports by now.
    from koko.adapters.closing import close_all

    # A signal, ``max_requests`` and a changed file say so in one place only. A worker whose
    # arbiter is gone just ends.
    while worker.alive and main.is_alive():
        time.sleep(_LOOK)
    graceful = worker.cfg.graceful_timeout
    until = time.monotonic() + _patience(graceful)
    while True:
        close_all(timeout=_QUICK if quick.is_set() else max(0.0, until - time.monotonic()))
        if not main.is_alive() or time.monotonic() > until:
            return
        time.sleep(_LOOK)  # for those that the worker had accepted already


# Handlers of koko.aio


class Worker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serves a handler of ``koko.aio``: ``gunicorn -k koko.adapters.gunicorn.Worker app:handler``.

    gunicorn's own options hold: ``--bind`` as often as there are addresses, ``--workers``, those
    of TLS, ``--graceful-timeout``, ``--max-requests`` (of WebSockets), ``--reload``;
    ``--worker-connections`` is ``max_connections`` for each address. On SIGTERM and SIGHUP
    every connection is told 1001 and has three quarters of ``--graceful-timeout`` to answer; on
    SIGINT and SIGQUIT one second. Where uvloop is installed it runs the loop.

    ``--forwarded-allow-ips`` are the ``trusted_proxies``, with ``--proxy-protocol`` those of
    ``--proxy-allow-from``.

    Attributes:
        options: any more of ``koko.aio.Server``, as ``compression`` or ``http``; for a
            subclass. They go before the environment: ``KOKO_ORIGINS``, ``KOKO_READ_LIMIT``,
            ``KOKO_COMPRESSION=1``, ``KOKO_PING_INTERVAL``, ``KOKO_PING_TIMEOUT``.
    """

    options: dict[str, Any] = {}  # noqa: RUF012 - not changed here

    _quick = False
    _wake: Callable[[], object] = int  # until there is a loop to wake

    # What gunicorn calls

    def load_wsgi(self) -> None:
        super().load_wsgi()
        try:
            inspect.signature(self.wsgi).bind("conn")
        except TypeError:
            if not self.cfg.reload:  # else it may be what gunicorn puts in the place of an error
                raise AppImportError(
                    f"this worker serves a function of a connection, as in "
                    f"async def handler(conn), but {self.app.app_uri!r} is {self.wsgi!r}"
                ) from None

    def run(self) -> None:
        self._servers: list[Server] = []
        with asyncio.Runner(loop_factory=_loop_factory(self.cfg)) as runner:
            runner.run(self._serve())

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.alive = False
        self._wake()

    def handle_quit(self, sig: int, frame: Any) -> None:
        if self._quick:
            return  # Ctrl-C comes from the terminal and from the arbiter
        self.alive, self._quick = False, True
        self.cfg.worker_int(self)
        self._wake()

    def handle_abort(self, sig: int, frame: Any) -> None:
        self._quick = True
        super().handle_abort(sig, frame)

    # How it works inside

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._wake = partial(loop.call_soon_threadsafe, self._look, stop)
        beats = loop.create_task(self._beat(stop))
        try:
            for each in self.sockets:
                await self._listen(each)
            await stop.wait()
        finally:  # also where a hook or a handler left by ``sys.exit``
            timeout = _QUICK if self.alive or self._quick else _patience(self.cfg.graceful_timeout)
            closings = (server.close(timeout=timeout) for server in self._servers)
            await asyncio.gather(*closings)
            beats.cancel()

    async def _listen(self, sock: Any) -> None:
        cfg, options = self.cfg, self.options
        proxied = cfg.proxy_protocol not in (False, "off")
        given: dict[str, Any] = {
            "sock": sock.sock,
            "ssl": listening.ssl_context(cfg) if cfg.is_ssl else None,
            "max_connections": cfg.worker_connections,
            "proxy_protocol": proxied,
            "logger": _logger(self.log),
        }
        try:
            if "upgrader" not in options:
                proxies = cfg.proxy_allow_ips if proxied else cfg.forwarded_allow_ips
                given |= {"trusted_proxies": _trusted(proxies), **_from_environment()}
            server = Server(self._counted(self.wsgi), **{**given, **options})
        except (TypeError, ValueError) as error:  # of which the next worker would die as well
            raise AppImportError(str(error)) from error
        await server.start()
        sock.listen(self.cfg.backlog)  # the server's own backlog is another
        self._servers.append(server)

    def _look(self, stop: asyncio.Event) -> None:
        """Stop if the worker is to; where that is under way and it is to be quick, at once."""
        if stop.is_set() and self._quick:
            for server in self._servers:
                server._stop_by_signal()
        if not self.alive:
            stop.set()

    async def _beat(self, stop: asyncio.Event) -> None:
        """Show the arbiter that this worker lives; see what no signal says."""
        while True:
            self.notify()
            if self.ppid != os.getppid():
                self.alive = False
            if not self.alive:  # a changed file, or a signal before there was a loop
                stop.set()
            await asyncio.sleep(min(_BEAT, self.timeout / 2 or _BEAT))

    def _counted(self, handler: Handler) -> Handler:
        """Return a handler that ends the worker after ``--max-requests`` connections."""
        if not self.cfg.max_requests:
            return handler

        def run(conn: Conn) -> Awaitable[object]:
            self.nr += 1
            if self.nr == self.max_requests:
                self.alive = False
                self._wake()
            return handler(conn)

        return run


class _ToGunicorn(logging.Handler):
    """Passes the one line of each client to the access log, and the others to the error log."""

    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        logger = self._log.error_log
        if record.msg == CLIENT and record.levelno == logging.INFO:
            logger = self._log.access_log
            record.msg = f"{self._log.now()} {CLIENT}"  # its format has no time of its own
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _logger(log: Any) -> logging.Logger:
    logger = logging.getLogger("gunicorn.koko")
    logger.setLevel(logging.INFO)
    logger.handlers = [_ToGunicorn(log)]
    logger.propagate = False
    return logger


def _from_environment() -> dict[str, Any]:
    """Return options of an ``Upgrader``, where variables say other than is usual."""
    usual = Upgrader()
    seconds, number = environment.seconds, environment.number
    return {
        "origins": environment.origins([]) or None,
        "read_limit": number("KOKO_READ_LIMIT", usual.read_limit or 0) or None,
        "compression": environment.compression() if number("KOKO_COMPRESSION", 0) else False,
        "ping_interval": seconds("KOKO_PING_INTERVAL", usual.ping_interval or 0) or None,
        "ping_timeout": seconds("KOKO_PING_TIMEOUT", usual.ping_timeout or 0) or None,
    }


def _trusted(addresses: Any) -> list[str]:
    """Return the proxies to believe; gunicorn always believes those on Unix sockets."""
    named = [str(each) for each in addresses]
    return [*(["0.0.0.0/0", "::/0"] if "*" in named else named), "unix"]


def _loop_factory(cfg: Any) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if getattr(cfg, "asgi_loop", "auto") != "asyncio":
        with suppress(ImportError):
            import uvloop

            return uvloop.new_event_loop
    return None
