"""Three first hours, each done as its page says: programs that can be run by themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.adapters.conftest import ROOT

pytestmark = [
    pytest.mark.once,
    pytest.mark.integration("uvicorn", "fastapi", "websockets", "flask", "gunicorn", "channels"),
]


@pytest.mark.parametrize(
    "hour", ["fastapi_by_the_flag", "flask_chat_in_two_processes", "django_on_asgi"]
)
def test_first_hour(hour: str) -> None:
    command = [sys.executable, "-m", f"tests.first_hours.{hour}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
