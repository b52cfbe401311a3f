"""The pages for who comes from gorilla: what they name exists, and nothing is left out."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import koko
import koko.aio
import koko.sync
from tests.test_public_names import public

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
NAMES = ROOT / "docs" / "from-gorilla.md"
CLAIMS = ROOT / "docs" / "tested-like-gorilla.md"
FACES = (koko.sync, koko.aio)

# What gorilla/websocket exports, behind the first part of its name.
GORILLA = {
    "Close": """
        NormalClosure GoingAway ProtocolError UnsupportedData NoStatusReceived AbnormalClosure
        InvalidFramePayloadData PolicyViolation MessageTooBig MandatoryExtension
        InternalServerErr ServiceRestart TryAgainLater TLSHandshake""",
    "": """
        TextMessage BinaryMessage CloseMessage PingMessage PongMessage
        ErrBadHandshake ErrCloseSent ErrReadLimit DefaultDialer
        BufferPool CloseError Conn Dialer HandshakeError PreparedMessage Upgrader
        FormatCloseMessage IsCloseError IsUnexpectedCloseError IsWebSocketUpgrade JoinMessages
        NewClient NewPreparedMessage ReadJSON Subprotocols Upgrade WriteJSON""",
    "CloseError.": "Code Text Error",
    "HandshakeError.": "Error",
    "Upgrader.": """
        CheckOrigin EnableCompression Error HandshakeTimeout ReadBufferSize Subprotocols Upgrade
        WriteBufferPool WriteBufferSize""",
    "Dialer.": """
        Dial DialContext EnableCompression HandshakeTimeout Jar NetDial NetDialContext
        NetDialTLSContext Proxy ReadBufferSize Subprotocols TLSClientConfig WriteBufferPool
        WriteBufferSize""",
    "Conn.": """
        Close CloseHandler EnableWriteCompression LocalAddr NetConn NextReader NextWriter
        PingHandler PongHandler ReadJSON ReadMessage RemoteAddr SetCloseHandler
        SetCompressionLevel SetPingHandler SetPongHandler SetReadDeadline SetReadLimit
        SetWriteDeadline Subprotocol UnderlyingConn WriteControl WriteJSON WriteMessage
        WritePreparedMessage""",
}
TESTS_OF_GORILLA = 76


def rows(page: Path) -> list[list[str]]:
    """Return the cells of every row of every table of a page, heads left out."""
    tables = re.findall(r"^\|.*\n\|---.*\n((?:\|.*\n)+)", page.read_text("utf-8"), re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_bytes())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def is_a_test(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and function.startswith("test_") and function in functions(path)


def has(owner: Any, name: str) -> bool:
    """Tell whether there is such a name; ``name(option=)`` is an option of a class or function."""
    head, _, rest = name.partition(".")
    if rest:
        return hasattr(owner, head) and has(getattr(owner, head), rest)
    if option := re.fullmatch(r"(\w+)\((\w+)=\)", head):
        return hasattr(owner, option[1]) and option[2] in options(getattr(owner, option[1]))
    return hasattr(owner, head) or (inspect.isclass(owner) and head in public(owner))


def options(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def is_ours(name: str) -> bool:
    if name.startswith("koko."):
        return has(koko, name.removeprefix("koko."))
    return all(has(face, name) for face in FACES)


@pytest.mark.parametrize("page", [NAMES, CLAIMS], ids=lambda page: page.stem)
def test_every_row_ends_with_tests_that_exist(page: Path) -> None:
    for *about, tests in rows(page):
        named = code(tests)
        assert named, f"{page.name}: no test for {about}"
        assert [name for name in named if not is_a_test(name)] == [], f"{page.name}: {about}"


def test_every_name_of_koko_on_the_page_exists() -> None:
    for row in rows(NAMES):
        named = code(row[1])
        assert named or row[1] == "none" or len(row) == 3, row
        assert [name for name in named if not is_ours(name)] == [], row


def test_every_name_that_gorilla_exports_has_a_row() -> None:
    named = {name for row in rows(NAMES) if len(row) == 4 for name in code(row[0])}
    assert named == {prefix + name for prefix in GORILLA for name in GORILLA[prefix].split()}


def test_every_test_of_gorilla_has_a_row() -> None:
    named = [name for row in rows(CLAIMS) for name in code(row[0]) if name.startswith("Test")]
    assert len(named) == len(set(named)) == TESTS_OF_GORILLA


@pytest.mark.parametrize(
    "name",
    [
        "koko.Nothing",
        "koko.Kind.NOTHING",
        "Nothing",
        "Conn.socket",  # of one face only
        "Conn.nothing",
        "Dialer(nothing=)",
        "dial(nothing=)",
        "nothing(sock=)",
    ],
)
def test_a_name_that_does_not_exist_is_seen(name: str) -> None:
    assert not is_ours(name)


@pytest.mark.parametrize(
    "name",
    [
        "test_nothing.py::test_a_name_that_does_not_exist_is_seen",
        "test_from_gorilla.py::test_nothing",
        "test_from_gorilla.py::is_a_test",
        "test_from_gorilla.py",
    ],
)
def test_a_test_that_does_not_exist_is_seen(name: str) -> None:
    assert not is_a_test(name)
