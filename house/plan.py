"""The plan of the house: its rooms, and the modules of each, in rows from top to bottom.

Imports go downwards: a module imports from its own row and from those below it, never from one
above. No modules import each other in a circle, not even within a row. A change of the house
begins here, and ``tests/test_walls.py`` says whether the sources follow.
"""

from __future__ import annotations

Rows = dict[str, tuple[str, ...]]  # the top row first, each under what it is

# A file of ``src/koko`` is a room, and so is a folder; "koko" is ``__init__.py``.
ROOMS: Rows = {
    "for tests; the command, and what another command is given": (
        *("testing", "cli", "__main__", "uvicorn"),
    ),
    "inside the servers of others": ("adapters",),
    "the faces": ("sync", "aio"),
    "policies": (
        *("dialing", "dial_plan", "dial_steps", "default_context", "reconnecting"),
        *("upgrading", "hijacking", "serving", "listening"),
        *("conn", "broadcasting", "send_queue", "hung_up"),
    ),
    "the names that belong to neither face": ("koko",),
    "the protocol, without I/O": ("core", "opening"),
    "nouns": ("errors", "http", "message", "misuse", "native", "logs"),
}

NEIGHBOURS = (("core", "opening"), ("sync", "aio"))  # rooms that do not know each other

# The rows inside a folder; a folder's own name is its ``__init__.py``.
MODULES: dict[str, Rows] = {
    "core": {
        "bytes and time in, messages and owed bytes out": ("connection",),
        "what a reader is given, what may be sent": ("receiver", "sender"),
        "messages read and written in parts": ("incoming", "outgoing"),
        "what follows from a ping, a pong or a Close": ("responder",),
        "frames owed to the peer, in order": ("outbox",),
        "chooses the native or the pure half of what is below": ("codec",),
        "messages that wait to be read": ("_inbox", "_native_inbox"),
        "frames from bytes and to bytes": ("_codec", "_native"),
        "compression, and what can be told to a connection": ("options", "deflate", "flate"),
        "the end as a table, and when to ping": ("lifecycle", "keepalive", "pings"),
        "the RFC's nouns, the names of options": ("control", "wire", "names"),
        "where large blocks come from": ("memory", "core"),
    },
    "opening": {
        "both sides' handshake": ("handshake",),
        "through a proxy: CONNECT and SOCKS": ("tunnel", "socks"),
        "a jar, one handshake at a time": ("cookies",),
        "HTTP/1.1 heads, within limits": ("head",),
        "whom proxies speak for": ("forwarded", "proxy_protocol"),
        "where a URL leads": ("target", "address"),
        "which address when": ("eyeballs", "opening"),
    },
    "aio": {
        "the names": ("aio",),
        "listens, comes back": ("serve", "reconnect"),
        "opens": ("admit", "dial", "upgrade"),
        "what a server holds": ("clients", "refuse", "handling"),
        "tells many": ("broadcast",),
        "the verbs": ("conn",),
        "messages in parts": ("streams",),
        "the general path with the fast path before it": ("protocol",),
        "a message's verbs, in plain Python": ("message_verbs",),
        "one epoll for all": ("_native_transport", "_native_poller"),
        "a short cut for messages": ("_native_fast_path",),
        "the wait to write": ("writing",),
        "transport to core, tasks woken": ("general_path",),
        "from and to a socket": ("accept", "exchange", "network", "proxied"),
        "parts of a path": ("waiter", "handler_tasks", "read_deadline"),
        "asyncio's tools": ("transport", "timers", "pending", "message_lock"),
        "tasks, signals, fork": ("logs", "tasks", "waiting", "signals", "forking"),
    },
    "sync": {
        "the names": ("sync",),
        "listens, comes back": ("serve", "reconnect"),
        "opens": ("admit", "dial", "upgrade"),
        "what a server holds": ("clients", "refuse", "handling"),
        "tells many": ("broadcast",),
        "the verbs": ("conn",),
        "messages in parts": ("streams",),
        "the parts put together": ("driver",),
        "native or none": ("fast_path", "_native_fast_path"),
        "who reads, who writes": ("reader", "writer"),
        "stream to core, the lock held": ("link",),
        "what time makes due": ("housekeeper",),
        "ways to a server": ("exchange", "network", "accept", "proxied"),
        "sockets": ("tls", "transport"),
        "one thread at a time": ("monitor", "message_lock"),
        "time, signals, the log": ("clock", "signals", "logs"),
    },
    "adapters": {
        "for whom": ("wsgi", "http_server", "flask", "django", "gunicorn", "uvicorn", "asgi"),
        "how all of it stops": ("closing",),
        "uvicorn's inside, and options for it": (
            "_uvicorn_seam",
            "_uvicorn_shared",
            "_environment",
        ),
        "an ASGI application's side": ("_asgi", "_asgi_handshake"),
        "frames as events": ("_asgi_transport", "_asgi_conn"),
        "an event's way": ("_asgi_events", "_native_asgi"),
        "what it stands on": ("_asgi_path", "_starlette", "_asgi_scope"),
        "what they share": ("_view", "adapters"),
    },
    "testing": {
        "the names": ("aio", "sync"),
        "an application as a server runs it": ("_asgi_server",),
        "its loop, on threads": ("_loop_thread", "_watch"),
        "its parts": ("_asgi_lifespan", "_application", "_stack", "_limit", "testing"),
    },
    "cli": {
        "the command": ("cli",),
        "its words": ("serve", "dial", "demo"),
        "the demo": ("check", "site", "chat"),
        "servers": ("with_aio", "with_sync"),
        "how it fails": ("failure",),
    },
}

