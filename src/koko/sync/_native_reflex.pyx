# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The fast path of a message on threads: ``Turns`` whose holder also receives and sends.

What it does by itself is the case of nearly every message: a plain socket, nobody else at
work, no clock to be looked at. Wherever anything else is to be seen to, nothing has been
done and the driver's own way is taken, which is complete without this one.

No interrupt falls in here but where one is asked for: Python looks for signals between two
steps of its own, not of C. So a ``finally`` in here is always run, to its end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Size
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from koko.core._native cimport Encoder
from koko.core._native_inbox cimport Inbox

import os
import threading
from time import monotonic

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


cdef class FastPath:
    """``Turns`` of one connection, and the two verbs that every message passes through."""

    cdef readonly object lock
    cdef public unsigned long inside
    cdef public object receiver
    cdef public object reader
    cdef public object writer
    cdef public object under_way
    cdef public bint overdue
    cdef public unsigned long corked_by
    cdef public Py_ssize_t gathered
    cdef public object read_deadline
    cdef public object write_deadline
    cdef object _driver, _stream, _core, _message_lock
    cdef object _acquire, _release, _number
    cdef object _interrupt  # what came while the lock was taken back, until all is in its place
    cdef list _role  # of the thread that came last
    cdef unsigned long _thread  # that thread
    cdef bint _much
    cdef Inbox _inbox
    cdef Encoder _encoder  # None where messages are compressed
    cdef object _life
    cdef list _owed
    cdef dict _followers

    def __cinit__(self, driver):
        core, stream = driver.core, driver.stream
        self.lock = threading.RLock()
        self._driver, self._stream, self._core = driver, stream, core
        self._message_lock = driver.message_lock
        self._acquire, self._release = self.lock.acquire, self.lock.release
        self._number = stream.socket.fileno
        self._inbox = core.inbox
        self._encoder = core.outbox.encoder if core.outbox.deflater is None else None
        self._life = core.life
        self._owed = core.owed
        self._followers = driver.news.tickets

    def next_message(self):
        """Return the next message, waiting for it if necessary."""
        cdef unsigned long me = PyThread_get_thread_ident()
        message = None
        if self.read_deadline is None and self.inside != me:
            self._acquire()
            self.inside = me
            try:
                if self.may_receive():
                    message = self.quick_message(me)
            finally:
                self.inside = 0
                self._release()
        return self._driver.reader.receive(None, self._core.next_message) if message is None else message

    def write_message(self, int kind, message):
        """Write a message, whole, when it is our turn."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef bint written = False, whole = False
        if self._encoder is not None and self.write_deadline is None and self.inside != me:
            self._acquire()
            self.inside = me
            try:
                if self.may_write(me):
                    written = True
                    whole = self.quick_write(self._encoder.frame_of(kind, message, True, False))
            finally:
                self.inside = 0
                self._release()
        if not written:
            self._driver.writer.write(None, self._core.send, kind, message)
        elif not whole:
            self._driver.writer.write_rest()

    # How it works inside; the lock is held on entry and on exit

    cdef bint may_receive(self) noexcept:
        if self.receiver is not None or self.under_way is not None:
            return False
        return not self.gathered and not self.overdue

    cdef object quick_message(self, unsigned long me):
        """Return the next message, None where that takes more than reading the socket."""
        cdef Inbox inbox = self._inbox
        if self._thread != me:
            self._thread, self._role = me, [me]
        self.receiver = self._role
        if inbox._messages is not None:
            inbox.taken_at = monotonic()  # it may have waited long
        try:
            while inbox.only_messages and self.read_deadline is None:  # a handler may have set one
                message = inbox.take()
                if message is not None:
                    if inbox._messages is None and inbox.decoder.has_backlog():
                        self._core.catch_up()
                    return message
                if self.reader is not None or self._stream.pending or not self.read(me):
                    break
        finally:
            self.receiver = None
            if self._owed or not inbox.only_messages:
                self._driver.settle()
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
            self._driver.reader.tell()
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt
        return size > 0

    cdef Py_ssize_t receive_into(self, uint8_t *room, Py_ssize_t most, unsigned long me) except -2:
        """Return how many bytes came, 0 where the driver has to look."""
        cdef Py_ssize_t size = -1
        cdef int fd = self._number(), error = 0
        if fd < 0:  # the application has closed it: the number may be another's
            return 0
        self.reader = self._role
        self.inside = 0
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
            self.inside = me
            self.reader = None
        if size < 0 and error != EAGAIN:
            self._driver.reader.failed(OSError(error, os.strerror(error)))
            self._driver.reader.feed(b"")
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
            self._driver.reader.feed(octets[:size])
            return 0
        now = monotonic()
        try:
            others = self._inbox.feed_octets(octets, size, now)
        except BaseException:  # a signal handler's: nothing else here fails
            self.under_way = PARSING if self._inbox.decoder._found is not None else READING
            raise
        if others is not None:
            self.under_way = READING
            self._core.handle(others, now)
            self.under_way = None
        if others is not None or self._stream.pending:
            self._driver.settle()
        return 0

    cdef bint may_write(self, unsigned long me) except -1:
        """True when a message can be written at once, and nothing is before it."""
        if self.writer is not None or self.under_way is not None or self.overdue:
            return False
        if self._owed or self._life.state is not OPEN:
            return False
        if self._message_lock.holder is not None or self._stream.pending:
            return False
        return not self.corked_by or self.corked_by != me

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

