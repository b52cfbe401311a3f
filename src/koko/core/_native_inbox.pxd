# cython: language_level=3
"""What other native modules may call in C of the native inbox."""

cimport cython
from libc.stdint cimport int64_t, uint8_t

from koko.core._native cimport Decoder


cdef enum:  # what a reader is at, as in ``lifecycle``
    WAITING = 0
    WORKING = 1
    ANSWERED = 2


@cython.final
cdef class Inbox:
    cdef readonly Decoder decoder
    cdef public bint only_messages
    cdef readonly int64_t bytes_in
    cdef public Py_ssize_t unread
    cdef public int reader
    cdef public double taken_at
    cdef public double heard_at
    cdef public object heard_what
    cdef list messages  # None while there are none
    cdef Py_ssize_t _at  # the first that was not taken

    cdef list feed_octets(self, const uint8_t *octets, Py_ssize_t size, double now)
    cdef list _sort(self, const uint8_t *octets, Py_ssize_t size)
    cdef int _keep(self, list messages) except -1
    cpdef take(self)
    cpdef void took(self) noexcept
    cpdef void sent(self) noexcept
