"""The walls of the house: imports go downwards, in no circle, and some rooms do no I/O.

The plan is ``house/plan.py``; what the sources import is read by ``house/imports.py``, which
counts what only a type checker sees, relative imports, and what Cython cimports.
"""

from __future__ import annotations

import pytest

from house.imports import SOURCE, circles, graph, in_cython, in_python, modules, names_of
from house.picture import PICTURE, svg
from house.plan import (
    FORBIDDEN,
    MAY_KNOW,
    MODULES,
    NEIGHBOURS,
    ROOMS,
    WAITING,
    depth,
    goes_up,
    parts,
)

pytestmark = pytest.mark.once

FILES = modules()
GRAPH = graph()
each_module = pytest.mark.parametrize("module", FILES)


@each_module
def test_a_module_imports_from_its_own_row_and_from_those_below(module):
    upwards = {other for other in GRAPH[module] if goes_up(module, other)}
    assert not upwards, f"house/plan.py has {module} below {upwards}"


def test_no_modules_import_each_other_in_a_circle():
    assert circles(GRAPH) == []


@each_module
def test_neighbours_know_nothing_of_each_other(module):
    room = parts(module)[0]
    known = {parts(other)[0] for other in GRAPH[module]}
    for pair in NEIGHBOURS:
        if room in pair:
            assert not known & set(pair) - {room}


@each_module
def test_no_module_imports_what_its_room_must_not_know(module):
    room = parts(module)[0]
    forbidden = FORBIDDEN.get(room, WAITING)
    may = MAY_KNOW.get(room, ())
    known = {
        name
        for name in names_of(module, FILES[module])
        if is_in(name, forbidden) and not is_in(name, may)
    }
    assert not known, f"{room} does no I/O, and its modules import nothing that does"


def is_in(name, modules):
    """Say whether a full name is one of ``modules`` or inside one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def test_every_room_stands_in_one_row():
    planned = [room for row in ROOMS.values() for room in row]
    assert sorted(planned) == sorted({parts(module)[0] for module in FILES})


@pytest.mark.parametrize("room", sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
def test_every_module_of_a_folder_stands_in_one_row(room):
    planned = [name for row in MODULES[room].values() for name in row]
    assert sorted(planned) == sorted(
        parts(module)[1] for module in FILES if parts(module)[0] == room
    )


def test_the_picture_shows_what_the_imports_give():
    assert PICTURE.read_text() == svg(), "draw it again: make house"


# Do the walls hold?


def test_a_step_up_is_seen_between_rooms_and_inside_one():
    assert goes_up("koko.core.wire", "koko.aio.conn")
    assert goes_up("koko.core.wire", "koko.core.connection")
    assert goes_up("koko.errors", "koko.core.wire")
    assert not goes_up("koko.core.connection", "koko.core.wire")
    assert not goes_up("koko.aio.conn", "koko.core.wire")
    assert not goes_up("koko.errors", "koko.http")


def test_rows_are_counted_from_the_top():
    assert depth("connection", MODULES["core"]) == 0


def test_a_circle_is_seen_whatever_its_length():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [
        ["a", "b", "c"]
    ]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("core", "_socket"),
        ("core", "time.monotonic"),
        ("opening", "urllib.request.urlopen"),
        ("opening", "http.client.HTTPConnection"),
        ("opening", "http.cookiejar.DefaultCookiePolicy"),
        ("core", "http.HTTPStatus"),
        ("upgrading", "queue"),
        ("errors", "signal.SIGINT"),
    ],
)
def test_what_does_io_is_refused_by_whatever_name(room, name):
    assert is_in(name, FORBIDDEN.get(room, WAITING))
    assert not is_in(name, MAY_KNOW.get(room, ()))


def test_every_form_of_import_is_seen():
    text = (
        "import a.b, c\n"
        "from d import e as f\n"
        "from . import g\n"
        "from .h import i\n"
        "from ..j import k\n"
        "def late():\n    import l\n"
        "try:\n    import m\nexcept ImportError:\n    import n\n"
        "if TYPE_CHECKING:\n    from .o import O\nelse:\n    import p\n"
    )
    assert set(in_python(text, ["koko", "core"])) == {
        "a.b", "c", "d.e", "koko.core.g", "koko.core.h.i", "koko.j.k", "l", "m", "n",
        "koko.core.o.O", "p",
    }  # fmt: skip


def test_every_form_of_import_is_seen_in_cython():
    text = (
        "cimport cython\n"
        "import a.b, c\n"
        "from libc.errno cimport EAGAIN, EINTR\n"
        "from koko.core._native cimport (\n    Decoder,  # in C\n    Encoder as Out,\n)\n"
        "from . cimport d\n"
        "from .e import f\n"
        "def late():\n    from koko.g import h  # late\n"
    )
    assert set(in_cython(text, ["koko", "core"])) == {
        "cython", "a.b", "c", "libc.errno.EAGAIN", "libc.errno.EINTR",
        "koko.core._native.Decoder", "koko.core._native.Encoder", "koko.core.d",
        "koko.core.e.f", "koko.g.h",
    }  # fmt: skip
