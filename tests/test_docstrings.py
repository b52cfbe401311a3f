"""The docstrings of both faces say the same, but for what waiting makes different.

Compared are summaries, what is raised, and attributes; how a verb waits and what becomes of
a wait that ends early is each face's own. A difference is listed here, or it is drift.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import koko.aio
import koko.aio.streams
import koko.sync
import koko.sync.streams

pytestmark = pytest.mark.once

# The words of asyncio, and what threads say for them.
WORDS = {
    "the loop's clock": "``time.monotonic``",
    "async with": "with",
    "async for": "for",
    "coroutine function": "function",
    "cancelled": "interrupted",
    "task": "thread",
    "tasks": "threads",
}

DIFFERENT = {
    "Conn.__iter__, summary": "a generator of messages; an awaited message",
    "Conn.cork, summary": "a thread's messages are gathered, all of a loop's are",
    "Conn.next_writer, summary": "a writer; something that is awaited or entered for one",
    "Conn.send, CloseError": "a thread may be stopped in the middle of a message",
    "Dialer.dial, summary": "a Conn; something that is awaited or entered for one",
    "MessageWriter.__exit__, summary": "threads cannot be cancelled",
    "Server, max_connections": "a thread does TLS itself",
    "Server, http": "may be a coroutine function",
    "Upgrader.upgrade, HandshakeError": "threads also run inside others' servers",
    "Upgrader.upgrade, summary": "threads also run inside others' servers",
    "dial, summary": "a Conn; something that is awaited or entered for one",
    "serve, summary": "a task can be cancelled",
}

# What a face calls by another name because it is awaited.
AWAITED = {"__exit__": "__aexit__", "__iter__": "__anext__"}

CLASSES = ["Conn", "Dialer", "MessageReader", "MessageWriter", "Server", "Upgrader"]
FUNCTIONS = ["broadcast", "dial", "join_messages", "reconnect", "serve"]


def on_both_faces(name: str) -> tuple[Any, Any]:
    """Return what threads and asyncio have under a name."""
    faces = (koko.sync, koko.aio)
    if name.startswith("Message"):
        faces = (koko.sync.streams, koko.aio.streams)
    return tuple(getattr(face, name) for face in faces)  # type: ignore[return-value]


def own(cls: type) -> dict[str, Any]:
    """Return what a class has of us and not of Python, by name."""
    ours = [vars(each) for each in reversed(cls.__mro__) if each.__module__.startswith("koko")]
    return {name: value for names in ours for name, value in names.items()}


def documented(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield a name, its public verbs and properties, each with what both faces have there."""
    of_sync, of_aio = on_both_faces(name)
    yield name, of_sync, of_aio
    if inspect.isclass(of_sync):
        verbs, awaited = own(of_sync), own(of_aio)
        for verb in sorted(verbs):
            other = AWAITED.get(verb, verb)
            if other in awaited and (verb in AWAITED or not verb.startswith("_")):
                yield f"{name}.{verb}", verbs[verb], awaited[other]


def statements(docstring: str | None) -> dict[str, str]:
    """Return the summary, and the entries of every section by their names."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    found = {"summary": paragraphs[0]}
    for paragraph in paragraphs:
        section, _, entries = paragraph.partition("\n")
        if section in ("Args:", "Attributes:", "Raises:"):
            for entry in re.split("^    (?=\\w)", entries, flags=re.MULTILINE)[1:]:
                name, _, text = entry.partition(": ")
                found[name] = " ".join(text.split())
    return found


def in_words_of_threads(text: str) -> str:
    return re.sub(
        "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in WORDS),
        lambda found: WORDS[found[0]],
        text,
    )


def differences(name: str) -> dict[str, tuple[str | None, str | None]]:
    """Return what the docstrings under a name say differently."""
    found = {}
    for what, of_sync, of_aio in documented(name):
        one = statements(of_sync.__doc__)
        other = {key: in_words_of_threads(text) for key, text in statements(of_aio.__doc__).items()}
        for key in one | other:
            if one.get(key) != other.get(key):
                found[f"{what}, {key}"] = (one.get(key), other.get(key))
    return found


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_both_faces_are_documented_in_the_same_sentences(name: str) -> None:
    drifted = {what: texts for what, texts in differences(name).items() if what not in DIFFERENT}
    assert not drifted


def test_every_listed_difference_is_there() -> None:
    found = [what for name in (*CLASSES, *FUNCTIONS) for what in differences(name)]
    assert set(DIFFERENT) <= set(found)


def test_the_entries_of_a_docstring_are_seen() -> None:
    docstring = """Do it.

        More about
        it.

        Attributes:
            one: the first,
                in two lines.
            two: the second.

        Raises:
            OSError: it failed: really.
        """
    assert statements(docstring) == {
        "summary": "Do it.",
        "one": "the first, in two lines.",
        "two": "the second.",
        "OSError": "it failed: really.",
    }
