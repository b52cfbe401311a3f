"""A crowd in uvicorn leaves nothing behind; a server that is told to stop tells all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters import crowd
from tests.adapters.crowd_visitors import WAYS

pytestmark = pytest.mark.integration("uvicorn", "h11")


def test_a_crowd_that_leaves_in_every_way_leaves_nothing_behind(tmp_path: Path) -> None:
    some = 10 * len(WAYS)
    crowd.run(tmp_path / "log", some, some)
