"""The server's side of the opening handshake, for asyncio."""

from __future__ import annotations

from typing import Any

from koko import upgrading
from koko.aio.conn import Conn
from koko.aio.pending import Pending
from koko.http import Headers
from koko.misuse import check_face_of
from koko.opening.head import write_response
from koko.upgrading import Refused, UpgradableRequest


class Upgrader(upgrading.Upgrader):
    """Decides which requests become connections; the options are ``koko.upgrading.Upgrader``'s."""

    def upgrade(self, request: Any, headers: Headers | None = None) -> Upgrading:
        """Make an open connection of a request that ``http=`` of Koko's server was given.

        Await the result for a ``Conn``, or use it in ``async with``. ``headers`` are added
        to the 101, such as ``Set-Cookie``.

        Raises:
            HandshakeError: the client is refused. Nothing was sent yet; if ``http`` does not
                catch this, the server sends its ``response``.
            OSError: the client is gone; no answer can reach it.
            ValueError: ``headers`` has a name that only the handshake may write.
        """
        if not isinstance(request, UpgradableRequest):
            raise TypeError(
                f"upgrade() got {type(request).__name__!r}, expected what Koko's server gave to "
                "http=; other servers' requests are for koko.sync.Upgrader, those of ASGI for "
                "koko.adapters.asgi.upgrade()"
            )
        check_face_of(request.handshake, "open", "aio", "sync")
        return Upgrading(self, request, headers)


class Upgrading(Pending[Conn]):
    """A connection being opened to a client."""

    def __init__(
        self, upgrader: Upgrader, request: UpgradableRequest, headers: Headers | None
    ) -> None:
        self._upgrader = upgrader
        self._handshake = request.handshake
        self._headers = headers

    async def _open(self) -> Conn:
        upgrader, handshake = self._upgrader, self._handshake
        source = handshake.source_for(upgrader)
        decision = upgrader.decide(
            handshake.request, self._headers, secure=source.secure, host=source.host
        )
        if isinstance(decision, Refused):
            raise decision.error
        conn: Conn = handshake.open(upgrader, decision, source, write_response(decision.response))
        return conn
