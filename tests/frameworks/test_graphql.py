"""Subscriptions of GraphQL on Koko: strawberry, with gql's client and with Koko's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from koko import CloseError
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, Served, serving

pytestmark = [
    pytest.mark.once,
    pytest.mark.integration("uvicorn", "fastapi", "strawberry", "gql", "websockets"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("graphql") / "log"
    with serving(HERE, "graphql_site:app", log=log) as served:
        yield served


async def subscribed(site: Served, query: str, to: int, **options: Any) -> list[Any]:
    """Return the first results of a subscription, by gql."""
    from gql import Client, gql
    from gql.transport.websockets import WebsocketsTransport

    transport = WebsocketsTransport(site.url("/graphql"), **options)
    heard: list[Any] = []
    async with Client(transport=transport) as session, asyncio.timeout(PATIENCE):
        async for result in session.subscribe(gql(query)):
            heard.append(result)
            if len(heard) == to:
                break
    return heard


@pytest.mark.parametrize("protocol", ["graphql-transport-ws", "graphql-ws"])
def test_a_subscription_runs_to_its_end(site: Served, protocol: str) -> None:
    query, options = "subscription { count(to: 100) }", {"subprotocols": [protocol]}
    heard = asyncio.run(subscribed(site, query, 1000, **options))
    assert heard == [{"count": number} for number in range(100)]


def test_a_subscription_that_is_left_ends_on_the_server(site: Served) -> None:
    heard = asyncio.run(subscribed(site, 'subscription { ticks(name: "left") }', 3))
    assert heard == [{"ticks": "left"}] * 3
    site.comes("/graphql?query=%7Bends%7D", "left")


def test_parameters_of_the_connection_and_the_context_of_the_request(site: Served) -> None:
    said = {"init_payload": {"token": "ada"}}
    heard = asyncio.run(subscribed(site, "subscription { who }", 1, **said))
    assert heard == [{"who": f"ada at 127.0.0.1:{site.port}"}]


def test_the_same_by_koko_dial(site: Served) -> None:
    with site.dial("/graphql", subprotocols=["graphql-transport-ws"]) as conn:
        assert conn.subprotocol == "graphql-transport-ws"
        conn.write_json({"type": "connection_init"})
        assert conn.read_json()["type"] == "connection_ack"
        for name in ("one", "two"):  # many in one connection
            query = f'subscription {{ ticks(name: "{name}") }}'
            conn.write_json({"id": name, "type": "subscribe", "payload": {"query": query}})
        heard = set()
        while heard != {"one", "two"}:
            heard.add(conn.read_json()["payload"]["data"]["ticks"])
        conn.write_json({"id": "one", "type": "complete"})
        site.comes("/graphql?query=%7Bends%7D", "one")
    site.comes("/graphql?query=%7Bends%7D", "two")


def test_who_breaks_its_protocol_is_closed_with_its_codes(site: Served) -> None:
    conn = site.dial("/graphql", subprotocols=["graphql-transport-ws"])
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { who }"}}
    conn.send(json.dumps(subscribe))
    with pytest.raises(CloseError) as end:
        conn.recv(PATIENCE)
    assert (end.value.code, end.value.reason) == (4401, "Unauthorized")
    conn = site.dial("/graphql", subprotocols=["soap"])
    assert conn.subprotocol is None
    with pytest.raises(CloseError) as end:
        conn.recv(PATIENCE)
    assert end.value.code == 4406
