# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Sockets of an event loop, read and written without going through it: Linux only.

A loop calls Python for every socket that is ready, and again to write. Here one epoll
holds all sockets of a loop, and the loop watches nothing but that: what is ready is read
into one buffer and handed on in C. To those above, ``SocketTransport`` is a transport as
any loop's own; where this module is not built, the loop's own is what they get. Nothing
about WebSocket is known here.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

from koko.aio._native_reflex cimport Line, Reflex

import asyncio
import errno as eno
import os
import socket
import warnings
from asyncio.trsock import TransportSocket
from contextvars import copy_context
from weakref import WeakKeyDictionary, ref

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int what, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int room, int timeout)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        AF_INET, AF_INET6, INET6_ADDRSTRLEN
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_in:
        uint16_t sin_port
        uint32_t sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo, sin6_scope_id
        uint8_t sin6_addr
    struct sockaddr_storage:
        pass

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *room, unsigned size)
    uint16_t ntohs(uint16_t port)
    uint32_t ntohl(uint32_t flow)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK
    ssize_t recv(int fd, void *room, size_t size, int flags)
    ssize_t send(int fd, const void *octets, size_t size, int flags)
    int accept4(int fd, sockaddr *address, unsigned *size, int flags)
    int shutdown(int fd, int how)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

READ = 1 << 18  # bytes read at once
HIGH_WATER = 1 << 16  # bytes unsent from which a protocol is asked to pause, as asyncio's
LOW_WATER = 1 << 14  # bytes unsent from which it may go on
ACCEPTED = 64  # connections taken at once
RETRY = 1.0  # seconds until another try to accept, after one that failed for want of something

cdef enum:
    BATCH = 256

cdef Py_ssize_t ROOM = READ
cdef int MOST = ACCEPTED

# What accept() says of a connection that is gone before it was taken (accept(2)).
cdef object GONE = frozenset({
    eno.ECONNABORTED, eno.EINTR, eno.EPERM, eno.EPROTO, eno.ENETDOWN, eno.ENOPROTOOPT,
    eno.EHOSTDOWN, eno.EHOSTUNREACH, eno.EOPNOTSUPP, eno.ENETUNREACH,
})

_pollers = WeakKeyDictionary()  # of each loop that has sockets here


