"""``talk``: a conversation in memory, on both faces, with a clock that you turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conversation.talk_aio import AioTalk
from tests.conversation.talk_sync import SyncTalk

Talk = AioTalk | SyncTalk


@pytest.fixture(params=[AioTalk, SyncTalk], ids=["aio", "sync"])
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    """A conversation on each face in turn: ``us, peer = talk.open(**options)``."""
    talk: Talk = request.param()
    try:
        yield talk
    finally:
        talk.end()
