# cython: language_level=3
"""What other native modules may call in C of the fast path."""

cimport cython
from libc.stdint cimport uint8_t

from koko.core._native cimport Encoder
from koko.core._native_inbox cimport Inbox


cdef extern from *:
    """
    static PyObject *koko_refuse_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        PyErr_Format(PyExc_TypeError, "%s objects are not made by calling their type", type->tp_name);
        return NULL;
    }

    static void koko_made_here_only(PyObject *type) {
        ((PyTypeObject *)type)->tp_new = koko_refuse_new;
        ((PyTypeObject *)type)->tp_vectorcall = NULL;
    }
    """
    # Lets only C make objects of a type, so that none exists without its fields set.
    void made_here_only "koko_made_here_only" (object type)


# An awaitable that ends at once would have to raise StopIteration, and Cython would make a
# traceback for it: that costs more than the message. So a slot in C (am_send) tells the
# interpreter the result of a step, and whether it was the last one.
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


cdef thrown(kind, error, traceback)  # what the three forms of a coroutine's throw() mean


cdef class DirectTransport:
    """A transport that C code can write to."""

    cdef bint _closing

    cdef int put(self, bytes octets) except -1


@cython.final
cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef readonly object _loop
    cdef readonly object get_loop  # a weak reference: calling it gives the loop
    cdef object _callback
    cdef object _context
    cdef object _outcome  # set when the task will go on by call_soon

    cpdef wake(self)
    cdef int enter(self) except -1
    cdef int end(self, outcome) except -1


cdef class FastPath:
    cdef readonly object core
    cdef readonly object transport
    cdef public object base  # the transport of the socket, where that is another
    cdef readonly object loop
    cdef readonly object now
    cdef readonly Waiter waiter
    cdef public Py_ssize_t corked  # how many cork() blocks are open
    cdef public bint write_paused
    cdef public bint read_paused
    cdef public Py_ssize_t gathered  # bytes that wait to be written with the next replies
    cdef public bint feeding
    cdef public bint flush_due
    cdef public object lock  # its holder may write; made when a writer has to wait
    cdef Inbox _inbox
    cdef Encoder _encoder
    cdef bint _compresses
    cdef DirectTransport _direct  # the transport, if it is one
    cdef object _outbox
    cdef Py_ssize_t _threshold  # bytes from which messages are compressed
    cdef object _life
    cdef list _owed
    cdef bytearray _room  # the buffer that a transport which is no DirectTransport reads into

    cdef bint must_wait(self) except -1
    cdef int arrived(self, const uint8_t *octets, Py_ssize_t size, bint alone) except -1
    cpdef Waiter next_waiter(self)
    cpdef next_message(self)
    cpdef write(self, int kind, message)
    cdef int owe(self, bytes frame) except -1
    cdef bint has_room(self) except -1
    cpdef sent(self)
    cpdef flush(self)
    cdef bint gathers(self) noexcept
    cdef bint may_flush(self) except -1
    cdef bint has_failed(self) except -1
