/* Socket objects: C finds the descriptor in them, and that there is none any more; and makes and closes those of accepted
 * connections.
 *
 * socket.socket is a class of Python's over one of C. Its __init__ calls that of C and sets two slots, and its close
 * sets one of them and calls that of C; but the ways there and back take ten times what C takes. So this does the same,
 * where common/accelerator.py has seen that those methods are the ones it knows, and for as long as nobody has put
 * others in their place. */
#include "port.h"

#include <string.h>

PyTypeObject *socket_type;

static struct {
    PyObject *init, *close;     /* methods of socket.socket; NULL where they are not known */
    PyObject *close_in_c;       /* what the latter comes to */
    PyObject *no_refs;          /* zero, of which there is one */
    PyObject *nothing;          /* an empty tuple */
    PyObject *module;           /* the dict in which programs find the class */
    Py_ssize_t io_refs, closed; /* where its objects have these */
} known;

/* know_sockets(the dict of the module socket): its class has the methods that are known here. */
static PyObject *know_sockets(PyObject *Py_UNUSED(module), PyObject *dict) {
    PyObject *class = (PyObject *)socket_type, *base = (PyObject *)socket_type->tp_base;
    if (offset_of(class, "_io_refs", &known.io_refs) < 0 || offset_of(class, "_closed", &known.closed) < 0 ||
        !(known.close = PyObject_GetAttr(class, name.close)) ||
        !(known.close_in_c = PyObject_GetAttr(base, name.close)) || !(known.init = PyObject_GetAttr(class, name.init)))
        return NULL;
    if (!(known.no_refs = PyLong_FromLong(0)) || !(known.nothing = PyTuple_New(0)))
        return NULL;
    known.module = Py_NewRef(dict);
    Py_RETURN_NONE;
}

static int is_still(PyObject *method, PyObject *what) {
    PyObject *now = what ? PyObject_GetAttr((PyObject *)socket_type, method) : NULL;
    Py_XDECREF(now);
    if (what && !now)
        PyErr_Clear();
    return now && now == what;
}

/* Whether sockets are made as they were when this was made. */
static int makes_sockets(void) {
    if (!is_still(name.init, known.init))
        return 0;
    PyObject *class = dict_get(known.module, name.socket);
    Py_XDECREF(class);
    if (!class)
        PyErr_Clear();
    return class == (PyObject *)socket_type;
}

/* What the class of C keeps behind the four numbers of a socket: by which function it raises, its time-out, and perhaps its
 * module; nothing of which is the object's own. It is the same in all sockets that don't block, so once Python has made
 * one of these, the others get a copy: to make them takes it a system call, and four times the instructions. */
#define REST_MAX (3 * sizeof(void *)) /* where there is more, it is not known what that is */

static struct {
    char bytes[REST_MAX];
    int is_known;
} unblocked;

static char *rest_of(PyObject *socket) { return (char *)socket + at.protocol + sizeof(int); }

static size_t rest_size(void) { return (size_t)socket_type->tp_base->tp_basicsize - (size_t)at.protocol - sizeof(int); }

static void learn_rest(PyObject *socket) {
    if (rest_size() <= REST_MAX) {
        memcpy(unblocked.bytes, rest_of(socket), rest_size()); /* of two threads, both write the same */
        __atomic_store_n(&unblocked.is_known, 1, __ATOMIC_RELEASE);
    }
}

static int is_rest_known(void) { return __atomic_load_n(&unblocked.is_known, __ATOMIC_ACQUIRE); }

int socket_is_unblocked(PyObject *socket) {
    return is_rest_known() && !memcmp(rest_of(socket), unblocked.bytes, rest_size());
}

struct kind_of_socket {
    int family, type, protocol;
};

/* Makes a socket object by what its class does. */
static PyObject *init_socket(const struct kind_of_socket *kind, int number) {
    PyObject *args = Py_BuildValue("iiii", kind->family, kind->type | SOCK_NONBLOCK, kind->protocol, number);
    PyObject *made = args ? socket_type->tp_new(socket_type, args, NULL) : NULL;
    if (made && socket_type->tp_base->tp_init(made, args, NULL) < 0)
        Py_CLEAR(made);
    Py_XDECREF(args);
    if (made)
        learn_rest(made);
    return made;
}

