"""The code on docs/testing.md, as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from pathlib import Path

import pytest

from tests.testing.apps import Site

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


class Chat(Site):
    """What the page calls ``main.app``."""

    chat = Site.echo


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_code_on_the_page_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("main")
    main.app = Chat()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "main", main)
    names: dict[str, object] = {}
    exec(code, names)
    tests = [names[name] for name in names if name.startswith("test_")]
    assert tests
    for test in tests:
        result = test()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            asyncio.run(result)
