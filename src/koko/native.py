"""Decides whether the native extensions are used: all of them, or none.

A native and a pure part that do not fit together would crash, so one module decides for all.
``KOKO_CODEC=native`` or ``pure`` chooses by hand; if that cannot be had it is an error.
Without it the extensions are used if every one of them is built and can be loaded.

Nothing is imported here: each package imports its own extensions by this answer, so that a
program that uses threads never loads asyncio.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

EXTENSIONS: tuple[str, ...] = (  # of this platform; setup.py builds these
    "koko.core._native",
    "koko.core._native_inbox",
    "koko.aio._native_fast_path",
    "koko.sync._native_fast_path",
    "koko.adapters._native_asgi",
)
if sys.platform == "linux":
    EXTENSIONS += ("koko.aio._native_poller", "koko.aio._native_transport")

_HERE = Path(__file__).parent
_NOT_BUILT = "not built"


class Choice(NamedTuple):
    """What is used, "native" or "pure", and why it is not native."""

    implementation: str
    why: str


def choose(wanted: str) -> Choice:
    """Decide between the extensions and plain Python; ``wanted`` is "native", "pure" or "".

    Raises:
        ImportError: native was asked for, and an extension is missing or cannot be loaded.
    """
    if wanted not in ("", "native", "pure"):
        raise ValueError(f"KOKO_CODEC={wanted!r}, expected 'native' or 'pure'")
    if wanted == "pure":
        return Choice("pure", "KOKO_CODEC=pure")
    faults = {name: fault for name in EXTENSIONS if (fault := _fault(name)) is not None}
    if not faults:
        return Choice("native", "")
    why = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
    if wanted == "native":
        raise ImportError(f"KOKO_CODEC=native, but {why}")
    if set(faults.values()) == {_NOT_BUILT} and len(faults) == len(EXTENSIONS):
        return Choice("pure", "the native codec was not built here")
    # Half an installation is a mistake: it works, but slowly, so the user must hear of it.
    warnings.warn(f"koko runs on its pure codec ({why})", RuntimeWarning, stacklevel=2)
    return Choice("pure", why)


def _fault(name: str) -> str | None:
    """Return why an extension cannot be used, None where it can."""
    if name in sys.modules:
        return _NOT_BUILT if sys.modules[name] is None else None
    spec = _spec(name)
    if spec is None:
        return _NOT_BUILT
    try:
        importlib.util.module_from_spec(spec)  # loads the library, runs nothing of the module
    except Exception as error:
        return str(error)
    return None


def _spec(name: str) -> ModuleSpec | None:
    # importlib.util.find_spec would import the package that the extension is in.
    where = [str(_HERE / name.split(".")[1])]
    found = (finder.find_spec(name, where) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)
