"""What a dial waits for, told step by step without one: the words of its timeout."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from koko.dial_progress import Progress
from koko.opening.head import ResponseParser
from koko.opening.target import parse
from koko.opening.tunnel import Proxy

URL = parse("ws://me:s3cret@a.example/room?token=s3cret")
WITHIN = "the handshake with ws://a.example/room did not finish within 10 s: "


@pytest.fixture
def progress():
    return Progress(URL, 10.0, 1000.0)


def lacking(progress):
    sentence = str(progress.timed_out())
    assert sentence.startswith(WITHIN)
    return sentence.removeprefix(WITHIN)


def address(host, *more):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (host, 80, *more)


def test_the_deadline_is_for_the_whole_dial(progress):
    progress.begin(replace(URL, redirects=1))
    assert progress.deadline == 1010.0
    assert Progress(URL, None, 1000.0).deadline is None


def test_every_address_that_was_tried_is_named_with_what_became_of_it(progress):
    progress.resolve("a.example")
    progress.connect(address("fd00::1", 0, 0))
    assert lacking(progress) == "the TCP connection to [fd00::1]:80 was not accepted"
    progress.connect_failed(address("fd00::1", 0, 0), OSError(101, "whatever"))
    progress.connect(address("10.0.0.1"))
    progress.connect(address("10.0.0.2"))
    assert lacking(progress) == (
        "TCP connections to [fd00::1]:80 (Network is unreachable), 10.0.0.1:80 and 10.0.0.2:80"
        " were not accepted"
    )


def test_the_way_to_a_proxy_is_told_from_the_one_behind_it(progress):
    progress.reach(Proxy.of("https://me:s3cret@p.example"))
    progress.secure("p.example")
    reached = "the proxy https://p.example was not reached: "
    assert lacking(progress) == f"{reached}TLS with p.example was not agreed on"
    progress.ask_proxy()
    assert lacking(progress) == "no answer of the proxy https://p.example came"
    progress.secure("a.example")
    assert lacking(progress) == "TLS with a.example was not agreed on"


def test_an_answer_that_has_begun_is_told_from_none(progress):
    parser = ResponseParser()
    progress.ask(parser)
    assert lacking(progress) == "no answer to the request came"
    parser.feed(b"H")
    assert lacking(progress) == "no answer to the request came, only the beginning of one"


def test_a_redirect_begins_anew(progress):
    progress.reach(Proxy.of("http://p.example"))
    progress.connect(address("10.0.0.1"))
    progress.begin(replace(parse("ws://b.example/?token=s3cret"), redirects=1))
    after = "after a redirect to ws://b.example/, "
    assert lacking(progress) == f"{after}no time was left to connect"
    progress.connect(address("10.0.0.2"))
    assert lacking(progress) == f"{after}the TCP connection to 10.0.0.2:80 was not accepted"
