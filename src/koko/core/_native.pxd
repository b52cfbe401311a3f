# cython: language_level=3
"""What other native modules may call in C of the native codec."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef struct Utf8:
    uint8_t need  # continuation bytes to come
    uint8_t low  # the least that the next of them may be
    uint8_t high  # the greatest


@cython.final
cdef class Decoder:
    cdef readonly object failure
    cdef Py_ssize_t others  # how many items of the last feed were no whole messages
    cdef object _inflater
    cdef object _read_limit
    cdef bytes _tail
    cdef Py_ssize_t _taken  # how much of what is being parsed must not be parsed again
    cdef bint _steady  # what is called now may fail, and all that is kept is as it was
    cdef list _found  # what a feed had found that was interrupted then
    cdef bytes _control
    cdef bytes _message  # still growing, None between messages; nobody else has seen it
    cdef Py_ssize_t _filled  # how much of it is there
    cdef uint64_t _limit  # read_limit as a number
    cdef uint64_t _wire
    cdef uint64_t _size
    cdef int64_t _hold
    cdef int64_t _held
    cdef int64_t _left  # < 0 between frames
    cdef uint8_t _key[4]
    cdef uint8_t _at  # how far into the key
    cdef uint8_t _opcode
    cdef uint8_t _kind  # 0 between messages
    cdef Utf8 _utf8
    cdef uint8_t _peer_masks, _done, _final, _compressed, _draining, _streaming

    cdef bint has_backlog(self) noexcept
    cdef int feed_octets(self, const uint8_t *octets, Py_ssize_t size, list items) except -1
    cdef Py_ssize_t _parse(self, const uint8_t *data, Py_ssize_t size, list items) except -1
    cdef int _give_found(self, list items) except -1
    cdef Py_ssize_t _read_head(self, const uint8_t *data, Py_ssize_t size) except -2
    cdef int _check_first(self, uint8_t first, uint8_t opcode) except -1
    cdef int _check_control(self, uint8_t first, uint8_t opcode, uint64_t length) except -1
    cdef Py_ssize_t _read_length(
        self, const uint8_t *data, Py_ssize_t size, uint64_t *length
    ) except -2
    cdef int _begin_frame(self, uint8_t first, uint8_t opcode, uint64_t length) except -1
    cdef int _check_limit(self, uint64_t size) except -1
    cdef int _read_payload(self, const uint8_t *payload, Py_ssize_t size, list items) except -1
    cdef bytes _unmasked(self, const uint8_t *payload, Py_ssize_t size, uint8_t at)
    cdef int _finish_control(self, list items) except -1
    cdef int _inflate(self, list items) except -1
    cdef int _append(
        self, const uint8_t *payload, Py_ssize_t size, const uint8_t *key, uint8_t at
    ) except -1
    cdef uint8_t *_grow(self, Py_ssize_t size) except NULL
    cdef int _resize(self, Py_ssize_t size) except -1
    cdef bytes _take(self)
    cdef int _finish(self, list items) except -1
    cdef int _give(self, bytes message, list items) except -1
    cdef int _give_whole(self, const uint8_t *payload, Py_ssize_t size, list items) except -1
    cdef object _unmasked_text(self, const uint8_t *payload, Py_ssize_t size)
    cdef void _end_message(self, Py_ssize_t size) noexcept
    cdef int _hand_on(self, list items) except -1


@cython.final
cdef class Encoder:
    cdef public int64_t bytes_out
    cdef bytes _keys
    cdef Py_ssize_t _drawn  # how many of their bytes were used
    cdef bint _masks

    cdef bytes frame_of(self, uint8_t opcode, payload, bint fin, bint rsv1)
    cdef bytes _frame_of_buffer(self, uint8_t first, payload)
    cdef bytes _frame(self, uint8_t first, const uint8_t *payload, Py_ssize_t size)
    cdef void _write_head(self, uint8_t *to, uint8_t first, uint64_t length) noexcept
    cdef int _next_key(self, uint8_t *to) except -1
