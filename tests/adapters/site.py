"""One site under every server that lets go of its socket: python -m tests.adapters.site SERVER.

It has a WebSocket at each of its paths but one; that one tells what the process holds, so that a
leak can be seen from outside. Prints its port when it listens.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import koko.aio
from koko import Request, Response
from koko.adapters import http_server, wsgi
from koko.sync import Conn, Server, Upgrader

HOST = "127.0.0.1"
TLS = (os.environ.get("SITE_CERT"), os.environ.get("SITE_KEY"))
OPTIONS: dict[str, dict[str, Any]] = {
    "/echo": {"compression": True, "subprotocols": ["chat"], "read_limit": 1 << 21},
    "/pinged": {"ping_interval": 0.05, "ping_timeout": 0.1},
    "/fails": {},
    "/exits": {},
    "/hurried": {},
    "/handed": {},
    "/whose": {"trusted_proxies": ["127.0.0.1"]},
    "/threaded": {},
}
UPGRADERS = {path: Upgrader(**options) for path, options in OPTIONS.items()}
COOKIE = [("Set-Cookie", "seen=yes")]


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


def wait(conn: Conn) -> None:
    conn.wait_closed()


def hurry(conn: Conn) -> None:
    """Wait in vain for a message, then for a pong, then say so."""
    try:
        conn.recv(timeout=0.05)
    except TimeoutError as error:
        conn.send(str(error))
    conn.send(f"{conn.ping(timeout=10) < 10}")


def fail(conn: Conn) -> None:
    raise LookupError("on purpose")


def leave(conn: Conn) -> None:
    raise SystemExit("on purpose")


def whose(conn: Conn) -> None:
    conn.send(repr(conn.remote_address))


def hand_over(conn: Conn) -> None:
    """Leave the connection to a thread of its own and return."""

    def run() -> None:
        with conn:
            echo(conn)

    threading.Thread(target=run, name="handed", daemon=True).start()


HANDLERS: dict[str, Callable[[Conn], None]] = {
    "/echo": echo,
    "/pinged": wait,
    "/hurried": hurry,
    "/fails": fail,
    "/exits": leave,
    "/whose": whose,
    "/threaded": echo,
}


def state() -> str:
    """Tell of the sockets this process holds, and of Koko's own threads."""
    sockets = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory's own
            sockets += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    keepers = [thread.name for thread in threading.enumerate() if thread.name == "koko-housekeeper"]
    return json.dumps({"sockets": sockets, "threads": keepers})


# WSGI

APPLICATIONS = {
    path: wsgi.websocket(UPGRADERS[path], thread=path == "/threaded")(
        lambda conn, environ, handler=handler: handler(conn)
    )
    for path, handler in HANDLERS.items()
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    path = environ["PATH_INFO"]
    if path in APPLICATIONS:
        return APPLICATIONS[path](environ, start_response)
    if path == "/handed":
        hand_over(UPGRADERS[path].upgrade(environ, COOKIE))
        start_response("101 Switching Protocols", [])
        return []
    start_response("200 OK", [("Content-Type", "application/json")])
    return [state().encode()]


# http.server


METHODS = {
    path: http_server.websocket(UPGRADERS[path], thread=path == "/threaded")(
        lambda self, conn, handler=handler: handler(conn)
    )
    for path, handler in HANDLERS.items()
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in METHODS:
            METHODS[path](self)
        elif path == "/handed":
            hand_over(UPGRADERS[path].upgrade(self, COOKIE))
        else:
            body = state().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


# Koko's own


def visit(request: Request) -> Response | None:
    if request.path in HANDLERS:
        with UPGRADERS[request.path].upgrade(request) as conn:
            HANDLERS[request.path](conn)
    elif request.path == "/handed":
        echo(UPGRADERS[request.path].upgrade(request, COOKIE))
    else:
        return Response(200, state())
    return None


async def hurry_aio(conn: koko.aio.Conn) -> None:
    try:
        await conn.recv(timeout=0.05)
    except TimeoutError as error:
        await conn.send(str(error))
    await conn.send(f"{await conn.ping(timeout=10) < 10}")


async def echo_aio(conn: koko.aio.Conn) -> None:
    async for message in conn:
        await conn.send(message)


async def wait_aio(conn: koko.aio.Conn) -> None:
    await conn.wait_closed()


async def fail_aio(conn: koko.aio.Conn) -> None:
    raise LookupError("on purpose")


async def whose_aio(conn: koko.aio.Conn) -> None:
    await conn.send(repr(conn.remote_address))


AIO = {
    "/echo": echo_aio,
    "/pinged": wait_aio,
    "/hurried": hurry_aio,
    "/fails": fail_aio,
    "/handed": echo_aio,
    "/whose": whose_aio,
    "/threaded": echo_aio,
}


async def visit_aio(request: Request) -> Response | None:
    if request.path not in AIO:
        return Response(200, state())
    upgrader = koko.aio.Upgrader(**OPTIONS[request.path])
    headers = COOKIE if request.path == "/handed" else None
    async with upgrader.upgrade(request, headers) as conn:
        await AIO[request.path](conn)
    return None


# How each is started; each returns its port and what serves for ever


class Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def context() -> ssl.SSLContext | None:
    certificate, key = TLS
    if certificate is None:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate, key)
    return made


def start_werkzeug() -> tuple[int, Callable[[], object]]:
    from werkzeug.serving import make_server

    server = make_server(HOST, 0, application, threaded=True, ssl_context=context())
    server.daemon_threads = True
    return server.server_port, server.serve_forever


def start_pywsgi() -> tuple[int, Callable[[], object]]:
    from gevent.pywsgi import WSGIServer

    server = WSGIServer((HOST, 0), application)
    server.start()
    return server.server_port, server.serve_forever


def start_wsgiref() -> tuple[int, Callable[[], object]]:
    server = make_server(HOST, 0, application, Threading)
    return server.server_port, server.serve_forever


def start_http_server() -> tuple[int, Callable[[], object]]:
    server = ThreadingHTTPServer((HOST, 0), Handler)
    if (tls := context()) is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    return server.server_port, server.serve_forever


def start_sync() -> tuple[int, Callable[[], object]]:
    server = Server(None, HOST, 0, http=visit, ssl=context())
    server.start()
    return server.address[1], server.serve_forever


def start_aio() -> tuple[int, Callable[[], object]]:
    async def run() -> None:
        async with koko.aio.Server(None, HOST, 0, http=visit_aio) as server:
            print(server.address[1], flush=True)
            await server.serve_forever()

    return 0, lambda: asyncio.run(run())


def start_waitress() -> tuple[int, Callable[[], object]]:
    from waitress.server import create_server

    server = create_server(application, host=HOST, port=0)
    return server.effective_port, server.run


if __name__ == "__main__":
    port, serve = globals()[f"start_{sys.argv[1]}"]()
    if port:
        print(port, flush=True)
    serve()
