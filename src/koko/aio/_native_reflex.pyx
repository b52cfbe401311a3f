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
    """The wait of one receiver for what comes next; made seldom, waited on many times.

    Speaks the protocol that ``asyncio.Task`` expects of a future, so that ``wake``
    can enter the task at once: a Future costs a ``call_soon`` and another turn of
    the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    cdef public bint _asyncio_future_blocking
    cdef bint _held  # by a task that goes on soon, and can cancel what it holds until then
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
            self._held = True
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
        self._held = True
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
    cdef public object lock  # who holds it may write; made when somebody has to wait
    cdef object _inbox
    cdef object _outbox
    cdef object _life
    cdef list _owed
    cdef object _feed, _take, _encode  # bound once: looking them up costs as much as a call

    def __init__(self, core, transport, loop):
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.arrival = Arrival(loop)
        self._inbox = core.inbox
        self._outbox = core.outbox
        self._life = core.life
        self._owed = core.owed
        self._feed, self._take, self._encode = core.inbox.feed, core.inbox.take, core.outbox.encode

    @property
    def congested(self):
        """True when a writer has to wait for its turn or for the peer."""
        return self.must_wait()

    cdef bint must_wait(self) except -1:
        return self.write_paused or (self.lock is not None and self.lock.locked())

    def data_received(self, bytes data not None):
        """Feed the core, wake the receiver, write what is owed then."""
        cdef Arrival arrival = self.arrival
        self.feeding = True
        try:
            if self._inbox.plain:
                others = self._feed(data, self.now())
                if others is not None:
                    self.core.handle(others, self._inbox.heard_at)
            else:
                self.core.feed(data, self.now())
            if arrival._callback is not None and (len(self._inbox) or not self._inbox.plain):
                arrival.wake()
        finally:
            self.feeding = False
        if self._owed:
            self.flush()
        if self._life.state is not OPEN:
            self.part()
        if self.arrival._callback is None:
            self.nobody_waits()

    cpdef Arrival next_arrival(self):
        """Return what a receiver is to wait for; a task may not have left the last one yet."""
        if self.arrival._held:
            self.arrival = Arrival(self.loop)
        return self.arrival

    cpdef next_message(self):
        """Return the next message, None when ``arrival`` must be awaited for it."""
        if self.arrival._callback is not None and not len(self._inbox):
            raise self.busy()
        if not self._inbox.plain:
            return self.last_word()
        message = self._take()
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
        if self._life.state is OPEN and self._outbox.deflater is None:
            self._owed.append(self._encode(kind, message))
        else:
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
            owed = self._owed[0] if len(self._owed) == 1 else b"".join(self._owed)
            self._owed.clear()
            self.transport.write(owed)


# What is awaited and ends at once would have to raise StopIteration to say so, and Cython
# would make a traceback of it: that costs more than the message. So the interpreter is told
# in C what one step gave, and whether it was the last.
cdef extern from *:
    """
    static PyObject *(*koko_step)(PyObject *awaited, int *last);

    static PySendResult koko_send(PyObject *awaited, PyObject *value, PyObject **result) {
        int last = 0;
        *result = koko_step(awaited, &last);
        return *result == NULL ? PYGEN_ERROR : last ? PYGEN_RETURN : PYGEN_NEXT;
    }

    static PyObject *koko_next(PyObject *awaited) {
        PyObject *result;
        if (koko_send(awaited, Py_None, &result) != PYGEN_RETURN)
            return result;
        if (result != Py_None)
            PyErr_SetObject(PyExc_StopIteration, result);
        Py_DECREF(result);
        return NULL;
    }

    static void koko_steps_by(void *step, PyTypeObject *awaited) {
        koko_step = (PyObject *(*)(PyObject *, int *))step;
        awaited->tp_iternext = koko_next;
        awaited->tp_as_async->am_send = koko_send;
    }
    """
    ctypedef struct PyTypeObject:
        pass
    void koko_steps_by(void *step, PyTypeObject *awaited)


@cython.final
@cython.freelist(64)
cdef class Awaited:
    """What ``receive``, ``iterate`` and ``send`` give: does nothing before it is awaited."""

    cdef Reflex _reflex
    cdef bint _iterates  # an ordinary end of the connection ends an iteration
    cdef bint _sends  # what follows is for sending only
    cdef bint _begun
    cdef bint _over  # as a coroutine is that has returned: receiving again takes another one
    cdef object _kind
    cdef object _message
    cdef object _wait  # the coroutine that waits for our turn

    cdef object step(self, bint *last):
        """Do as much as can be done now; return the result if that was the last step."""
        return self.send_message(last) if self._sends else self.receive_message(last)

    cdef object receive_message(self, bint *last):
        cdef object message
        cdef Arrival arrival
        if self._over:
            raise RuntimeError("cannot reuse already awaited recv()")
        self._over = True
        try:
            message = self._reflex.next_message()
        except CloseError as error:
            if self._iterates and error.ordinary:
                raise StopAsyncIteration from None
            raise
        if message is None:
            self._over = False
            arrival = self._reflex.next_arrival()
            arrival._asyncio_future_blocking = True
            return arrival
        last[0] = True
        return message

    cdef object send_message(self, bint *last):
        if not self._begun:
            self._begun = True
            if not self._reflex.must_wait():
                self._reflex.write(self._kind, self._message)
                last[0] = True
                return None
            owe = self._reflex.core.send
            self._wait = self._reflex.write_in_turn(owe, self._kind, self._message)
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

    def __next__(self):  # what stands in its place is koko_next
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

    # Not __del__: one that came from the freelist counts as finalized already.
    def __dealloc__(self):
        if self._sends and not self._begun:
            warnings.warn("send() was never awaited; nothing was sent", RuntimeWarning)


cdef object step_of(Awaited awaited, bint *last):
    return awaited.step(last)


koko_steps_by(<void *>step_of, <PyTypeObject *>Awaited)


def receive(Reflex reflex not None):
    """Return the next message, waiting for it if necessary."""
    cdef Awaited awaited = Awaited.__new__(Awaited)
    awaited._reflex = reflex
    return awaited


def iterate(Reflex reflex not None):
    """Do as ``receive``; an ordinary end of the connection ends the iteration."""
    cdef Awaited awaited = Awaited.__new__(Awaited)
    awaited._reflex = reflex
    awaited._iterates = True
    return awaited


def send(Reflex reflex not None, kind, message):
    """Send one message, when it is our turn."""
    cdef Awaited awaited = Awaited.__new__(Awaited)
    awaited._reflex = reflex
    awaited._kind = kind
    awaited._message = message
    awaited._sends = True
    return awaited


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
