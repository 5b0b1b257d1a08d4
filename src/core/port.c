/* unio._core.FastPort: the fast path of submit, wait, post and associate, for ports with a queue of their own.
 *
 * What is plain goes through here: an accept, or a receive or a send with one buffer, on a stream socket, that nothing
 * stands before. Everything else is left to the Python that it is a short form of (engine/port.py, engine/waiting.py,
 * engine/readiness.py, engine/attempts.py), also in the middle: each function here does what its namesake there would do,
 * or hands over to it. So there is one emulation. The rules are those of engine/handle.py: who changes a direction holds
 * the lock of its handle, and who attempts its first operation owns it.
 *
 * What it gains besides: the sends and receives that a thread submits between two waits are gathered, and attempted in
 * one go at the next, and those that the kernel has told of are attempted in one go as well, all of them without
 * Python's lock.
 *
 * Without Python's lock all of this holds as well. A port's fields that change are the queue's, which has a mutex, or are
 * looked at as a hint; the table and the backlog are Python's own, each of whose steps is one; what is gathered is each
 * thread's own, and taken from it under a mutex. docs/threads.md has the order of the locks.
 */
#include "port.h"

#define ARGUMENTS_MAX 8 /* no method has more */

struct room *take_room(struct port *self) {
    struct room *room = __atomic_exchange_n(&self->room, NULL, __ATOMIC_ACQ_REL);
    if (!room && !(room = PyMem_RawMalloc(sizeof *room)))
        PyErr_NoMemory();
    return room;
}

void give_back_room(struct port *self, struct room *room) {
    PyMem_RawFree(__atomic_exchange_n(&self->room, room, __ATOMIC_ACQ_REL));
}

/* Methods. Who calls one holds the port for as long as that takes. */

PyObject *call_slow(PyObject *port, PyObject *function, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *stack[ARGUMENTS_MAX + 1] = {port};
    Py_ssize_t all = count + (names ? PyTuple_GET_SIZE(names) : 0);
    if (all > ARGUMENTS_MAX)
        return PyErr_Format(PyExc_TypeError, "%zd arguments are too many", all);
    memcpy(stack + 1, args, (size_t)all * sizeof *args);
    return PyObject_Vectorcall(function, stack, (size_t)count + 1, names);
}

static PyObject *port_associate(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    int has_key_by_name = names && PyTuple_GET_SIZE(names) == 1 && PyTuple_GET_ITEM(names, 0) == name.key;
    if (self && (names ? count == 1 && has_key_by_name : count == 1 || count == 2)) {
        PyObject *key = names || count == 2 ? args[1] : Py_None, *handle = associate(self, args[0], key);
        if (handle)
            return handle;
    }
    return call_slow(port, slow.associate, args, count, names);
}

/* Post, as WaitingPort.post does. Like everything that it does until it wakes somebody, it is one step of Python's, so
 * that it may be called from a signal handler. */
