# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The short way of a message: ``_reflex``, compiled.

The twin of ``_reflex.py``, to be read against it: the same names in the same order. What
are coroutines there are objects here that speak the protocol of one: a coroutine that does
not wait costs more than what it does.
"""

cimport cython

import asyncio
import time
import warnings
from asyncio import current_task

from koko.core.lifecycle import State
from koko.errors import CloseError


GATHER = 1 << 16  # bytes of replies gathered while more messages wait to be read

cdef object OPEN = State.OPEN
cdef Py_ssize_t ENOUGH = GATHER


class Cancelled:
    """What a cancelled receiver finds in the place of an arrival."""

    @staticmethod
    def result():
        raise asyncio.CancelledError


@cython.final
cdef class Arrival:
    """The wait of one receiver for what comes next; made once, waited on many times.

    Speaks the protocol that ``asyncio.Task`` expects of a future, so that ``wake``
    can enter the task at once: a Future costs a ``call_soon`` and another turn of
    the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    cdef public bint _asyncio_future_blocking
    cdef object _loop
    cdef object _callback
    cdef object _context

    def __cinit__(self, loop):
        self._loop = loop

    @property
    def waiting(self):
        return self._callback is not None

    @property
    def receiver(self):
        """The name of the task that waits, for the error of a second one."""
        task = getattr(self._callback, "__self__", None)
        return task.get_name() if isinstance(task, asyncio.Task) else "another task"

    cpdef wake(self):
        """Let the receiver go on: at once, or soon when some task is running already.

        A task cannot be entered from within another; bytes arrive from inside a task
        where the transport is memory (tests, in-process pairs).
        """
        callback, context = self._callback, self._context
        if callback is None or context is None:
            return
        self._callback = None
        if current_task(self._loop) is None:
            context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=context)

    # What the task asks of a future

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context=None):
        self._callback = callback
        self._context = context

    def result(self):
        pass

    def cancel(self, msg=None):
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        # Not ``self``: until the task has learned of it, another may wait here already.
        self._loop.call_soon(callback, Cancelled, context=self._context)
        return True


cdef class Reflex:
    """The half of a ``Pump`` that every message passes through."""

    cdef readonly object core
    cdef readonly object transport
    cdef readonly object loop
    cdef readonly object now
    cdef readonly Arrival arrival
    cdef public Py_ssize_t corked  # how many blocks gather what is sent
    cdef public bint write_paused
    cdef public bint read_paused
    cdef public Py_ssize_t gathered  # bytes that wait for the next replies
    cdef public bint feeding
    cdef public bint flush_due
    cdef object _inbox
    cdef object _life
    cdef list _owed

    def __init__(self, core, transport, loop):
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.arrival = Arrival(loop)
        self._inbox = core.inbox
        self._life = core.life
        self._owed = core.owed

    def data_received(self, bytes data not None):
        """Feed the core, wake the receiver, write what is owed then."""
        cdef Arrival arrival = self.arrival
        self.feeding = True
        try:
            self.core.feed(data, self.now())
            if arrival._callback is not None and (len(self._inbox) or not self._inbox.plain):
                arrival.wake()
        finally:
            self.feeding = False
        if self._owed:
            self.flush()
        if self._life.state is not OPEN:
            self.part()
        if arrival._callback is None:
            self.nobody_waits()

    cpdef next_message(self):
        """Return the next message, None when ``arrival`` must be awaited for it."""
        if self.arrival._callback is not None and not len(self._inbox):
            raise self.busy()
        if not self._inbox.plain:
            return self.last_word()
        message = self._inbox.take()
        if message is None:
            if self._owed:
                self.flush()
        elif self._inbox.backlog:
            self.core.catch_up()
        if self.read_paused:
            self.read_on()
        return message

    cpdef write(self, kind, message):
        """Send a message; whoever calls it has the turn."""
        self.core.send(kind, message)
        self.sent()

    cpdef sent(self):
        """Write what was just owed: at once, or with the next replies while messages wait.

        What is gathered leaves at the end of the loop's turn at the latest.
        """
        if self.corked or len(self._inbox):
            self.gathered += len(<bytes>self._owed[len(self._owed) - 1])
            if self.gathered < ENOUGH:
                if not self.feeding and not self.flush_due:
                    self.flush_due = True
                    self.loop.call_soon(self.flush)
                return
        self.flush()

    cpdef flush(self):
        """Write everything owed, unless the transport asked us to wait."""
        self.flush_due = False
        self.gathered = 0
        if not self._owed or self.write_paused:
            return
        if not self.transport.is_closing():  # or asyncio logs a line for each
            self.transport.write(self.core.take_owed())


@cython.final
@cython.freelist(64)
cdef class Receiving:
    """What ``receive`` and ``iterate`` give to be awaited."""

    cdef Reflex _reflex
    cdef bint _iterating

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        try:
            message = self._reflex.next_message()
        except CloseError as error:
            if self._iterating and error.ordinary:
                raise StopAsyncIteration from None
            raise
        if message is not None:
            raise StopIteration(message)
        self._reflex.arrival._asyncio_future_blocking = True
        return self._reflex.arrival

    def send(self, value):
        return self.__next__()

    def throw(self, kind, error=None, traceback=None):
        raise thrown(kind, error, traceback)

    def close(self):
        pass


def receive(Reflex reflex not None):
    """Return the next message, waiting for it if necessary."""
    cdef Receiving receiving = Receiving.__new__(Receiving)
    receiving._reflex = reflex
    return receiving


def iterate(Reflex reflex not None):
    """Do as ``receive``; an ordinary end of the connection ends the iteration."""
    cdef Receiving receiving = Receiving.__new__(Receiving)
    receiving._reflex = reflex
    receiving._iterating = True
    return receiving


@cython.final
@cython.freelist(64)
cdef class Sending:
    """What ``send`` gives to be awaited; a coroutine where the sender has to wait."""

    cdef Reflex _reflex  # until it is awaited
    cdef object _kind
    cdef object _message
    cdef object _wait  # the coroutine that waits for our turn

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef Reflex reflex = self._reflex
        if reflex is not None:
            self._reflex = None
            if not reflex.congested:
                reflex.write(self._kind, self._message)
                raise StopIteration
            self._wait = reflex.write_in_turn(reflex.core.send, self._kind, self._message)
        if self._wait is None:
            raise RuntimeError("cannot reuse already awaited send()")
        return self._wait.send(value)

    def throw(self, kind, error=None, traceback=None):
        self._reflex = None
        error = thrown(kind, error, traceback)
        if self._wait is None:
            raise error
        return self._wait.throw(error)

    def close(self):
        self._reflex = None
        if self._wait is not None:
            self._wait.close()

    def __del__(self):
        if self._reflex is not None:
            warnings.warn("send() was never awaited; nothing was sent", RuntimeWarning)


def send(Reflex reflex not None, kind, message):
    """Send one message, when it is our turn."""
    cdef Sending sending = Sending.__new__(Sending)
    sending._reflex = reflex
    sending._kind = kind
    sending._message = message
    return sending


cdef thrown(kind, error, traceback):
    """Return the exception that one of the forms of ``throw`` means."""
    if error is None:
        error = kind if isinstance(kind, BaseException) else kind()
    return error if traceback is None else error.with_traceback(traceback)


def clock_of(loop):
    """Return the clock of ``loop``, or one that runs with it and does not stand still.

    uvloop's is read once in a turn of the loop and counts milliseconds: a round trip would
    be none or one of them.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
