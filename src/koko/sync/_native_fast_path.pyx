# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The fast path of a message on threads: a short cut beside ``reader`` and ``writer``.

It serves the case of nearly every message: a plain socket, no other thread at work, no
deadline. In every other case it does nothing, or leaves what it did where the general way
finds it, and calls that. The general way is complete by itself and never calls in here.

The seam between the two is this, and nothing else:

- ``Turns``, which both of them read and write, with the names of ``monitor.Turns``.
- Before a receive: the inbox is ``only_messages``. A deadline for reads ends that.
- Before a send: the connection is open and owes nothing, the stream has nothing ``pending``,
  the message lock has neither a ``message`` nor a ``deadline``.
- The general way: ``Reader.receive``, ``Writer.write``, ``Writer.write_rest``, and with the lock
  held ``Link.settle``, ``Link.flush``, ``Link.tell``, ``Link.feed`` and
  ``Link.failed``.

An interrupt comes out only where it is asked for: Python looks for signals between two
steps of its own, not of C. So a ``finally`` in here always runs to its end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Size
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from koko.core._native cimport Encoder
from koko.core._native_inbox cimport Inbox

import os
import threading

from koko.core.lifecycle import State
from koko.sync.monitor import PARSING, READING

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


cdef class Turns:
    """Who does what on one connection at the moment; see ``monitor.Turns``."""

    cdef readonly object lock
    cdef public unsigned long inside
    cdef public object receiver
    cdef public object reader
    cdef public object writer
    cdef public object under_way
    cdef public bint overdue
    cdef public unsigned long corked_by

    def __cinit__(self):
        self.lock = threading.RLock()


