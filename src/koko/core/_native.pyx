# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The native codec: ``_codec`` with pointers.

The twin of ``_codec.py``, to be read against it: the same names in the same order, the
same checks under the same sections, equal on every byte and in every word of an error.
What is done differently here is only where the bytes lie: a payload is unmasked on its
way into the object that the user gets. No policy, and nothing that ``_codec`` has not.
"""

from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

import os

from koko.core._codec import (
    HOLD, INFLATE_STEP, KEYS, OPCODES, bad_utf8, check_close_payload,
)
from koko.core.wire import MAX_CONTROL_PAYLOAD, Control, Piece
from koko.errors import ErrReadLimit, ProtocolError

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **grown, Py_ssize_t size) except -1
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_DecodeUTF8(const char *octets, Py_ssize_t size, const char *errors)
    bytes PyUnicode_AsUTF8String(object text)

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

cdef uint64_t MAX_CONTROL = MAX_CONTROL_PAYLOAD
cdef uint64_t STEP = INFLATE_STEP
cdef Py_ssize_t DRAWN = 4 * KEYS
cdef uint64_t HIGH_BITS = 0x8080808080808080


def mask(bytes payload not None, bytes key not None, int64_t at=0):
    """Return ``payload`` masked or unmasked (§5.3) as if it began ``at`` bytes into the frame."""
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError(f"a masking key of {len(key)} bytes, it has 4 (§5.3)")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef bytes masked = PyBytes_FromStringAndSize(NULL, size)
    mask_into(bytes_at(masked), bytes_at(payload), size, bytes_at(key), at)
    return masked


cdef inline bint mask_into(
    uint8_t *to, const uint8_t *payload, Py_ssize_t size, const uint8_t *key, uint64_t at
) noexcept:
    """Mask ``payload`` into ``to`` and tell whether anything but ASCII came out."""
    cdef uint8_t keys[8]
    cdef uint64_t pattern, word, seen = 0
    cdef Py_ssize_t i, words = size // 8
    for i in range(8):
        keys[i] = key[(at + <uint64_t>i) & 3]
    memcpy(&pattern, keys, 8)
    # Eight bytes at a time and no branch: the compiler makes vectors of it. The copies
    # into and out of ``word`` cost nothing and make any alignment right.
    for i in range(words):
        memcpy(&word, payload + 8 * i, 8)
        word ^= pattern
        seen |= word
        memcpy(to + 8 * i, &word, 8)
    for i in range(8 * words, size):
        to[i] = payload[i] ^ keys[i & 7]
        seen |= to[i]
    return (seen & HIGH_BITS) != 0


cdef inline uint8_t *bytes_at(bytes octets) noexcept:
    return <uint8_t *>PyBytes_AS_STRING(octets)


cdef int utf8_feed(Utf8 *utf8, const uint8_t *at, Py_ssize_t size) except -1:
    """Check UTF-8 that comes in pieces; fail on the first byte that cannot be right."""
    cdef const uint8_t *end = at + size
    cdef Utf8 now = utf8[0]  # in registers
    cdef uint64_t word
    while at < end:
        if now.need:
            if at[0] < now.low or at[0] > now.high:
                raise bad_utf8()
            now.need -= 1
            now.low, now.high = 0x80, 0xBF
        elif at[0] >= 0x80:
            if not utf8_begin(&now, at[0]):
                raise bad_utf8()
        elif end - at >= 8:
            memcpy(&word, at, 8)
            if not word & HIGH_BITS:
                at += 7
        at += 1
    utf8[0] = now
    return 0


cdef inline bint utf8_begin(Utf8 *utf8, uint8_t lead) noexcept:
    # RFC 3629 §4: no overlong forms (C0, C1, E0 80, F0 80), no surrogates (ED A0) and
    # nothing above U+10FFFF (F4 90, F5): all of it is seen in the first two bytes.
    if lead < 0xC2 or lead > 0xF4:
        return False
    utf8.need = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
    utf8.low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    utf8.high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
    return True


cdef class Decoder:
    """What the peer sends, from bytes to messages.

    ``feed`` gives whole messages in the user's form (``str`` for text, ``bytes``
    for binary) and control frames. A violation becomes ``failure``: the messages
    before it have been given, nothing after it is parsed. Neither is anything
    after a Close. Memory follows what has arrived, never what a head announces.
    """

    def __cinit__(self, role, *, read_limit=None, inflater=None, int64_t hold=HOLD):
        self.read_limit = read_limit
        self._peer_masks = role.peer.masks
        self._inflater = inflater
        self._hold = hold
        self._tail = self._control = b""
        self._left = -1
        self._final = True

    @property
    def read_limit(self):
        return self._read_limit

    @read_limit.setter
    def read_limit(self, limit):
        self._limit = UINT64_MAX if limit is None else min(limit, UINT64_MAX)
        self._read_limit = limit

    @property
    def backlog(self):
        """True when ``feed(b"")`` may give more without new bytes from the peer."""
        return self.has_backlog()

    cdef bint has_backlog(self) noexcept:
        return self._held >= self._hold and not self._done

    @property
    def interrupted(self):
        """True when the last ``feed`` was interrupted in the inflater; the next one goes on."""
        return self._found is not None

    @property
    def mid_message(self):
        """True when the peer has begun a message and not ended it."""
        return self._kind != 0

    def feed(self, bytes data not None):
        """Take bytes from the peer and return what they complete, in order.

        Stops after ``hold`` bytes of messages and keeps the rest as ``backlog``, so
        that small bytes that inflate to large messages are not all inflated at once.
        What a signal handler raises in the inflater loses nothing: see ``interrupted``.
        """
        cdef list items = []
        self.feed_octets(bytes_at(data), PyBytes_GET_SIZE(data), items)
        return items

    cdef int feed_octets(self, const uint8_t *octets, Py_ssize_t size, list items) except -1:
        """Do as ``feed``, with octets that are somebody's: what is needed of them later is copied."""
        cdef bytes joined
        cdef Py_ssize_t at = 0
        self.others = 0
        if self._found is not None:
            self._give_found(items)
        if self._done:
            return 0
        if PyBytes_GET_SIZE(self._tail):
            joined = self._tail + octets[:size]
            octets, size = bytes_at(joined), PyBytes_GET_SIZE(joined)
        self._held = 0
        try:
            at = self._parse(octets, size, items)
        except ProtocolError as failure:
            failure.__cause__ = failure.__context__ = None  # they hold the peer's bytes
            self.failure = failure.with_traceback(None)
            self._done = True
        except BaseException:
            if self._steady:
                self._tail = octets[self._taken:size]
                self._found = items[:]
                items.clear()
            raise
        self._tail = b"" if self._done or at == size else octets[at:size]
        self._hand_on(items)
        return 0

    cdef Py_ssize_t _parse(self, const uint8_t *data, Py_ssize_t size, list items) except -1:
        cdef Py_ssize_t at = 0, start, ready
        if self._draining:
            self._taken = 0
            self._inflate(items)
        while self._held < self._hold and not self._done:
            # 1. A head; nothing of it is remembered before it is whole.
            if self._left < 0:
                start = self._read_head(data + at, size - at)
                if start < 0:
                    break
                at += start
            # 2. As much of its payload as is here.
            ready = size - at
            if ready > self._left:
                ready = self._left
            if not ready and self._left:
                break
            self._taken = at
            self._read_payload(data + at, ready, items)
            at += ready
        return at

    cdef int _give_found(self, list items) except -1:
        items += self._found
        self._found = None
        for item in items:
            if not (type(item) is str or type(item) is bytes):
                self.others += 1
        return 0

    def open_stream(self):
        """Have the message that has begun handed on in pieces; None when there is none.

        From the next ``feed`` on, ``Piece`` items stand in its place; the last
        one is final. What has arrived already comes first.
        """
        if not self._kind:
            return None
        self._streaming = True
        return OPCODES[self._kind]

    cdef Py_ssize_t _read_head(self, const uint8_t *data, Py_ssize_t size) except -2:
        """Read the frame head at ``data``; return its size, -1 if more is needed."""
        cdef uint8_t first, second, opcode
        cdef Py_ssize_t start = 2
        cdef uint64_t length
        if size < 2:
            return -1
        first, second = data[0], data[1]
        opcode = first & 0x0F
        self._check_first(first, opcode)
        # §5.1: a client masks every frame, a server none.
        if (second >= 0x80) != self._peer_masks:
            raise ProtocolError(
                1002,
                "peer sent an unmasked frame; a client must mask every frame"
                if self._peer_masks
                else "peer sent a masked frame; a server must not mask any frame",
                "§5.1",
            )
        length = second & 0x7F
        if opcode >= CLOSE:
            self._check_control(first, opcode, length)
        if length > 125:
            start = self._read_length(data, size, &length)
            if start < 0:
                return -1
        if self._peer_masks:
            if size < start + 4:
                return -1
            memcpy(self._key, data + start, 4)
            start += 4
        self._begin_frame(first, opcode, length)
        return start

    cdef int _check_first(self, uint8_t first, uint8_t opcode) except -1:
        # §5.2: reserved bits are 0 unless an extension gives them a meaning. RFC 7692
        # §6 gives RSV1 one, on the first frame of a message and nowhere else.
        if first & 0x70 and not (
            first & 0x70 == 0x40 and opcode in (TEXT, BINARY) and self._inflater is not None
        ):
            bits = ", ".join([f"RSV{i + 1}" for i in range(3) if first & 0x40 >> i])
            raise ProtocolError(1002, f"peer set {bits} on a frame of opcode {opcode}", "§5.2")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(1002, f"peer sent reserved opcode {opcode}", "§5.2")
        # §5.4: fragments of one message follow each other; only control frames may come between.
        if opcode == CONTINUATION and not self._kind:
            raise ProtocolError(1002, "peer continued a message that it had not begun", "§5.4")
        if opcode in (TEXT, BINARY) and self._kind:
            raise ProtocolError(1002, "peer began a message inside another", "§5.4")
        return 0

    cdef int _check_control(self, uint8_t first, uint8_t opcode, uint64_t length) except -1:
        # §5.5: a control frame carries at most 125 bytes and is never fragmented.
        if length <= MAX_CONTROL and first >= 0x80:
            return 0
        name = OPCODES[opcode].name
        if length > MAX_CONTROL:
            raise ProtocolError(1002, f"peer sent a {name} frame of more than 125 bytes", "§5.5")
        raise ProtocolError(1002, f"peer sent a fragmented {name} frame", "§5.5")

    cdef Py_ssize_t _read_length(
        self, const uint8_t *data, Py_ssize_t size, uint64_t *length
    ) except -2:
        """Read an extended length; return where it ends, -1 if more is needed."""
        cdef Py_ssize_t i, wide = 2 if length[0] == 126 else 8
        cdef uint64_t least = 126 if wide == 2 else 1 << 16
        # §5.2: the most significant bit of a 64-bit length is 0.
        if wide == 8 and size > 2 and data[2] >= 0x80:
            raise ProtocolError(1002, "peer sent a length with its top bit set", "§5.2")
        if size < 2 + wide:
            return -1
        length[0] = 0
        for i in range(2, 2 + wide):
            length[0] = length[0] << 8 | data[i]
        # §5.2: the minimal number of bytes must be used.
        if length[0] < least:
            raise ProtocolError(1002, f"peer sent length {length[0]} in {wide} bytes", "§5.2")
        return 2 + wide

    cdef int _begin_frame(self, uint8_t first, uint8_t opcode, uint64_t length) except -1:
        if opcode < CLOSE:
            self._check_limit(self._wire + length)
            self._wire += length
            if opcode:
                self._kind = opcode
                self._compressed = first & 0x40 != 0
            self._final = first >= 0x80
        self._opcode = opcode
        self._left = length
        self._at = 0
        return 0

    cdef int _check_limit(self, uint64_t size) except -1:
        if size > self._limit:
            raise ErrReadLimit(
                f"peer sent a message of at least {size} bytes, read_limit={self._read_limit}"
            )
        return 0

    cdef int _read_payload(self, const uint8_t *payload, Py_ssize_t size, list items) except -1:
        cdef bint ended = size == self._left
        cdef uint8_t at = self._at
        if self._compressed and self._opcode < CLOSE:
            self._steady = True
            self._inflater.put(self._unmasked(payload, size, at), ended and self._final)
            self._taken += size
            self._draining = True
        # Nothing is moved before the inflater has it, and then nothing can fail.
        self._at = (at + size) & 3
        self._left = -1 if ended else self._left - size
        if self._opcode >= CLOSE:
            self._control += self._unmasked(payload, size, at)
            if ended:
                self._finish_control(items)
        elif self._compressed:
            self._inflate(items)
        elif self._wire == <uint64_t>size and ended and self._final and not self._streaming:
            self._give_whole(payload, size, items)
        else:
            self._append(payload, size, self._key if self._peer_masks else NULL, at)
            if ended and self._final:
                self._finish(items)
        return 0

    cdef bytes _unmasked(self, const uint8_t *payload, Py_ssize_t size, uint8_t at):
        cdef bytes piece
        if not self._peer_masks:
            return PyBytes_FromStringAndSize(<const char *>payload, size)
        piece = PyBytes_FromStringAndSize(NULL, size)
        mask_into(bytes_at(piece), payload, size, self._key, at)
        return piece

    cdef int _finish_control(self, list items) except -1:
        opcode, payload = OPCODES[self._opcode], self._control
        self._control = b""
        if self._opcode == CLOSE:
            check_close_payload(payload)
            self._done = True  # §5.5.1: nothing follows a Close
        self._hand_on(items)
        items.append(Control(opcode, payload))
        self.others += 1
        return 0

    cdef int _inflate(self, list items) except -1:
        cdef uint64_t room, size
        cdef bytes inflated
        cdef bint pending, last = self._final and self._left < 0
        while self._held < self._hold:
            room = STEP
            if self._limit != UINT64_MAX:
                # At least 1: read_limit may have been lowered below what has come.
                room = 1 if self._size > self._limit else min(room, self._limit - self._size + 1)
            self._steady = True
            inflated = self._inflater.get(room)
            self._steady = False
            size = PyBytes_GET_SIZE(inflated)
            self._check_limit(self._size + size)
            pending = self._inflater.pending
            self._held += size
            self._draining = pending
            if last and not pending and not self._size and not self._streaming:
                self._give(inflated, items)
                return 0
            self._append(bytes_at(inflated), size, NULL, 0)
            if not pending:
                if last:
                    self._finish(items)
                return 0
        return 0

    cdef int _append(
        self, const uint8_t *payload, Py_ssize_t size, const uint8_t *key, uint8_t at
    ) except -1:
        cdef uint8_t *to
        cdef bint beyond_ascii = True
        if not size:
            return 0
        to = self._grow(size)
        if key == NULL:
            memcpy(to, payload, size)
        else:
            beyond_ascii = mask_into(to, payload, size, key, at)
        if self._kind == TEXT and (beyond_ascii or self._utf8.need):
            utf8_feed(&self._utf8, to, size)
        self._filled += size
        self._size += size
        return 0

    cdef uint8_t *_grow(self, Py_ssize_t size) except NULL:
        """Return where ``size`` more bytes of the message may be written."""
        cdef uint64_t needed = self._filled + size
        cdef uint64_t room = 0 if self._message is None else PyBytes_GET_SIZE(self._message)
        cdef uint64_t whole
        if needed > room:
            # Grow by doubling, but never past what the last frame announces (then the
            # message ends exactly full and is handed over as it is) or the limit allows:
            # a peer that claims 2**62 bytes and sends ten must cost us ten.
            room += needed
            if self._final and not self._compressed:
                whole = needed + <uint64_t>max(self._left, 0)
                room = min(room, whole)
            self._resize(max(needed, min(room, self._limit)))
        return bytes_at(self._message) + self._filled

    cdef int _resize(self, Py_ssize_t size) except -1:
        cdef PyObject *message
        cdef Py_ssize_t filled = self._filled
        if self._message is None:
            self._message = PyBytes_FromStringAndSize(NULL, size)
            return 0
        # Only a bytes object with a single owner can be resized: for a moment, not us.
        message = <PyObject *>self._message
        Py_INCREF(<object>message)
        self._message, self._filled = None, 0
        _PyBytes_Resize(&message, size)
        self._message, self._filled = <bytes>message, filled
        Py_DECREF(<object>message)
        return 0

    cdef bytes _take(self):
        """Return the bytes of the message so far; no copy where it is exactly full."""
        cdef bytes message = b""
        if self._message is not None:
            if self._filled < PyBytes_GET_SIZE(self._message):
                self._resize(self._filled)
            message, self._message = self._message, None
            self._filled = 0
        return message

    cdef int _finish(self, list items) except -1:
        cdef bytes message
        if self._utf8.need:
            raise bad_utf8()
        message = self._take()
        if not self._streaming:
            self._give(message, items)
            return 0
        items.append(Piece(message, True))
        self.others += 1
        self._end_message(0)
        return 0

    cdef int _give(self, bytes message, list items) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        items.append(message if self._kind == BINARY else decoded(bytes_at(message), size))
        self._end_message(0 if self._compressed else size)
        return 0

    cdef int _give_whole(self, const uint8_t *payload, Py_ssize_t size, list items) except -1:
        """Give a message of one whole frame: one pass over it, one object made."""
        if self._kind == BINARY:
            items.append(self._unmasked(payload, size, 0))
        elif self._peer_masks:
            items.append(self._unmasked_text(payload, size))
        else:
            items.append(decoded(payload, size))
        self._end_message(size)
        return 0

    cdef object _unmasked_text(self, const uint8_t *payload, Py_ssize_t size):
        # Most text is ASCII, whose str holds the very bytes of the wire. When it turns out
        # not to be, that str was a scratch buffer and nobody sees it.
        cdef object text = PyUnicode_New(size, 127)
        cdef uint8_t *to = <uint8_t *>PyUnicode_DATA(text)
        if mask_into(to, payload, size, self._key, 0):
            return decoded(to, size)
        return text

    cdef void _end_message(self, Py_ssize_t size) noexcept:
        self._held += size
        self._kind = 0
        self._wire = self._size = 0
        self._compressed = self._streaming = False

    cdef int _hand_on(self, list items) except -1:
        if self._streaming and self._filled:
            items.append(Piece(self._take(), False))
            self.others += 1
        return 0


