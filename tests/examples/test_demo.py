"""The demo: what its page promises, in two windows of a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from koko import CloseError, ErrBadHandshake
from koko.sync import Conn, dial
from tests.codecs import CODECS
from tests.examples.browser import Browser, Window

pytestmark = pytest.mark.once

OPENER = build_opener(ProxyHandler({}))


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a demo that runs."""
    with demo() as address:
        yield address


@pytest.fixture(params=CODECS)
def site_of_each_codec(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native":
        pytest.importorskip("koko.core._native", reason="the native codec was not built")
    with demo(KOKO_CODEC=request.param) as address:
        yield address


@contextmanager
def demo(**environment: str) -> Iterator[str]:
    command = [sys.executable, "-m", "koko", "demo", "--port", "0"]
    env = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"open (http://\S+)/ in two", process.stdout.readline())
            assert address is not None
            yield address[1]
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()  # the block waits for its end


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def chat(site: str) -> Iterator[Conn]:
    with dial(site.replace("http", "ws") + "/chat", proxy=None) as conn:
        yield conn


def says(conn: Conn, **word: object) -> None:
    conn.send(json.dumps(word))


def hears(conn: Conn, word: str) -> dict[str, object]:
    heard: dict[str, object] = {}
    while heard.get("type") != word:
        heard = json.loads(conn.recv(timeout=10))
    return heard


# In the browser


def test_a_line_said_in_one_window_appears_in_the_other(
    browser: Browser, site_of_each_codec: str
) -> None:
    windows = [browser.open(site_of_each_codec) for _ in range(2)]
    ada, grace = windows
    for window in windows:
        window.wait_for("document.querySelector('#chat .state').dataset.state === 'open'")
    ada.type("#chat [name=name]", "Ada")
    grace.type("#chat [name=name]", "Grace")
    ada.wait_for("document.querySelector('.people').innerText.includes('Grace')")
    ada.type("#chat [name=text]", "hello from the first window")
    grace.type("#chat [name=text]", "hello from the second")
    for window in windows:
        for name, text in (
            ("Ada", "hello from the first window"),
            ("Grace", "hello from the second"),
        ):
            window.wait_for(said(name, text))


def said(name: str, text: str) -> str:
    return (
        "[...document.querySelectorAll('#log .said')].some(item => "
        f"item.querySelector('strong').textContent === {json.dumps(name)} && "
        f"item.querySelector('p').textContent === {json.dumps(text)})"
    )


def test_who_left_is_no_longer_shown_as_here(browser: Browser, site: str) -> None:
    stays, leaves = browser.open(site), browser.open(site)
    leaves.type("#chat [name=name]", "Passer-by")
    stays.wait_for("document.querySelector('.people').innerText.includes('Passer-by')")
    leaves.call("Page.navigate", url="about:blank")
    stays.wait_for("!document.querySelector('.people').innerText.includes('Passer-by')")


def test_what_is_said_is_text_and_never_markup(browser: Browser, site: str, chat: Conn) -> None:
    window = browser.open(site)
    says(chat, type="name", name="<b>Mallory</b>")
    says(chat, type="say", text="<img src=x onerror=document.title='taken'>")
    window.wait_for(said("<b>Mallory</b>", "<img src=x onerror=document.title='taken'>"))
    assert window.run("document.querySelector('#log img, #log b')") is None
    assert window.run("document.title") == "Koko demo"


def test_echo_box_shows_what_came_back_and_its_round_trip_time(
    browser: Browser, site_of_each_codec: str
) -> None:
    window = browser.open(site_of_each_codec)
    window.wait_for("document.querySelector('#echo .state').dataset.state === 'open'")
    window.type("#echo [name=text]", "there and back")
    window.wait_for("document.querySelector('#echo output').textContent === 'there and back'")
    for field in ("last", "min", "median"):
        shown = window.run(f"document.querySelector('#{field}').textContent")
        assert re.fullmatch(r"\d+(\.\d+)? ms", shown), f"{field} shows {shown!r}"
    assert window.run("document.querySelector('polyline').getAttribute('points')")


def test_page_comes_back_when_the_connection_is_lost(browser: Browser, site: str) -> None:
    window = browser.open(site)
    window.wait_for("document.querySelectorAll('.state[data-state=open]').length === 2")
    # It waits for a second only, which may be over before we ask.
    window.run(
        """
        self.waited = new Set();
        const note = ({target}) => target.dataset.state === "waiting" && waited.add(target);
        new MutationObserver(changes => changes.forEach(note))
            .observe(document, {subtree: true, attributeFilter: ["data-state"]});
        lines.forEach(line => line.socket.close());
        """
    )
    window.wait_for("waited.size === 2")
    window.wait_for("document.querySelectorAll('.state[data-state=open]').length === 2")


def test_page_loads_under_its_own_policy_without_a_violation(browser: Browser, site: str) -> None:
    window: Window = browser.open(site)
    window.wait_for("document.querySelector('#last').textContent !== '–'")
    assert window.run("getComputedStyle(document.body).fontSize") == "16px"
    assert window.run("self.crossOriginIsolated") is True


# Without one


def test_page_has_its_type_and_a_policy_that_trusts_only_itself(site: str) -> None:
    with OPENER.open(f"{site}/") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_health_is_ok(site: str) -> None:
    with OPENER.open(f"{site}/health") as answer:
        assert (answer.status, answer.read()) == (200, b"ok\n")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/elsewhere", 404), ("POST", "/", 405)]
)
def test_anything_else_is_refused(site: str, method: str, path: str, status: int) -> None:
    with pytest.raises(HTTPError) as refusal:
        OPENER.open(Request(f"{site}{path}", method=method))
    refusal.value.close()
    assert refusal.value.code == status


def test_page_of_another_site_is_not_let_in(site: str) -> None:
    headers = {"Origin": "http://elsewhere.example"}
    with pytest.raises(ErrBadHandshake) as refusal:
        dial(site.replace("http", "ws") + "/chat", headers=headers, proxy=None)
    assert refusal.value.status == 403


def test_websocket_at_another_path_is_closed_with_the_paths_there_are(site: str) -> None:
    with (
        dial(site.replace("http", "ws") + "/elsewhere", proxy=None) as conn,
        pytest.raises(CloseError, match="the paths are /chat and /echo") as closed,
    ):
        conn.recv(timeout=10)
    assert closed.value.code == 1008


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "[]",
        "[" * 10000,
        '{"type": "name"}',
        '{"type": "name", "name": 1}',
        '{"type": "name", "name": "  "}',
        '{"type": "name", "name": "twenty-five characters ..."}',
        '{"type": ["name"], "name": "Ada"}',
        '{"type": "say", "text": "before any name"}',
        b"\xff\xfe{",
    ],
)
def test_word_the_chat_does_not_know_closes_with_1008(chat: Conn, message: str | bytes) -> None:
    chat.send(message)
    with pytest.raises(CloseError) as closed:
        chat.recv(timeout=10)
    assert closed.value.code == 1008


def test_new_visitor_is_shown_what_was_said_before(site: str, chat: Conn) -> None:
    says(chat, type="name", name="Ada")
    says(chat, type="say", text="said before")
    hears(chat, "said")
    with dial(site.replace("http", "ws") + "/chat", proxy=None) as late:
        says(late, type="name", name="Grace")
        past = hears(late, "welcome")["past"]
    assert isinstance(past, list)
    assert past[-1]["text"] == "said before"


def test_check_says_what_it_checked_and_exits_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "koko", "demo", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ok  ") == len(done.stdout.splitlines())
    assert "two visitors of the chat hear each other" in done.stdout