cdef double monotonic() noexcept:
    """Return what ``time.monotonic`` does."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef object failure():
    """Return the error that the kernel has just given, as Python knows it."""
    return OSError(errno, os.strerror(errno))


cdef class Watched(Line):
    """A descriptor that a poller may watch; a Line as well, since a class in C has one base."""

    cdef int _fd  # -1 once it is closed
    cdef uint32_t _interest  # 0 while it is not watched
    cdef object _loop
    cdef object _context  # of who made it; what is ready is served in it, as by any loop
    cdef Poller _poller

    cdef int ready(self, uint32_t events) except -1:
        """Do what has become possible."""
        raise NotImplementedError

    cdef int fail(self, error) except -1:
        """Take note that ``ready`` raised this."""
        raise NotImplementedError

    cdef int watch(self, uint32_t interest) except -1:
        """Be told of these events from now on, of no other."""
        if interest != self._interest:
            self._poller.watch(self, interest)
        return 0


@cython.final
cdef class Poller:
    """All sockets of one loop, in one epoll that the loop watches.

    Both are level-triggered: whoever does not take everything is told again, and what is
    more than a batch waits for the loop's next turn, so that others have theirs.
    """

    cdef int _epoll
    cdef list _watched  # by descriptor
    cdef uint8_t *_octets  # what was read last, until the next read
    cdef object __weakref__

    def __cinit__(self):
        self._watched = []
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise failure()
        self._octets = <uint8_t *>malloc(ROOM)
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

    def _run(self):
        """Serve those that are ready; the loop calls it, so no task is running."""
        cdef epoll_event events[BATCH]
        cdef Watched watched
        cdef int i, count = epoll_wait(self._epoll, events, BATCH, 0)
        for i in range(count):
            if events[i].data.fd >= len(self._watched):
                continue
            watched = self._watched[events[i].data.fd]
            if watched is None:  # one before it has closed it
                continue
            PyContext_Enter(watched._context)
            try:
                watched.ready(events[i].events)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                watched.fail(error)
            finally:
                PyContext_Exit(watched._context)


cdef Poller poller_of(loop):
    """Return the poller of a loop; NotImplementedError if that can watch no descriptors."""
    known = _pollers.get(loop)
    cdef Poller poller = None if known is None else known()
    if poller is None:
        poller = Poller()
        loop.add_reader(poller._epoll, poller._run)  # from now on it is the loop that holds it
        _pollers[loop] = ref(poller)
    return poller


@cython.final
cdef class SocketTransport(Watched):
    """One connected stream socket: what ``asyncio.Transport`` says, done at once where it can be.

    ``write`` hands to the kernel what it takes; a protocol that is a ``Reflex`` gets what
    arrives without a copy of it. It owns the socket and closes it.
    """

    cdef object _protocol
    cdef Reflex _reflex  # the protocol, if it is one
    cdef object _socket  # made when it is asked for, unless we were given one
    cdef object _local
    cdef object _remote
    cdef list _unsent  # what the peer has no room for yet; None while there is nothing
    cdef Py_ssize_t _unsent_size, _high, _low
    cdef Py_ssize_t _taken  # bytes of the first of them that have left
    cdef bint _protocol_paused, _read_paused, _heard_end, _ends, _lost
    cdef bint _bare  # there is no socket object, which would close the descriptor
    cdef object __weakref__

    def __dealloc__(self):
        if self._fd >= 0:
            if self._bare:
                close(self._fd)
            warnings.warn(f"unclosed transport of descriptor {self._fd}", ResourceWarning)

    # What the poller calls

    cdef int ready(self, uint32_t events) except -1:
        if events & ~EPOLLOUT and self._interest & EPOLLIN:
            self.read()
        if events & ~EPOLLIN and self._interest & EPOLLOUT:
            self.write_on()
        return 0

    cdef int fail(self, error) except -1:
        complaint = "a protocol failed"
        said = {"message": complaint, "exception": error, "transport": self}
        self._loop.call_exception_handler(said)
        self.lose(error)
        return 0

    cdef int read(self) except -1:
        cdef uint8_t *octets = self._poller._octets
        cdef Py_ssize_t size = recv(self._fd, octets, ROOM, 0)
        if size > 0:
            if self._reflex is not None:
                now = monotonic() if self._reflex.ticks else self._reflex.now()
                self._reflex.arrived(octets, size, now, True)
            else:
                self._protocol.data_received(octets[:size])
        elif size == 0:
            self._heard_end = True
            self.rewatch()
            if not self._protocol.eof_received():
                self.close()
        elif errno != EAGAIN and errno != EINTR:
            self.lose(failure())
        return 0

    cdef int write_on(self) except -1:
        """Write what the peer has made room for."""
        cdef bytes octets
        cdef Py_ssize_t size
        while self._unsent:
            octets = self._unsent[0]
            size = PyBytes_GET_SIZE(octets) - self._taken
            size = self.take_off(<uint8_t *>PyBytes_AS_STRING(octets) + self._taken, size)
            if self._lost:
                return 0
            self._unsent_size -= size
            self._taken += size
            if self._taken < PyBytes_GET_SIZE(octets):
                break
            del self._unsent[0]
            self._taken = 0
        if self._protocol_paused and self._unsent_size <= self._low:
            self._protocol_paused = False
            self._protocol.resume_writing()  # and it may write more
        if self._unsent is not None and not self._unsent:
            self._unsent = None
            self.rewatch()
            if self._ends:
                shutdown(self._fd, SHUT_WR)
            if self._closing:
                self.lose(None)
        return 0

    cdef Py_ssize_t take_off(self, const uint8_t *octets, Py_ssize_t size) except -1:
        """Return how many bytes the kernel takes now."""
        cdef Py_ssize_t taken = send(self._fd, octets, size, MSG_NOSIGNAL)
        if taken >= 0:
            return taken
        if errno != EAGAIN and errno != EINTR:
            self.lose(failure())
        return 0

    # Writing

    cdef int put(self, bytes octets) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets)
        cdef Py_ssize_t taken = 0
        if self._closing or not size:
            return 0
        if self._unsent is None:
            taken = self.take_off(<const uint8_t *>PyBytes_AS_STRING(octets), size)
            if taken == size or self._lost:
                return 0
            self._unsent = []
            self._taken = taken
        self._unsent.append(octets)
        self._unsent_size += size - taken
        self.rewatch()
        if self._unsent_size > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()
        return 0

    def write(self, octets):
        """Write ``octets``; what the peer has no room for is kept until it has."""
        if self._ends:
            raise RuntimeError("write() after write_eof()")
        self.put(octets if type(octets) is bytes else bytes(memoryview(octets)))

    def writelines(self, lines):
        """Write them one behind the other."""
        self.write(b"".join(lines))

    def can_write_eof(self):
        return True

    def write_eof(self):
        """End our half of the stream, behind what is unsent."""
        if self._ends or self._closing:
            return
        self._ends = True
        if self._unsent is None and shutdown(self._fd, SHUT_WR) < 0:
            raise failure()

    def get_write_buffer_size(self):
        return self._unsent_size

    def get_write_buffer_limits(self):
        return self._low, self._high

    def set_write_buffer_limits(self, high=None, low=None):
        """Say from how many bytes unsent the protocol pauses, and from how many it goes on."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high={high!r}, low={low!r}: low is not between 0 and high")
        self._high, self._low = high, low

    # Reading

    def is_reading(self):
        return not (self._read_paused or self._closing)

    def pause_reading(self):
        self._read_paused = True
        self.rewatch()

    def resume_reading(self):
        self._read_paused = False
        self.rewatch()

    cdef int rewatch(self) except -1:
        cdef uint32_t interest = 0
        if not (self._read_paused or self._heard_end or self._closing):
            interest |= EPOLLIN
        if self._unsent is not None:
            interest |= EPOLLOUT
        return self.watch(interest)

    # Ending

    def is_closing(self):
        return self._closing

    def close(self):
        """Close the socket once everything is written."""
        if self._closing:
            return
        self._closing = True
        self.rewatch()
        if self._unsent is None:
            self.lose(None)

    def abort(self):
        """Close the socket at once; what is unsent is lost."""
        self.lose(None)

    cdef int lose(self, error) except -1:
        """Have the socket closed, and the protocol told."""
        if self._lost:
            return 0
        self._lost = self._closing = True
        self._unsent = None
        self._unsent_size = 0
        self.watch(0)
        self._loop.call_soon(self._end, error)
        return 0

    def _end(self, error):
        protocol, self._protocol, self._reflex = self._protocol, None, None
        try:
            protocol.connection_lost(error)
        finally:
            if self._bare:
                close(self._fd)
            else:
                self._socket.close()
            self._fd = -1

    # What it stands on

    def set_protocol(self, protocol):
        self._protocol = protocol
        self._reflex = protocol if isinstance(protocol, Reflex) else None

    def get_protocol(self):
        return self._protocol

    def get_extra_info(self, name, default=None):
        """Return "socket", "sockname" or "peername"; the names are known after the end, too."""
        if name == "sockname":
            return self._local
        if name == "peername":
            return self._remote
        if name == "socket" and self._fd >= 0:
            if self._bare:
                self._socket = socket.socket(fileno=self._fd)
                self._bare = False
            return TransportSocket(self._socket)
        return default

    def __repr__(self):
        state = "closed" if self._fd < 0 else "closing" if self._closing else "open"
        return f"<{type(self).__name__} fd={self._fd} {state}>"


