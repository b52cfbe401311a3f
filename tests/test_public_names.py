"""The public names, as a list: adding one is a decision, not an accident."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import textwrap

import pytest

import koko
import koko.aio
import koko.sync
import koko.testing.aio
import koko.testing.sync

pytestmark = pytest.mark.once

OF_NEITHER_FACE = {
    "Close",
    "CloseCode",
    "CloseError",
    "Compression",
    "ErrBadHandshake",
    "ErrCloseSent",
    "ErrReadLimit",
    "HandshakeError",
    "Kind",
    "PreparedMessage",
    "ProtocolError",
    "Request",
    "Response",
    "WebSocketError",
    "__version__",
    "format_close_message",
    "is_close_error",
    "is_unexpected_close_error",
    "is_websocket_upgrade",
    "subprotocols",
}
OF_EACH_FACE = {
    "Backoff",
    "Conn",
    "Delivery",
    "Dialer",
    "Server",
    "Upgrader",
    "broadcast",
    "dial",
    "is_transient",
    "join_messages",
    "reconnect",
    "serve",
}

FOR_TESTS = {"AsgiClient", "Pair", "asgi", "pair"}

# What lies underneath is another thing in each face, and so has another name.
UNDERNEATH = {koko.sync: {"socket"}, koko.aio: {"transport"}}

CLASSES = ["Conn", "Dialer", "Server", "Upgrader"]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (koko, OF_NEITHER_FACE),
        (koko.sync, OF_EACH_FACE),
        (koko.aio, OF_EACH_FACE),
        (koko.testing.sync, FOR_TESTS),
        (koko.testing.aio, FOR_TESTS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_public_names_are_these(module, names):
    assert set(module.__all__) == names
    assert len(module.__all__) == len(names)
    assert all(hasattr(module, name) for name in names)


def public(cls):
    """Return the public names of a class: its methods, properties and attributes."""
    found = {name for each in cls.__mro__ for name in vars(each)} | attributes(cls)
    return {name for name in found if not name.startswith("_")}


def attributes(cls):
    """Return what its ``__init__`` sets on ``self``."""
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_attributes(name):
    of_sync, of_aio = (
        public(getattr(face, name)) - UNDERNEATH[face] for face in (koko.sync, koko.aio)
    )
    assert of_sync == of_aio


def parameters(function):
    """Return the parameters of a function: names, kinds and defaults, but not types."""
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


# Conn is made by Koko alone, of what moves its bytes on either face.
@pytest.mark.parametrize("name", sorted(OF_EACH_FACE - {"Conn"}))
def test_both_faces_take_the_same_parameters(name):
    assert parameters(getattr(koko.sync, name)) == parameters(getattr(koko.aio, name))


@pytest.mark.parametrize("name", ["asgi", "pair"])
def test_what_is_for_tests_takes_the_same_parameters_on_both_faces(name):
    of_sync, of_aio = koko.testing.sync, koko.testing.aio
    assert parameters(getattr(of_sync, name)) == parameters(getattr(of_aio, name))


@pytest.mark.parametrize("name", CLASSES)
def test_the_methods_of_both_faces_take_the_same_parameters(name):
    of_sync, of_aio = getattr(koko.sync, name), getattr(koko.aio, name)
    for verb in sorted(public(of_sync) & public(of_aio)):
        if inspect.isfunction(getattr(of_sync, verb, None)):
            assert parameters(getattr(of_sync, verb)) == parameters(getattr(of_aio, verb)), verb


def test_importing_the_threads_loads_no_event_loop():
    code = "import koko.sync, sys; sys.exit('asyncio' in sys.modules or 'uvloop' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "http_server",
        "wsgi",
        pytest.param("django", marks=pytest.mark.integration("django")),
        pytest.param("flask", marks=pytest.mark.integration("flask")),
    ],
)
def test_every_adapter_makes_a_websocket_of_a_function(name):
    adapter = importlib.import_module(f"koko.adapters.{name}")
    parameters = list(inspect.signature(adapter.websocket).parameters)
    assert parameters == ["upgrader", "thread", "max_connections"]


def test_the_adapter_for_asgi_has_one_name_for_an_application_and_one_for_inside():
    asgi = importlib.import_module("koko.adapters.asgi")
    assert list(inspect.signature(asgi.websocket).parameters) == ["upgrader", "max_connections"]
    inside = ["websocket", "upgrader", "subprotocol", "headers"]
    assert list(inspect.signature(asgi.upgrade).parameters) == inside
