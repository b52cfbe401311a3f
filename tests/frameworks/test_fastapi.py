"""FastAPI on Koko: the application of its page, and one of every kind of endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from koko import CloseError
from koko.sync import Conn
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, Served, serving
from tests.pages import written

pytestmark = [pytest.mark.once, pytest.mark.integration("uvicorn", "fastapi")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fastapi")
    written("fastapi.md", folder)
    with serving(folder, "main:app", log=folder / "log") as served:
        yield served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("fastapi") / "log"
    with serving(HERE, "fastapi_site:app", log=log, failures=3) as served:
        yield served


def ended(conn: Conn) -> tuple[int, str]:
    with pytest.raises(CloseError) as end:
        conn.recv(PATIENCE)
    return end.value.code, end.value.reason


# The page


def test_all_in_a_room_hear_what_one_says(page: Served) -> None:
    ada = page.dial("/chat/kitchen?token=token-of-ada")
    ada.send("anybody here?")
    assert ada.recv(PATIENCE) == "ada: anybody here?"
    with page.dial("/chat/kitchen?token=token-of-bob") as bob:
        bob.send("me")
        assert [conn.recv(PATIENCE) for conn in (ada, bob)] == ["bob: me"] * 2
        assert json.loads(page.get("/rooms")) == {"kitchen": 2}
    ada.send("bye")
    assert ada.recv(PATIENCE) == "ada: bye"


def test_endpoints_may_have_kokos_own_connections(tmp_path: Path) -> None:
    written("fastapi.md", tmp_path)
    with serving(tmp_path, "rooms:app", log=tmp_path / "log") as site:
        ada, bob, elsewhere = [site.dial(f"/chat/{room}") for room in ("hall", "hall", "cellar")]
        for conn in (ada, elsewhere):
            conn.send(bytes(100_000))
            assert conn.recv(PATIENCE) == bytes(100_000)
        assert bob.recv(PATIENCE) == bytes(100_000)
        evil = site.refused("/chat/hall", headers={"Origin": "https://evil.example"})
        assert (evil.status, b"origin" in evil.response.body) == (403, True)


def test_a_dependency_refuses_before_the_connection_is_open(page: Served) -> None:
    assert page.refused("/chat/kitchen?token=guessed").status == 403
    assert page.refused("/chat/kitchen").status == 403
    assert page.refused("/elsewhere").status == 403


def test_pages_of_other_sites_are_refused_where_the_environment_says_so(tmp_path: Path) -> None:
    origins, log = {"KOKO_ORIGINS": "https://app.example"}, tmp_path / "log"
    with serving(HERE, "fastapi_site:app", log=log, **origins) as site:
        assert site.refused("/chooses", headers={"Origin": "https://evil.example"}).status == 403
        assert site.dial("/chooses", headers={"Origin": "https://app.example"}).recv(PATIENCE)


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    written("fastapi.md", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_main.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Dependencies


def test_dependencies_query_parameters_and_the_state_of_the_lifespan(site: Served) -> None:
    conn = site.dial("/greeted?token=good&times=2")
    assert conn.recv(PATIENCE) == "hello adahello ada"
    assert ended(conn) == (1000, "")
    for wrong in ("/greeted?token=bad", "/greeted?token=good&times=often"):
        assert site.refused(wrong).status == 403


def test_a_router_with_a_path_parameter_and_a_dependency_that_yields(site: Served) -> None:
    with site.dial("/api/items/7", headers={"Authorization": "Bearer ada"}) as conn:
        conn.write_json({"name": "café"})
        assert conn.read_json() == {
            "item": 7, "user": "ada", "wanted": {"name": "café"}, "kept": "session",
        }  # fmt: skip
    site.comes("/ends", "given back")
    assert site.refused("/api/items/none", headers={"Authorization": "x"}).status == 403


def test_an_http_exception_is_a_denial_response(site: Served) -> None:
    refused = site.refused("/api/items/7")
    assert (refused.status, refused.response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert json.loads(refused.response.body) == {"detail": "log in first"}


def test_an_endpoint_denies_with_a_response_of_its_own(site: Served) -> None:
    refused = site.refused("/denied")
    assert (refused.status, refused.response.headers["Retry-After"]) == (503, "30")
    assert json.loads(refused.response.body) == {"detail": "full"}
    assert site.refused("/shut").status == 403


# Conversations


def test_an_exception_closes_what_is_open_with_its_code(site: Served) -> None:
    conn = site.dial("/late")
    conn.send("hello")
    assert ended(conn) == (1003, "no such thing")


def test_an_endpoint_learns_how_the_client_went(site: Served) -> None:
    for code, reason, end in ((1000, "", "1000"), (4123, "moved on", "4123 moved on")):
        conn = site.dial("/asks")
        conn.send(bytes(100_000))
        assert conn.recv(PATIENCE) == bytes(100_000)
        conn.close(code, reason)
        site.comes("/ends", f"asks: {end}")
    site.dial("/asks").abort()
    site.comes("/ends", "asks: 1005 the peer's stream ended without a Close")


def test_a_subprotocol_headers_and_a_close_of_the_endpoint(site: Served) -> None:
    conn = site.dial("/chooses", subprotocols=["v1", "v2"])
    assert (conn.subprotocol, conn.response.headers["X-Served-By"]) == ("v2", "a")
    assert conn.read_json() == {"chosen": "v2", "url": "/chooses"}
    assert ended(conn) == (4000, "that was all")


def test_an_endpoint_that_only_sends_notices_the_end(site: Served) -> None:
    conn = site.dial("/ticks")
    assert conn.recv(PATIENCE) == "tick"
    conn.close()
    site.comes("/ends", "ticks: 1006")


def test_an_endpoint_that_raises_leaves_a_traceback_and_a_lost_connection(site: Served) -> None:
    assert site.refused("/fails").status == 500
    site.says("LookupError: (before accept)")
    assert ended(site.dial("/fails?late=1"))[0] == 1006
    site.says("LookupError: (after accept)")


def test_an_http_exception_comes_too_late_for_what_is_open(site: Served) -> None:
    assert ended(site.dial("/fails?status=404"))[0] == 1006
    site.says("(RuntimeError: .*\\n)")


def test_a_background_task_of_a_request_tells_those_who_listen(site: Served) -> None:
    conns = [site.dial("/news") for _ in range(3)]
    assert {conn.recv(PATIENCE) for conn in conns} == {"subscribed"}
    assert site.get("/publish?text=extra") == '"accepted"'
    assert [conn.recv(PATIENCE) for conn in conns] == ["extra"] * 3


def test_a_stop_closes_with_1012_and_runs_the_end_of_the_lifespan(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(HERE, "fastapi_site:app", log=log) as site:
        conn = site.dial("/asks")
        site.process.terminate()
        assert ended(conn)[0] == 1012
    assert "Application shutdown complete" in log.read_text()
