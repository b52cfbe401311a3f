"""TLS over a stream, in memory, so that one thread can read while others write.

``ssl.SSLSocket`` waits in its own calls, and no other thread may use it meanwhile. Here
only the cipher works, and waits for nothing: threads wait for the stream below. That may be
TLS itself, which is how a ``wss`` goes through an ``https`` proxy.
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress

from koko.sync.transport import (
    READ,
    WRITE,
    PlainStream,
    Stream,
    recv_by,
    write_by,
)

_RECORD = 1 << 14
_NOTHING = memoryview(b"")


class TLSStream:
    """A TLS session; ``handshake`` comes first."""

    def __init__(
        self,
        below: Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname
        )
        self._ended = False
        self._more = True  # ``recv`` may find something though the socket has nothing
        self._failure: OSError | None = None
        self._octets = _NOTHING  # what was taken from a writer
        self._sealed: list[int] = []  # how many of them are in records, call by call
        self._tried = 0  # how many calls that should have been
        self._records: list[bytes] = []  # what the stream below has not taken
        # ``session.write`` is Python, and an interrupt behind the call in it would hide how
        # much was sealed. Where ssl has it otherwise, every such interrupt is the end.
        inner = getattr(self.session, "_sslobj", None)
        self._seal = self.session.write if inner is None else inner.write
        self.steady = inner is not None and below.steady

    def handshake(self, deadline: float | None) -> None:
        """Agree on a session, all of it before the deadline.

        Raises:
            ssl.SSLError: the peer speaks no TLS, or not such that we trust it.
            TimeoutError: it took too long.
        """
        while not self._step():
            write_by(self._below, b"", deadline)
            self._put_in(recv_by(self._below, deadline))
        write_by(self._below, b"", deadline)

    def _step(self) -> bool:
        try:
            self.session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._pass_on()  # with an error this is the alert that tells the peer why
        return True

    @property
    def socket(self) -> socket.socket:
        return self._below.socket

    @property
    def pending(self) -> int:
        sealed = self._outgoing.pending + sum(map(len, self._records))
        return self._below.pending + len(self._rest) + sealed

    @property
    def _rest(self) -> memoryview:
        return self._octets[sum(self._sealed) :]

    def recv(self) -> bytes | None:
        if not self._may_give and not self._ended:
            sealed = self._below.recv()
            if sealed is None:
                self._more = False
                return None
            self._put_in(sealed)
        octets = self._take_out() if self._may_give else b""
        self._more = self._ended or self._failure is not None
        return octets if octets or self._ended else None

    @property
    def _may_give(self) -> bool:
        return bool(self._incoming.pending or self.session.pending() or self._failure)

    def _put_in(self, sealed: bytes) -> None:
        if sealed:
            self._incoming.write(sealed)
        else:
            self._ended = True  # without a goodbye; the Close frame is what a WebSocket trusts
            self._incoming.write_eof()

    def _take_out(self) -> bytes:
        pieces: list[bytes] = []
        try:
            if self._failure is not None:
                raise self._failure
            while self._may_give:
                piece = self.session.read(_RECORD)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError as error:
            if not pieces:
                raise
            self._failure = error  # what came before it is good
        self._pass_on()  # an answer of the session's own, as to a change of keys
        return b"".join(pieces)

    def write(self, frames: list[bytes]) -> bool:
        count = len(frames)
        self._check_whole()
        view = memoryview(b"".join((self._rest, *frames)))
        # No call from here to the end of ``del``, as in ``PlainStream``.
        self._octets, self._sealed, self._tried = view, [], 0
        del frames[:count]
        return self.flush()

    def flush(self) -> bool:
        self._check_whole()
        while rest := self._rest:
            once, tried = map(self._seal, (rest,)), len(self._sealed) + 1
            self._tried = tried
            self._sealed.extend(once)
        self._octets, self._sealed, self._tried = _NOTHING, [], 0
        self._pass_on()
        return self._below.flush()

    def _check_whole(self) -> None:
        # ssl itself looks for signals once it has sealed, and then does not say how much.
        if self._tried > len(self._sealed):
            raise ConnectionAbortedError(errno.ECONNABORTED, "an interrupt cut off a TLS record")

    def _pass_on(self) -> None:
        if self._outgoing.pending:
            self._records.extend(map(self._outgoing.read, (-1,)))
        if self._records:
            self._below.write(self._records)

    def wait(self, events: int, timeout: float | None) -> int:
        if events & READ and self._more:
            return READ
        return self._below.wait(events, timeout)

    def end(self) -> None:
        # The close_notify of TLS; our half of TCP stays open under it, because
        # some peers take a FIN without one from them for an attack.
        with suppress(OSError, ValueError):
            try:
                self.session.unwrap()
            finally:
                self._pass_on()

    def shutdown(self) -> None:
        self._below.shutdown()

    def close(self) -> None:
        self._below.close()


class LentStream(PlainStream):
    """A TLS session that somebody else began and will close: an ``SSLSocket``.

    It never waits in ``ssl``: threads poll the socket before they call it.
    """

    socket: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self.steady = False
        sock.settimeout(0)
        self._ended = False
        self._more = True  # ``recv`` may find something though the socket has nothing
        self._reads = READ  # what it waits for when it is to read

    def recv(self) -> bytes | None:
        if self._ended:
            return b""
        self._reads, self._more = READ, False
        try:
            octets = self.socket.recv(_RECORD)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self._reads = WRITE
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = self._more = True
            return b""
        self._more = self.socket.pending() > 0
        return octets

    def _send(self, octets: memoryview) -> None:
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if octets:
                self._sent.append(self.socket.send(octets))

    def wait(self, events: int, timeout: float | None) -> int:
        if events & READ and self._more:
            return READ
        if not events & READ or self._reads == READ:
            return super().wait(events, timeout)
        return READ if super().wait(WRITE, timeout) else 0

    def end(self) -> None:
        with suppress(OSError, ValueError):
            self.socket.unwrap()  # sends a close_notify
            self._ended = True  # and found the peer's: what is behind it is no TLS

    def shutdown(self) -> None:
        self._ended = True  # an SSLSocket that is shut down would go on without TLS
        super().shutdown()

    def close(self) -> None:
        """Leave the socket, which is shut down, to the one who lent it."""
