"""Litestar on Koko."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, Served, serving

pytestmark = [pytest.mark.once, pytest.mark.integration("uvicorn", "litestar")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("litestar") / "log"
    with serving(HERE, "litestar_site:app", log=log) as served:
        yield served


def test_a_listener_answers_each_message(site: Served) -> None:
    with site.dial("/double/3") as conn:
        for value in range(10):
            conn.write_json({"value": value})
            assert conn.read_json() == {"greeting": "hello", "value": 3 * value}


def test_a_guard_refuses_and_an_endpoint_learns_the_code(site: Served) -> None:
    assert site.refused("/guarded").status == 403
    options = {"headers": {"Authorization": "yes"}, "subprotocols": ["chat"]}
    conn = site.dial("/guarded", **options)
    assert conn.subprotocol == "chat"
    conn.send(bytes(100_000))
    assert conn.recv(PATIENCE) == bytes(100_000)
    conn.close(4123)
    site.comes("/ends", "guarded: 4123")


def test_a_stream_ends_with_its_client(site: Served) -> None:
    with site.dial("/ticks") as conn:
        assert conn.recv(PATIENCE) == "tick"
    site.comes("/ends", "ticks")


def test_a_request_is_told_to_the_subscribers_of_a_channel(site: Served) -> None:
    conns = [site.dial("/news") for _ in range(3)]
    for conn in conns:
        assert conn.ping(timeout=PATIENCE)
    body = {"headline": "extra"}
    headers = {"Content-Type": "application/json"}
    publish = urllib.request.Request(
        site.url("/publish", "http"), json.dumps(body).encode(), headers
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(publish, timeout=PATIENCE).close()
    assert [conn.read_json() for conn in conns] == [body] * 3
