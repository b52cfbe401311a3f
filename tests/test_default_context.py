"""The TLS context of a client that was given none is made once in a process."""

from __future__ import annotations

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from koko import default_context as module
from koko.default_context import default_context, made_context


@pytest.fixture
def none_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_made", {})


def test_it_checks_the_certificate_and_the_name():
    context = default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_it_is_made_when_it_is_first_needed(none_made: None):
    assert made_context() is None
    assert default_context() is default_context() is made_context()


def test_threads_that_are_first_at_the_same_time_get_the_same(
    none_made: None, monkeypatch: pytest.MonkeyPatch
):
    everybody, real = threading.Barrier(4), ssl.create_default_context

    def make() -> ssl.SSLContext:
        everybody.wait(10)
        return real()

    monkeypatch.setattr(ssl, "create_default_context", make)
    with ThreadPoolExecutor(4) as pool:
        made = [each.result() for each in [pool.submit(default_context) for _ in range(4)]]
    assert {id(each) for each in made} == {id(made_context())}
