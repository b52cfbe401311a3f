"""TLS over a stream, in memory, so that one thread can read while others write.

``ssl.SSLSocket`` is not safe for that on every Python. Here the bytes are fetched
and passed on by the stream below, outside the lock; only the cipher works inside
it. What is below may be TLS itself: that is how a ``wss`` goes through an ``https``
proxy.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

from koko.sync.transport import (
    READ,
    WRITE,
    PlainStream,
    Stream,
    deadline_in,
    recv_by,
    time_left,
    write_by,
)

_RECORD = 1 << 14


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
        self._lock = threading.Lock()
        self._ended = False
        self._failure: OSError | None = None

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
        return self._below.pending

    def recv(self, timeout: float | None) -> bytes | None:
        deadline = deadline_in(timeout)
        while True:
            with self._lock:
                octets = self._take_out() if self._may_give else b""
                ended = self._ended
            if octets or ended:
                return octets
            sealed = self._below.recv(time_left(deadline))
            if sealed is None:
                return None
            with self._lock:
                self._put_in(sealed)

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

    def write(self, octets: bytes) -> bool:
        with self._lock:
            rest = memoryview(octets)
            while rest:
                rest = rest[self.session.write(rest) :]
            self._pass_on()
            return not self._below.pending

    def flush(self) -> bool:
        with self._lock:
            return self._below.flush()

    def _pass_on(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    def wait(self, events: int, timeout: float | None) -> int:
        with self._lock:
            if events & READ and (self._may_give or self._ended):
                return READ
        return self._below.wait(events, timeout)

    def end(self) -> None:
        # The close_notify of TLS; our half of TCP stays open under it, because
        # some peers take a FIN without one from them for an attack.
        with self._lock, suppress(OSError, ValueError):
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

    It never waits inside, and only one thread at a time is inside; they wait outside.
    """

    socket: ssl.SSLSocket

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        sock.settimeout(0)
        self._lock = threading.Lock()
        self._ended = False

    def recv(self, timeout: float | None) -> bytes | None:
        deadline = deadline_in(timeout)
        while True:
            with self._lock:
                if self._ended:
                    return b""
                try:
                    return self.socket.recv(_RECORD)
                except ssl.SSLWantReadError:
                    wanted = READ
                except ssl.SSLWantWriteError:
                    wanted = WRITE
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    self._ended = True
                    return b""
            if not super().wait(wanted, time_left(deadline)):
                return None

    def _send(self, octets: bytes | memoryview) -> int:
        with self._lock:
            try:
                return self.socket.send(octets) if octets else 0
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return 0

    def wait(self, events: int, timeout: float | None) -> int:
        with self._lock:
            if events & READ and (self._ended or self.socket.pending()):
                return READ
        return super().wait(events, timeout)

    def end(self) -> None:
        with self._lock, suppress(OSError, ValueError):
            self.socket.unwrap()  # sends a close_notify
            self._ended = True  # and found the peer's: what is behind it is no TLS

    def shutdown(self) -> None:
        with self._lock:
            self._ended = True  # an SSLSocket that is shut down would go on without TLS
            super().shutdown()

    def close(self) -> None:
        """Leave the socket, which is shut down, to the one who lent it."""
