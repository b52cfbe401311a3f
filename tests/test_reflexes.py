"""Which of the twins of the short way a face uses, and who says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules["koko.{face}._native_reflex"] = None
from koko.{face}.reflex import Reflex
print(Reflex.__module__)
"""

each_face = pytest.mark.parametrize("face", ["aio", "sync"])


def chosen(face: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "KOKO_CODEC"}
    command = [sys.executable, "-c", WITHOUT.format(face=face)]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True)


@each_face
@pytest.mark.parametrize("environment", [{}, {"KOKO_CODEC": "pure"}])
def test_pure_one_stands_in_where_the_native_one_was_not_built(
    face: str, environment: dict[str, str]
) -> None:
    assert chosen(face, **environment).stdout == f"koko.{face}._reflex\n"


@each_face
def test_native_one_asked_for_and_not_built_is_an_error(face: str) -> None:
    assert chosen(face, KOKO_CODEC="native").returncode != 0