cdef class FastPath:
    """The two verbs that nearly every message passes through."""

    cdef Turns _turns
    cdef object _link, _reader, _writer, _stream, _core, _message_lock
    cdef object _acquire, _release, _number, _now
    cdef object _interrupt  # what came while the lock was taken back, until all is in its place
    cdef list _role  # of the thread that came last
    cdef unsigned long _thread  # that thread
    cdef bint _much
    cdef Inbox _inbox
    cdef Encoder _encoder  # None where messages are compressed
    cdef object _life
    cdef list _owed
    cdef dict _followers

    def __cinit__(self, Turns turns not None, link, reader, writer):
        core, stream = link.core, link.stream
        self._turns = turns
        self._link, self._reader, self._writer = link, reader, writer
        self._stream, self._core = stream, core
        self._message_lock = link.message_lock
        self._acquire, self._release = turns.lock.acquire, turns.lock.release
        self._number = stream.socket.fileno
        self._now = link.clock.now
        self._inbox = core.inbox
        self._encoder = core.outbox.encoder if core.outbox.deflater is None else None
        self._life = core.life
        self._owed = core.owed
        self._followers = link.news.tickets

    def next_message(self):
        """Return the next message, waiting for it if necessary."""
        cdef unsigned long me = PyThread_get_thread_ident()
        message = None
        if self._turns.inside != me:
            self._acquire()
            self._turns.inside = me
            try:
                if self.may_receive():
                    message = self.quick_message(me)
            finally:
                self._turns.inside = 0
                self._release()
        return self._reader.receive(None, self._core.next_message) if message is None else message

    def write_message(self, int kind, message):
        """Write a message, whole, when it is our turn."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef bint written = False, whole = False
        if self._encoder is not None and self._turns.inside != me:
            self._acquire()
            self._turns.inside = me
            try:
                if self.may_write(me):
                    written = True
                    whole = self.quick_write(self._encoder.frame_of(kind, message, True, False))
            finally:
                self._turns.inside = 0
                self._release()
        if not written:
            self._writer.write(None, self._core.send, kind, message)
        elif not whole:
            self._writer.write_rest()

    # How it works inside; the lock is held on entry and on exit

    cdef bint may_receive(self) noexcept:
        if self._turns.receiver is not None or self._turns.under_way is not None:
            return False
        if self._turns.overdue or PyList_GET_SIZE(self._owed):
            return False
        return self._inbox.only_messages

    cdef object quick_message(self, unsigned long me):
        """Return the next message, None where that takes more than reading the socket."""
        cdef Inbox inbox = self._inbox
        if self._thread != me:
            self._thread, self._role = me, [me]
        self._turns.receiver = self._role
        if inbox.unread and len(inbox):
            inbox.taken_at = self._now()  # it may have waited long
        try:
            while inbox.only_messages:
                message = inbox.take()
                if message is not None:
                    if inbox.decoder.has_backlog() and not len(inbox):
                        self._core.catch_up()
                    return message
                if self._turns.reader is not None or self._stream.pending or not self.read(me):
                    break
        finally:
            self._turns.receiver = None
            if PyList_GET_SIZE(self._owed) or not inbox.only_messages:
                self._link.settle()
        return None

    cdef bint read(self, unsigned long me) except -1:
        """Wait for what the peer sends and feed it; False when there is nothing to feed."""
        cdef uint8_t little[LITTLE]
        cdef uint8_t *room = little
        cdef Py_ssize_t size
        if self._much:
            room = <uint8_t *>malloc(MUCH)
            if room == NULL:
                raise MemoryError
        try:
            size = self.receive_into(room, MUCH if self._much else LITTLE, me)
            if size > 0:
                self._much = size >= LITTLE
                self.feed(room, size)
        finally:
            if room != little:
                free(room)
        if PyDict_Size(self._followers):
            self._link.tell()
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt
        return size > 0

    cdef Py_ssize_t receive_into(self, uint8_t *room, Py_ssize_t most, unsigned long me) except -2:
        """Return how many bytes came, 0 where the general way has to look."""
        cdef Py_ssize_t size = -1
        cdef int fd = self._number(), error = 0
        if fd < 0:  # the application has closed it: the number may be another's
            return 0
        self._turns.reader = self._role
        self._turns.inside = 0
        self._release()
        try:
            while True:
                PyErr_CheckSignals()  # a signal that came while nobody waited interrupts nothing
                with nogil:
                    size = recv(fd, room, most, 0)
                    error = errno
                if size >= 0 or error != EINTR:
                    break
        finally:
            self.take_back()
            self._turns.inside = me
            self._turns.reader = None
        if size < 0 and error != EAGAIN:
            self._link.failed(OSError(error, os.strerror(error)))
            self._link.feed(b"")
        return max(size, 0)

    cdef int take_back(self) except -1:
        while True:
            try:
                self._acquire()
                return 0
            except BaseException as error:
                self._interrupt = error

    cdef int feed(self, const uint8_t *octets, Py_ssize_t size) except -1:
        if not self._inbox.only_messages:
            self._link.feed(octets[:size])
            return 0
        now = self._now()
        try:
            others = self._inbox.feed_octets(octets, size, now)
        except BaseException:  # a signal handler's: nothing else here fails
            self._turns.under_way = PARSING if self._inbox.decoder.interrupted else READING
            raise
        if others is not None:
            self._turns.under_way = READING
            self._core.handle(others, now)
            self._turns.under_way = None
        if PyList_GET_SIZE(self._owed):
            self._link.flush()
        return 0

    cdef bint may_write(self, unsigned long me) except -1:
        """True when a message can be written at once, and nothing is before it."""
        if self._turns.writer is not None or self._turns.under_way is not None:
            return False
        if self._turns.overdue or self._turns.corked_by == me:
            return False
        if PyList_GET_SIZE(self._owed) or self._life.state is not OPEN:
            return False
        if self._message_lock.message is not None or self._message_lock.deadline is not None:
            return False
        return not self._stream.pending

    cdef bint quick_write(self, bytes frame) except -1:
        """Write what leaves at once of a message; False when something is left to be written."""
        cdef const char *octets = PyBytes_AS_STRING(frame)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        cdef Py_ssize_t taken = -1
        cdef int fd = self._number()
        if fd >= 0:
            if size < MUCH:
                taken = send(fd, octets, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            else:
                with nogil:
                    taken = send(fd, octets, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        self._inbox.sent()
        if taken == size:
            return True
        # What went wrong shows itself again.
        self._owed.append(frame[taken:] if taken > 0 else frame)
        return False

