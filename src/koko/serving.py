"""What a server decides, and what it tells its operator: the same on both faces.

Its options, how many clients it takes, which close code the end of a handler means, and every
line of its log. These are functions of options, state and time: the faces wait, and log. A
line never holds the query of a URL. ``docs/operating.md`` says what to do about each line.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any

from koko.core.connection import Connection
from koko.errors import HandshakeError, only_closes
from koko.http import Request, Response
from koko.misuse import (
    WrongKindError,
    check_context,
    check_face,
    check_function,
    check_handler,
)
from koko.opening.address import written
from koko.opening.handshake import is_websocket_upgrade, refusal
from koko.opening.head import write_response
from koko.opening.proxy_protocol import ProxyHeader, ProxyHeaderError
from koko.upgrading import check_server_options

# Of the server; the first and the last at INFO.
LISTENING = "listening on %s"
CLOSING = "closing: waiting up to %g s for %d connections: %s"
HURRIED = "closing now: stopped a second time"  # WARNING
LATE = "closing: %d handlers did not end in time: %s"  # WARNING
CLOSED = "closed within %.1f s; no longer listening on %s"

# Of one client: its address, what it asked for, and a sentence. INFO where nothing is said.
CLIENT = "%s %s: %s"
UNKNOWN = "-"  # in the place of what it asked for
NO_ANSWER = "could not answer %s"  # ERROR, with what the application raised
HANDLER_FAILED = "handler of %s at %s failed"  # ERROR, with what it raised
# Inside another server; at WARNING, once for each view.
KEEPS_THREAD = (
    "thread=True has no effect: this server ends TLS by itself (or runs on Windows), so the "
    "view has to stay for each conversation; let a proxy end TLS"
)

_NAMED = 5  # addresses that a line has room for

HUNG_UP = "the client hung up before its request was whole"
HUNG_UP_ANSWERING = "the client hung up before it was answered"
GOING_AWAY = "the server is going away"
NO_THREAD = "the system has no thread for it"
HTTP_TIMEOUT = "http= has handshake_timeout=%g s"

RETRY = 1.0  # seconds until the next try to accept, after the system was out of something

# What accept() says of a connection that is gone before it was taken (accept(2)).
GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EINTR",
        "EPERM",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
    )
    if hasattr(errno, name)
)


# Options


def check_server(
    call: str,
    handler: object,
    http: object,
    upgrader: object,
    wanted: type,
    options: Collection[str],
) -> None:
    """Raise if ``call`` can make no server of these; the upgrader must be one of this face."""
    check_server_options(call, upgrader, options)
    check_face(call, "upgrader", upgrader, wanted)
    if handler is None and http is None:
        raise TypeError(f"{call} needs a handler, or http= that upgrades by itself")
    check_handler(call, handler)
    check_function(call, "http=", http)


def check_place(
    host: object, port: object, sock: object, ssl: object, proxy_protocol: object, logger: object
) -> None:
    """Raise if a server cannot listen there, or so."""
    names = host if isinstance(host, list) else [host]
    if not names or not all(name is None or isinstance(name, str) for name in names):
        expected = "a name or an address, a list of them, or None for all interfaces"
        raise TypeError(f"host={host!r}, expected {expected}; the port comes second")
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port={port!r}, expected a whole number")
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port={port!r}, expected a number from 0 to 65535")
    if sock is not None and (not hasattr(sock, "getsockname") or hasattr(sock, "unwrap")):
        raise TypeError(f"sock={sock!r}, expected a bound socket.socket; ssl= does TLS")
    check_context("ssl", ssl, "PROTOCOL_TLS_CLIENT", "a client's: make it with Purpose.CLIENT_AUTH")
    if not isinstance(proxy_protocol, bool):
        raise TypeError(f"proxy_protocol={proxy_protocol!r}, expected True or False")
    if logger is not None and not hasattr(logger, "isEnabledFor"):
        raise TypeError(f"logger={logger!r}, expected a logging.Logger")


# Admission: the policy of ``max_connections``. Every client counts from being accepted to being
# gone, handshakes and plain HTTP included: a flood of half-open handshakes must not evade it.

MOST_REFUSED = 16  # clients that get a 503 at the same time; any more are dropped
# Seconds that a refused client gets to hang up once its answer is written; one that is refused
# before it has asked has them for its request as well.
REFUSE_TIMEOUT = 2.0


class Admission(Enum):
    """What becomes of a client that was accepted."""

    SERVE = "is served"
    REFUSE = "is answered with 503"
    DROP = "is hung up on"


# Until Python 3.12 Admission.SERVE is looked up in Python: ten times the cost of a name.
SERVE, REFUSE, DROP = Admission


def admission(limit: int | None, served: int, refused: int) -> Admission:
    """Return what becomes of the next client, given how many are being served and refused."""
    if limit is None or served < limit:
        return SERVE
    return REFUSE if refused < MOST_REFUSED else DROP


def server_full(limit: int | None) -> HandshakeError:
    """Return the error of a client that is refused or dropped because of the limit."""
    sentence = f"the server is full (max_connections={limit})"
    return HandshakeError(503, f"{sentence}, try again later")


def check_limit(limit: int | None) -> int | None:
    """Return the limit, or raise if it is not a valid one."""
    rule = f"max_connections={limit!r}: a whole number above 0, or None for no limit"
    if limit is not None and type(limit) is not int:
        raise TypeError(rule)
    if limit is not None and limit <= 0:
        raise ValueError(rule)
    return limit


# Requests and answers


def is_for_http(handler: object, http: object, request: Request) -> bool:
    """Tell whether ``http=`` answers a request: without a handler it answers every one."""
    return http is not None and (handler is None or not is_websocket_upgrade(request))


def no_websocket_at(request: Request) -> HandshakeError:
    """Return the refusal of a server whose ``http=`` did not upgrade, and that has no handler."""
    return HandshakeError(404, f"there is no WebSocket at {request.path!r}")


def going_away() -> HandshakeError:
    """Return the refusal of a server that is closing."""
    return HandshakeError(503, "the server is going away, try again later")


def failed_to_answer() -> HandshakeError:
    """Return the refusal after a function of the application has failed."""
    return HandshakeError(500, "the server failed to answer")


def took_too_long(timeout: float) -> HandshakeError:
    """Return the refusal for an application that has not answered in time."""
    error = HandshakeError(503, "the application took too long to answer")
    error.advice = HTTP_TIMEOUT % timeout
    return error


def refusal_octets(error: HandshakeError) -> bytes:
    """Return a refusal as it is sent to a client whose request was not read."""
    return write_response(refusal(error))


def answer_octets(request: Request | None, response: Response) -> bytes:
    """Return an answer as it is sent; RFC 9110 §9.3.2: to HEAD without its body."""
    octets = write_response(response)
    if request is not None and request.method == "HEAD":
        return octets[: len(octets) - len(response.body)]
    return octets


def linger_until(now: float, deadline: float | None) -> float:
    """Return when a client that was answered at ``now`` is dropped if it has not hung up.

    Closing with bytes of the client unread would reset the stream and could destroy the answer
    on its way. ``deadline`` is that of the whole handshake.
    """
    until = now + REFUSE_TIMEOUT
    return until if deadline is None else min(until, deadline)


# The end of a handler


def close_code_of(error: BaseException | None) -> int:
    """Return which code a connection is closed with when its handler ended, perhaps in ``error``.

    1000 where ``only_closes`` says so of the error.
    """
    return 1000 if error is None or only_closes(error) else 1011


def handler_failed(
    conn: Any, error: BaseException
) -> tuple[str, tuple[object, ...], BaseException | None]:
    """Return what to log of a handler: a sentence, its values, and what to show a traceback of."""
    if isinstance(error, WrongKindError):  # its sentence says it all
        return "%s", (error,), None
    return HANDLER_FAILED, (conn, conn.request.shown), error


# Sentences


def cannot_accept(error: Exception) -> str:
    """Return the sentence for a server that has run out of something; others are served on."""
    reason = str(getattr(error, "strerror", None) or error)
    return f"cannot accept: {reason[:1].lower()}{reason[1:]}; next try in {RETRY:g} s"


def answered(status: int) -> str:
    """Return the sentence for a request that was answered without a WebSocket."""
    return f"answered {status}"


def no_tls(error: BaseException) -> str:
    """Return the sentence for a client with which TLS was not agreed on."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    # The end of the stream in the middle, as OpenSSL names it and as the systems and loops do.
    ends = (ConnectionResetError, BrokenPipeError)
    if reason == "UNEXPECTED_EOF_WHILE_READING" or isinstance(error, ends):
        reason = "the client hung up"
    return f"TLS failed: {reason or type(error).__name__}"


