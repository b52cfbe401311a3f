# cython: language_level=3
"""What other native modules may call in C of the poller."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from koko.aio._native_fast_path cimport DirectTransport


cdef enum:
    MUCH = 262144  # bytes read at once

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN, EPOLLOUT

cdef object failure()
cdef Poller poller_of(loop)


cdef class Watched(DirectTransport):
    cdef int _fd  # -1 once it is closed
    cdef uint32_t _interest  # 0 while it is not watched
    cdef object _loop
    cdef object _context  # the contextvars of its maker; events are served in it, as by any loop
    cdef Poller _poller

    cdef int ready(self, uint32_t events) except -1
    cdef int fail(self, error) except -1
    cdef int watch(self, uint32_t interest) except -1
    cdef bint may_enter(self) noexcept
    cdef int serve(self, uint32_t events) except -1


@cython.final
cdef class Poller:
    cdef int _epoll
    cdef list _watched  # by descriptor
    cdef bint _spares_one  # a connection is watched by the loop itself
    cdef uint8_t *_octets  # the buffer of all reads: valid until the next one
    cdef object __weakref__

    cdef int watch(self, Watched watched, uint32_t interest) except -1
