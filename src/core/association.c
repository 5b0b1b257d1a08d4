/* Joining a port and leaving it, for what is plain there: a stream socket that is fit already, as an accept makes it, and
 * a handle that nothing is in flight on. Everything else is left to Python: EnginePort.associate and
 * EngineHandle.close, of which these are a short form.
 */
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

static PyObject *registry, *registry_lock; /* of the handles that have joined a port: see engine/registry.py */

/* share_registry(registry, lock) */
static PyObject *share_registry(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *shared, *lock;
    if (!PyArg_ParseTuple(args, "O!O", &PyDict_Type, &shared, &lock))
        return NULL;
    Py_XSETREF(registry, Py_NewRef(shared));
    Py_XSETREF(registry_lock, Py_NewRef(lock));
    Py_RETURN_NONE;
}

/* Whether a socket tells of a single byte, as it does unless the program has set that otherwise; engine/syscalls.py
 * says more. */
static int tells_of_any(int number) {
    int least;
    socklen_t size = sizeof least;
    return getsockopt(number, SOL_SOCKET, SO_RCVLOWAT, &least, &size) == 0 && least == 1;
}

/* As engine/handle.py has it: a stream, or datagrams with addresses that C knows. */
static int is_fast_socket(PyObject *socket) {
    int family = int_in(socket, at.family), type = int_in(socket, at.type);
    return type == SOCK_STREAM || (type == SOCK_DGRAM && (family == AF_INET || family == AF_INET6 || family == AF_UNIX));
}

/* Whether an object is such a socket, open and fit, that no class has made something else of. */
static int is_plain_socket(PyObject *object) {
    if (Py_TYPE(object) != socket_type || number_in(object) < 0 || !is_fast_socket(object) ||
        !tells_of_any(number_in(object)))
        return 0;
    if (socket_is_unblocked(object))
        return 1;
    PyObject *timeout = PyObject_CallMethodNoArgs(object, name.gettimeout);
    int plain = timeout && PyFloat_CheckExact(timeout) && PyFloat_AS_DOUBLE(timeout) == 0;
    Py_XDECREF(timeout);
    if (!timeout)
        PyErr_Clear();
    return plain;
}

/* Whether a receive that comes up short has emptied the socket: of TCP's alone, as engine/handle.py says. */
static int shows_drained(struct port *self, PyObject *socket) {
    int family = int_in(socket, at.family), protocol = int_in(socket, at.protocol);
    int is_tcp = int_in(socket, at.type) == SOCK_STREAM && (family == AF_INET || family == AF_INET6) &&
                 (protocol == 0 || protocol == IPPROTO_TCP);
    return is_tcp && self->kernel.calls && self->kernel.calls->tells_urgent;
}

/* Has the kernel know of a handle; a ring takes any descriptor as it is. And a write there raises no signal: see make_fit in
 * engine/syscalls.py. Returns -1, perhaps with an exception, where that isn't to be. */
static int join(struct port *self, struct handle *handle) {
    if (!self->ring && kernel_add(&self->kernel, handle->number, handle->serial) < 0)
        return -1;
#ifdef F_SETNOSIGPIPE
    int silent = fcntl(handle->number, F_GETNOSIGPIPE);
    if (silent < 0 || !(handle->before = Py_BuildValue("(diii)", 0.0, 0, 1, silent)))
        return -1;
    return fcntl(handle->number, F_SETNOSIGPIPE, 1);
#else
    return 0;
#endif
}

/* As EngineHandle makes itself of such a socket. */
static PyObject *make_handle(struct port *self, PyObject *socket, int number, PyObject *key) {
    PyObject *made = handle_new(handle_type, NULL, NULL);
    struct handle *handle = handle_of(made);
    if (!made)
        return NULL;
    handle->key = Py_NewRef(key);
    handle->kind = Py_NewRef(socket_kind);
    handle->object = Py_NewRef(socket);
    handle->socket = Py_NewRef(socket);
    handle->port = Py_NewRef(self->reference);
    handle->queue = Py_NewRef(self->queue);
    handle->number = number;
    handle->serial = next_sequence();
    handle->shows_drained = (char)shows_drained(self, socket);
    handle->stream = int_in(socket, at.type) == SOCK_STREAM;
    handle->is_fast = 1;
    return made;
}

/* Enters a handle into the port's table and into the registry, if no other is known by its number. Returns whether it
 * has. */
