# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False, nonecheck=True
"""One epoll for all sockets of an event loop, watched by the loop's own epoll: Linux only.

A loop calls Python for every socket that is ready. It calls this poller once for all of them,
and each socket is served in C, in the context of its maker. ``_native_transport`` knows what
the sockets are for.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

import os
from weakref import WeakKeyDictionary, ref

from koko.aio.forking import disown

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    ctypedef struct PyTypeObject:
        pass
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    PyTypeObject *Py_TYPE(object loop)
    PyObject *_PyType_Lookup(PyTypeObject *kind, object name)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int what, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int room, int timeout)

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <poll.h>
    """

cdef extern from "<poll.h>" nogil:
    enum:
        POLLRDHUP
    struct pollfd:
        int fd
        short events, revents
    int poll(pollfd *each, unsigned long count, int timeout)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    BATCH = 256

_pollers = WeakKeyDictionary()  # by loop


def _start_anew():
    for known in tuple(_pollers.values()):
        poller = known()
        if poller is not None:
            poller._start_anew()


os.register_at_fork(after_in_child=_start_anew)


cdef object failure():
    """Return the OSError of the last system call."""
    return OSError(errno, os.strerror(errno))


def has_hung_up(int descriptor):
    """Do what ``koko.hung_up.has_hung_up`` does, in C."""
    cdef pollfd asked
    asked.fd, asked.events, asked.revents = descriptor, POLLRDHUP, 0
    return descriptor >= 0 and poll(&asked, 1, 0) > 0


cdef class Watched(DirectTransport):
    """A descriptor that a poller may watch.

    It is a DirectTransport too, since an extension class has only one base.
    """

    def __cinit__(self, *rest):
        self._fd = -1  # not 0, which is an open file: an object that is half made closes nothing

    cdef int ready(self, uint32_t events) except -1:
        """Read, write or accept, as the events say."""
        raise NotImplementedError

    cdef int fail(self, error) except -1:
        """Handle an error that ``ready`` raised."""
        raise NotImplementedError

    cdef int watch(self, uint32_t interest) except -1:
        """Watch for these events from now on, and no others."""
        if interest != self._interest:
            self._poller.watch(self, interest)
        return 0

    cdef bint may_enter(self) noexcept:
        """Do what ``tasks.may_enter`` does, if no task is running.

        Asked each time, in 25 instructions: nest_asyncio may patch a loop's class at any time.
        """
        return _PyType_Lookup(Py_TYPE(self._loop), "_nest_patched") == NULL

    cdef int serve(self, uint32_t events) except -1:
        """Handle events. The loop calls this, so no task is running."""
        PyContext_Enter(self._context)
        try:
            self.ready(events)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error)
        finally:
            PyContext_Exit(self._context)
        return 0


cdef class Poller:
    """All sockets of one loop, in one epoll that the loop watches.

    Both are level-triggered: a socket that is not read to its end is reported again. Sockets
    beyond one batch wait for the loop's next turn, so that other callbacks can run.
    """

    def __cinit__(self):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise failure()
        self._watched = []
        self._octets = <unsigned char *>malloc(MUCH)
        if self._octets == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)
        free(self._octets)

    cdef int watch(self, Watched watched, uint32_t interest) except -1:
        cdef int fd = watched._fd
        cdef int what
        cdef epoll_event event
        if not interest:
            what = EPOLL_CTL_DEL
        else:
            what = EPOLL_CTL_MOD if watched._interest else EPOLL_CTL_ADD
        event.events = interest
        event.data.fd = fd
        if epoll_ctl(self._epoll, what, fd, &event) < 0 and what != EPOLL_CTL_DEL:
            raise failure()
        if what == EPOLL_CTL_ADD:
            while len(self._watched) <= fd:
                self._watched.append(None)
            self._watched[fd] = watched
        elif what == EPOLL_CTL_DEL:
            self._watched[fd] = None
        watched._interest = interest
        return 0

    def _start_anew(self):
        """Make a new epoll in a child of fork: the old one, and its sockets, are the parent's."""
        cdef Watched watched
        cdef int own = epoll_create1(EPOLL_CLOEXEC)
        if own >= 0:
            os.dup2(own, self._epoll, inheritable=False)
            close(own)
        everything, self._watched = self._watched, []
        for watched in everything:
            if watched is not None:
                watched._interest = 0
                disown(watched._fd)

    def _run(self):
        """Serve the sockets that are ready."""
        cdef epoll_event events[BATCH]
        cdef Watched watched
        cdef int i, count = epoll_wait(self._epoll, events, BATCH, 0)
        for i in range(count):
            if events[i].data.fd >= len(self._watched):
                continue
            watched = self._watched[events[i].data.fd]
            if watched is not None:  # None: an earlier one in this batch has closed it
                watched.serve(events[i].events)


cdef Poller poller_of(loop):
    """Return the poller of a loop; raise NotImplementedError if it cannot watch descriptors."""
    known = _pollers.get(loop)
    cdef Poller poller = None if known is None else known()
    if poller is None:
        poller = Poller()
        loop.add_reader(poller._epoll, poller._run)  # the loop now keeps the poller alive
        _pollers[loop] = ref(poller)
    return poller
