"""Consumers of every kind, in an ``asgi.py`` of a Django project. Nothing here knows of Koko."""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
get_asgi_application()

from asgiref.sync import async_to_sync  # noqa: E402
from channels.generic.http import AsyncHttpConsumer  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import OriginValidator  # noqa: E402
from django.urls import path  # noqa: E402


class Refuses(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close(4003)


class Closes(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept("chat" if "chat" in self.scope["subprotocols"] else None)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.close(4001, "not that")


class Tells(AsyncWebsocketConsumer):
    async def disconnect(self, code: int) -> None:
        print("disconnect", code)


class Listens(WebsocketConsumer):
    """On a thread, as what uses the ORM often is."""

    groups = ("listeners",)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data, bytes_data)

    def announcement(self, event: dict[str, Any]) -> None:
        self.send(event["text"])
        async_to_sync(self.channel_layer.group_discard)("listeners", self.channel_name)


class Announce(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        said = {"type": "announcement", "text": "announced"}
        await self.channel_layer.group_send("listeners", said)
        await self.send_response(200, b"done")


application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("announce", Announce.as_asgi())]),
        "websocket": OriginValidator(
            URLRouter(
                [
                    path("refuses", Refuses.as_asgi()),
                    path("closes", Closes.as_asgi()),
                    path("tells", Tells.as_asgi()),
                    path("listens", Listens.as_asgi()),
                ]
            ),
            ["*"],
        ),
    }
)
