"""Checks for misuse: each mistake is one sentence, raised where the programmer made it.

A wrong argument is a TypeError at once; what an application's function returns is checked when
it returns. Nothing here knows a socket or a face.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any


class WrongKindError(TypeError):
    """A handler was written for the other face: this one cannot use what it returned."""


def is_async(function: Any) -> bool:
    """Tell whether calling ``function`` gives a coroutine, through partials and objects."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    if inspect.isroutine(function) or not callable(function):
        return False
    return inspect.iscoroutinefunction(type(function).__call__)


def refuse_async(call: str, what: str, function: Any) -> None:
    """Raise for a coroutine function where a plain one is wanted."""
    if function is not None and is_async(function):
        raise TypeError(
            f"{call} got the coroutine function {name_of(function)}() as {what}; it must be a "
            "plain function here (koko.aio takes coroutine functions)"
        )


def refuse_plain(call: str, what: str, function: Any) -> None:
    """Raise for a function that was written with a plain ``def`` where a coroutine is awaited.

    What may return one all the same is let through: a lambda, an object, a decorated function.
    """
    if not callable(function):
        raise TypeError(f"{call} got {function!r} as {what}, expected a function that gets a Conn")
    plain = inspect.isfunction(function) and not is_async(function)
    if inspect.isasyncgenfunction(function) or (
        plain and function.__name__ != "<lambda>" and not hasattr(function, "__wrapped__")
    ):
        raise TypeError(
            f"{call} got the function {name_of(function)}() as {what}; it must be async def, "
            "without yield"
        )


def check_face(call: str, what: str, given: Any, wanted: type) -> None:
    """Raise for an object of any other type than ``wanted``, such as the other face's."""
    if given is not None and not isinstance(given, wanted):
        face = wanted.__module__.split(".")[1]
        raise TypeError(
            f"{call} got {what}={type(given).__module__}.{type(given).__qualname__}, "
            f"expected a koko.{face}.{wanted.__qualname__}"
        )


def check_handler(call: str, handler: Any) -> None:
    """Raise unless a handler is callable or None."""
    if handler is not None and not callable(handler):
        raise TypeError(f"{call} got {handler!r} as handler, expected a function that gets a Conn")


def not_awaitable(what: str, function: Any, result: object) -> WrongKindError:
    """Return the error for a plain function where a coroutine function is wanted."""
    said = f"{what} {name_of(function)}() returned {result!r}"
    return WrongKindError(f"{said}; under koko.aio it must be async def")


def check_returned(what: str, function: Any, result: object) -> None:
    """Raise if a plain function returned a coroutine, which would never run."""
    if inspect.iscoroutine(result):
        result.close()
    elif not inspect.isawaitable(result):
        return
    raise WrongKindError(
        f"{what} {name_of(function)}() returned a {type(result).__name__}; "
        "under koko.sync it must be def"
    )


def name_of(function: Any) -> str:
    """Return the name of a function, through partials and objects."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return str(name).rpartition(".<locals>.")[2]
