"""The options that every connection shares: their defaults, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from koko import aio, sync
from koko.core.deflate import Compression
from koko.core.names import check_names
from koko.core.options import ConnectionOptions

TIMES = ["handshake_timeout", "close_timeout", "ping_interval", "ping_timeout"]
SIZES = ["read_limit", "write_buffer_size"]


def test_the_defaults_are_those_that_are_promised():
    options = ConnectionOptions()
    assert options.read_limit == 1024 * 1024
    assert options.handshake_timeout == options.close_timeout == 10
    assert options.ping_interval == options.ping_timeout == 20
    assert options.compression is False
    assert options.write_buffer_size == 4096


@pytest.mark.parametrize(
    "name", ["read_limit", "handshake_timeout", "ping_interval", "ping_timeout"]
)
def test_none_takes_a_limit_away(name):
    assert getattr(ConnectionOptions(**{name: None}), name) is None


@pytest.mark.parametrize("name", ["close_timeout", "write_buffer_size"])
def test_every_close_and_every_fragment_is_bounded(name):
    with pytest.raises(TypeError, match=rf"^{name}=None: a [a-z ]+ above 0$"):
        ConnectionOptions(**{name: None})


@pytest.mark.parametrize("name", TIMES + SIZES)
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_are_above_zero(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: a .* above 0"):
        ConnectionOptions(**{name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_timeout_is_a_time_that_comes(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: a number of seconds"):
        ConnectionOptions(**{name: value})


@pytest.mark.parametrize("name", TIMES + SIZES)
@pytest.mark.parametrize("value", ["10", True])
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(TypeError, match=f"{name}={value!r}: a "):
        ConnectionOptions(**{name: value})


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_whole(name):
    with pytest.raises(TypeError, match=f"{name}=1.5: a whole number of bytes above 0"):
        ConnectionOptions(**{name: 1.5})


def test_times_may_be_fractions():
    assert ConnectionOptions(ping_interval=0.5).ping_interval == 0.5


def test_compression_is_a_word_or_a_setting():
    assert ConnectionOptions().deflate is None
    assert ConnectionOptions(compression=True).deflate == Compression()
    assert ConnectionOptions(compression=Compression(level=9)).deflate == Compression(level=9)


@pytest.mark.parametrize("value", [None, 9, "deflate"])
def test_compression_is_nothing_else(value):
    with pytest.raises(TypeError, match=f"compression is a bool or a Compression, not {value!r}"):
        ConnectionOptions(compression=value)


# Names that are none


KNOWN = ["handshake_timeout", "headers", "http", "read_limit", "subprotocols"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timeout", "dial() has no option 'timeout'; handshake_timeout= bounds the opening"),
        ("max_size", "dial() has no option 'max_size'; read_limit= bounds a message"),
        ("additional_headers", "'additional_headers'; headers= adds headers"),
        ("process_request", "'process_request'; http= answers requests, and check_origin="),
        ("maxPayload", "dial() has no option 'maxPayload'; read_limit= bounds a message"),
        ("HandshakeTimeout", "'HandshakeTimeout'; write handshake_timeout="),
        ("ws_max_size", "'ws_max_size'; read_limit= bounds a message"),
        ("write_limit", "'write_limit'; read_limit= bounds a message"),
        ("subprotocls", "'subprotocls'; did you mean subprotocols=?"),
        ("compress", "dial() has no option 'compress'"),  # whose name is no option of this call
        ("xyzzy", "dial() has no option 'xyzzy'"),
    ],
)
def test_an_option_that_is_none_is_told_what_it_is_called_here(name, sentence):
    with pytest.raises(TypeError) as told:
        check_names("dial()", KNOWN, ["headers", name])
    assert sentence in str(told.value)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("forwarded_allow_ips", ["trusted_proxies", "proxy"], "; trusted_proxies= names the prox"),
        ("proxies", ["trusted_proxies"], "; trusted_proxies= names the proxies"),
        ("proxies", ["trusted_proxies", "proxy"], "; proxy= is the URL of a proxy"),
        ("origin", ["origins"], "; origins= says which pages may connect"),
        ("origins", ["origin"], "; origin= is the header Origin"),
        ("uds", ["sock"], "; sock= is a bound socket"),
        ("extra_headers", ["http"], "; http= with upgrade(request, headers)"),
        ("create_protocol", ["proxy_protocol"], ""),  # a wrong hint is worse than none
        ("receive_timeout", ["close_timeout"], ""),
    ],
)
def test_a_hint_is_of_what_this_call_has(name, known, hint):
    with pytest.raises(TypeError) as told:
        check_names("f()", known, [name])
    said = str(told.value)
    assert said.startswith(f"f() has no option {name!r}{hint}")
    assert hint or said == f"f() has no option {name!r}"


@pytest.mark.parametrize("kind", [sync.Dialer, sync.Upgrader, aio.Dialer, aio.Upgrader])
def test_a_dialer_and_an_upgrader_say_it_as_well(kind):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\(\) has no option 'max_size'; read_li"):
        kind(max_size=5)
    assert copy.copy(kind(read_limit=5)).read_limit == 5
    assert replace(kind(read_limit=5), head_limit=9).read_limit == 5


def test_options_that_are_known_pass():
    check_names("dial()", KNOWN, KNOWN)


@pytest.mark.parametrize(
    ("name", "none"),
    [
        ("read_limit", "for no limit"),
        ("handshake_timeout", "for no limit"),
        ("ping_interval", "for no pings"),
        ("ping_timeout", "to keep silent peers"),
    ],
)
def test_the_error_says_what_none_means(name, none):
    with pytest.raises(ValueError, match=f"^{name}=0: .* above 0, or None {none}$"):
        ConnectionOptions(**{name: 0})
