"""Takes a connection out of another HTTP server: what Go calls hijacking.

It knows, for each server, how to read the client's request, and how to get the socket and the
bytes that the server has already read beyond the head. A server is recognized by what it puts
into a request; neither servers nor faces are imported here.

A socket is taken for good. It moves to a descriptor of its own, and the server keeps a
descriptor whose peer is gone: what the server still writes fails as if the client had hung
up, which every server expects and does not report. A TLS session cannot be moved: the server
keeps it, and closes it in the end.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from multidict import CIMultiDict, CIMultiDictProxy

from koko.errors import HandshakeError
from koko.http import Request, Response

# PEP 3333: only the server may send these, an application may not.
_HOP_BY_HOP = ("Connection", "Upgrade")

_BARE = {"CONTENT_TYPE": "Content-Type", "CONTENT_LENGTH": "Content-Length"}


S_co = TypeVar("S_co", covariant=True)


class Hijackable(Protocol[S_co]):
    """A request whose socket can be taken; the connection is not touched before."""

    request: Request
    secure: bool
    peer: Any  # the address at the other end, "" of a Unix socket

    def answer(self, response: Response) -> Response:
        """Return ``response`` without what this server forbids an application to send."""

    def take(self) -> tuple[S_co, bytes]:
        """Return the socket, or a stream on it, and the bytes that were read beyond the head."""


def hijackable(request: Any) -> Hijackable[socket.socket]:
    """Recognize the kind of request that a server has given to its application."""
    environ = getattr(request, "environ", request)
    if isinstance(environ, dict) and "wsgi.input" in environ:
        return WSGIRequest(environ)
    if hasattr(request, "rfile") and hasattr(request, "request_version"):
        return HTTPServerRequest(request)
    raise TypeError(
        f"upgrade() got {type(request).__name__!r}, expected a WSGI environ or a request that has "
        "one, a handler of http.server, or what Koko's server gave to http="
    )


def lives_on(sock: socket.socket) -> bool:
    """Tell whether a socket that was taken outlives the view that took it.

    A TLS session stays the server's, and where a socket is no file nothing dead can be left in
    its place: the server ends both when the view returns.
    """
    return os.name == "posix" and not isinstance(sock, ssl.SSLSocket)


class WSGIRequest:
    """A request as the ``environ`` of a WSGI server (PEP 3333)."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.request = _read(environ)
        self.secure = environ.get("wsgi.url_scheme") == "https"
        self.peer = _peer(environ)

    def answer(self, response: Response) -> Response:
        headers = CIMultiDict(response.headers)
        for name in _HOP_BY_HOP:
            headers.popall(name, None)
        return Response(response.status, response.body, headers, response.reason)

    def take(self) -> tuple[socket.socket, bytes]:
        environ = self._environ
        _check_eventlet(environ)
        if "gunicorn.socket" in environ:
            early = _unread(environ["wsgi.input"])
            return _move(environ["gunicorn.socket"]), early
        if "uwsgi.version" in environ:
            return _take_from_uwsgi(self.secure), b""
        sock, stream = _socket(environ), _stream(environ)
        if sock is None or not isinstance(stream, io.BufferedReader):
            server = environ.get("SERVER_SOFTWARE", "this server")
            raise HandshakeError(
                500,
                f"{server} does not hand over its socket, which a WebSocket needs; werkzeug, "
                "gunicorn (gthread, gevent), gevent.pywsgi, uWSGI, wsgiref and koko.sync.Server do",
            )
        early = _read_ahead(sock, stream)
        return _move(sock), early


