/* The classes of the rest of unio: where their instances keep what the hot path reads and writes, and what it calls. */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

#include <structmember.h> /* PyMemberDef, until Python 3.12 */

PyTypeObject *handle_type;
PyObject *open_life, *closed_life, *made_socket;
struct offsets at;
struct names name;
struct slow_forms slow;
_Thread_local PyObject *here __attribute__((tls_model("initial-exec")));
unsigned generation;

static void forked(void) {
    generation++;
    here = NULL;
    lock_forked();
}

Py_ssize_t next_sequence(void) {
    static Py_ssize_t latest;
    return ++latest;
}

/* The port, or NULL with an exception where it is gone. */
PyObject *port_of(struct hot_path *self) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *port;
    PyWeakref_GetRef(self->port, &port);
#else
    PyObject *port = PyWeakref_GetObject(self->port);
    port = port == Py_None ? NULL : Py_NewRef(port);
#endif
    if (!port && !PyErr_Occurred())
        PyErr_SetString(PyExc_ReferenceError, "the port is gone");
    return port;
}

/* Calls a method of the port and drops the result. */
int call_port(struct hot_path *self, PyObject *method, PyObject *a, PyObject *b, PyObject *c) {
    PyObject *port = port_of(self);
    PyObject *result = port ? PyObject_CallMethodObjArgs(port, method, a, b, c, NULL) : NULL;
    Py_XDECREF(port);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int call(PyObject *object, PyObject *method) {
    PyObject *result = PyObject_CallMethodNoArgs(object, method);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Learning where the classes keep things */

static int find(PyObject *class, const char *name, Py_ssize_t *offset) {
    PyObject *found = PyObject_GetAttrString(class, name);
    if (!found)
        return -1;
    int fits = Py_TYPE(found) == &PyMemberDescr_Type;
    if (fits)
        *offset = ((PyMemberDescrObject *)found)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%R has no slot %s", class, name);
    Py_DECREF(found);
    return fits ? 0 : -1;
}

static int intern_names(void) {
    const struct {
        PyObject **at;
        const char *spelled;
    } wanted[] = {
        {&name.act_on_results, "_act_on_results"},             {&name.look_again, "_look_again"},
        {&name.run, "_run"},           {&name.run_on, "_run_on"},   {&name.resume, "_resume"},
        {&name.event, "_event"},       {&name.lead, "_lead"},       {&name.close_kernel_once, "_close_kernel_once"},
        {&name.wake, "wake"},          {&name.pass_on, "pass_on"},  {&name.release, "release"},
        {&name.discard, "discard"},    {&name.empty, "_empty"},  {&name.sleeping, "sleeping"}, {&name.heap, "_heap"},
        {&name.coming, "_coming"},     {&name.timeout, "timeout"},  {&name.limit, "limit"},
        {&name.leave, "leave"},        {&name.key, "key"},          {&name.gettimeout, "gettimeout"},
        {&name.close, "close"},        {&name.skip_on_success, "skip_on_success"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!*wanted[i].at && !(*wanted[i].at = PyUnicode_InternFromString(wanted[i].spelled)))
            return -1;
    }
    return 0;
}

static int find_slow_forms(PyObject *port_class) {
    const struct {
        const char *name;
        PyObject **at;
    } wanted[] = {
        {"associate", &slow.associate}, {"submit", &slow.submit}, {"wait", &slow.wait}, {"post", &slow.post}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!(*wanted[i].at = PyObject_GetAttrString(port_class, wanted[i].name)))
            return -1;
    }
    return 0;
}

/* learn(QueuedPort, EmulatedHandle, Waiter, Life, made_socket): tells this file the classes of the rest, and what makes the
 * socket of an accepted connection. */
static PyObject *learn(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *handle_class, *waiter_class, *life, *port_class;
    PyObject *socket_base = (PyObject *)socket_type->tp_base; /* the class itself has properties */
    if (!PyArg_ParseTuple(args, "OOOOO", &port_class, &handle_class, &waiter_class, &life, &made_socket))
        return NULL;
    const struct {
        PyObject *class;
        const char *name;
        Py_ssize_t *offset;
    } wanted[] = {
        {handle_class, "key", &at.handle_key},
        {handle_class, "object", &at.object},
        {handle_class, "number", &at.number},
        {handle_class, "skip_on_success", &at.skips},
        {handle_class, "lock", &at.lock},
        {handle_class, "life", &at.life},
        {handle_class, "incoming", &at.incoming},
        {handle_class, "outgoing", &at.outgoing},
        {handle_class, "readiness", &at.readiness},
        {handle_class, "shows_drained", &at.shows_drained},
        {handle_class, "ended", &at.ended},
        {handle_class, "socket", &at.socket},
        {handle_class, "hot_path", &at.hot_path},
        {waiter_class, "place", &at.place},
        {waiter_class, "places", &at.places},
        {socket_base, "family", &at.family},
        {socket_base, "type", &at.type},
        {socket_base, "proto", &at.protocol},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (find(wanted[i].class, wanted[i].name, wanted[i].offset) < 0)
            return NULL;
    }
    Py_INCREF(made_socket);
    handle_type = (PyTypeObject *)Py_NewRef(handle_class);
    open_life = PyObject_GetAttrString(life, "OPEN");
    closed_life = PyObject_GetAttrString(life, "CLOSED");
    if (find_slow_forms(port_class) < 0 || !open_life || !closed_life || intern_names() < 0 ||
        put_close() < 0)
        return NULL;
    pthread_atfork(NULL, NULL, forked);
    Py_RETURN_NONE;
}

/* thread_waits(waiter): notes the calling thread's waiter, which its caller keeps alive until it notes another. */
static PyObject *thread_waits(PyObject *module, PyObject *waiter) {
    (void)module;
    here = waiter == Py_None ? NULL : waiter;
    Py_RETURN_NONE;
}

/* next_sequence(): a number above all before it, by which operations are ordered. */
static PyObject *next_sequence_number(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    return PyLong_FromSsize_t(next_sequence());
}

PyMethodDef class_functions[] = {
    {"learn", learn, METH_VARARGS, NULL},
    {"next_sequence", next_sequence_number, METH_NOARGS, NULL},
    {"thread_waits", thread_waits, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#endif
