"""What is owed to the peer: frames, compressed and masked, in the order they must leave.

Turns messages and control payloads into frames and keeps them until a face takes them
to write. Whether something may still be sent is ``connection``'s to know.
"""

from __future__ import annotations

from koko.core.codec import Encoder
from koko.core.deflate import Agreed, check_level
from koko.core.wire import Opcode, Role
from koko.message import Data, PreparedMessage

MAX_OWED_PONGS = 64  # a peer that pings and never reads costs us no more than these


class Outbox:
    """The frames that wait to be written.

    Attributes:
        owed: the frames, oldest first; always the same list.
        compressing: whether messages are compressed, where that was agreed on.
        deflater: what compresses them, None where nothing was agreed on.
    """

    __slots__ = (
        "_at",
        "_masks",
        "_newest_pong",
        "_pongs",
        "_threshold",
        "compressing",
        "deflater",
        "encode",
        "encoder",
        "owed",
    )

    def __init__(self, role: Role, agreed: Agreed | None) -> None:
        self.owed: list[bytes] = []
        self.compressing = True
        self.deflater = agreed.deflater(role) if agreed else None
        self._threshold = agreed.threshold if agreed else 0
        self.encoder = Encoder(role)
        self.encode = self.encoder.encode
        self._masks = role.masks
        self._pongs = 0  # how many are owed
        self._newest_pong = b""
        self._at = 0  # where it stands, if it is still owed

    @property
    def level(self) -> int | None:
        """The compression level of the next messages, None where nothing was agreed on."""
        return None if self.deflater is None else self.deflater.level

    @level.setter
    def level(self, level: int) -> None:
        check_level(level)
        if self.deflater is not None:
            self.deflater.level = level

    def add(self, kind: int, payload: Data) -> None:
        """Owe one whole message."""
        deflater = self.deflater
        if deflater is None or not self.compressing:
            self.owed.append(self.encode(kind, payload))
            return
        octets = payload.encode() if isinstance(payload, str) else bytes(payload)
        if len(octets) < self._threshold:
            self.owed.append(self.encode(kind, octets))
        else:
            self.owed.append(self.encode(kind, deflater.compress(octets), True, True))

    def add_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message; what connections can share of it is made once."""
        kind, payload, forms = prepared.kind, prepared.payload, prepared._forms
        large = len(payload) >= self._threshold
        deflater = self.deflater if self.compressing and large else None
        shareable = deflater.shareable if deflater else None
        if deflater is not None and shareable is None:
            self.add(kind, payload)  # context takeover: no two connections send the same bytes
            return
        rsv1, form = deflater is not None, (self._masks, shareable)
        made = forms.get(form)
        if made is None:
            made = payload if deflater is None else deflater.compress(payload)
            if not self._masks:
                made = self.encode(kind, made, True, rsv1)
            forms[form] = made
        # §5.3: each frame has a fresh key, so clients share the payload and servers the frame.
        self.owed.append(self.encode(kind, made, True, rsv1) if self._masks else made)

    def add_fragment(self, opcode: int, octets: Data, final: bool, rsv1: bool) -> None:
        """Owe one frame of a message that has several; what is compressed is so already."""
        self.owed.append(self.encode(opcode, octets, final, rsv1))

    def add_control(self, opcode: int, payload: bytes) -> None:
        """Owe a control frame whose payload was checked."""
        frame = self.encode(opcode, payload)
        if opcode != Opcode.PONG:
            self.owed.append(frame)
            return
        if self._at >= len(self.owed) or self.owed[self._at] is not self._newest_pong:
            self._pongs = 0  # they have left
        if self._pongs < MAX_OWED_PONGS:
            self._pongs += 1
            self._at = len(self.owed)
            self.owed.append(frame)
        else:
            # §5.5.3: where earlier pongs could not leave yet, the newest ping's is enough.
            self.owed[self._at] = frame
        self._newest_pong = frame

    def take(self) -> bytes:
        """Return everything owed as one piece and owe it no more."""
        owed = self.owed
        taken = owed[0] if len(owed) == 1 else b"".join(owed)
        owed.clear()
        return taken