static PyObject *port_post(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    if (!self || names || count < 1 || count > 3)
        return call_slow(port, slow.post, args, count, names);
    PyObject *zero = PyLong_FromLong(0); /* a small number: it is there */
    PyObject *completion = posted_completion(args[0], count > 1 ? args[1] : Py_None, count > 2 ? args[2] : zero);
    Py_DECREF(zero);
    if (completion && !usable(self)) { /* making it has run a finalizer that has closed the port */
        Py_DECREF(completion);
        return call_slow(port, slow.post, args, count, names);
    }
    int failed = !completion || queue_append(self->queue, completion) < 0;
    Py_XDECREF(completion);
    if (!failed && PEEK(self->queue->closed)) /* in another thread just now; who closed it may have emptied it before */
        failed = call((PyObject *)self->queue, name.empty) < 0;
    if (failed || queue_wake(self->queue) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _harvest_fast(timeout in milliseconds): whether there was anything. */
static PyObject *port_harvest(PyObject *port, PyObject *timeout_ms) {
    int most_ms = (int)PyLong_AsLong(timeout_ms);
    int found = PyErr_Occurred() ? -1 : harvest((struct port *)port, most_ms);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

/* _start_all(): starts what threads have gathered. */
static PyObject *port_start_all(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    if (self->queue && self->generation == generation && start_for_others(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _request_fast(handle, direction): see request_first_locked. */
static PyObject *port_request(PyObject *port, PyObject *const *args, Py_ssize_t count) {
    struct port *self = usable_port(port);
    unsigned long long name = 0;
    if (self && count == 2 && Py_TYPE(args[0]) == handle_type && Py_TYPE(args[1]) == direction_type)
        name = request_first_locked(self, args[0], direction_of(args[1]));
    return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(name);
}

/* _is_heard(): whether the main thread waits, and Python writes to the pipe. */
static PyObject *port_is_heard(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    return PyBool_FromLong(self->generation == generation && __atomic_load_n(&self->hearing, __ATOMIC_SEQ_CST));
}

/* _tells_program(): whether what is written to the pipe just now is for the program's own descriptor as well. */
static PyObject *port_tells_program(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(PEEK(((struct port *)port)->tells));
}

/* _write_signals_to(descriptor): have Python do that while the main thread sleeps. */
static PyObject *port_write_signals_to(PyObject *port, PyObject *number) {
    ((struct port *)port)->writer = (int)PyLong_AsLong(number);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* _begin_fast(queue, table, backlog, timers, ring or None): from now on the port uses this. */
static PyObject *port_begin(PyObject *port, PyObject *args) {
    struct port *self = (struct port *)port;
    PyObject *queue, *table, *backlog, *timers, *ring;
    if (!PyArg_ParseTuple(args, "OO!OO!O", &queue, &PyDict_Type, &table, &backlog, deadlines_type, &timers, &ring))
        return NULL;
    if (!(self->reference = PyWeakref_NewRef(port, NULL)) || !(self->table_reference = PyWeakref_NewRef(table, NULL)))
        return NULL;
    self->table = Py_NewRef(table);
    self->backlog = Py_NewRef(backlog);
    self->timers = deadlines_of(Py_NewRef(timers));
    self->ring = ring == Py_None ? NULL : Py_NewRef(ring);
    self->generation = generation;
    self->queue = (struct queue *)Py_NewRef(queue);
    Py_RETURN_NONE;
}

/* _end_fast(): it is closed. */
static PyObject *port_end(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    __atomic_store_n(&self->closed, 1, __ATOMIC_SEQ_CST);
    kernel_end(&self->kernel);
    Py_RETURN_NONE;
}

#ifdef __linux__
/* _use_epoll(number, stale): its kernel, which is said before _begin_fast. */
static PyObject *port_use_epoll(PyObject *port, PyObject *args) {
    return kernel_use_epoll(&((struct port *)port)->kernel, args) < 0 ? NULL : Py_NewRef(Py_None);
}
#endif

/* _use_kqueue(number, kevent) */
static PyObject *port_use_kqueue(PyObject *port, PyObject *args) {
    return kernel_use_kqueue(&((struct port *)port)->kernel, args) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The type */

static int port_traverse(PyObject *port, visitproc visit, void *arg) {
    struct port *self = (struct port *)port;
    Py_VISIT(self->queue);
    Py_VISIT(self->table);
    Py_VISIT(self->backlog);
    Py_VISIT(self->timers);
    Py_VISIT(self->ring);
    Py_VISIT(self->kernel.stale);
    return 0;
}

static int port_clear(PyObject *port) {
    struct port *self = (struct port *)port;
    Py_CLEAR(self->queue);
    Py_CLEAR(self->table);
    Py_CLEAR(self->backlog);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->ring);
    Py_CLEAR(self->kernel.stale);
    Py_CLEAR(self->reference);
    Py_CLEAR(self->table_reference);
    return 0;
}

static void port_dealloc(PyObject *port) {
    PyTypeObject *type = Py_TYPE(port);
    PyObject_GC_UnTrack(port);
    port_clear(port);
    PyMem_RawFree(((struct port *)port)->room);
    type->tp_free(port);
    Py_DECREF(type);
}

#define METHOD(name, function, kind) {name, (PyCFunction)(void (*)(void))(function), kind, NULL}

static PyMethodDef methods[] = {
    METHOD("associate", port_associate, METH_FASTCALL | METH_KEYWORDS),
    METHOD("submit", port_submit, METH_FASTCALL | METH_KEYWORDS),
    METHOD("wait", port_wait, METH_FASTCALL | METH_KEYWORDS),
    METHOD("post", port_post, METH_FASTCALL | METH_KEYWORDS),
    METHOD("_begin_fast", port_begin, METH_VARARGS),
    METHOD("_end_fast", port_end, METH_NOARGS),
    METHOD("_harvest_fast", port_harvest, METH_O),
    METHOD("_is_heard", port_is_heard, METH_NOARGS),
    METHOD("_request_fast", port_request, METH_FASTCALL),
    METHOD("_tells_program", port_tells_program, METH_NOARGS),
    METHOD("_start_all", port_start_all, METH_NOARGS),
    METHOD("_write_signals_to", port_write_signals_to, METH_O),
#ifdef __linux__
    METHOD("_use_epoll", port_use_epoll, METH_VARARGS),
#endif
    METHOD("_use_kqueue", port_use_kqueue, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, port_dealloc}, {Py_tp_traverse, port_traverse}, {Py_tp_clear, port_clear},
    {Py_tp_methods, methods},      {0, NULL},
};

PyType_Spec port_spec = {.name = "unio._core.FastPort",
                         .basicsize = sizeof(struct port),
                         .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                         .slots = slots};
