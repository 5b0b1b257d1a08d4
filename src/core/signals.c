/* Signals that a port has taken from the program; common/signals.py says who may, and has the form in Python.
 *
 * Python's own handling of signals would not do: only its main thread may choose a handler, and has to run it, between two
 * steps of the interpreter, however long it sleeps or computes. Nor would a signalfd: it takes a mask, which each thread has
 * for itself, and children inherit. So a handler of the kernel's is set here, in any thread, and the kernel runs it in any
 * thread, at once, also where that holds Python's lock. It notes the number, writes a byte to the pipe of the port, and does
 * nothing else.
 *
 * What was there before is kept as the kernel tells it, and set again as it was: Python's handler, faulthandler's, or any. */
#include "core.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#ifndef NSIG
#define NSIG 65
#endif

struct taken {
    struct sigaction before;
    int writer; /* the end of the pipe */
    char is_taken, has_come;
};

/* Changed with the lock of common/signals.py held, but for what has come. */
static struct taken table[NSIG];
static pid_t process;
static int inside; /* handlers that are running, in any thread */

static void handle(int number, siginfo_t *Py_UNUSED(info), void *Py_UNUSED(context));

static int is_ours(int number, struct sigaction *now) {
    return sigaction(number, NULL, now) == 0 && now->sa_flags & SA_SIGINFO && now->sa_sigaction == handle;
}

/* A process that was forked has this handler for a moment, and the pipe is its parent's: the signal goes to what the program
 * had for it, as soon as this returns. */
static void hand_on(int number) {
    sigaction(number, &table[number].before, NULL);
    raise(number);
}

static void handle(int number, siginfo_t *Py_UNUSED(info), void *Py_UNUSED(context)) {
    int kept = errno;
    __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&table[number].is_taken, __ATOMIC_SEQ_CST)) {
        ; /* it comes a moment too late, or by way of a handler that has kept this one */
    } else if (getpid() != process) {
        hand_on(number);
    } else {
        __atomic_store_n(&table[number].has_come, 1, __ATOMIC_SEQ_CST);
        while (write(table[number].writer, "", 1) < 0 && errno == EINTR) /* a full pipe wakes who reads it as well */
            ;
    }
    __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    errno = kept;
}

static struct taken *find(int number) {
    if (number > 0 && number < NSIG)
        return &table[number];
    PyErr_SetString(PyExc_ValueError, "no number of a signal");
    return NULL;
}

/* take_signal(number, writer): have a signal noted, and a byte written for each; once more, if another handler was set
 * meanwhile. Raises OSError. */
static PyObject *take(PyObject *Py_UNUSED(module), PyObject *args) {
    int number, writer;
    if (!PyArg_ParseTuple(args, "ii", &number, &writer))
        return NULL;
    struct taken *taken = find(number);
    struct sigaction now, ours = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    if (!taken)
        return NULL;
    if (taken->is_taken && is_ours(number, &now))
        Py_RETURN_NONE;
    sigemptyset(&ours.sa_mask);
    process = getpid();
    taken->writer = writer;
    if (!taken->is_taken)
        taken->has_come = 0;
    __atomic_store_n(&taken->is_taken, 1, __ATOMIC_SEQ_CST);
    if (sigaction(number, NULL, &now) == 0) {
        taken->before = now; /* before the handler can ask for it */
        if (sigaction(number, &ours, NULL) == 0)
            Py_RETURN_NONE;
    }
    __atomic_store_n(&taken->is_taken, 0, __ATOMIC_SEQ_CST);
    return PyErr_SetFromErrno(PyExc_OSError);
}

static void give_back(int number) {
    struct taken *taken = &table[number];
    struct sigaction now;
    if (is_ours(number, &now)) /* or else the program has set another one meanwhile, which stays */
        sigaction(number, &taken->before, NULL);
    __atomic_store_n(&taken->is_taken, 0, __ATOMIC_SEQ_CST);
}

/* give_back_signal(number): have the kernel do again what it did before. On return no handler uses the pipe any more. */
static PyObject *give_back_signal(PyObject *Py_UNUSED(module), PyObject *given) {
    int number = (int)PyLong_AsLong(given);
    if (PyErr_Occurred() || !find(number))
        return NULL;
    give_back(number);
    while (__atomic_load_n(&inside, __ATOMIC_SEQ_CST)) /* in other threads, which need nothing of this one */
        sched_yield();
    Py_RETURN_NONE;
}

/* signal_came(number): whether it has come since this was asked last. */
static PyObject *signal_came(PyObject *Py_UNUSED(module), PyObject *given) {
    int number = (int)PyLong_AsLong(given);
    if (PyErr_Occurred() || !find(number))
        return NULL;
    return PyBool_FromLong(__atomic_exchange_n(&table[number].has_come, 0, __ATOMIC_SEQ_CST));
}

/* note_signal(number): have that be so. */
static PyObject *note_signal(PyObject *Py_UNUSED(module), PyObject *given) {
    int number = (int)PyLong_AsLong(given);
    if (PyErr_Occurred() || !find(number))
        return NULL;
    __atomic_store_n(&table[number].has_come, 1, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

void signals_forked(void) {
    for (int number = 1; number < NSIG; number++) {
        if (table[number].is_taken)
            give_back(number);
    }
    inside = 0; /* those were threads of the parent's */
}

PyMethodDef signal_functions[] = {
    {"give_back_signal", give_back_signal, METH_O, NULL},
    {"note_signal", note_signal, METH_O, NULL},
    {"signal_came", signal_came, METH_O, NULL},
    {"take_signal", take, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
