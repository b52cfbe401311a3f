"""Checks for misuse: each mistake is one sentence, raised where the programmer made it.

A wrong argument is a TypeError at once; what an application's function returns is checked when
it returns. Nothing here knows a socket or a face.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import AsyncGeneratorType, FunctionType, GeneratorType
from typing import Any

# Seconds that everything can wait which waits: inf and what comes near it cannot be waited for.
LONGEST = 1e9
BOTH = "on both faces"  # of a function that is plain there and here


class WrongKindError(TypeError):
    """A function was written for the other face: this one cannot use what it returned."""


def is_async(function: Any) -> bool:
    """Tell whether calling ``function`` gives a coroutine, through partials and objects."""
    function = _inner(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    if inspect.isroutine(function) or not callable(function):
        return False
    return inspect.iscoroutinefunction(type(function).__call__)


def refuse_async(
    call: str,
    what: str,
    function: Any,
    where: str = "here (koko.aio takes coroutine functions)",
) -> None:
    """Raise for a coroutine function where a plain one is wanted."""
    if function is not None and is_async(function):
        raise TypeError(
            f"{call} got the coroutine function {name_of(function)}() as {what}; it must be a "
            f"plain function {where}"
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


def check_function(call: str, what: str, function: Any) -> None:
    """Raise unless a function is one, or None."""
    if function is not None and not callable(function):
        raise TypeError(f"{call} got {what}{function!r}, expected a function")


def check_face(call: str, what: str, given: Any, wanted: type) -> None:
    """Raise for an object of any other type than ``wanted``, such as the other face's."""
    if given is not None and not isinstance(given, wanted):
        face = wanted.__module__.split(".")[1]
        raise TypeError(
            f"{call} got {what}={type(given).__module__}.{type(given).__qualname__}, "
            f"expected a koko.{face}.{wanted.__qualname__}{_parentheses(call, given)}"
        )


def _parentheses(call: str, given: Any) -> str:
    """Return what to write where a function stands right below a decorator."""
    return "; write @websocket(Upgrader())" if (call, type(given)) == _BARE else ""


_BARE = ("websocket()", FunctionType)


def check_face_of(handshake: object, needed: str, mine: str, other: str) -> None:
    """Raise for a handshake with the server of the other face: it lacks ``needed``."""
    if not hasattr(handshake, needed):
        raise TypeError(
            f"upgrade() of koko.{mine}.Upgrader got a request to koko.{other}'s server; "
            f"use koko.{other}.Upgrader"
        )


def check_seconds(what: str, value: Any) -> None:
    """Raise unless a timeout or a deadline is a number of seconds, or None."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r}, expected a number of seconds, or None for no limit")
    if not -LONGEST < value < LONGEST:  # nor nan
        raise ValueError(f"{what}={value!r}, expected a number of seconds, or None for no limit")


def check_context(name: str, context: Any, wrong: str, why: str) -> None:
    """Raise for what is no context for TLS, or one whose protocol is ``wrong``."""
    if context is not None and not hasattr(context, "wrap_socket"):
        raise TypeError(f"{name}={context!r}, expected an ssl.SSLContext")
    if getattr(getattr(context, "protocol", None), "name", "") == wrong:
        raise ValueError(f"{name}= is {why} (ssl.create_default_context)")


def check_handler(call: str, handler: Any) -> None:
    """Raise unless a handler is None, or callable and without a yield: nothing would run it."""
    if handler is not None and not callable(handler):
        raise TypeError(f"{call} got {handler!r} as handler, expected a function that gets a Conn")
    if _yields(_inner(handler)):
        raise TypeError(
            f"{call} got {name_of(handler)}() as handler, which nothing would run; "
            "it must not yield"
        )


def not_awaitable(what: str, function: Any, result: object) -> WrongKindError:
    """Return the error for a plain function where a coroutine function is wanted."""
    if isinstance(result, _YIELDED):
        return _never_run(what, function, result)
    said = f"{what} {name_of(function)}() returned {result!r}"
    return WrongKindError(f"{said}; under koko.aio it must be async def")


def check_returned(
    what: str, function: Any, result: object, where: str = "under koko.sync"
) -> None:
    """Raise if a plain function returned a coroutine or a generator, which would never run."""
    if inspect.iscoroutine(result):
        result.close()
    elif not inspect.isawaitable(result):
        if isinstance(result, _YIELDED):
            raise _never_run(what, function, result)
        return
    raise WrongKindError(
        f"{what} {name_of(function)}() returned a {type(result).__name__}; {where} it must be def"
    )


def name_of(function: Any) -> str:
    """Return the name of a function, through partials and objects."""
    function = _inner(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return str(name).rpartition(".<locals>.")[2]


_YIELDED = (GeneratorType, AsyncGeneratorType)


def _never_run(what: str, function: Any, result: object) -> WrongKindError:
    kind = type(result).__name__.replace("_", " ")
    return WrongKindError(
        f"{what} {name_of(function)}() returned an object of type {kind}, which nothing runs; "
        "it must not yield"
    )


def _yields(function: Any) -> bool:
    # A generator may be a coroutine of the old kind (types.coroutine), which can be awaited.
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    is_old = bool(flags & inspect.CO_ITERABLE_COROUTINE)
    return inspect.isasyncgenfunction(function) or (
        inspect.isgeneratorfunction(function) and not is_old
    )


def _inner(function: Any) -> Any:
    """Return the function inside partials and static methods.

    Not ``__wrapped__``: a plain function may wrap a coroutine function, to run it.
    """
    while isinstance(function, partial | staticmethod):
        function = function.func if isinstance(function, partial) else function.__func__
    return function
