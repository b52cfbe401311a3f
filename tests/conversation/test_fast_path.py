"""The conversations on threads run through the fast path as well; it is counted that they do."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from tests.conversation import test_messages
from tests.conversation.talk_socket import SocketTalk

CONVERSATIONS = [
    conversation
    for name, conversation in vars(test_messages).items()
    if name.startswith("test_") and list(inspect.signature(conversation).parameters) == ["talk"]
]


def visits(conversation: Callable[[SocketTalk], object]) -> int:
    """Hold a conversation; return how often the fast path came for the descriptor."""
    talk = SocketTalk()
    try:
        conversation(talk)
    finally:
        talk.end()
    return talk.visits


def test_conversations_enter_the_fast_path() -> None:
    counts = [visits(conversation) for conversation in CONVERSATIONS]
    assert len(counts) > 10
    assert sum(count > 0 for count in counts) > len(counts) / 2


def test_both_verbs_enter_it_and_wait_there() -> None:
    talk = SocketTalk()
    us, peer = talk.open()
    (line,) = talk.clock.lines
    receiving = us.start_recv()
    assert line.has_sleeper, "it does not wait in the system"
    assert line.visits == 1
    peer.says("1 000 0001", b"hello")
    assert receiving.result() == "hello"
    assert line.visits == 1
    us.send("hi")
    assert line.visits == 2
    peer.hears("1 000 0001", b"hi")
    talk.end()