class HTTPServerRequest:
    """A request as a ``BaseHTTPRequestHandler`` of ``http.server``."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        headers = CIMultiDictProxy(CIMultiDict(handler.headers.items()))
        version = handler.request_version.removeprefix("HTTP/")
        self.request = Request(handler.command, handler.path, headers, version)
        self.secure = isinstance(handler.connection, ssl.SSLSocket)
        self.peer = handler.client_address

    def answer(self, response: Response) -> Response:
        return response

    def take(self) -> tuple[socket.socket, bytes]:
        handler = self._handler
        handler.close_connection = True
        early = _read_ahead(handler.connection, handler.rfile)
        return _move(handler.connection), early


def _read(environ: dict[str, Any]) -> Request:
    headers: CIMultiDict[str] = CIMultiDict()
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            headers.add(key[5:].replace("_", "-").title(), value)
        elif key in _BARE and value:
            headers.add(_BARE[key], value)
    # eventlet calls every request 1.0, and is refused for what it is.
    protocol = "1.1" if "eventlet.input" in environ else environ.get("SERVER_PROTOCOL", "")
    return Request(
        environ["REQUEST_METHOD"],
        environ.get("RAW_URI") or environ.get("REQUEST_URI") or _target(environ),
        CIMultiDictProxy(headers),
        protocol.removeprefix("HTTP/"),
    )


def _stream(environ: dict[str, Any]) -> Any:
    """Return what a server reads requests from.

    werkzeug, wsgiref and gevent.pywsgi all read from the file of a socket, and Django's
    runserver through a method of it.
    """
    stream = environ["wsgi.input"]
    return getattr(getattr(stream, "_read", None), "__self__", stream)


def _socket(environ: dict[str, Any]) -> Any:
    """Return the socket of a request; uWSGI and those that keep it have none."""
    named = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return named or getattr(getattr(_stream(environ), "raw", None), "_sock", None)


def _peer(environ: dict[str, Any]) -> Any:
    host = environ.get("REMOTE_ADDR", "")  # gevent leaves it out of a Unix socket's clients
    if host in ("", "<local>"):  # the latter is werkzeug's
        return ""
    # REMOTE_PORT may be the proxy's: middleware that corrects the address leaves it as it is.
    with suppress(OSError, AttributeError):  # the client is gone; or what is there is no socket
        peer = _socket(environ).getpeername()
        if peer[:1] == (host,):
            return peer
    return (host, 0)


def _target(environ: dict[str, Any]) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query = environ.get("QUERY_STRING", "")
    return quote(path or "/", safe="/;:@&=+$,!~*'()", encoding="latin-1") + (query and f"?{query}")


def _check_eventlet(environ: dict[str, Any]) -> None:
    kind = type(environ.get("gunicorn.socket")).__module__
    if "eventlet.input" in environ or kind.startswith("eventlet"):
        raise HandshakeError(
            500,
            "eventlet is not supported, as its authors advise against it: run gunicorn's worker "
            "class gevent or gthread, or gevent.pywsgi",
        )


def _check_cooperative(sock: socket.socket) -> None:
    if type(sock).__module__.startswith("gevent") and not issubclass(type(sock), socket.socket):
        raise HandshakeError(
            500,
            "the socket is gevent's, but threads and locks are not: "
            "call gevent.monkey.patch_all() before anything else is imported",
        )


def _read_ahead(sock: socket.socket, reader: io.BufferedReader) -> bytes:
    """Return what a buffered reader holds, without waiting for more."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        return reader.read1(len(reader.peek()))
    except OSError:  # TLS has nothing; or the connection broke, which the next read finds
        return b""
    finally:
        sock.settimeout(timeout)


def _unread(body: Any) -> bytes:
    """Return what gunicorn's parser has read beyond the head."""
    try:
        unreader = body.reader.unreader
        early: bytes = unreader.buf.getvalue()
        unreader.buf = io.BytesIO()
    except AttributeError:
        raise HandshakeError(
            500, "Koko does not know where this version of gunicorn keeps what it has read ahead"
        ) from None
    return early


def _take_from_uwsgi(secure: bool) -> socket.socket:
    """Return uWSGI's connection, of which it tells the descriptor.

    What it has read behind the head is lost; §4.1: the client waits for our answer first.
    """
    uwsgi = import_module("uwsgi")  # it exists only inside of uWSGI
    if secure:
        raise HandshakeError(
            500,
            "uWSGI keeps its TLS session to itself, which a WebSocket needs; let a proxy end TLS",
        )
    if not {b"enable-threads", b"threads"} & {os.fsencode(name) for name in uwsgi.opt}:
        raise HandshakeError(
            500,
            "uWSGI stops every thread but its own, which a WebSocket needs: add --enable-threads",
        )
    descriptor = uwsgi.connection_fd()
    ours = socket.socket(fileno=os.dup(descriptor))
    # Not a dead socket as in ``_move``: uWSGI complains of each write that fails.
    with open(os.devnull, "r+b", buffering=0) as nowhere:
        os.dup2(nowhere.fileno(), descriptor, inheritable=False)
    return ours


def _move(sock: socket.socket) -> socket.socket:
    """Move a connection to a new descriptor; leave a dead socket on the old one."""
    _check_cooperative(sock)
    if isinstance(sock, ssl.SSLSocket):
        return sock
    ours = sock.dup()
    if os.name == "posix":  # elsewhere a socket is no file: the view must outlive the connection
        dead, other = socket.socketpair()
        with dead, other:
            os.dup2(dead.fileno(), sock.fileno(), inheritable=False)
    return ours
