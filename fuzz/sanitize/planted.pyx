# cython: language_level=3
"""Faults on purpose, one of each kind: a run that does not see them sees nothing else either."""

cimport cython
from libc.limits cimport INT_MAX
from libc.stdlib cimport free, malloc


@cython.final
cdef class Called:
    cdef object holder
    cdef int count

    cdef int arrived(self) except -1:
        self.holder.called = None
        self.count += 1  # freed by now
        return self.count


cdef class Holder:
    cdef public Called called


def freed():
    """Free an object under its own method, as a task that it wakes could."""
    cdef Holder holder = Holder()
    cdef Called called = Called.__new__(Called)
    called.holder = holder
    holder.called = called
    called = None
    return holder.called.arrived()


def beyond():
    """Read one byte more than there is."""
    cdef unsigned char *octets = <unsigned char *>malloc(16)
    cdef volatile int at = 16
    found = octets[at]
    free(octets)
    return found


def overflow():
    """Add beyond the greatest int."""
    cdef volatile int most = INT_MAX
    return most + 1