# Modules of the system that do I/O, wait or tell the time.
WAITING = {
    *("socket", "_socket", "ssl", "select", "selectors", "http", "urllib.request"),
    *("threading", "_thread", "asyncio", "queue", "concurrent", "multiprocessing", "subprocess"),
    *("time", "signal"),
}

# What a room without I/O may know of them after all, by name.
MAY_KNOW = {
    "http": {"http.HTTPStatus"},
    "opening": {"http.HTTPStatus", "http.cookiejar.CookieJar"},
    "default_context": {"ssl"},  # it reads the system's certificates, once
    "dial_plan": {"ssl.SSLContext", "ssl.SSLObject"},
    "dial_steps": {"ssl.SSLContext"},
    "dialing": {
        "http.cookiejar.CookieJar",
        "ssl.SSLContext",
        "urllib.request.getproxies",  # reads the environment
        "urllib.request.proxy_bypass",
    },
    "hijacking": {"socket", "ssl"},  # it moves sockets, and waits for nothing
    "hung_up": {"select"},  # it asks the system, and waits for nothing
    "listening": {"socket"},  # it binds, and waits for nothing
    "send_queue": {"socket"},  # it asks the system, and waits for nothing
}

# Every other room must not know anything of WAITING.
FORBIDDEN: dict[str, set[str]] = {
    "sync": {"asyncio"},
    "aio": set(),
    "adapters": set(),
    "testing": set(),
    "cli": set(),
}


def parts(module: str) -> tuple[str, str]:
    """Return the room of a module and its name there: ``koko.core.wire`` is core's wire."""
    _, _, inner = module.partition(".")
    room, _, name = inner.partition(".")
    return (room or "koko", name or room or "koko")


def depth(name: str, rows: Rows) -> int:
    """Return which row, counted from the top, a name stands in."""
    for at, row in enumerate(rows.values()):
        if name in row:
            return at
    raise LookupError(f"{name} stands in no row of house/plan.py")


def goes_up(importer: str, imported: str) -> bool:
    """Say whether this import goes from a row to one above it."""
    room, name = parts(importer)
    other_room, other = parts(imported)
    if room != other_room:
        return depth(other_room, ROOMS) < depth(room, ROOMS)
    return room in MODULES and depth(other, MODULES[room]) < depth(name, MODULES[room])
