"""Which of the twins of the short way is used, and who says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules["koko.aio._native_reflex"] = None
from koko.aio.reflex import Reflex
print(Reflex.__module__)
"""


def chosen(**environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "KOKO_CODEC"}
    command = [sys.executable, "-c", WITHOUT]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True)


@pytest.mark.parametrize("environment", [{}, {"KOKO_CODEC": "pure"}])
def test_pure_one_stands_in_where_the_native_one_was_not_built(environment: dict[str, str]) -> None:
    assert chosen(**environment).stdout == "koko.aio._reflex\n"


def test_native_one_asked_for_and_not_built_is_an_error() -> None:
    assert chosen(KOKO_CODEC="native").returncode != 0
