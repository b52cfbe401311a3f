"""A tunnel through a SOCKS proxy, as bytes out and bytes in; python-socks makes the bytes.

python-socks expects a socket to wait on. It gets one in memory, and starts over with every
answer: what it writes depends only on what it has read.
"""

from __future__ import annotations

from typing import Any

from koko.opening.tunnel import Proxy


class SocksReader:
    """Asks a SOCKS proxy for a tunnel, and reads its answers.

    What ``ask`` and ``feed`` return must be written next. When it is empty the tunnel is open,
    and ``rest`` is what came after the answer.

    Raises:
        ImportError: python-socks is not installed.
        ValueError: SOCKS cannot carry the user or the password.
    """

    begun = False  # an answer has a few bytes: a timeout need not say that half of it came

    def __init__(self, proxy: Proxy) -> None:
        self._name, self._client = proxy.name, _client(proxy)
        self._where = "", 0
        self._received, self._ended = b"", False
        self._written = 0  # how many bytes were returned so far
        self.rest = b""

    def ask(self, host: str, port: int) -> bytes:
        """Return what to write first, for a tunnel to ``host`` and ``port``."""
        self._where = host, port
        return self.feed(b"") or b""

    def feed(self, octets: bytes) -> bytes | None:
        """Take what arrived; return what to write next, None while an answer is incomplete.

        Raises:
            ConnectionError: the proxy refused.
        """
        from python_socks import ProxyError

        self._received += octets
        memory: Any = _Memory(self._received, self._ended)
        try:
            self._client(forward=memory).connect(*self._where)
        except _MoreNeededError:
            following = memory.written[self._written :]
            self._written = len(memory.written)
            return following or None
        except ProxyError as error:
            raise ConnectionError(f"the proxy {self._name} refused: {error}") from error
        self.rest = memory.unread
        return b""

    def feed_eof(self) -> bytes | None:
        """Raise: the proxy closed the connection before it answered."""
        self._ended = True
        return self.feed(b"")


def _client(proxy: Proxy) -> Any:
    try:
        from python_socks import ProxyType
        from python_socks.sync import Proxy as Client
    except ImportError as error:
        needs = f"the proxy {proxy.name} needs the extra: pip install 'koko[proxy]'"
        raise ImportError(needs) from error
    if not (proxy.user + proxy.password).isascii():
        raise ValueError(f"user and password for the proxy {proxy.name} are not ASCII")
    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    user, password = proxy.user.decode() or None, proxy.password.decode() or None

    def client(forward: Any) -> Client:
        return Client(kind, proxy.host, proxy.port, user, password, rdns=True, forward=forward)

    return client


class _MoreNeededError(Exception):
    """All that was received has been read."""


class _Memory:
    """A socket in memory. Its ``connect`` stands in for the proxy that comes before this one."""

    def __init__(self, received: bytes, ended: bool) -> None:
        self.unread, self._ended = received, ended
        self.written = b""

    def connect(self, **_: object) -> _Memory:
        return self

    def sendall(self, octets: bytes) -> None:
        self.written += octets

    def recv(self, size: int) -> bytes:
        if not self.unread and not self._ended:
            raise _MoreNeededError
        octets, self.unread = self.unread[:size], self.unread[size:]
        return octets

    def close(self) -> None:
        pass
