"""The plan of the house: its rooms, and the modules of each, in rows that stand on one another.

Imports go downwards: a module imports from its own row and from those below it, never from one
above. No modules import each other in a circle, not even within a row. A change of the house
begins here, and ``tests/test_walls.py`` says whether the sources follow.
"""

from __future__ import annotations

Rows = tuple[tuple[str, ...], ...]

# A file of ``src/koko`` is a room, and so is a folder; "koko" is ``__init__.py``.
ROOMS: Rows = (
    ("cli", "__main__"),
    ("adapters",),
    ("sync", "aio"),
    (
        "dialing",
        "dial_progress",
        "reconnecting",
        "upgrading",
        "hijacking",
        "serving",
        "listening",
        "places",
        "broadcasting",
        "hung_up",
        "send_queue",
    ),
    ("koko",),  # the names that belong to neither face
    ("core", "opening"),
    ("errors", "http", "message", "misuse", "native"),
)

# What each row is, for whoever looks at the picture.
ROW_TITLES = (
    "the command",
    "inside others' servers",
    "the faces: they wait",
    "policies: what both faces decide alike",
    "names of neither face",
    "the protocol: no I/O, no clock",
    "nouns and errors",
)

NEIGHBOURS = (("core", "opening"), ("sync", "aio"))  # rooms that do not know each other

# The rows inside a folder; a folder's own name is its ``__init__.py``.
MODULES: dict[str, Rows] = {
    "core": (
        ("connection",),
        ("incoming", "outgoing"),  # messages in parts
        ("outbox",),
        ("codec",),  # chooses one of the two below
        ("_inbox", "_native_inbox"),
        ("_codec", "_native"),
        ("options", "deflate", "control"),
        ("keepalive", "pings", "lifecycle", "flate", "memory", "wire", "core"),
    ),
    "opening": (
        ("handshake", "tunnel", "cookies"),
        ("head", "target", "eyeballs", "address", "opening"),
    ),
    "aio": (
        ("aio",),
        ("serve", "reconnect"),
        ("admit", "door", "dial", "upgrade", "broadcast", "handling"),
        ("conn",),
        ("streams", "control"),
        ("protocol",),
        ("reflex",),  # chooses one of the two below
        ("_reflex", "_native_transport", "_native_poller", "_native_reflex"),
        ("accept", "proxy"),
        ("asking", "listen", "timers", "logs"),
        ("transport", "network", "pending", "message_lock", "tasks", "waiting"),
        ("forking", "signals"),
    ),
    "sync": (
        ("sync",),
        ("serve", "reconnect"),
        ("admit", "door", "dial", "upgrade", "broadcast", "crowd"),
        ("conn",),
        ("streams", "control"),
        ("driver",),
        ("reader", "reflex"),
        ("writer", "housekeeper", "_native_reflex"),
        ("proxy", "network"),
        ("tls",),
        ("transport", "monitor", "listen", "message_lock"),
        ("clock", "signals"),
    ),
    "adapters": (
        ("wsgi", "http_server", "flask", "django"),
        ("_view", "adapters"),
    ),
    "cli": (
        ("cli",),
        ("serve", "dial", "demo"),
        ("check",),
        ("site",),
        ("chat",),
        ("with_aio", "with_sync"),
        ("failure",),
    ),
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
    "dialing": {
        "http.cookiejar.CookieJar",
        "ssl.SSLContext",
        "ssl.SSLObject",
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
    "cli": set(),
}


def parts(module: str) -> tuple[str, str]:
    """Return the room of a module and its name there: ``koko.core.wire`` is core's wire."""
    _, _, inner = module.partition(".")
    room, _, name = inner.partition(".")
    return (room or "koko", name or room or "koko")


def depth(name: str, rows: Rows) -> int:
    """Return which row, counted from the top, a name stands in."""
    for at, row in enumerate(rows):
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