cdef object address_in(sockaddr *address):
    """Return an Internet address as Python writes it, None for any other."""
    cdef char room[INET6_ADDRSTRLEN]
    cdef sockaddr_in *four = <sockaddr_in *>address
    cdef sockaddr_in6 *six = <sockaddr_in6 *>address
    if address.sa_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, room, sizeof(room))
        return room.decode(), ntohs(four.sin_port)
    if address.sa_family == AF_INET6:
        inet_ntop(AF_INET6, &six.sin6_addr, room, sizeof(room))
        port, flow = ntohs(six.sin6_port), ntohl(six.sin6_flowinfo)
        return room.decode(), port, flow, six.sin6_scope_id
    return None


cdef SocketTransport transport_on(Poller poller, loop, context, int fd, sock, local, remote):
    cdef SocketTransport transport = SocketTransport.__new__(SocketTransport)
    transport._fd = fd
    transport._loop = loop
    transport._context = context
    transport._poller = poller
    transport._socket = sock
    transport._bare = sock is None
    transport._high, transport._low = HIGH_WATER, LOW_WATER
    transport._local = local
    transport._remote = remote
    return transport


cdef int begin(SocketTransport transport, protocol) except -1:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport.rewatch()


def hasten(sock):
    """Have what is written leave at once, where TCP would wait for more."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def attach(sock, protocol):
    """Give a connected socket to a protocol, on the loop that runs; from now on it is closed here.

    Raises:
        OSError: it is not connected any more; it was closed.
        NotImplementedError: the loop can watch no descriptors; it is as it was.
    """
    loop = asyncio.get_running_loop()
    cdef Poller poller = poller_of(loop)
    sock.setblocking(False)
    try:
        hasten(sock)
        local, remote = sock.getsockname(), sock.getpeername()
    except OSError:
        sock.close()
        raise
    context = copy_context()
    begin(transport_on(poller, loop, context, sock.fileno(), sock, local, remote), protocol)


@cython.final
cdef class Listener(Watched):
    """A listening socket, each of whose connections gets a protocol of its own."""

    cdef readonly object sockets  # this one, for who asks as one asks asyncio.Server
    cdef object _factory
    cdef object _local  # the address of every connection; None where each has its own

    def __init__(self, sock, factory):
        self._loop = asyncio.get_running_loop()
        self._poller = poller_of(self._loop)
        sock.setblocking(False)
        hasten(sock)  # Linux hands it on to the sockets that are accepted
        self.sockets = (sock,)
        self._context = copy_context()
        self._fd = sock.fileno()
        self._factory = factory
        local = sock.getsockname()
        self._local = None if local[0] in ("0.0.0.0", "::") else local
        self.watch(EPOLLIN)

    cdef int ready(self, uint32_t events) except -1:
        cdef sockaddr_storage peer
        cdef unsigned size
        cdef int fd, i
        for i in range(MOST):
            if self._fd < 0:
                break
            size = sizeof(peer)
            fd = accept4(self._fd, <sockaddr *>&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.admit(fd, address_in(<sockaddr *>&peer))
            elif errno == EAGAIN:
                break
            elif errno not in GONE:
                self.pause(failure())
                break
        return 0

    cdef int admit(self, int fd, remote) except -1:
        sock, local = None, self._local
        if local is None or remote is None:
            sock = socket.socket(fileno=fd)
            try:
                local, remote = sock.getsockname(), sock.getpeername()
            except OSError:  # it is gone already
                sock.close()
                return 0
        # As on any loop: what one connection sets in its context is not there for the next.
        context = self._context.copy()
        transport = transport_on(self._poller, self._loop, context, fd, sock, local, remote)
        begin(transport, self._factory())
        return 0

    cdef int fail(self, error) except -1:
        self._loop.call_exception_handler({"message": "accept() failed", "exception": error})
        return 0

    cdef int pause(self, error) except -1:
        said = {"message": "no more connections can be accepted now", "exception": error}
        self._loop.call_exception_handler(said)
        self.watch(0)
        self._loop.call_later(RETRY, self._resume)
        return 0

    def _resume(self):
        if self._fd >= 0:
            self.watch(EPOLLIN)

    def close(self):
        """Accept no more."""
        if self._fd >= 0:
            self.watch(0)
            self._fd = -1
            self.sockets[0].close()
