# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The short way of a message on threads: ``_reflex``, compiled.

The twin of ``_reflex.py``, to be read against it: the same names in the same order. What
it does by itself here is the case of nearly every message; wherever anything else is to
be seen to, nothing has been done and the driver's own ``receive`` and ``write`` are called.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from koko.core._native cimport Encoder
from koko.core._native_inbox cimport Inbox

import os
import threading
from time import monotonic

from koko.core.lifecycle import State
from koko.sync.message_lock import MessageLock
from koko.sync.locks import retake
from koko.sync.transport import PlainStream, broken_by

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident()

cdef extern from "<sys/socket.h>" nogil:
    """
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    """
    enum:
        MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t recv(int fd, void *room, size_t size, int flags)
    ssize_t send(int fd, const void *octets, size_t size, int flags)

cdef enum:
    LITTLE = 1024  # bytes asked of the system at once; a thread that waits holds no more
    MUCH = 65536  # where more came the last time, or from which a write takes its time

cdef object OPEN = State.OPEN


cdef class Reflex:
    """The half of a ``Driver`` that every message passes through."""

    cdef readonly object core
    cdef readonly object stream
    cdef readonly object lock
    cdef readonly object message_lock
    cdef public object read_deadline
    cdef public object write_deadline
    cdef public bint handling
    cdef public unsigned long corked_by  # the thread whose messages are gathered
    cdef public Py_ssize_t _gathered  # bytes of it
    cdef public unsigned long _receiver  # the thread that receives
    cdef public bint _reading  # somebody is in the socket
    cdef public Py_ssize_t _followers  # threads that wait for what he finds
    cdef public bint _writing
    cdef public Py_ssize_t _queued  # threads that wait to write
    cdef public bint _mute
    cdef object _acquire, _release
    cdef object _interrupt  # what came while the lock was taken back, until all is in its place
    cdef int _fd  # -1 where the stream is more than a socket
    cdef bint _much
    cdef Inbox _inbox
    cdef Encoder _encoder  # None where messages are compressed
    cdef object _life
    cdef list _owed

    def __init__(self, core, stream):
        self.core = core
        self.stream = stream
        self.lock = threading.RLock()  # a handler may send: it is called with the lock held
        self.message_lock = MessageLock(core, self.lock)
        self._acquire, self._release = self.lock.acquire, self.lock.release
        self._fd = stream.socket.fileno() if type(stream) is PlainStream and stream.is_bare else -1
        self._inbox = core.inbox
        self._encoder = core.outbox.encoder if core.outbox.deflater is None else None
        self._life = core.life
        self._owed = core.owed

    def next_message(self):
        """Return the next message, waiting for it if necessary."""
        message = None
        if self._fd >= 0 and self.read_deadline is None:
            self._acquire()
            try:
                if not (self._receiver or self.handling or self._gathered):
                    message = self.quick_message()
            finally:
                self._release()
        return self.receive(None, self.core.next_message) if message is None else message

    def write_message(self, int kind, message):
        """Write a message, whole, when it is our turn."""
        if self._fd >= 0 and self._encoder is not None and self.write_deadline is None:
            self._acquire()
            try:
                if self.may_write():
                    self.quick_write(self._encoder.frame_of(kind, message, True, False))
                    return
            finally:
                self._release()
        self.write(None, self.core.send, kind, message)

    # How it works inside; the lock is held on entry and on exit

    cdef object quick_message(self):
        """Return the next message, None where that takes more than reading the socket."""
        cdef Inbox inbox = self._inbox
        self._receiver = PyThread_get_thread_ident()
        try:
            while inbox.plain and self.read_deadline is None:  # a handler may have set one
                message = inbox.take()
                if message is not None:
                    if inbox._messages is None and inbox.decoder.has_backlog():
                        self.core.catch_up()
                    return message
                if self._reading or self.stream.pending or not self.read():
                    break
        finally:
            self._receiver = 0
            if self._owed:
                self.flush()
            if not inbox.plain and self.core.ending is not None:
                self.part()
        return None

    cdef bint read(self) except -1:
        """Wait for what the peer sends and feed it; False when that was the end."""
        cdef uint8_t little[LITTLE]
        cdef uint8_t *room = little
        cdef Py_ssize_t size
        if self._much:
            room = <uint8_t *>malloc(MUCH)
            if room == NULL:
                raise MemoryError
        try:
            size = self.receive_into(room, MUCH if self._much else LITTLE)
            if size > 0:
                self._much = size >= LITTLE
                self.feed(room, size)
        finally:
            if room != little:
                free(room)
        if size <= 0:
            self._take(b"")
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt
        return size > 0

    cdef Py_ssize_t receive_into(self, uint8_t *room, Py_ssize_t most) except -2:
        cdef Py_ssize_t size
        self._reading = True
        self._release()
        try:
            while True:
                PyErr_CheckSignals()  # a signal that came while nobody waited interrupts nothing
                with nogil:
                    size = recv(self._fd, room, most, 0)
                if size >= 0 or errno != EINTR:
                    break
            if size < 0:
                self._why = broken_by(OSError(errno, os.strerror(errno)))
        finally:
            self._interrupt = retake(self._acquire)
            self._reading = False
            if self._followers:
                self._news.notify_all()
        return size

    cdef int feed(self, const uint8_t *octets, Py_ssize_t size) except -1:
        now = monotonic()
        if not self._inbox.plain:
            self.core.feed(octets[:size], now)
        else:
            others = self._inbox.feed_octets(octets, size, now)
            if others is None:
                return 0
            self.core.handle(others, now)
        if self._owed or self.stream.pending:
            self.flush()
        if self.core.ending is not None:
            self.part()
        return 0

    cdef bint may_write(self) except -1:
        """True when a message can be written at once, and nothing is before it."""
        if self.handling or self._writing or self._owed or self._life.state is not OPEN:
            return False
        if self.message_lock.holder is not None or self.stream.pending:
            return False
        return not self.corked_by or self.corked_by != PyThread_get_thread_ident()

    cdef int quick_write(self, bytes frame) except -1:
        cdef const char *octets = PyBytes_AS_STRING(frame)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        cdef Py_ssize_t taken
        if size < MUCH:
            taken = send(self._fd, octets, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            with nogil:
                taken = send(self._fd, octets, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if taken < size:  # what went wrong shows itself again
            self._owed.append(frame[taken:] if taken > 0 else frame)
            self.write_rest()
        return 0
