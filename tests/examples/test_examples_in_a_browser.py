"""The examples that serve a page, each in windows of a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.ports import free_port
from tests.examples.browser import Browser, Window
from tests.examples.example import serving

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def shows(window: Window, selector: str, text: str) -> None:
    """Wait until an element that matches has exactly this text."""
    window.wait_for(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".some(found => found.textContent === {json.dumps(text)})"
    )


# Chat


@pytest.fixture(scope="module")
def chat() -> Iterator[str]:
    with serving("chat.py") as address:
        yield address


def enter(browser: Browser, address: str) -> Window:
    window = browser.open(f"{address}/")
    window.wait_for("!button.disabled")
    return window


def test_what_one_window_says_every_window_shows(browser: Browser, chat: str) -> None:
    windows = [enter(browser, chat) for _ in range(3)]
    lines = [f"hello from window {number}" for number in range(3)]
    for window, line in zip(windows, lines, strict=True):
        window.type("[name=text]", line)
    for window in windows:
        for line in lines:
            shows(window, ".said", line)


def test_what_is_said_in_the_chat_is_text_and_never_markup(browser: Browser, chat: str) -> None:
    speaks, hears = enter(browser, chat), enter(browser, chat)
    speaks.type("[name=text]", "<img src=x onerror=document.title='taken'>")
    shows(hears, ".said", "<img src=x onerror=document.title='taken'>")
    assert hears.run("document.querySelector('#log img')") is None


def test_window_of_the_chat_says_that_the_server_went_away(browser: Browser) -> None:
    with serving("chat.py") as address:
        window = enter(browser, address)
    shows(window, ".note", "disconnected (1001); reload to come back")


# Command


def test_command_is_used_from_its_page_until_it_ends(browser: Browser) -> None:
    # It lets in only the page of its own address, and so has to know its port.
    with serving("command.py", "sh", port=free_port()) as address:
        window = browser.open(f"{address}/")
        window.wait_for("socket.readyState === WebSocket.OPEN")
        window.type("[name=line]", "echo $((6 * 7)) '<b>'")
        shows(window, ".printed", "42 <b>")
        window.type("[name=line]", "exit")
        shows(window, ".note", "closed with 1000 the command has ended")


# Filewatch


def test_page_follows_its_file_through_every_kind_of_change(
    browser: Browser, tmp_path: Path
) -> None:
    file, other = tmp_path / "<watched>", tmp_path / "other"
    file.write_text("\nfirst </pre><script>document.title = 'taken'</script>")
    with serving("filewatch.py", str(file)) as address:
        window = browser.open(f"{address}/")
        shows(window, "pre", "\nfirst </pre><script>document.title = 'taken'</script>")
        assert window.run("document.title") == "<watched>"
        file.write_text("second")  # written in place
        shows(window, "pre", "second")
        other.write_text("sixsix")
        other.replace(file)  # put in its place, as editors do
        shows(window, "pre", "sixsix")
        file.unlink()
        window.wait_for("document.querySelector('pre').textContent.includes('No such file')")
        file.write_text("back")
        shows(window, "pre", "back")


def test_page_that_lost_its_server_shows_what_changed_meanwhile(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "watched"
    file.write_text("before")
    port = free_port()
    with serving("filewatch.py", str(file), port=port) as address:
        window = browser.open(f"{address}/")
        window.wait_for("!document.body.classList.contains('away')")
    window.wait_for("document.body.classList.contains('away')")
    file.write_text("meanwhile")
    with serving("filewatch.py", str(file), port=port):
        shows(window, "pre", "meanwhile")
