"""What is owed to the peer: frames, compressed and masked, in the order they must leave.

Turns messages and control payloads into frames and keeps them until a face takes them
to write. The sender decides whether something may still be sent.
"""

from __future__ import annotations

from koko.core.codec import Encoder
from koko.core.deflate import Agreed, check_level
from koko.core.wire import Opcode, Role
from koko.message import Data, PreparedMessage

GATHER = 1 << 16  # a face gathers at most this many bytes of messages before it writes them
PLAIN = (0, 0)  # in the place of a level and window bits: nothing is compressed
_FORMS: dict[tuple[int, int], tuple[bool, tuple[int, int]]] = {}
MAX_OWED_PONGS = 64  # a peer that pings and never reads costs us no more than these


class Outbox:
    """The frames that wait to be written.

    Attributes:
        owed: the frames, oldest first; always the same list.
        threshold: the bytes from which a message is compressed.
        deflater: what compresses them, None where nothing was agreed on.
        form: the key under which a prepared message keeps the frame that we would send,
            unless it is too small to be compressed; None where we share no frames.
    """

    __slots__ = (
        "_at",
        "_compressing",
        "_masks",
        "_newest_pong",
        "_pongs",
        "_shared",
        "deflater",
        "encode",
        "encoder",
        "form",
        "owed",
        "threshold",
    )

    def __init__(self, role: Role, agreed: Agreed | None) -> None:
        self.owed: list[bytes] = []
        self.form: tuple[bool, tuple[int, int]] | None
        self._shared: tuple[int, int] | None
        self.deflater = agreed.deflater(role) if agreed else None
        self.threshold = agreed.threshold if agreed else 0
        self.encoder = Encoder(role)
        self.encode = self.encoder.encode
        self._masks = role.masks
        self._pongs = 0  # how many are owed
        self._newest_pong = b""
        self._at = 0  # its index in ``owed``, if it is still owed
        self._compressing = True
        self._choose_form()

    @property
    def compressing(self) -> bool:
        """Whether messages are compressed, where that was agreed on."""
        return self._compressing

    @compressing.setter
    def compressing(self, enabled: bool) -> None:
        self._compressing = enabled
        self._choose_form()

    @property
    def level(self) -> int | None:
        """The compression level of the next messages, None where nothing was agreed on."""
        return None if self.deflater is None else self.deflater.level

    @level.setter
    def level(self, level: int) -> None:
        check_level(level)
        if self.deflater is not None:
            self.deflater.level = level
            self._choose_form()

    def add(self, kind: int, payload: Data) -> None:
        """Owe one whole message."""
        deflater = self.deflater
        if deflater is None or not self.compressing:
            self.owed.append(self.encode(kind, payload))
            return
        octets = payload.encode() if isinstance(payload, str) else bytes(payload)
        if len(octets) < self.threshold:
            self.owed.append(self.encode(kind, octets))
        else:
            self.owed.append(self.encode(kind, deflater.compress(octets), True, True))

    def add_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message; the part that connections can share is made once."""
        kind, payload, forms = prepared.kind, prepared.payload, prepared._forms
        shared = self._shared if len(payload) >= self.threshold else PLAIN
        if shared is None:  # context takeover: no two connections send the same bytes
            self.add(kind, payload)
            return
        rsv1, form = shared is not PLAIN, (self._masks, shared)
        made = forms.get(form)
        if made is None:
            made = self.deflater.compress(payload) if rsv1 and self.deflater else payload
            if not self._masks:
                made = self.encode(kind, made, True, rsv1)
            forms[form] = made
        elif not self._masks:
            self.encoder.bytes_out += len(made)
        # §5.3: each frame has a fresh key, so clients share the payload and servers the frame.
        self.owed.append(self.encode(kind, made, True, rsv1) if self._masks else made)

    def _choose_form(self) -> None:
        deflater = self.deflater if self._compressing else None
        self._shared = PLAIN if deflater is None else deflater.shareable
        if self._masks or self._shared is None:
            self.form = None
        else:  # one object for all connections of this form: a comparison is by identity
            self.form = _FORMS.setdefault(self._shared, (False, self._shared))

    def add_fragment(self, opcode: int, octets: Data, final: bool, rsv1: bool) -> None:
        """Owe one frame of a message that has several; ``octets`` are compressed already."""
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
            # §5.5.3: while earlier pongs cannot leave, the pong to the newest ping is enough.
            self.owed[self._at] = frame
        self._newest_pong = frame

    def take(self) -> bytes:
        """Return everything owed as one piece and owe it no more."""
        owed = self.owed
        taken = owed[0] if len(owed) == 1 else b"".join(owed)
        owed.clear()
        return taken
