# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""The fast path of messages on asyncio: from a transport to the task, and out again, in C.

Optional: ``general_path``, ``waiter`` and ``message_verbs`` do all of it by themselves, in
plain Python. ``FastPath`` comes before ``GeneralPath`` and replaces the methods that a message
needs: ``data_received``, ``next_message``, ``next_waiter``, ``write``, ``sent``, ``flush`` and
``congested``; everything else is left to that class. Instead of coroutines there are objects
with the methods of one: making a coroutine costs more than a ``recv`` that need not wait.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from koko.core._native cimport Encoder
from koko.core._native_inbox cimport Inbox

import asyncio
import warnings
from weakref import WeakKeyDictionary, ref

from koko.aio.tasks import (
    ARRIVED, FUTURE, cancelled, clock_of, may_enter, still_awaits,
)
from koko.aio.waiting import TOO_SLOW, within
from koko.aio.writing import write_in_turn
from koko.core.lifecycle import State
from koko.core.outbox import GATHER
from koko.errors import CloseError
from koko.message import kind_of

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1


READ = 1 << 18  # bytes that a transport may read at once

cdef object OPEN = State.OPEN
cdef Py_ssize_t ENOUGH = GATHER

cdef enum:
    TEXT = 1
    BINARY = 2


cdef class DirectTransport:
    cdef int put(self, bytes octets) except -1:
        """Write ``octets``; what the peer has no room for is kept until it has."""
        raise NotImplementedError


