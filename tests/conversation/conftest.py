"""``talk``: a conversation without a network, on both faces, with a clock that you turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from koko.core.codec import IMPLEMENTATION
from tests.conversation.talk_aio import AioTalk
from tests.conversation.talk_socket import SocketTalk
from tests.conversation.talk_sync import SyncTalk

Talk = AioTalk | SyncTalk
TALKS = {"aio": AioTalk, "sync": SyncTalk}
collect_ignore = []
if IMPLEMENTATION == "native":
    TALKS["sync-fast-path"] = SocketTalk
else:
    collect_ignore.append("test_fast_path.py")  # threads have none there


@pytest.fixture(params=TALKS.values(), ids=TALKS)
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    """A conversation on each face in turn: ``us, peer = talk.open(**options)``."""
    talk: Talk = request.param()
    try:
        yield talk
    finally:
        talk.end()