def too_slow(timeout: float | None) -> str:
    """Return the sentence for a request that was not whole in time."""
    return f"the request was not whole within {timeout:g} s"


def level_of(error: BaseException) -> int:
    """Return the log level of a refusal: WARNING where the operator can do something."""
    return logging.WARNING if _advice(error) else logging.INFO


def level_for(proxied: ProxyHeader | None, level: int) -> int:
    """Return ``level``, or DEBUG for a proxy's own connection: its health checks are many."""
    return logging.DEBUG if proxied is not None and proxied.local else level


def sentence_of(error: BaseException) -> str:
    """Return the sentence of a refusal, with what the operator can do."""
    advice = _advice(error)
    return f"{error}; {advice}" if advice else str(error)


def _advice(error: BaseException) -> str:
    return error.advice if isinstance(error, HandshakeError | ProxyHeaderError) else ""


def ended(core: Connection, now: float, others: int | None) -> str:
    """Return the sentence for the end of a connection: how, and what it had been.

    ``others`` is how many are open still, None where they are not counted.
    """
    lasted = now - core.opened_at
    said = f"{core.ending}; after {lasted:.1f} s, {core.bytes_in} bytes in, {core.bytes_out} out"
    return said if others is None else f"{said}; {others} open"


def addresses(of: Sequence[object]) -> str:
    """Return the first few addresses in one line."""
    return ", ".join([*map(written, of[:_NAMED]), *["..."] * (len(of) > _NAMED)])
