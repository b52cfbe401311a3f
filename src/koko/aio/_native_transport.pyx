# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False, nonecheck=True
"""Sockets that are read and written without going through the event loop: Linux only.

When the poller reports a socket it is read into one buffer, and the bytes are passed on in C;
what is written is sent at once. ``SocketTransport`` can be used like the transport of any loop;
where this module is not built, the loop's own transport is used. It knows nothing of WebSocket.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from koko.aio._native_poller cimport (
    EPOLLIN, EPOLLOUT, MUCH, Poller, Watched, failure, poller_of,
)
from koko.aio._native_fast_path cimport FastPath, made_here_only

import asyncio
import os
import socket
import warnings
from asyncio.trsock import TransportSocket
from contextvars import copy_context

from koko import serving

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

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        IPPROTO_TCP, TCP_NODELAY

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
    int getpeername(int fd, sockaddr *address, unsigned *size)
    int getsockname(int fd, sockaddr *address, unsigned *size)
    int setsockopt(int fd, int level, int name, const void *value, unsigned size)
    int shutdown(int fd, int how)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

HIGH_WATER = 1 << 16  # bytes unsent from which a protocol is asked to pause, as asyncio's
LOW_WATER = 1 << 14  # bytes unsent from which it may go on
ACCEPTED = 64  # connections taken at once

cdef int MOST = ACCEPTED


@cython.final
cdef class SocketTransport(Watched):
    """One connected stream socket, as an ``asyncio.Transport`` that acts at once where it can.

    ``write`` gives the kernel as much as it takes; a protocol that is a ``FastPath`` gets what
    arrives without a copy. The transport owns the descriptor: nothing else can close it, so
    what is written never goes to another file that has got the same number.
    """

    cdef object _protocol
    cdef FastPath _path  # the protocol, if it is one
    cdef object _local
    cdef object _remote
    cdef list _unsent  # what the kernel has not taken yet; None if there is nothing
    cdef Py_ssize_t _unsent_size, _high, _low
    cdef Py_ssize_t _taken  # bytes of the first of them that the kernel has taken
    cdef bint _protocol_paused, _read_paused, _heard_end, _ends, _lost
    cdef bint _spared  # the loop itself watches it: one connection alone needs one epoll, not two
    cdef object __weakref__

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)
            warnings.warn(f"unclosed transport of descriptor {self._fd}", ResourceWarning)

    # What the poller calls, or the loop

    def _readable(self):
        self.serve(EPOLLIN)

    def _writable(self):
        self.serve(EPOLLOUT)

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
        cdef FastPath path = self._path  # held: a task that it wakes may set another protocol
        cdef uint8_t *octets = self._poller._octets
        cdef Py_ssize_t size = recv(self._fd, octets, MUCH, 0)
        if size > 0:
            if path is not None:
                path.arrived(octets, size, self.may_enter())
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
        """Write as much of the unsent bytes as the kernel takes now."""
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
        """Send bytes, and return how many of them the kernel took."""
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
        """Write ``octets``; what the kernel does not take now is kept and written later."""
        if self._ends:
            raise RuntimeError("write() after write_eof()")
        self.put(octets if type(octets) is bytes else bytes(memoryview(octets)))

    def writelines(self, lines):
        """Write all of them, one after the other."""
        self.write(b"".join(lines))

    def can_write_eof(self):
        return True

    def write_eof(self):
        """End our half of the stream, after everything unsent."""
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
        """Set above how many unsent bytes the protocol pauses, and below how many it resumes."""
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

    cdef int watch(self, uint32_t interest) except -1:
        cdef uint32_t changed = interest ^ self._interest
        if not self._spared:
            return Watched.watch(self, interest)
        if changed & EPOLLIN and interest & EPOLLIN:
            self._loop.add_reader(self._fd, self._readable)
        elif changed & EPOLLIN:
            self._loop.remove_reader(self._fd)
        if changed & EPOLLOUT and interest & EPOLLOUT:
            self._loop.add_writer(self._fd, self._writable)
        elif changed & EPOLLOUT:
            self._loop.remove_writer(self._fd)
        self._interest = interest
        return 0

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
        """Close the socket, and call ``connection_lost``, in the loop's next turn."""
        if self._lost:
            return 0
        self._lost = self._closing = True
        self._unsent = None
        self._unsent_size = 0
        self.watch(0)
        if self._spared:
            self._poller._spares_one = False
        self._loop.call_soon(self._end, error)
        return 0

    def _end(self, error):
        protocol, self._protocol, self._path = self._protocol, None, None
        fd, self._fd = self._fd, -1
        try:
            if protocol is not None:  # None: the factory failed
                protocol.connection_lost(error)
        finally:
            close(fd)

    # Protocol and socket

    def set_protocol(self, protocol):
        self._protocol = protocol
        self._path = protocol if isinstance(protocol, FastPath) else None

    def get_protocol(self):
        return self._protocol

    def get_extra_info(self, name, default=None):
        """Return "socket", "sockname" or "peername"; both names also after the end."""
        if name == "sockname":
            return self._local
        if name == "peername":
            return self._remote
        if name == "socket" and self._fd >= 0:
            return LentSocket(self)
        return default

    def fileno(self):
        """Return the descriptor, -1 once it is closed."""
        return self._fd

    def __repr__(self):
        state = "closed" if self._fd < 0 else "closing" if self._closing else "open"
        return f"<{type(self).__name__} fd={self._fd} {state}>"