static int enter(struct port *self, PyObject *handle, PyObject *number) {
    lock_acquire(registry_lock);
    int is_free = usable(self) && number_in(handle_of(handle)->socket) == handle_of(handle)->number &&
                  !PyDict_GetItemWithError(registry, number) && !PyErr_Occurred();
    int entered = is_free && PyDict_SetItem(registry, number, self->table_reference) == 0;
    if (entered && PyDict_SetItem(self->table, number, handle) < 0)
        entered = 0;
    lock_release(registry_lock);
    return entered;
}

/* Takes a handle out of both, as registry.remove does. */
static void registry_remove(struct port *self, PyObject *handle, PyObject *number) {
    lock_acquire(registry_lock);
    if (PyDict_GetItemWithError(self->table, number) == handle) {
        if (PyDict_GetItemWithError(registry, number) == self->table_reference)
            PyDict_DelItem(registry, number);
        PyDict_DelItem(self->table, number);
    }
    lock_release(registry_lock);
    if (PyErr_Occurred())
        PyErr_Clear();
}

PyObject *associate(struct port *self, PyObject *socket, PyObject *key) {
    if (!usable(self) || !is_plain_socket(socket))
        return NULL;
    int descriptor = number_in(socket);
    PyObject *number = PyLong_FromLong(descriptor);
    PyObject *made = number ? make_handle(self, socket, descriptor, key) : NULL;
    if (made && !enter(self, made, number)) {
        Py_CLEAR(made);
    } else if (made && join(self, handle_of(made)) < 0) {
        registry_remove(self, made, number);
        Py_CLEAR(made);
    }
    Py_XDECREF(number);
    if (!made)
        PyErr_Clear();
    return made;
}

static int is_idle(PyObject *direction) { return !has_first(direction_of(direction)) && !PEEK(direction_of(direction)->active); }

/* Ends the life of a handle that nothing is in flight on. Returns whether it is one, with a plain socket that is open. */
static int end_idle(struct port *self, PyObject *object, PyObject *socket) {
    struct handle *handle = handle_of(object);
    lock_acquire(handle->lock);
    int idle = usable(self) && PEEK(handle->lifecycle) == LIFECYCLE_OPEN && (!handle->readiness || handle->readiness == Py_None) &&
               is_idle(handle->incoming) && is_idle(handle->outgoing) && Py_TYPE(socket) == socket_type &&
               number_in(socket) == handle->number;
    if (idle)
        POKE(handle->lifecycle, LIFECYCLE_CLOSED);
    lock_release(handle->lock);
    return idle;
}

/* Takes a handle whose life has ended off the port, and closes its socket. */
static int leave(struct port *self, PyObject *handle, PyObject *socket) {
    PyObject *number = PyLong_FromLong(handle_of(handle)->number);
    if (!number && (PyErr_Clear(), 1)) /* there may be some memory by now, and without it this can't be undone */
        number = PyLong_FromLong(handle_of(handle)->number);
    PyObject *known = number ? dict_get(self->table, number) : NULL;
    if (!self->ring && known == handle)
        kernel_remove(&self->kernel, handle_of(handle)->number);
    Py_XDECREF(known);
    if (number)
        registry_remove(self, handle, number);
    Py_XDECREF(number);
    PyErr_Clear();
    int failed = socket_close(socket) < 0;
    if (failed && PyErr_ExceptionMatches(PyExc_MemoryError)) { /* there may be some by now */
        PyErr_Clear();
        failed = socket_close(socket) < 0;
    }
    if (!failed)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return -1;
    PyErr_Clear(); /* close(2) gives the descriptor back whatever it reports */
    return 0;
}

/* The port of a handle, if it may use this. The reference is the caller's. */
static struct port *port_of(struct handle *handle) {
    PyObject *port = handle->is_fast && handle->port ? reference_get(handle->port) : NULL;
    if (port && usable((struct port *)port))
        return (struct port *)port;
    Py_XDECREF(port);
    return NULL;
}

/* EngineHandle.close, where nothing is in flight; the rest is its method _close's. */
PyObject *handle_close(PyObject *handle, PyObject *Py_UNUSED(ignored)) {
    struct port *self = holds_lock() ? NULL : port_of(handle_of(handle));
    if (!self)
        return PyObject_CallMethodNoArgs(handle, name.slow_close);
    PyObject *socket = Py_NewRef(handle_of(handle)->object), *result = NULL;
    if (start_for_others(self) == 0) {
        if (!end_idle(self, handle, socket))
            result = PyObject_CallMethodNoArgs(handle, name.slow_close);
        else if (leave(self, handle, socket) == 0)
            result = Py_NewRef(Py_None);
    }
    Py_DECREF(socket);
    Py_DECREF(self);
    return result;
}

PyMethodDef association_functions[] = {
    {"share_registry", share_registry, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
