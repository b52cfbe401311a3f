"""Where a thread is: an error names the line of the application that keeps a test waiting."""

from __future__ import annotations

import sys
import sysconfig
import threading
import traceback
from pathlib import Path

_KOKO = str(Path(__file__).parents[1])
_PYTHON = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen ")
_PACKAGES = ("site-packages", "dist-packages")


def place_of(thread: threading.Thread) -> str:
    """Return the line that a thread is at, as the end of a sentence; "" if nothing is known."""
    at = _stack_of(thread)[-1:]
    return "".join(f" at {of.filename}:{of.lineno}, in {of.name}(): {of.line}" for of in at)


def called_in(thread: threading.Thread) -> str:
    """Return the name of the application's function that a thread of ours has called, or ""."""
    return "".join(f"{of.name}()" for of in _stack_of(thread)[:1])


def _stack_of(thread: threading.Thread) -> list[traceback.FrameSummary]:
    """Return the application's part of a stack, the outermost call first.

    If nothing there is the application's own, it is what stands in packages.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    stack = [] if frame is None else traceback.extract_stack(frame)
    others = [of for of in stack if not of.filename.startswith(_KOKO) and not _is_pythons(of)]
    return [of for of in others if not _is_in_packages(of)] or others


def _is_pythons(of: traceback.FrameSummary) -> bool:
    return of.filename.startswith(_PYTHON) and not _is_in_packages(of)


def _is_in_packages(of: traceback.FrameSummary) -> bool:
    return any(folder in of.filename for folder in _PACKAGES)
