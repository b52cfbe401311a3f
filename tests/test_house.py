"""What is said of the sources is true: figures count what is there, walks see who called whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from house.figures import Class, bases_of_ours, cython_functions, python_classes, python_functions

pytestmark = pytest.mark.once

HOUSE = Path(__file__).parent.parent


def test_a_function_is_as_long_as_its_signature_and_its_body(tmp_path):
    source = tmp_path / "some.py"
    source.write_text(
        "def one():\n    pass\n\n\n"
        "class A:\n"
        "    @property\n"
        "    async def four(\n        self,\n    ) -> None:\n        pass\n"
    )
    assert sorted(python_functions(source)) == [(2, "one"), (4, "four")]


def test_functions_of_cython_are_counted_and_declarations_are_not(tmp_path):
    source = tmp_path / "some.pyx"
    source.write_text(
        "cdef extern from *:\n    int outside(int)\n\n"
        "cdef class A:\n"
        "    cdef int field\n"
        "    cdef inline int three(\n        self, int x) except -1:\n        return x\n\n"
        "    def two(self):\n        return 2  # (\n\n"
        "cdef int later(int x)\n"
    )
    assert list(cython_functions(source)) == [(3, "three"), (2, "two")]


def test_fields_are_those_declared_and_those_given(tmp_path):
    source = tmp_path / "some.py"
    source.write_text(
        "class A:\n    a: int\n\n"
        "    def set(self):\n        self.b = self.a\n        self.c, self.d = 1, 2\n"
    )
    (found,) = python_classes(source, "some.py")
    assert (found.fields, found.methods) == ({"a", "b", "c", "d"}, {"set"})


def test_a_base_is_the_nearest_class_of_its_name():
    below = Class("Dialer", "dialing.py", [])
    here = Class("Dialer", "aio/dial.py", ["dialing.Dialer"])
    conns = [Class("Conn", "aio/conn.py", []), Class("Conn", "sync/conn.py", [])]
    own = Class("Mine", "sync/more.py", ["Conn", "Generic[Conn]", "Protocol"])
    ours = [below, here, *conns, own]
    assert bases_of_ours(here, ours) == [below]
    assert bases_of_ours(own, ours) == [conns[1]]


def test_each_walk_is_seen_from_the_socket_to_the_answer():
    walked = subprocess.run(
        [sys.executable, "-m", "house.walks"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout
    overview, *walks = walked.split("\n\n")
    assert len(walks) == 10
    assert len(overview.splitlines()) == 1 + len(walks)
    for walk in walks:
        title, *steps = walk.splitlines()
        face = "aio/" if title.startswith("asyncio") else "sync/"
        assert any(face in step for step in steps), title
        assert any(" core/" in step or " opening/" in step for step in steps), title