/* Makes one as a copy; what watches the program hears of it all the same. */
static PyObject *copy_socket(const struct kind_of_socket *kind, int number) {
    PyObject *made = socket_type->tp_new(socket_type, known.nothing, NULL);
    if (made && PySys_Audit("socket.__new__", "Oiii", made, kind->family, kind->type | SOCK_NONBLOCK, kind->protocol) < 0)
        Py_CLEAR(made);
    if (!made)
        return NULL;
    memcpy(rest_of(made), unblocked.bytes, rest_size());
    *(int *)((char *)made + at.family) = kind->family;
    *(int *)((char *)made + at.type) = kind->type;
    *(int *)((char *)made + at.protocol) = kind->protocol;
    __atomic_store_n((int *)number_at(made), number, __ATOMIC_RELAXED);
    return made;
}

static PyObject *int_slot(PyObject *socket, Py_ssize_t offset) {
    return field_of(socket, (PyObject **)((char *)socket + offset));
}

static void put_slot(PyObject *socket, Py_ssize_t offset, PyObject *value) {
    set_field(socket, (PyObject **)((char *)socket + offset), value);
}

PyObject *socket_accepted(PyObject *listener, int number) {
    if (!makes_sockets())
        return NULL;
    const struct kind_of_socket kind = {int_in(listener, at.family), int_in(listener, at.type), int_in(listener, at.protocol)};
    PyObject *made = is_rest_known() ? copy_socket(&kind, number) : init_socket(&kind, number);
    if (made) {
        put_slot(made, known.io_refs, Py_NewRef(known.no_refs));
        put_slot(made, known.closed, Py_NewRef(Py_False));
    }
    return made;
}

int socket_close(PyObject *socket) {
    int is_plain = Py_TYPE(socket) == socket_type && is_still(name.close, known.close);
    PyObject *refs = is_plain ? int_slot(socket, known.io_refs) : NULL;
    int is_last = refs && refs == known.no_refs;
    Py_XDECREF(refs);
    if (!is_last) /* a file of makefile's has it as well, or it is not for this */
        return call(socket, name.close);
    put_slot(socket, known.closed, Py_NewRef(Py_True));
    PyObject *result = PyObject_Vectorcall(known.close_in_c, &socket, 1, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* keeps_number(socket, number): whether the descriptor of a socket object is where number_at looks for it. */
static PyObject *keeps_number(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *socket;
    int number;
    if (!PyArg_ParseTuple(args, "Oi", &socket, &number))
        return NULL;
    return PyBool_FromLong(*number_at(socket) == number);
}

/* claim(socket.socket): whether what looks into objects is the caller's, as it is the first that asks in the main
 * interpreter. The classes are kept once for the process: another copy of the package has classes of its own, and other
 * interpreters come and go. */
static PyObject *claim(PyObject *module, PyObject *class) {
    if (socket_type || PyInterpreterState_Get() != PyInterpreterState_Main())
        Py_RETURN_FALSE;
    operation_type = (PyTypeObject *)PyObject_GetAttrString(module, "OperationState");
    completion_type = (PyTypeObject *)PyObject_GetAttrString(module, "Completion");
    direction_type = (PyTypeObject *)PyObject_GetAttrString(module, "Direction");
    lock_type = (PyTypeObject *)PyObject_GetAttrString(module, "Lock");
    deadline_type = (PyTypeObject *)PyObject_GetAttrString(module, "Deadline");
    deadlines_type = (PyTypeObject *)PyObject_GetAttrString(module, "Deadlines");
    if (!operation_type || !completion_type || !direction_type || !lock_type || !deadline_type || !deadlines_type)
        return NULL;
    socket_type = (PyTypeObject *)Py_NewRef(class);
    Py_RETURN_TRUE;
}

PyMethodDef socket_functions[] = {
    {"claim", claim, METH_O, NULL},
    {"keeps_number", keeps_number, METH_VARARGS, NULL},
    {"know_sockets", know_sockets, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
