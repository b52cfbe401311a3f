"""A lock is taken back whatever comes meanwhile."""

from __future__ import annotations

from koko.sync.locks import retake


def test_what_interrupts_is_returned_once_the_lock_is_held() -> None:
    comes: list[BaseException] = [KeyboardInterrupt("first"), KeyboardInterrupt("second")]

    def acquire() -> None:
        if comes:
            raise comes.pop(0)

    assert str(retake(acquire)) == "second"
    assert retake(acquire) is None
