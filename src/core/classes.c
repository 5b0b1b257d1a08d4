/* What the fast path learns of the rest of unio: its classes, where a socket object keeps its kind, the names of what is
 * called, and the numbers that both sides use. */
#include "port.h"

#include <structmember.h> /* PyMemberDef, until Python 3.12 */

PyTypeObject *handle_type;
PyObject *accepted_socket, *socket_kind, *readiness;
struct offsets at;
struct names name;
struct slow_forms slow;
struct constants constant;
struct hearing hearing;
unsigned generation;

static void forked(void) {
    generation++;
    current = NULL;
    lock_forked();
    signals_forked();
}

Py_ssize_t next_sequence(void) {
    static _Alignas(128) struct { Py_ssize_t latest; char apart[120]; } own;
    return __atomic_add_fetch(&own.latest, 1, __ATOMIC_RELAXED);
}

/* Calls a method of the port and drops the result. */
int call_port(struct port *self, PyObject *method, PyObject *a, PyObject *b, PyObject *c) {
    PyObject *result = PyObject_CallMethodObjArgs((PyObject *)self, method, a, b, c, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int call(PyObject *object, PyObject *method) {
    PyObject *result = PyObject_CallMethodNoArgs(object, method);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Learning */

int offset_of(PyObject *class, const char *name, Py_ssize_t *offset) {
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

static int find_offsets(void) {
    PyObject *socket_base = (PyObject *)socket_type->tp_base; /* the class itself has properties */
    return offset_of(socket_base, "family", &at.family) < 0 || offset_of(socket_base, "type", &at.type) < 0 ||
                   offset_of(socket_base, "proto", &at.protocol) < 0
               ? -1
               : 0;
}

static int intern_names(void) {
    const struct {
        PyObject **at;
        const char *spelled;
    } wanted[] = {
        {&name.act_on_results, "_act_on_results"},
        {&name.address, "address"},
        {&name.append, "append"},
        {&name.buffer, "buffer"},
        {&name.close, "close"},
        {&name.close_kernel_once, "_close_kernel_once"},
        {&name.close_signal_pipe, "_close_signal_pipe"},
        {&name.empty, "_empty"},
        {&name.event, "_event"},
        {&name.fileno, "fileno"},
        {&name.forward_no_more, "_forward_no_more"},
        {&name.forward_to, "_forward_to"},
        {&name.gettimeout, "gettimeout"},
        {&name.init, "__init__"},
        {&name.key, "key"},
        {&name.lead, "_lead"},
        {&name.leave, "leave"},
        {&name.limit, "limit"},
        {&name.look_again, "_look_again"},
        {&name.popleft, "popleft"},
        {&name.release, "release"},
        {&name.resume, "_resume"},
        {&name.run, "_run"},
        {&name.run_on, "_run_on"},
        {&name.slow_close, "_close"},
        {&name.socket, "socket"},
        {&name.state, "state"},
        {&name.timeout, "timeout"},
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

/* learn(EnginePort, EngineHandle, Kind.SOCKET, unblocked_socket, io.FileIO, write_signals_to, before, readiness): the classes
 * of the rest, what makes the socket of an accepted connection that doesn't block, what port.h says of hearing, and each
 * unio.Readiness in the order of the numbers. */
static PyObject *learn(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *port_class, *handle_class, *file_class;
    if (!PyArg_ParseTuple(args, "OOOOOOO!O!", &port_class, &handle_class, &socket_kind, &accepted_socket, &file_class,
                          &hearing.write_signals_to, &PyList_Type, &hearing.before, &PyTuple_Type, &readiness))
        return NULL;
    Py_INCREF(readiness);
    Py_INCREF(hearing.write_signals_to);
    Py_INCREF(hearing.before);
    handle_type = (PyTypeObject *)Py_NewRef(handle_class);
    file_type = (PyTypeObject *)Py_NewRef(file_class);
    Py_INCREF(accepted_socket);
    Py_INCREF(socket_kind);
    if (find_offsets() < 0 || find_slow_forms(port_class) < 0 || intern_names() < 0 ||
        know_awaiting() < 0)
        return NULL;
    pthread_atfork(NULL, NULL, forked);
    Py_RETURN_NONE;
}

/* adopt(takes_max=, ask_seconds=, ...): the numbers of the rest. */
static PyObject *adopt(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords) {
    static char *names[] = {"takes_max",    "ask_seconds", "sweep_seconds", "lock_seconds_max",
                            "attempts_max", "limit",       "send_max",      "buffer_min",
                            "sweep_freely", "quick_seconds", "pace_max", "pace_weight", "run_seconds", "slow_limit",
                            "vector_max",   NULL};
    struct constants *to = &constant;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$Idddinnnnddddnn", names, &to->takes_max, &to->ask_seconds,
                                     &to->sweep_seconds, &to->lock_seconds_max, &to->attempts_max, &to->limit,
                                     &to->send_max, &to->buffer_min, &to->sweep_freely, &to->quick_seconds,
                                     &to->pace_max, &to->pace_weight, &to->run_seconds, &to->slow_limit, &to->vector_max))
        return NULL;
    Py_RETURN_NONE;
}

/* thread_waits(waiter): notes the calling thread's waiter, which its caller keeps alive until it notes another. */
static PyObject *thread_waits(PyObject *Py_UNUSED(module), PyObject *waiter) {
    current = waiter == Py_None ? NULL : (struct waiter *)waiter;
    Py_RETURN_NONE;
}

/* next_sequence(): a number above all before it, by which operations are ordered. */
static PyObject *next_sequence_number(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    return PyLong_FromSsize_t(next_sequence());
}

PyMethodDef class_functions[] = {
    {"adopt", (PyCFunction)(void (*)(void))adopt, METH_VARARGS | METH_KEYWORDS, NULL},
    {"learn", learn, METH_VARARGS, NULL},
    {"next_sequence", next_sequence_number, METH_NOARGS, NULL},
    {"thread_waits", thread_waits, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