cdef class Waiter:
    """What a receiver awaits until something comes; made once and awaited many times.

    It behaves like an ``asyncio.Future``, as far as a ``Task``, and code that inspects one, can
    see. But ``wake`` enters the task at once, where a Future costs a ``call_soon`` and another
    turn of the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    def __cinit__(self, loop):
        self._loop = loop
        # Each wait asks for the loop: a method would cost 280 instructions, of 9,070 an echo.
        self.get_loop = ref(loop)

    @property
    def waiting(self):
        return self._callback is not None

    @property
    def receiver(self):
        """The name of the task that waits, for the error of a second one."""
        task = getattr(self._callback, "__self__", None)
        return task.get_name() if isinstance(task, asyncio.Task) else "another task"

    cpdef wake(self):
        """Let the receiver go on: at once, or soon if its task cannot be entered now.

        Bytes arrive inside another task if the transport is in memory (tests, in-process pairs).
        """
        if self._callback is None:
            return
        if may_enter(self._loop):
            self.enter()
        else:
            self.end(ARRIVED)

    cdef int enter(self) except -1:
        """Let the receiver go on at once, or soon if that turns out to be impossible."""
        callback, context = self._callback, self._context
        self._callback = None
        try:
            PyContext_Enter(context)
            try:
                callback(ARRIVED)
            finally:
                PyContext_Exit(context)
        except RuntimeError:
            if not still_awaits(callback, self):
                raise
            self._callback = callback
            self.end(ARRIVED)
        return 0

    cdef int end(self, outcome) except -1:
        """Let the receiver go on soon, with this outcome."""
        self._outcome = outcome
        callback, self._callback = self._callback, None
        if callback is not None:
            self._loop.call_soon(callback, outcome, context=self._context)
        return 0

    # What a task asks of a future

    def add_done_callback(self, callback, *, context=None):
        self._callback = callback
        self._context = context
        if self._outcome is not None:
            self.end(self._outcome)

    def remove_done_callback(self, callback):
        if self._callback != callback:
            return 0
        self._callback = None
        return 1

    def cancel(self, msg=None):
        if self._outcome is not None:
            return False
        self.end(cancelled(msg))
        return True

    # What other code asks of the future that a task awaits. anyio first checks its class.

    @property
    def __class__(self):
        return FUTURE

    def done(self):
        return self._outcome is not None

    def cancelled(self):
        return self._outcome is not None and self._outcome.cancelled()

    def result(self):
        return self._over().result()

    def exception(self):
        return self._over().exception()

    def _make_cancelled_error(self):
        return self._over()._make_cancelled_error()

    def _over(self):
        if self._outcome is None:
            raise asyncio.InvalidStateError("a receiver is still waiting")
        return self._outcome


@cython.no_gc_clear  # C uses the fields without checks; a reference cycle is broken elsewhere
cdef class FastPath:
    """The half of a ``ConnProtocol`` that every message passes through.

    ``koko.aio.protocol`` puts it before ``GeneralPath``, whose other methods it calls.
    """

    # Not in hold, which may never be called: C relies on these fields from the beginning.
    def __cinit__(self, core, transport, loop, *rest):
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.waiter = Waiter(loop)
        self._direct = transport if isinstance(transport, DirectTransport) else None
        self._inbox = core.inbox
        self._outbox = core.outbox
        self._threshold = core.outbox.threshold
        self._encoder = core.outbox.encoder
        self._compresses = core.outbox.deflater is not None
        self._life = core.life
        self._owed = core.owed
        if self._direct is None:
            self._room = room_of(loop)

    def hold(self, core, transport, loop):
        """Set the fields that every message needs: ``__cinit__`` has done so."""

    @property
    def congested(self):
        """True when a writer has to wait for the lock or for the peer."""
        return self.must_wait()

    cdef bint must_wait(self) except -1:
        return self.write_paused or (self.lock is not None and self.lock.locked())

    def data_received(self, bytes data not None):
        """Feed the core, wake the receiver, then write what is owed."""
        cdef const uint8_t *octets = <const uint8_t *>PyBytes_AS_STRING(data)
        self.arrived(octets, PyBytes_GET_SIZE(data), False)

    # aiofastnet calls these instead of data_received, and reads into one buffer.

    def is_buffered_protocol(self):
        return True

    def get_buffer(self, hint):
        """Return the buffer to read into: one for all connections of the loop."""
        return self._room

    def buffer_updated(self, Py_ssize_t size):
        """Do what ``data_received`` does, with ``size`` bytes of that buffer."""
        if self._room is None or not 0 <= size <= len(self._room):
            raise ValueError(f"{size} bytes do not fit into the buffer of get_buffer()")
        cdef const uint8_t *octets = <const uint8_t *>PyByteArray_AS_STRING(self._room)
        self.arrived(octets, size, False)

    cdef int arrived(self, const uint8_t *octets, Py_ssize_t size, bint alone) except -1:
        """Do what ``data_received`` does; ``alone``: no task runs, so one can be entered."""
        cdef Waiter waiter
        cdef Inbox inbox = self._inbox
        cdef list others = None
        try:
            now = self.now()
            if inbox.only_messages:
                others = inbox.feed_octets(octets, size, now)
                if others is not None:
                    self.core.handle(others, now)
            else:
                self.core.feed(octets[:size], now)
            waiter = self.waiter
            if waiter._callback is not None and (inbox.messages is not None or not inbox.only_messages):
                self.feeding = True
                if alone:
                    waiter.enter()
                else:
                    waiter.wake()
        finally:  # an error that ends a task may be for the loop, such as SystemExit
            self.feeding = False
            if self._owed:
                self.flush()
            # Messages alone do not end a connection, and a task that ends it does this itself.
            if not (others is None and inbox.only_messages) and self._life.state is not OPEN:
                self.see_to_end()
            elif self.waiter._callback is None:
                self.pause_if_full()
        return 0

    cpdef Waiter next_waiter(self):
        """Return what a receiver awaits: a new one if a task has not left the last one yet."""
        if self.waiter._outcome is not None:
            self.waiter = Waiter(self.loop)
        return self.waiter

    cpdef next_message(self):
        """Return the next message, None when ``waiter`` must be awaited for it."""
        cdef Inbox inbox = self._inbox
        if self.waiter._callback is not None and inbox.messages is None:
            raise self.busy()
        if not inbox.only_messages:
            return self.slow_message()
        message = inbox.take()
        if message is None:
            if self._owed:
                self.flush()
        elif inbox.decoder.has_backlog() and inbox.messages is None:
            self.core.catch_up()
        if message is not None and not self.feeding:
            inbox.taken_at = self.now()  # the message had waited in the inbox
        if self.read_paused:
            self.resume_if_room()
        return message

    cpdef write(self, int kind, message):
        """Send a message; the caller has made sure that none is being written."""
        if self._compresses or self._life.state is not OPEN:
            self.core.send(kind, message)
            self.sent()
            return
        self.owe(self._encoder.frame_of(kind, message, True, False))

    cdef int owe(self, bytes frame) except -1:
        """Send a message's frame: without the queue of owed frames if it can leave at once."""
        self._inbox.sent()
        if self._direct is not None and not self._owed and not self.gathers() and self.may_flush():
            return self._direct.put(frame)
        self._owed.append(frame)
        self.sent()
        return 0

    cdef bint has_room(self) except -1:
        """True when a message may begin at once."""
        return not self.write_paused and (self.lock is None or self.lock.free)

    cpdef sent(self):
        """Write what is owed now: at once, or with the next replies while messages wait.

        What is gathered is written at the end of the loop's turn at the latest.
        """
        if self.gathers():
            with cython.boundscheck(True), cython.wraparound(True):
                self.gathered += len(self._owed[-1])
            if self.gathered < ENOUGH:
                if not self.feeding and not self.flush_due:
                    self.flush_due = True
                    self.loop.call_soon(self.flush)
                return
        self.flush()

    cdef bint gathers(self) noexcept:
        """True while frames are gathered instead of written at once."""
        return self.corked or self._inbox.messages is not None

    cpdef flush(self):
        """Write everything owed, unless the transport has paused writing."""
        cdef bytes owed
        self.flush_due = False
        self.gathered = 0
        if not self._owed or not self.may_flush():
            return
        owed = self._owed[0] if len(self._owed) == 1 else b"".join(self._owed)
        del self._owed[:]
        if self._direct is not None:
            self._direct.put(owed)
        else:
            self.transport.write(owed)

    cdef bint may_flush(self) except -1:
        if self.write_paused:
            return False
        if self.has_failed() if self._direct is None else self._direct._closing:
            self.write_paused = True  # writers wait until connection_lost
        return not self.write_paused

    cdef bint has_failed(self) except -1:
        """True when a transport of the loop's, or its base, has failed or is closing."""
        return self.transport.is_closing() or (self.base is not None and self.base.is_closing())


