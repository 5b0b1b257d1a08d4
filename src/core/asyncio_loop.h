/* The loop of asyncio on a port: what its files share. */
#ifndef UNIO_ASYNCIO_LOOP_H
#define UNIO_ASYNCIO_LOOP_H

#include "fields.h"

#if PY_VERSION_HEX < 0x030D0000
#define PyCFunctionFastWithKeywords _PyCFunctionFastWithKeywords
#endif

/* An asyncio.Handle: its slots are in the order of their names. That they are so is looked at before any is made. */
struct callback {
    PyObject_HEAD
    PyObject *args, *callback, *cancelled, *context, *loop, *repr, *source_traceback;
#if PY_VERSION_HEX < 0x030C0000
    PyObject *weakrefs;
#endif
};

/* An asyncio.TimerHandle. */
struct timer {
    struct callback callback;
    PyObject *scheduled, *when;
};

/* The classes of ours that derive from these two; NULL until they are known to be so. */
extern PyTypeObject *callback_type, *timer_type;

/* Makes one of them, for a call with some arguments in a context, or in a copy of the current one where that is NULL. */
PyObject *callback_new(PyTypeObject *type, PyObject *loop, PyObject *function, PyObject *const *args, Py_ssize_t count,
                       PyObject *context);

static inline struct callback *CALLBACK(PyObject *callback) { return (struct callback *)callback; }
static inline struct timer *TIMER(PyObject *timer) { return (struct timer *)timer; }

static inline int is_cancelled(PyObject *callback) { return PEEK(CALLBACK(callback)->cancelled) == Py_True; }

/* Calls something with some arguments, in a context. */
PyObject *call_within(PyObject *context, PyObject *function, PyObject *const *args, Py_ssize_t count);

/* Takes the exception that is set, and sets it again if it is to end the program: then this is NULL. */
PyObject *take_reportable(void);

/* Turns (asyncio_turns.c) */

/* A timer, until it has had its turn. */
struct scheduled {
    double when;
    unsigned long long order; /* those of one time run in the order in which they were made */
    PyObject *timer;
};

/* Objects one after another, of which the first is taken: what is ready, or is to be done at the end of a turn. */
struct line {
    PyObject **ring; /* from head on, round its end */
    size_t room, head, count;
};

struct turns {
    PyObject_HEAD
    PyObject *wait, *post, *submit; /* the methods of its port */
    PyObject *task_factory;         /* NULL where that is asyncio's own */
    PyObject *batch;                /* completions, of which the first so many are delivered */
    Py_ssize_t delivered;
    mutex mutex; /* of the next, which any thread adds to */
    struct line ready;
    struct line at_end; /* what is to be done at the end of the turn */
    struct scheduled *heap;
    size_t scheduled, room, spent; /* of those that are scheduled, so many were cancelled */
    unsigned long long made;
    double asked;   /* when the port was, about */
    unsigned skips; /* turns since then */
    char called; /* whether a packet that ends the wait is on its way */
    char debug, closed, stopping;
};

static inline struct turns *TURNS(PyObject *turns) { return (struct turns *)turns; }

extern PyTypeObject *turns_type;

/* Has something done at the end of the turn: called, or flushed, if it is a stream. */
int turns_before_wait(PyObject *turns, PyObject *work);

/* Calls a method with one argument: that of the port, where it is C's as usual, without the ways of a call. */
static inline PyObject *call_builtin(PyObject *method, PyObject *argument) {
    if (PyCFunction_CheckExact(method) && PyCFunction_GET_FLAGS(method) == (METH_FASTCALL | METH_KEYWORDS))
        return ((PyCFunctionFastWithKeywords)(void (*)(void))PyCFunction_GET_FUNCTION(method))(
            PyCFunction_GET_SELF(method), &argument, 1, NULL);
    return PyObject_CallOneArg(method, argument);
}

/* Submits an operation to the port of a loop. */
static inline int turns_submit(PyObject *turns, PyObject *operation) {
    PyObject *at_once = call_builtin(TURNS(turns)->submit, operation);
    Py_XDECREF(at_once);
    return at_once ? 0 : -1;
}

/* Streams (asyncio_stream.c) */

extern PyTypeObject *stream_type; /* NULL until it is known how a transport of asyncio's looks */

int stream_flush(PyObject *stream);

/* What a completion of its receive, or its send, is for: methods of its, which are called with that. */
PyObject *stream_received(PyObject *stream, PyObject *completion);
PyObject *stream_sent(PyObject *stream, PyObject *completion);

/* Handles (asyncio_handles.c) */

int offset_of(PyObject *class, const char *name, Py_ssize_t *offset);

/* Whether the slots of a class of Python's, which has none but these, are where a struct has them. */
struct place {
    const char *name;
    size_t offset;
};
int has_slots_at(PyObject *class, const struct place *places, size_t size);

#endif