cdef object decoded(const uint8_t *octets, Py_ssize_t size):
    try:
        return PyUnicode_DecodeUTF8(<const char *>octets, size, NULL)
    except UnicodeDecodeError:
        raise bad_utf8() from None


cdef class Encoder:
    """What we send, from payloads to frames; masked with fresh keys when we are the client.

    Attributes:
        bytes_out: of all frames so far; whoever sends a frame made elsewhere adds its own.
    """

    def __cinit__(self, role):
        self._masks = role.masks
        self._keys = b""

    def encode(self, uint8_t opcode, payload, bint fin=True, bint rsv1=False):
        """Return one whole frame. Text given as ``str`` is encoded, bytes are sent as they are."""
        return self.frame_of(opcode, payload, fin, rsv1)

    cdef bytes frame_of(self, uint8_t opcode, payload, bint fin, bint rsv1):
        cdef uint8_t first = fin << 7 | rsv1 << 6 | opcode
        cdef Py_ssize_t size
        if isinstance(payload, str):
            if PyUnicode_IS_ASCII(payload):
                size = PyUnicode_GET_LENGTH(payload)
                return self._frame(first, <uint8_t *>PyUnicode_DATA(payload), size)
            # Not PyUnicode_AsUTF8AndSize: it would leave the UTF-8 inside the user's str.
            payload = PyUnicode_AsUTF8String(payload)
        elif not isinstance(payload, bytes):
            return self._frame_of_buffer(first, payload)
        return self._frame(first, bytes_at(<bytes>payload), PyBytes_GET_SIZE(payload))

    cdef bytes _frame_of_buffer(self, uint8_t first, payload):
        cdef Py_buffer view
        PyObject_GetBuffer(payload, &view, PyBUF_FULL_RO)
        try:
            if PyBuffer_IsContiguous(&view, b"C"):
                return self._frame(first, <const uint8_t *>view.buf, view.len)
            payload = bytes(memoryview(payload))
            return self._frame(first, bytes_at(<bytes>payload), PyBytes_GET_SIZE(payload))
        finally:
            PyBuffer_Release(&view)

    cdef bytes _frame(self, uint8_t first, const uint8_t *payload, Py_ssize_t size):
        cdef Py_ssize_t start = head_size(size) + (4 if self._masks else 0)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, start + size)
        cdef uint8_t *to = bytes_at(frame)
        self.bytes_out += start + size
        self._write_head(to, first, size)
        if self._masks:
            self._next_key(to + start - 4)
            mask_into(to + start, payload, size, to + start - 4, 0)
        else:
            memcpy(to + start, payload, size)
        return frame

    def head(self, uint8_t opcode, uint64_t length, bint fin=True, bint rsv1=False):
        """Return the head of a frame up to its masking key (§5.2)."""
        cdef bytes head = PyBytes_FromStringAndSize(NULL, head_size(length))
        self._write_head(bytes_at(head), fin << 7 | rsv1 << 6 | opcode, length)
        return head

    cdef void _write_head(self, uint8_t *to, uint8_t first, uint64_t length) noexcept:
        cdef uint8_t bit = 0x80 if self._masks else 0
        cdef Py_ssize_t i, size = head_size(length)
        to[0] = first
        to[1] = bit | (<uint8_t>length if size == 2 else 126 if size == 4 else 127)
        for i in range(size - 1, 1, -1):
            to[i] = length & 0xFF
            length >>= 8

    cdef int _next_key(self, uint8_t *to) except -1:
        # §5.3, §10.3: keys from a strong source; drawn in batches, a call each costs 1 us.
        if self._drawn == PyBytes_GET_SIZE(self._keys):
            self._keys = os.urandom(DRAWN)
            self._drawn = 0
        memcpy(to, bytes_at(self._keys) + self._drawn, 4)
        self._drawn += 4
        return 0


cdef inline Py_ssize_t head_size(uint64_t length) noexcept:
    return 2 if length < 126 else 4 if length < 1 << 16 else 10
