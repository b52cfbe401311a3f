"""Quart on Koko."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from koko import CloseError
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, Served, serving

pytestmark = [pytest.mark.once, pytest.mark.integration("uvicorn", "quart")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("quart") / "log"
    with serving(HERE, "quart_site:app", log=log) as served:
        yield served


def test_one_task_receives_and_another_sends(site: Served) -> None:
    with site.dial("/chat/kitchen?token=1") as ada, site.dial("/chat/kitchen?token=2") as bob:
        ada.send("hello")
        assert ada.recv(PATIENCE) == "kitchen: hello"
        bob.send("café")
        while bob.recv(PATIENCE) != "kitchen: café":
            pass
        assert site.get("/say/extra") == "2"
        while bob.recv(PATIENCE) != "GET extra":
            pass
    site.comes("/ends", "kitchen")


def test_a_refusal_and_a_close_of_the_application(site: Served) -> None:
    assert site.refused("/chat/kitchen").status == 401
    assert site.refused("/elsewhere").status == 404
    conn = site.dial("/chat/cellar?token=1")
    conn.send("bye")
    with pytest.raises(CloseError) as end:
        while True:
            conn.recv(PATIENCE)
    assert (end.value.code, end.value.reason) == (4000, "bye")
    site.comes("/ends", "cellar")


def test_headers_a_subprotocol_and_json(site: Served) -> None:
    conn = site.dial("/json", subprotocols=["chat"])
    assert (conn.subprotocol, conn.response.headers["X-Served-By"]) == ("chat", "a")
    conn.write_json(["café", 1])
    assert conn.read_json() == {"got": ["café", 1]}
