# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What came and waits to be read: ``_inbox``, compiled.

The twin of ``_inbox.py``, to be read against it: the same names in the same order. The
messages lie in a list, read from ``_at`` on; when the last one is taken it is made empty.
"""

cimport cython

@cython.final
cdef class Inbox:
    """Whole messages that nobody has read yet, oldest first.

    Attributes:
        decoder: what makes messages of the peer's bytes.
        plain: True while a message is all that a reader can find; where it is False, the
            connection has something else to tell him.
        unread: bytes fed since a reader last found nothing.
        reader_away: True when the last reader took a message and has not come for another.
        heard_at, heard_what: when the peer was last heard, and what it said.
    """

    cdef readonly object decoder
    cdef public bint plain
    cdef public Py_ssize_t unread
    cdef public bint reader_away
    cdef public double heard_at
    cdef public object heard_what
    cdef list _messages  # None while there are none
    cdef Py_ssize_t _at  # the first that was not taken

    def __cinit__(self, decoder, double now):
        self.decoder = decoder
        self.plain = True
        self.heard_at = now
        self.heard_what = "the opening handshake"

    def __len__(self):
        return 0 if self._messages is None else len(self._messages) - self._at

    @property
    def backlog(self):
        """True when the last message has been taken and more can be had without new bytes."""
        return self._messages is None and self.decoder.backlog

    def feed(self, bytes data not None, double now):
        """Take bytes from the peer, keep the messages in them and return what else they hold.

        None means nothing but messages, or parts of one. A violation is the decoder's to tell.
        """
        self.heard_at = now
        self.unread += len(data)
        return self.parse(data)

    cpdef parse(self, bytes data):
        """Do as ``feed``, for what has been fed before."""
        cdef list items
        cdef list others = None
        while True:
            items = self.decoder.feed(data)
            for item in items:
                if type(item) is str or type(item) is bytes:
                    if self._messages is None:
                        self._messages = []
                    self._messages.append(item)
                    self.heard_what = "a message"
                elif others is None:
                    others = [item]
                else:
                    others.append(item)
            if self._messages is not None or not self.plain or not self.decoder.backlog:
                break
            data = b""  # more of a message is here than one feed gives, and it is wanted whole
        if others is None and self.decoder.failure is not None:
            return []
        return others

    cpdef take(self):
        """Return the next message, None when a reader has to wait for it."""
        cdef list messages = self._messages
        if messages is None:
            self.reader_away = False
            self.unread = 0
            return None
        self.reader_away = True
        message = messages[self._at]
        messages[self._at] = None
        self._at += 1
        if self._at == len(messages):
            self.clear()
        return message

    cpdef clear(self):
        """Forget the messages."""
        self._messages = None
        self._at = 0
        self.unread = 0
