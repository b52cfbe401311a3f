"""A SOCKS proxy: what python-socks cannot say is told before anything is sent."""

from __future__ import annotations

import pytest

from koko.opening.socks import SocksReader
from koko.opening.tunnel import Proxy


def test_a_password_that_is_not_ascii_is_told_to_the_programmer() -> None:
    with pytest.raises(ValueError, match="are not ASCII"):
        SocksReader(Proxy.of("socks5://me:p%C3%A4ss@127.0.0.1:1"))
