"""Django on ASGI, on Koko: the project of its page, by Channels and beside Django's own handler."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from koko import CloseError
from koko.sync import Conn
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, Served, serving
from tests.pages import written

pytestmark = [pytest.mark.once, pytest.mark.integration("uvicorn", "django", "channels")]

LOGGED_IN = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
ada = User.objects.create_user("ada")
session = SessionStore()
session[SESSION_KEY] = str(ada.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = ada.get_session_auth_hash()
session.create()
print(session.session_key)
"""


def python(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("django")
    python(folder, "-m", "django", "startproject", "mysite", ".")
    written("django.md", folder)
    (folder / "mysite" / "urls.py").write_text(
        "from django.contrib import admin\nfrom django.urls import path\n"
        "urlpatterns = [path('admin/', admin.site.urls)]\n"
    )
    (folder / "mysite" / "edges.py").write_text((HERE / "channels_edges.py").read_text())
    python(folder, "manage.py", "migrate")
    return folder


@pytest.fixture(scope="module")
def session(project: Path) -> str:
    """Who is logged in by the database's own session, as by its cookie."""
    return python(project, "manage.py", "shell", "-c", LOGGED_IN).split()[-1]


@pytest.fixture(scope="module")
def site(project: Path) -> Iterator[Served]:
    with serving(project, "mysite.asgi:application", log=project / "log") as served:
        yield served


@pytest.fixture(scope="module")
def edges(project: Path) -> Iterator[Served]:
    with serving(project, "mysite.edges:application", log=project / "log of edges") as served:
        yield served


def page_of(site: Served) -> dict[str, str]:
    return {"Origin": f"http://127.0.0.1:{site.port}"}


def ended(conn: Conn) -> tuple[int, str]:
    with pytest.raises(CloseError) as end:
        conn.recv(PATIENCE)
    return end.value.code, end.value.reason


def test_a_group_hears_what_a_user_of_the_session_says(site: Served, session: str) -> None:
    ada = site.dial("/chat/kitchen", headers=page_of(site) | {"Cookie": f"sessionid={session}"})
    guest = site.dial("/chat/kitchen", headers=page_of(site))
    elsewhere = site.dial("/chat/cellar", headers=page_of(site))
    ada.write_json({"text": "hello"})
    for conn in (ada, guest):
        assert conn.read_json() == {"name": "ada", "text": "hello"}
    for conn in (guest, elsewhere):
        conn.write_json({"text": "café"})
        assert conn.read_json() == {"name": "a guest", "text": "café"}


def test_pages_come_from_the_same_process(site: Served) -> None:
    assert "Django administration" in site.get("/admin/login/")
    with pytest.raises(HTTPError, match="404"):
        site.get("/elsewhere")


def test_pages_of_hosts_that_are_not_allowed_are_refused(site: Served) -> None:
    evil = site.refused("/chat/kitchen", headers={"Origin": "https://evil.example"})
    assert evil.status == 403


def test_a_consumer_refuses_closes_and_learns_the_code(edges: Served) -> None:
    assert edges.refused("/refuses").status == 403
    conn = edges.dial("/closes", subprotocols=["soap", "chat"])
    assert conn.subprotocol == "chat"
    conn.send("anything")
    assert ended(conn) == (4001, "not that")
    edges.dial("/tells").close(4123)
    edges.says("(disconnect 4123)")
    edges.dial("/tells").abort()
    edges.says("(disconnect 1005)")


def test_a_consumer_on_threads_and_messages_from_outside(edges: Served) -> None:
    """A sync consumer has a thread; the layer carries to it what a request says."""
    conns = [edges.dial("/listens") for _ in range(3)]
    for conn in conns:
        conn.send(bytes(3))
        assert conn.recv(PATIENCE) == bytes(3)
    assert edges.get("/announce") == "done"
    assert [conn.recv(PATIENCE) for conn in conns] == ["announced"] * 3


def test_a_stop_is_told_to_the_consumer(project: Path, tmp_path: Path) -> None:
    with serving(project, "mysite.edges:application", log=tmp_path / "log") as edges:
        conn = edges.dial("/tells")
        edges.process.terminate()
        assert ended(conn)[0] == 1012
        edges.says("(disconnect 1012)")


def test_beside_djangos_own_handler(project: Path, session: str, tmp_path: Path) -> None:
    with serving(project, "mysite.own_asgi:application", log=tmp_path / "log") as site:
        conn = site.dial("/count")
        conn.send("how many?")
        assert json.loads(conn.recv(PATIENCE)) == 1
        assert site.refused("/elsewhere").status == 403
        assert "Django administration" in site.get("/admin/login/")
