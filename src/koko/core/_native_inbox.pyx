# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""What came and waits to be read: ``_inbox``, compiled.

The twin of ``_inbox.py``, to be read against it: the same names in the same order. The
messages lie in a list, read from ``_at`` on; when the last one is taken it is made empty.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from koko.core._native cimport Decoder


@cython.no_gc_clear  # its decoder is called in C, and holds nothing that would lead back here
cdef class Inbox:
    """Whole messages that nobody has read yet, oldest first.

    Attributes:
        decoder: what makes messages of the peer's bytes.
        messages: those that wait; to look at, ``take`` takes them.
        only_messages: True while a reader can find nothing but messages. While it is False the
            receiver must be asked: there may be a part of a message, or the end.
        bytes_in: all that were fed.
        unread: bytes fed since a reader last found nothing.
        reader: WAITING, WORKING on the last message it took, or ANSWERED: it has sent since.
        taken_at: when the last message was taken. A face sets it where the message had waited.
        heard_at, heard_what: when the peer was last heard, and what it said.
    """

    def __cinit__(self, Decoder decoder not None, double now):
        self.decoder = decoder
        self.only_messages = True
        self.taken_at = now
        self.heard_at = now
        self.heard_what = "the opening handshake"

    def __len__(self):
        return 0 if self.messages is None else len(self.messages) - self._at

    @property
    def backlog(self):
        """True when the last message has been taken and more can be had without new bytes."""
        return self.messages is None and self.decoder.has_backlog()

    def feed(self, bytes data not None, double now):
        """Take bytes from the peer, keep the messages in them and return what else they hold.

        None means nothing but messages, or parts of one. The decoder keeps a violation.
        """
        return self.feed_octets(octets_of(data), PyBytes_GET_SIZE(data), now)

    cdef list feed_octets(self, const uint8_t *octets, Py_ssize_t size, double now):
        self.heard_at = now
        self.bytes_in += size
        self.unread += size
        return self._sort(octets, size)

    def parse(self, bytes data not None):
        """Do as ``feed``, for what has been fed before."""
        return self._sort(octets_of(data), PyBytes_GET_SIZE(data))

    cdef list _sort(self, const uint8_t *octets, Py_ssize_t size):
        cdef Decoder decoder = self.decoder
        cdef list items
        cdef list others = None
        while True:
            items = []
            decoder.feed_octets(octets, size, items)
            if decoder.others:
                others = without_messages(items, others)
            if items:
                self._keep(items)
            else:
                self.heard_what = "a part of a message"  # or a control frame, which says so
            if self.messages is not None or not self.only_messages or not decoder.has_backlog():
                break
            size = 0  # more of a message is here than one feed gives, and it is wanted whole
        if others is None and decoder.failure is not None:
            return []
        return others

    cdef int _keep(self, list messages) except -1:
        self.heard_what = "a message"
        if self.messages is None:
            self.messages = messages
        else:
            self.messages += messages
        return 0

    cpdef take(self):
        """Return the next message, None when a reader has to wait for it."""
        cdef list messages = self.messages
        if messages is None:
            self.reader = WAITING
            self.unread = 0
            return None
        self.took()
        message = messages[self._at]
        messages[self._at] = None
        self._at += 1
        if self._at == len(messages):
            self.messages = None
            self._at = 0
            self.unread = 0
        return message

    cpdef void took(self) noexcept:
        """Take note that the reader has something to answer."""
        self.reader = WORKING
        if self.taken_at < self.heard_at:
            self.taken_at = self.heard_at

    cpdef void sent(self) noexcept:
        """Take note that a message was sent: it may be the answer, or a part of it."""
        if self.reader == WORKING:
            self.reader = ANSWERED

    def keep(self, Py_ssize_t count):
        """Forget all messages but the ``count`` oldest."""
        if self.messages is None:
            return
        del self.messages[self._at + count:]
        if self._at == len(self.messages):
            self.messages = None
            self._at = 0


cdef list without_messages(list items, list others):
    """Move what is no message from ``items`` to ``others``."""
    cdef list found = [item for item in items if not (type(item) is str or type(item) is bytes)]
    items[:] = [item for item in items if type(item) is str or type(item) is bytes]
    return found if others is None else others + found


cdef inline const uint8_t *octets_of(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)