made_here_only(SocketTransport)


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


cdef object names_of(int fd):
    """Return both addresses of a socket."""
    cdef sockaddr_storage local, remote
    cdef unsigned size = sizeof(local), other_size = sizeof(remote)
    if (
        getsockname(fd, <sockaddr *>&local, &size) < 0
        or getpeername(fd, <sockaddr *>&remote, &other_size) < 0
    ):
        raise failure()
    name = address_in(<sockaddr *>&local)
    if name is not None:
        return name, address_in(<sockaddr *>&remote)
    sock = socket.socket(fileno=fd)
    try:
        return sock.getsockname(), sock.getpeername()
    finally:
        sock.detach()


class LentSocket(TransportSocket):
    """The socket that an application gets: for its options and addresses, not to close it."""

    __slots__ = ("_transport",)

    def __init__(self, transport):
        self._transport = transport

    @property
    def _sock(self):
        return Duplicate(fileno=os.dup(self.fileno()))

    def fileno(self):
        return self._transport.fileno()


class Duplicate(socket.socket):
    """A duplicate of the socket, for one call."""

    def __del__(self):
        self.close()


cdef SocketTransport transport_on(Poller poller, loop, context, int fd, local, remote):
    cdef SocketTransport transport = SocketTransport.__new__(SocketTransport)
    transport._fd = fd
    transport._loop = loop
    transport._context = context
    transport._poller = poller
    transport._high, transport._low = HIGH_WATER, LOW_WATER
    transport._local = local
    transport._remote = remote
    return transport


cdef int begin(SocketTransport transport, factory) except -1:
    try:
        protocol = factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport.rewatch()
    except BaseException as error:
        transport.lose(error)
        raise


def attach(sock, protocol):
    """Give a connected socket to a protocol, on the loop that runs.

    Its descriptor is ours from now on; ``sock`` is as after ``detach``.

    Raises:
        OSError: ``sock`` is no longer connected; it was closed.
        NotImplementedError: the loop cannot watch descriptors; ``sock`` is unchanged.
    """
    cdef SocketTransport transport
    loop = asyncio.get_running_loop()
    cdef Poller poller = poller_of(loop)
    sock.setblocking(False)
    try:
        local, remote = sock.getsockname(), sock.getpeername()
    except OSError:
        sock.close()
        raise
    transport = transport_on(poller, loop, copy_context(), sock.detach(), local, remote)
    transport._spared = not poller._spares_one
    poller._spares_one = True
    begin(transport, lambda: protocol)


def adopt(int fd):
    """Return a transport of a connection that another server has accepted, and watch it.

    Small writes leave at once, whatever that server has set. The descriptor is ours from now
    on, also where this fails. ``set_protocol`` has to follow at once. Unlike that of
    ``attach`` it is one of many: the loop does not watch it alone.

    Raises:
        OSError: it is no longer connected.
        NotImplementedError: the loop cannot watch descriptors.
    """
    cdef SocketTransport transport
    cdef int yes = 1
    loop = asyncio.get_running_loop()
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes))  # where that is what it is
    try:
        local, remote = names_of(fd)
        transport = transport_on(poller_of(loop), loop, copy_context(), fd, local, remote)
    except BaseException:
        close(fd)
        raise
    try:
        transport.rewatch()
    except BaseException:
        transport.abort()
        raise
    return transport


@cython.final
cdef class Listener(Watched):
    """A listening socket, each of whose connections gets a protocol of its own.

    ``exhausted`` is called with the error when no client can be accepted for a while.
    """

    cdef readonly object sockets  # a tuple of one, as ``asyncio.Server`` has
    cdef object _factory
    cdef object _exhausted
    cdef object _retry  # the timer of the next try to accept
    cdef object _local  # the address of every connection; None where each has its own

    def __cinit__(self, sock, factory, exhausted):
        self._loop = asyncio.get_running_loop()
        self._poller = poller_of(self._loop)
        sock.setblocking(False)
        self.sockets = (sock,)
        self._context = copy_context()
        self._factory = factory
        self._exhausted = exhausted
        local = sock.getsockname()
        self._local = None if local[0] in ("0.0.0.0", "::") else local
        self._fd = os.dup(sock.fileno())  # the owner of ``sock`` may close it
        self.watch(EPOLLIN)

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)

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
            elif errno not in serving.GONE:
                self.pause(failure())
                break
        return 0

    cdef int admit(self, int fd, remote) except -1:
        local = self._local
        if local is None or remote is None:
            try:
                local, remote = names_of(fd)
            except OSError:  # the client has hung up already
                close(fd)
                return 0
        # As on any loop: what one connection sets in its context is not seen by the next.
        context = self._context.copy()
        begin(transport_on(self._poller, self._loop, context, fd, local, remote), self._factory)
        return 0

    cdef int fail(self, error) except -1:
        self._loop.call_exception_handler({"message": "accept() failed", "exception": error})
        return 0

    cdef int pause(self, error) except -1:
        self.watch(0)
        self._retry = self._loop.call_later(serving.RETRY, self._resume)
        self._exhausted(error)
        return 0

    def _resume(self):
        if self._fd >= 0:
            self.watch(EPOLLIN)

    def close(self):
        """Accept no more."""
        if self._fd >= 0:
            self.watch(0)
            close(self._fd)
            self._fd = -1
            if self._retry is not None:
                self._retry.cancel()
            self.sockets[0].close()
