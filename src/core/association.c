/* Joining a port and leaving it, for what is plain there: a stream socket that is fit already, as an accept makes it, and
 * a handle that nothing is in flight on. Everything else is left to Python: QueuedPort.associate and
 * EmulatedHandle.close, of which these are a short form.
 */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET) /* epoll.py says the same, and why */

static PyObject *book, *book_lock; /* of the handles that have joined a port: see joined.py */
static PyObject *slow_close;

/* share_book(book, lock) */
static PyObject *share_book(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *shared, *lock;
    if (!PyArg_ParseTuple(args, "O!O", &PyDict_Type, &shared, &lock))
        return NULL;
    Py_XSETREF(book, Py_NewRef(shared));
    Py_XSETREF(book_lock, Py_NewRef(lock));
    Py_RETURN_NONE;
}

static int int_in(PyObject *socket, Py_ssize_t offset) { return *(const int *)((char *)socket + offset); }

/* Whether a socket tells of a single byte, as it does unless the program has set that otherwise; calls.py says more. */
static int tells_of_any(int number) {
    int least;
    socklen_t size = sizeof least;
    return getsockopt(number, SOL_SOCKET, SO_RCVLOWAT, &least, &size) == 0 && least == 1;
}

/* Whether an object is an open stream socket that is fit, and that no class has made something else of. */
static int is_plain_socket(PyObject *object) {
    if (Py_TYPE(object) != socket_type || *number_at(object) < 0 || int_in(object, at.type) != SOCK_STREAM ||
        !tells_of_any(*number_at(object)))
        return 0;
    PyObject *timeout = PyObject_CallMethodNoArgs(object, name.gettimeout);
    int plain = timeout && PyFloat_CheckExact(timeout) && PyFloat_AS_DOUBLE(timeout) == 0;
    Py_XDECREF(timeout);
    PyErr_Clear();
    return plain;
}

/* A handle of this port's and of a socket of this family and protocol, as Python makes it, without what is a single
 * handle's own. */
static PyObject *model_for(struct hot_path *self, PyObject *socket, PyObject *number) {
    int family = int_in(socket, at.family), protocol = int_in(socket, at.protocol);
    if (self->model && self->model_family == family && self->model_protocol == protocol)
        return self->model;
    PyObject *port = port_of(self), *names = PyTuple_Pack(1, name.skip_on_success), *made = NULL;
    PyObject *args[] = {port, socket, number, Py_None, Py_False};
    if (port && names)
        made = PyObject_Vectorcall((PyObject *)handle_type, args, 4, names);
    Py_XDECREF(names);
    Py_XDECREF(port);
    if (made) {
        put_ref(&SLOT(made, object), Py_None);
        put_ref(&SLOT(made, socket), Py_None);
        put_ref(&SLOT(made, hot_path), Py_None);
        self->model_family = family;
        self->model_protocol = protocol;
        Py_XSETREF(self->model, made);
    }
    return made;
}

/* Puts a new object of the same type in the place of one. */
static PyObject *renew(PyObject **slot) {
    PyTypeObject *type = Py_TYPE(*slot);
    PyObject *made = type->tp_alloc(type, 0);
    if (made)
        put(slot, made);
    return made;
}

static int renew_lane(PyObject **slot) {
    struct lane *lane = (struct lane *)renew(slot);
    if (lane)
        lane->ready = 1;
    return lane != NULL;
}

/* Makes a handle that has in each slot what the model has, and a lock and lanes of its own. */
static PyObject *handle_like(PyObject *model) {
    PyObject *made = handle_type->tp_alloc(handle_type, 0);
    if (!made)
        return NULL;
    for (Py_ssize_t offset = sizeof(PyObject); offset < handle_type->tp_basicsize; offset += sizeof(PyObject *))
        if (offset != handle_type->tp_weaklistoffset)
            *(PyObject **)((char *)made + offset) = Py_XNewRef(*(PyObject **)((char *)model + offset));
    if (!renew(&SLOT(made, lock)) || !renew_lane(&SLOT(made, incoming)) || !renew_lane(&SLOT(made, outgoing)))
        Py_CLEAR(made);
    return made;
}

static PyObject *make_handle(struct hot_path *self, PyObject *socket, PyObject *number, PyObject *key) {
    PyObject *model = model_for(self, socket, number), *made = model ? handle_like(model) : NULL;
    if (made) {
        put_ref(&SLOT(made, object), socket);
        put_ref(&SLOT(made, socket), socket);
        put_ref(&SLOT(made, number), number);
        put_ref(&SLOT(made, handle_key), key);
        put_ref(&SLOT(made, hot_path), (PyObject *)self);
    }
    return made;
}