@cython.final
@cython.freelist(64)
@cython.no_gc_clear
cdef class Awaited:
    """The awaitable of ``recv``, ``send`` and iteration: it does nothing until it is awaited."""

    cdef FastPath _path
    cdef bint _iterates  # for __anext__: an ordinary end of the connection ends the iteration
    cdef bint _sends  # for send(), which alone uses _kind, _message and _wait
    cdef bint _begun
    cdef bint _over  # it has returned, and cannot be awaited again, like a coroutine
    cdef int _kind
    cdef object _message
    cdef object _wait  # the coroutine that waits for the lock

    cdef object step(self, bint *last):
        """Do as much as can be done now; return the result if that was the last step."""
        return self.send_message(last) if self._sends else self.receive_message(last)

    cdef object receive_message(self, bint *last):
        cdef object message
        cdef Waiter waiter
        if self._over:
            raise RuntimeError("cannot reuse already awaited recv()")
        self._over = True
        try:
            message = self._path.next_message()
        except CloseError as error:
            if self._iterates and error.ordinary:
                raise StopAsyncIteration from None
            raise
        if message is None:
            self._over = False
            waiter = self._path.next_waiter()
            waiter._asyncio_future_blocking = True
            return waiter
        last[0] = True
        return message

    cdef object send_message(self, bint *last):
        if not self._begun:
            self._begun = True
            if not self._path.must_wait():
                self._path.write(self._kind, self._message)
                last[0] = True
                return None
            owe = self._path.core.send
            self._wait = write_in_turn(self._path, owe, self._kind, self._message)
        elif self._wait is None:
            raise RuntimeError("cannot reuse already awaited send()")
        try:
            return self._wait.send(None)
        except StopIteration:
            last[0] = True
            return None

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):  # never called: koko_next replaces it
        raise NotImplementedError

    def send(self, value):
        return next(self)

    def throw(self, kind, error=None, traceback=None):
        self._begun = self._over = True
        error = thrown(kind, error, traceback)
        if self._wait is None:
            raise error
        return self._wait.throw(error)

    def close(self):
        self._begun = self._over = True
        if self._wait is not None:
            self._wait.close()

    # Not __del__: an object from the freelist counts as finalized already.
    def __dealloc__(self):
        if self._sends and not self._begun:
            warnings.warn("send() was never awaited; nothing was sent", RuntimeWarning)


