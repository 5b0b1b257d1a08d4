/* Hearing of signals: what a sleep of the main thread begins and ends with, where a signal has to end it. engine/hearing.py
 * says why, and does the same in Python.
 */
#include "port.h"

/* Has Python write the numbers of signals to a descriptor that is known to be fit for that. Returns the one before.
 *
 * C's own call makes no system call, where that of Python's module looks at the descriptor with two. It is there to be
 * linked from CPython 3.13 on; and only in the main interpreter, as in another one it is for Python's to refuse. */
static PyObject *write_signals_to_own(int descriptor) {
#if HEARING_IS_CHEAP
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) {
        int before = PySignal_SetWakeupFd(descriptor);
        PyObject *number = PyLong_FromLong(before);
        if (!number)
            PySignal_SetWakeupFd(before);
        return number;
    }
#endif
    PyObject *number = PyLong_FromLong(descriptor);
    PyObject *before = number ? PyObject_CallOneArg(hearing.write_signals_to, number) : NULL;
    Py_XDECREF(number);
    return before;
}

static PyObject *write_signals_to(PyObject *number) { return PyObject_CallOneArg(hearing.write_signals_to, number); }

/* The port can be closed meanwhile: who does that leaves the pipe to the end of this. */
int begin_hearing(struct port *self, struct waiter *waiter) {
    __atomic_store_n(&self->hearing, 1, __ATOMIC_SEQ_CST);
    POKE(self->tells, 1);
    if (__atomic_load_n(&self->closed, __ATOMIC_SEQ_CST))
        return 0;
    if (!(self->before = write_signals_to_own(self->writer)))
        return -1;
    POKE(waiter->heard, 1);
    if (!PyList_GET_SIZE(hearing.before) && PyList_Append(hearing.before, self->before) < 0)
        return -1;
    if (PyLong_AsLong(self->before) < 0)
        POKE(self->tells, 0);
    else if (call_port(self, name.forward_to, self->before, NULL, NULL) < 0)
        return -1;
    return PyErr_CheckSignals(); /* of those that came before this */
}

/* Has Python write to the program's own descriptor again, or to one that a handler has set meanwhile. */
static void write_as_before(struct port *self) {
    int had_none = PyLong_AsLong(self->before) < 0;
    PyObject *now = had_none ? write_signals_to_own(-1) : write_signals_to(self->before);
    if (!now) { /* it was closed meanwhile */
        PyErr_Clear();
        PyObject *none = PyLong_FromLong(-1); /* a small number: it is there */
        now = write_signals_to(none);
        Py_DECREF(none);
    }
    if (now && PyLong_AsLong(now) != self->writer)
        Py_XDECREF(write_signals_to(now));
    Py_XDECREF(now);
    PyErr_Clear();
}

int end_hearing(struct port *self, struct waiter *waiter) {
    PyObject *kept = NULL, *before = self->before;
    if (PyErr_Occurred())
        keep_first(&kept);
    POKE(waiter->heard, 0);
    if (before) {
        write_as_before(self);
        if (PyList_GET_SIZE(hearing.before) && PyList_GET_ITEM(hearing.before, 0) == before)
            PyList_SetSlice(hearing.before, 0, 1, NULL);
    }
    self->before = NULL;
    POKE(self->tells, 0);
    __atomic_store_n(&self->hearing, 0, __ATOMIC_SEQ_CST);
    if (before && PyLong_AsLong(before) >= 0 && call_port(self, name.forward_no_more, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    Py_XDECREF(before);
    if (__atomic_load_n(&self->closed, __ATOMIC_SEQ_CST) && call_port(self, name.close_signal_pipe, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}