/* Enters a handle into the port's table and into the book, if no other is known by its number. Returns whether it has. */
static int enter(struct hot_path *self, PyObject *handle, PyObject *number) {
    lock_acquire(book_lock);
    int is_free = usable(self) && *number_at(SLOT(handle, socket)) == PyLong_AsLong(number) &&
                  !PyDict_GetItemWithError(book, number) && !PyErr_Occurred();
    int entered = is_free && PyDict_SetItem(book, number, self->table_reference) == 0;
    if (entered && PyDict_SetItem(self->table, number, handle) < 0)
        entered = 0;
    lock_release(book_lock);
    return entered;
}

/* Takes a handle out of both, as joined.strike does. */
static void strike(struct hot_path *self, PyObject *handle, PyObject *number) {
    lock_acquire(book_lock);
    if (PyDict_GetItemWithError(self->table, number) == handle) {
        if (PyDict_GetItemWithError(book, number) == self->table_reference)
            PyDict_DelItem(book, number);
        PyDict_DelItem(self->table, number);
    }
    lock_release(book_lock);
    PyErr_Clear();
}

static int register_socket(struct hot_path *self, PyObject *number) {
    int fd = (int)PyLong_AsLong(number);
    struct epoll_event event = {.events = EVENTS, .data.fd = fd};
    if (self->ring) /* which takes any descriptor */
        return 0;
    if (PySet_Discard(self->strays, number) < 0)
        return -1;
    int result = epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event);
    if (result < 0 && errno == EEXIST) /* the set was rebuilt in between, with this handle in it */
        result = epoll_ctl(self->epoll, EPOLL_CTL_MOD, fd, &event);
    return result;
}

PyObject *associate(struct hot_path *self, PyObject *socket, PyObject *key) {
    if (!usable(self) || !is_plain_socket(socket))
        return NULL;
    PyObject *number = PyLong_FromLong(*number_at(socket));
    PyObject *made = number ? make_handle(self, socket, number, key) : NULL;
    if (made && !enter(self, made, number)) {
        Py_CLEAR(made);
    } else if (made && register_socket(self, number) < 0) {
        strike(self, made, number);
        Py_CLEAR(made);
    }
    Py_XDECREF(number);
    PyErr_Clear();
    return made;
}

static int is_idle(PyObject *lane) { return !has_first((struct lane *)lane) && !((struct lane *)lane)->active; }

/* Ends the life of a handle that nothing is in flight on. Returns whether it is one, with a plain socket that is open. */
static int end_idle(struct hot_path *self, PyObject *handle, PyObject *socket, PyObject *number) {
    lock_acquire(SLOT(handle, lock));
    int idle = usable(self) && SLOT(handle, life) == open_life && SLOT(handle, readiness) == Py_None &&
               is_idle(SLOT(handle, incoming)) && is_idle(SLOT(handle, outgoing)) &&
               Py_TYPE(socket) == socket_type && *number_at(socket) == PyLong_AsLong(number);
    if (idle)
        put_ref(&SLOT(handle, life), closed_life);
    lock_release(SLOT(handle, lock));
    return idle;
}

/* Takes a handle whose life has ended off the port, and closes its socket. */
static int leave(struct hot_path *self, PyObject *handle, PyObject *socket, PyObject *number) {
    if (!self->ring && PyDict_GetItemWithError(self->table, number) == handle)
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, *number_at(socket), NULL);
    strike(self, handle, number);
    int failed = call(socket, name.close) < 0;
    if (failed && PyErr_ExceptionMatches(PyExc_MemoryError)) { /* there may be some by now */
        PyErr_Clear();
        failed = call(socket, name.close) < 0;
    }
    if (!failed)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return -1;
    PyErr_Clear(); /* close(2) gives the descriptor back whatever it reports */
    return 0;
}

/* EmulatedHandle.close */
static PyObject *close_handle(PyObject *handle, PyObject *ignored) {
    (void)ignored;
    struct hot_path *self = (struct hot_path *)SLOT(handle, hot_path);
    if (!self || (PyObject *)self == Py_None || !usable(self) || !SLOT(handle, object) || holds_lock())
        return PyObject_CallOneArg(slow_close, handle);
    Py_INCREF(self);
    PyObject *socket = Py_NewRef(SLOT(handle, object)), *number = Py_NewRef(SLOT(handle, number)), *result = NULL;
    if (start_for_others(self) == 0) {
        if (!end_idle(self, handle, socket, number))
            result = PyObject_CallOneArg(slow_close, handle);
        else if (leave(self, handle, socket, number) == 0)
            result = Py_NewRef(Py_None);
    }
    Py_DECREF(number);
    Py_DECREF(socket);
    Py_DECREF(self);
    return result;
}

int put_close(void) {
    static PyMethodDef method = {"close", close_handle, METH_NOARGS, NULL};
    PyObject *class = (PyObject *)handle_type, *descriptor = PyDescr_NewMethod(handle_type, &method);
    slow_close = PyObject_GetAttrString(class, "close");
    int failed = !descriptor || !slow_close || PyObject_SetAttrString(class, "close", descriptor) < 0;
    Py_XDECREF(descriptor);
    return failed ? -1 : 0;
}

PyMethodDef association_functions[] = {
    {"share_book", share_book, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#endif