cdef object step_of(Awaited awaited, bint *last):
    return awaited.step(last)


koko_steps_by(<void *>step_of, <PyTypeObject *>Awaited)
made_here_only(Awaited)


cdef Awaited receive(FastPath path, bint iterates):
    """Return an awaitable of the next message."""
    cdef Awaited awaited = Awaited.__new__(Awaited)
    awaited._path = path
    awaited._iterates = iterates
    return awaited


@cython.no_gc_clear
cdef class MessageVerbs:
    """The verbs of a ``Conn`` for whole messages."""

    cdef readonly FastPath _protocol

    def __cinit__(self, FastPath protocol not None, *rest):
        self._protocol = protocol

    def __init__(self, protocol):
        pass

    def __aiter__(self):
        return self

    def __anext__(self):
        """Return the next message; an ordinary end of the connection ends the iteration.

        Ordinary is our own ``close`` and a Close with 1000, 1001 or no code; any other
        end is raised, as by ``recv``.
        """
        return receive(self._protocol, True)

    def recv(self, timeout=None):
        """Return the next message, waiting for it if necessary: text as str, binary as bytes.

        Raises:
            CloseError: the connection is over; see ``code``, ``reason``, ``sent``, ``received``.
            ProtocolError: the peer broke the protocol; a Close that says so was sent.
            ErrReadLimit: the message is larger than ``read_limit``; closed with 1009.
            TimeoutError: nothing arrived within ``timeout`` seconds; nothing is lost.
            RuntimeError: another task is receiving already.
        """
        receiving = receive(self._protocol, False)
        return receiving if timeout is None else within(timeout, "no message came", receiving)

    def send(self, message, timeout=None):
        """Send one message: str as text, bytes and other buffers as binary.

        Waits while the peer reads too slowly or another task is writing. Returns when the
        message has been handed to the transport, which does not mean that the peer has it.

        Raises:
            ErrCloseSent: a Close was sent already; nothing was written.
            CloseError: the connection is over.
            TimeoutError: it could not begin within ``timeout`` seconds; nothing was sent.
        """
        cdef Awaited awaited
        cdef int kind = TEXT
        if type(message) is not str:
            kind = BINARY if type(message) is bytes else kind_of(message)
        awaited = Awaited.__new__(Awaited)
        awaited._path = self._protocol
        awaited._kind = kind
        awaited._message = message
        awaited._sends = True
        return awaited if timeout is None else within(timeout, TOO_SLOW, awaited)


def send_now(conns, prepared):
    """Send a prepared message to the connections that have room, without waiting.

    Returns how many it was sent to, how many were over, and those that have no room.
    """
    cdef MessageVerbs conn
    cdef FastPath path
    cdef Py_ssize_t sent = 0, gone = 0, size = len(prepared.payload)
    cdef dict forms = prepared._forms
    cdef list late = []
    known = frame = None  # the form of the last connection, and its frame
    for conn in conns:
        if conn is None:
            raise TypeError("a connection is expected, not None")
        path = conn._protocol
        if path._life.state is not OPEN:
            gone += 1
            continue
        if not path.has_room():
            late.append(conn)
            continue
        form = path._outbox.form if size >= path._threshold else None
        if form is not known:
            known, frame = form, forms.get(form)
        if frame is not None:
            path._encoder.bytes_out += PyBytes_GET_SIZE(frame)
            path.owe(frame)
        else:  # no frame of this form has been made yet
            path.core.send_prepared(prepared)
            path.sent()
            known = None
        sent += 1
    return sent, gone, late


_rooms = WeakKeyDictionary()  # for each loop, the buffer that transports read into


cdef bytearray room_of(loop):
    room = _rooms.get(loop)
    if room is None:
        room = _rooms[loop] = bytearray(READ)
    return room


cdef thrown(kind, error, traceback):
    """Return the exception that one of the forms of ``throw`` means."""
    if error is None:
        error = kind if isinstance(kind, BaseException) else kind()
    return error if traceback is None else error.with_traceback(traceback)
