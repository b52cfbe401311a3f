"""What is offered, answered and accepted for permessage-deflate, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from koko.core.deflate import (
    Agreed,
    Compression,
    accept,
    answer,
    offer,
    parse_extensions,
)
from koko.core.wire import Role

pytestmark = pytest.mark.once

SMALL = Compression(
    level=9,
    threshold=0,
    server_no_context_takeover=False,
    client_no_context_takeover=False,
    server_max_window_bits=10,
    client_max_window_bits=11,
)
TAKEOVER = Compression(server_no_context_takeover=False, client_no_context_takeover=False)


def agreed(said: tuple[str, Agreed] | None) -> Agreed:
    assert said is not None
    return said[1]


def words(said: tuple[str, Agreed] | None) -> str | None:
    return None if said is None else said[0]


# The settings


def test_defaults_forget_every_message_where_the_peer_agrees():
    assert Compression() == Compression(
        level=1,
        threshold=256,
        server_no_context_takeover=None,
        client_no_context_takeover=True,
        server_max_window_bits=15,
        client_max_window_bits=15,
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("level", 10, "compression level 10: -2 .* to 9"),
        ("level", -3, "compression level -3"),
        ("level", True, "compression level True"),
        ("level", 1.0, r"compression level 1\.0"),
        ("threshold", -1, "threshold=-1: a number of bytes"),
        ("threshold", None, "threshold=None: a number of bytes"),
        ("server_no_context_takeover", 1, "server_no_context_takeover=1: True or False"),
        ("client_no_context_takeover", None, "client_no_context_takeover=None: True or False"),
        ("server_max_window_bits", 7, "server_max_window_bits=7: 8 to 15"),
        ("server_max_window_bits", None, "server_max_window_bits=None: 8 to 15"),
        ("client_max_window_bits", 16, "client_max_window_bits=16: 8 to 15"),
        ("client_max_window_bits", 8.0, r"client_max_window_bits=8\.0: 8 to 15"),
    ],
)
def test_a_setting_out_of_range_is_told_by_name(name, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        Compression(**{name: value})


# The header, §9.1


@pytest.mark.parametrize(
    ("values", "extensions"),
    [
        ([], []),
        (["foo"], [("foo", [])]),
        (["foo, bar"], [("foo", []), ("bar", [])]),
        (["foo", "bar"], [("foo", []), ("bar", [])]),
        (["foo;a;b=1"], [("foo", [("a", None), ("b", "1")])]),
        (["\tfoo ;\ta = 1 ; b , bar "], [("foo", [("a", "1"), ("b", None)]), ("bar", [])]),
        (['foo; a="10"'], [("foo", [("a", "10")])]),
        ([r'foo; a="1\0"'], [("foo", [("a", "10")])]),
        ([", foo,, ", ""], [("foo", [])]),
        (["!#$%&'*+-.^_`|~"], [("!#$%&'*+-.^_`|~", [])]),
    ],
)
def test_extensions_are_read_in_order_with_their_parameters(values, extensions):
    assert parse_extensions(values) == extensions


@pytest.mark.parametrize(
    "value",
    [
        "foo bar",
        "foo;",
        "foo; a=",
        "foo; =1",
        "foo; a b",
        'foo; a=""',
        'foo; a="1 2"',
        'foo; a="1',
        'foo; a="1"2',
        r'foo; a="1\"',
        r'foo; a="\\"',
        "foo; a=1; , bar",
        "foo/bar",
        "foo; a=ü",
        "foo\n",
        "foo\r\nbar",
        "foo\x00",
        '"foo"',
        "=",
    ],
)
def test_a_header_against_the_grammar_is_refused(value):
    with pytest.raises(ValueError, match=r"cannot be read from .* §9\.1"):
        parse_extensions(["permessage-deflate", value])


@pytest.mark.parametrize(
    "value",
    [
        " " * 16384 + "(",
        "a" * 16384 + "(",
        "a" + ";b" * 8192 + "(",
        "a" + ";b=c" * 4096 + "(",
        "a" + ' ; b = "c"' * 1638 + "(",
        'a;b="' + r"\c" * 8190,
        "," * 16384 + "(",
    ],
)
def test_a_hostile_header_is_refused_at_once_and_in_few_words(value):
    with pytest.raises(ValueError, match="cannot be read") as refusal:
        parse_extensions([value])
    assert len(str(refusal.value)) < 300


# A client's offer


def test_the_default_offer_asks_a_server_to_forget_and_does_without():
    assert offer(Compression()) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "client_max_window_bits, "
        "permessage-deflate; client_no_context_takeover; client_max_window_bits"
    )


def test_what_is_asked_for_by_name_is_the_only_offer():
    assert offer(Compression(server_no_context_takeover=True)) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "client_max_window_bits"
    )


def test_an_offer_says_the_windows_that_are_smaller():
    assert offer(SMALL) == (
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"
    )


@pytest.mark.parametrize("settings", [Compression(), TAKEOVER, SMALL])
def test_our_own_offer_is_answered_and_accepted_as_it_was_meant(settings):
    said = answer(settings, [offer(settings)])
    assert said is not None
    ours = accept(settings, [said[0]])
    assert ours == said[1]
    wanted = {**vars(settings)}
    wanted["server_no_context_takeover"] = settings.server_no_context_takeover is not False
    assert {**vars(ours)} == wanted


# A server's answer


def test_nothing_offered_is_nothing_answered():
    assert answer(Compression(), []) is None
    assert answer(Compression(), ["x-webkit-deflate-frame"]) is None
    assert answer(Compression(), ["x-permessage-deflate, permessage-deflate-x"]) is None


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits", ""),
        ("permessage-deflate; client_max_window_bits=15", ""),
        ("permessage-deflate; client_max_window_bits=9", "; client_max_window_bits=9"),
        ('permessage-deflate; client_max_window_bits="9"', "; client_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=8", "; server_max_window_bits=8"),
        ("permessage-deflate; server_no_context_takeover", "; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "; client_no_context_takeover"),
    ],
)
def test_a_server_that_wants_nothing_answers_what_was_asked(offered, answered):
    assert words(answer(TAKEOVER, [offered])) == "permessage-deflate" + answered


def test_a_server_may_forget_without_being_asked():
    assert words(answer(Compression(), ["permessage-deflate"])) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )


def test_a_server_may_use_a_smaller_window_without_being_asked():
    said = answer(SMALL, ["permessage-deflate"])
    assert words(said) == "permessage-deflate; server_max_window_bits=10"
    assert agreed(said).server_max_window_bits == 10


def test_a_client_that_did_not_offer_client_max_window_bits_is_not_told_it_and_uses_15():
    said = answer(SMALL, ["permessage-deflate"])
    assert "client_max_window_bits" not in str(words(said))
    assert agreed(said).client_max_window_bits == 15


def test_the_smaller_window_of_both_wishes_is_agreed():
    said = answer(SMALL, ["permessage-deflate; server_max_window_bits=9; client_max_window_bits"])
    assert words(said) == (
        "permessage-deflate; server_max_window_bits=9; client_max_window_bits=11"
    )
    said = answer(
        SMALL, ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"]
    )
    assert words(said) == (
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"
    )


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits=+9",
        "server_max_window_bits=1_0",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=010",
    ],
)
def test_an_unusable_offer_is_declined_and_the_next_one_taken(parameters):
    unusable = f"permessage-deflate; {parameters}"
    assert answer(TAKEOVER, [unusable]) is None
    usable = "permessage-deflate; server_no_context_takeover"
    assert words(answer(TAKEOVER, [f"{unusable}, {usable}"])) == usable
    assert words(answer(TAKEOVER, [unusable, usable])) == usable


def test_the_first_usable_offer_is_taken_whatever_line_it_is_in():
    assert words(
        answer(
            TAKEOVER,
            [
                "foo; bar",
                "permessage-deflate; server_max_window_bits=9, permessage-deflate",
                "permessage-deflate; server_max_window_bits=10",
            ],
        )
    ) == ("permessage-deflate; server_max_window_bits=9")


def test_a_malformed_header_is_no_offer_to_decline_but_an_error():
    with pytest.raises(ValueError, match=r"§9\.1"):
        answer(Compression(), ["permessage-deflate, ;"])


# What a client accepts


@pytest.mark.parametrize("settings", [None, Compression()])
@pytest.mark.parametrize("values", [[], [""], [" , "]])
def test_an_answer_without_extensions_declines(settings, values):
    assert accept(settings, values) is None


def test_a_server_may_promise_more_than_it_was_asked():
    ours = accept(
        TAKEOVER,
        [
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=9; client_max_window_bits=10"
        ],
    )
    assert ours == Agreed(server_max_window_bits=9, client_max_window_bits=10)


def test_a_client_keeps_to_its_own_hints_when_the_answer_is_silent():
    settings = Compression(client_max_window_bits=9)
    assert accept(settings, ["permessage-deflate; server_no_context_takeover"]) == Agreed(
        client_max_window_bits=9
    )


@pytest.mark.parametrize(
    ("answered", "sentence"),
    [
        ("foo", "the extension 'foo', not offered"),
        ("permessage-deflate; server_max_window_bits=10, foo", "the extension 'foo', not offered"),
        ("permessage-deflate, permessage-deflate", "twice"),
        ("permessage-deflate; foo", "unknown parameter 'foo'"),
        ("permessage-deflate; server_no_context_takeover=1", "which has no value"),
        ("permessage-deflate; server_max_window_bits", "server_max_window_bits=None, expected"),
        ("permessage-deflate; server_max_window_bits=7", "server_max_window_bits=7, expected"),
        (
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "server_max_window_bits twice",
        ),
        ("permessage-deflate", "did not answer server_max_window_bits"),
        ("permessage-deflate; server_max_window_bits=11", "server_max_window_bits=11, offered 10"),
        (
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=12",
            "client_max_window_bits=12, offered 11",
        ),
        (
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
            "client_max_window_bits bare",
        ),
        ("permessage-deflate;", r"cannot be read"),
    ],
)
def test_an_answer_that_is_none_to_our_offer_is_refused(answered, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        accept(SMALL, [answered])
    assert "RFC" in str(refusal.value)


def test_a_server_that_will_not_forget_is_refused_only_where_that_was_asked_for_by_name():
    answered = ["permessage-deflate; client_no_context_takeover"]
    with pytest.raises(ValueError, match="did not answer server_no_context_takeover"):
        accept(Compression(server_no_context_takeover=True), answered)
    assert accept(Compression(), answered) == Agreed(server_no_context_takeover=False)


# What servers really answer to the default offer
ANSWERS = {
    "uWebSockets": "permessage-deflate; client_no_context_takeover; server_max_window_bits=9",
    "Tornado": "permessage-deflate",
    "picows": "permessage-deflate",
    "ws": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "websockets": "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
    "client_max_window_bits=12",
    "gorilla": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
}


@pytest.mark.parametrize("answered", ANSWERS.values(), ids=ANSWERS.keys())
def test_what_real_servers_answer_opens(answered):
    agreed = accept(Compression(), [answered])
    assert agreed is not None
    assert agreed.server_no_context_takeover == ("server_no_context_takeover" in answered)
    assert agreed.client_no_context_takeover


def test_compression_that_was_not_offered_is_refused():
    with pytest.raises(ValueError, match="'permessage-deflate', not offered"):
        accept(None, ["permessage-deflate"])


# What each side makes of it


def test_each_side_compresses_by_its_own_terms_and_inflates_by_its_peers():
    terms = Agreed(
        level=7,
        server_no_context_takeover=True,
        client_no_context_takeover=False,
        server_max_window_bits=9,
        client_max_window_bits=12,
    )
    assert terms.deflater(Role.SERVER).level == 7
    for role, writes, reads in [
        (Role.SERVER, (9, False), (12, True)),
        (Role.CLIENT, (12, True), (9, False)),
    ]:
        deflater, inflater = terms.deflater(role), terms.inflater(role)
        assert (deflater.bits, deflater.takeover) == writes
        assert (inflater.bits, inflater.takeover) == reads


def test_the_page_for_users_shows_the_offer_that_is_sent():
    page = Path(__file__).parents[2].joinpath("docs", "deflate.md").read_text("utf-8")
    assert f"Sec-WebSocket-Extensions: {offer(Compression())}\n" in page
    assert f"`{offer(Compression(server_no_context_takeover=True))}`" in page
