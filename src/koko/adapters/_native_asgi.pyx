# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, auto_pickle=False
"""``receive`` and ``send`` of an ASGI application, with the way of a message in C.

Optional: ``_asgi_events`` does all of it by itself, in plain Python, and is its twin. What are
coroutines there are objects here that speak the protocol of one, as in ``_native_fast_path``.
"""

cimport cython

from koko.aio._native_fast_path cimport (
    FastPath, PyTypeObject, Waiter, koko_steps_by, made_here_only, thrown,
)

import warnings

from koko.aio.writing import write_in_turn
from koko.errors import CloseError

cdef enum:
    TEXT = 1
    BINARY = 2


cdef class Events:
    """The events of one conversation; what is no message is done by the class that has this base."""

    cdef readonly FastPath path  # while it is not accepted, None
    cdef public object disconnect  # what the application receives once nothing else is left
    cdef public bint may_send  # messages: it is accepted, and the application has not closed it

    def open(self, FastPath path not None):
        """Begin to exchange messages."""
        self.path = path
        self.may_send = True

    def receive(self):
        """Return the next event; behind the disconnect there is none, and it raises."""
        cdef Step step = Step.__new__(Step)
        step._events = self
        return step

    def send(self, event):
        """Do what an event says.

        Raises:
            RuntimeError: it is not the turn of this event.
            OSError: the client is gone; nothing was sent.
        """
        cdef Step step = Step.__new__(Step)
        step._events = self
        step._event = event
        step._sends = True
        return step


@cython.final
@cython.freelist(64)
@cython.no_gc_clear
cdef class Step:
    """What ``receive`` and ``send`` give: does nothing before it is awaited."""

    cdef Events _events
    cdef object _event  # what is sent
    cdef bint _sends
    cdef bint _begun
    cdef bint _over  # as a coroutine is that has returned
    cdef object _wait  # the coroutine that does the rest

    cdef object step(self, bint *last):
        """Do as much as can be done now; return the result if that was the last step."""
        if self._over:
            raise RuntimeError("cannot reuse an already awaited event")
        self._over = True  # also where it raises
        self._begun = True
        if self._sends:
            return self.send_event(last)
        return self.receive_event(last) if self._wait is None else self.wait_on(last)

    cdef object receive_event(self, bint *last):
        cdef Events events = self._events
        cdef FastPath path = events.path
        cdef Waiter waiter
        if path is None:
            self._wait = events.receive_early()
            return self.wait_on(last)
        try:
            message = path.next_message()
        except CloseError as ending:
            last[0] = True
            return events.part_after(ending)
        if message is None and events.disconnect is None:
            self._over = False
            waiter = path.next_waiter()
            waiter._asyncio_future_blocking = True
            return waiter
        last[0] = True
        if message is None:
            return events.part(events.disconnect)
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    cdef object send_event(self, bint *last):
        cdef FastPath path = self._events.path
        cdef int kind = BINARY
        try:
            if self._wait is not None:
                return self.wait_on(last)
            name, event = self._event["type"], self._event
            if not self._events.may_send or name != "websocket.send":
                self._events.send_other(name, event)
                last[0] = True
                return None
            message = event.get("bytes")
            if message is None:
                kind = TEXT
                message = event.get("text")
                if message is None:
                    raise RuntimeError("websocket.send has neither 'bytes' nor 'text'")
            if path.must_wait():
                self._wait = write_in_turn(path, path.core.send, kind, message)
                return self.wait_on(last)
            path.write(kind, message)
            last[0] = True
            return None
        except CloseError as ending:
            raise self._events.gone_after(ending) from None

    cdef object wait_on(self, bint *last):
        try:
            yielded = self._wait.send(None)
        except StopIteration as done:
            last[0] = True
            return done.value
        self._over = False
        return yielded

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
        self._over = False
        return self._wait.throw(error)

    def close(self):
        self._begun = self._over = True
        if self._wait is not None:
            self._wait.close()

    # Not __del__: one that came from the freelist counts as finalized already.
    def __dealloc__(self):
        if self._sends and not self._begun:
            warnings.warn("send() was never awaited; nothing was sent", RuntimeWarning)


cdef object step_of(Step step, bint *last):
    return step.step(last)


koko_steps_by(<void *>step_of, <PyTypeObject *>Step)
made_here_only(Step)
