"""A GraphQL schema with subscriptions, in FastAPI by strawberry. Nothing in it knows of Koko."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import strawberry
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from strawberry.fastapi import GraphQLRouter
from strawberry.types import Info

ENDS: list[str] = []


async def context(connection: HTTPConnection) -> dict[str, Any]:
    return {"host": connection.headers["host"]}


@strawberry.type
class Query:
    @strawberry.field
    def ends(self) -> list[str]:
        """How subscriptions ended."""
        return ENDS


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncGenerator[int, None]:
        for number in range(to):
            yield number

    @strawberry.subscription
    async def ticks(self, name: str) -> AsyncGenerator[str, None]:
        """Go on until nobody wants any more."""
        try:
            while True:
                yield name
                await asyncio.sleep(0.01)
        finally:
            ENDS.append(name)

    @strawberry.subscription
    async def who(self, info: Info) -> AsyncGenerator[str, None]:
        yield f"{info.context['connection_params']['token']} at {info.context['host']}"


schema = strawberry.Schema(Query, subscription=Subscription)
app = FastAPI()
app.include_router(GraphQLRouter(schema, context_getter=context), prefix="/graphql")
