/* unio._core.OperationState: what every operation keeps, and AcceptState. operation_state.py has the same in Python.
 *
 * The classes of unio.operations are made of these. What is not plain is left to methods of theirs: checks of what a program
 * gives, and the words of what is raised.
 */
#include "operation.h"
#include "address.h"

#include <structmember.h> /* T_OBJECT_EX and its like, until Python 3.12 */

PyTypeObject *operation_type;

/* Making and dropping */

PyObject *state_new(PyTypeObject *type, enum kind kind) {
    PyObject *self = type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    struct operation *operation = OP(self);
    PyObject **const none[] = {&operation->error,  &operation->verdict, &operation->expiry,
                               &operation->native, &operation->next,    &operation->previous};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        *none[i] = Py_NewRef(Py_None);
    operation->kind = (signed char)kind;
    return self;
}

int state_traverse(PyObject *self, visitproc visit, void *arg) {
    struct operation *operation = OP(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(operation->handle);
    Py_VISIT(operation->key);
    Py_VISIT(operation->state);
    Py_VISIT(operation->error);
    Py_VISIT(operation->verdict);
    Py_VISIT(operation->expiry);
    Py_VISIT(operation->native);
    Py_VISIT(operation->next);
    Py_VISIT(operation->previous);
    return 0;
}

int state_clear(PyObject *self) {
    struct operation *operation = OP(self);
    Py_CLEAR(operation->handle);
    Py_CLEAR(operation->key);
    Py_CLEAR(operation->state);
    Py_CLEAR(operation->error);
    Py_CLEAR(operation->verdict);
    Py_CLEAR(operation->expiry);
    Py_CLEAR(operation->native);
    Py_CLEAR(operation->next);
    Py_CLEAR(operation->previous);
    return 0;
}

/* A row of operations may be long, and one goes with the other: the deallocator of Python's classes, which has called this,
 * sees to that. Each operation is of such a class. */
void state_dealloc(PyObject *self, inquiry clear) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (OP(self)->weakrefs)
        PyObject_ClearWeakRefs(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void operation_dealloc(PyObject *self) { state_dealloc(self, state_clear); }

static PyObject *operation_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords; /* __init__ takes them */
    return state_new(type, NEITHER);
}

/* What a program sees of it */

PyObject *field_or_error(PyObject *self, PyObject **field, const char *name) {
    PyObject *value = field_of(self, field);
    if (!value)
        PyErr_Format(PyExc_AttributeError, "'%.100s' object has no attribute '%s'", Py_TYPE(self)->tp_name, name);
    return value;
}

static int call(PyObject *self, const char *method, PyObject *value) {
    PyObject *result = PyObject_CallMethod(self, method, value ? "(O)" : NULL, value);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int must_be_idle(PyObject *self) { return operation_is_idle(self) ? 0 : call(self, "_must_be_idle", NULL); }

static int can_not_delete(PyObject *self, const char *attribute) {
    PyErr_Format(PyExc_AttributeError, "property '%s' of '%.100s' object has no deleter", attribute,
                 Py_TYPE(self)->tp_name);
    return -1;
}

int set_in_python(PyObject *self, const char *method, PyObject *value, const char *attribute) {
    return value ? call(self, method, value) : can_not_delete(self, attribute);
}

static PyObject *get_handle(PyObject *self, void *ignored) {
    (void)ignored;
    return field_or_error(self, &OP(self)->handle, "_handle");
}

static int set_handle(PyObject *self, PyObject *handle, void *ignored) {
    (void)ignored;
    return set_in_python(self, "_set_handle", handle, "handle");
}

static PyObject *get_key(PyObject *self, void *ignored) {
    (void)ignored;
    return field_or_error(self, &OP(self)->key, "_key");
}

static int set_key(PyObject *self, PyObject *key, void *ignored) {
    (void)ignored;
    if (!key)
        return can_not_delete(self, "key");
    if (must_be_idle(self) < 0)
        return -1;
    set_field(self, &OP(self)->key, Py_NewRef(key));
    return 0;
}

static PyObject *get_error(PyObject *self, void *ignored) {
    (void)ignored;
    return field_or_error(self, &OP(self)->error, "_error");
}

static int set_error(PyObject *self, PyObject *error, void *ignored) {
    (void)ignored;
    if (!error)
        return can_not_delete(self, "error");
    if (must_be_idle(self) < 0)
        return -1;
    set_field(self, &OP(self)->error, Py_NewRef(error));
    return 0;
}

static PyObject *get_transferred(PyObject *self, void *ignored) {
    (void)ignored;
    return PyLong_FromLongLong(transferred_of(self));
}

static int set_transferred_in_python(PyObject *self, PyObject *count, void *ignored) {
    (void)ignored;
    return set_in_python(self, "_set_transferred", count, "transferred");
}

static PyObject *get_in_flight(PyObject *self, void *ignored) {
    (void)ignored;
    return PyBool_FromLong(!operation_is_idle(self));
}

/* What backends use besides */

static PyObject *get_status(PyObject *self, void *ignored) {
    (void)ignored;
    return PyLong_FromLong(status_of(self));
}

/* An int for a field; -1 with an exception where the value is none. */
static long long number_from(PyObject *self, PyObject *value, const char *attribute) {
    return value ? PyLong_AsLongLong(value) : can_not_delete(self, attribute);
}

static int put_status(PyObject *self, PyObject *value, void *ignored) {
    (void)ignored;
    long long status = number_from(self, value, "_status");
    if (PyErr_Occurred())
        return -1;
    set_status(self, (enum status)status);
    return 0;
}

static int put_transferred(PyObject *self, PyObject *value, void *ignored) {
    (void)ignored;
    long long count = number_from(self, value, "_transferred");
    if (PyErr_Occurred())
        return -1;
    set_transferred(self, count);
    return 0;
}

int state_prepare(PyObject *self, PyObject *handle, PyObject *key, PyObject *state) {
    struct operation *operation = OP(self);
    if (must_be_idle(self) < 0)
        return -1;
    set_field(self, &operation->handle, Py_NewRef(handle));
    set_field(self, &operation->key, Py_NewRef(key));
    set_field(self, &operation->state, Py_NewRef(state));
    PyObject **const none[] = {&operation->error,  &operation->verdict, &operation->expiry,
                               &operation->native, &operation->next,    &operation->previous};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        set_field(self, none[i], Py_NewRef(Py_None));
    set_transferred(self, 0);
    operation->sequence = 0;
    return 0;
}

/* _prepare(handle, key, state) */
static PyObject *prepare(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "_prepare takes a handle, a key and a state");
    if (state_prepare(self, args[0], args[1], args[2]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _begin(). What it makes comes first: that may run a finalizer, which may submit the operation. */
static PyObject *begin(PyObject *self, PyObject *ignored) {
    (void)ignored;
    PyObject *left = PyTuple_New(2);
    if (!left)
        return NULL;
    if (!begin_flight(self)) {
        Py_DECREF(left);
        return PyObject_CallMethod(self, "_refuse_submission", NULL);
    }
    set_transferred(self, 0);
    PyTuple_SET_ITEM(left, 0, exchange_field(self, &OP(self)->error, Py_NewRef(Py_None)));
    PyTuple_SET_ITEM(left, 1, exchange_field(self, &OP(self)->verdict, Py_NewRef(Py_None)));
    return left;
}

static PyMethodDef operation_methods[] = {
    {"_begin", begin, METH_NOARGS,
     "Start a flight; the backend holds the lock that guards the status.\n\n"
     "Returns what the last flight has left, for the backend to keep until it holds no lock any more: an error leads\n"
     "to what is the program's, whose finalizer may take the lock."},
    {"_prepare", (PyCFunction)(void (*)(void))prepare, METH_FASTCALL,
     "Begin the life of the operation, or begin it anew."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef operation_accessors[] = {
    {"handle", get_handle, set_handle,
     "The handle that the operation works on; None for a timer, a process exit and a signal, which have none.\n\n"
     "It may be given another one, of a kind that it works on; its key is that handle's then. Assigning while the\n"
     "operation is in flight raises :class:`unio.InFlight`.",
     NULL},
    {"key", get_key, set_key,
     "The key that its completions carry: its handle's, or the one given to an operation without a handle.\n\n"
     "Assigning while the operation is in flight raises :class:`unio.InFlight`, as for the two below.",
     NULL},
    {"transferred", get_transferred, set_transferred_in_python,
     "The number of bytes that the last completion reported.", NULL},
    {"error", get_error, set_error, "The error that the last completion reported, or None.", NULL},
    {"in_flight", get_in_flight, NULL, "Whether it was submitted and no wait has returned its completion yet.", NULL},
    {"_status", get_status, put_status, NULL, NULL},
    {"_transferred", get_transferred, put_transferred, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define FIELD(name, place) {name, T_OBJECT_EX, offsetof(struct operation, place), 0, NULL}

static PyMemberDef operation_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct operation, weakrefs), READONLY, NULL},
    FIELD("state", state),
    FIELD("_handle", handle),
    FIELD("_key", key),
    FIELD("_error", error),
    FIELD("_verdict", verdict),
    FIELD("_expiry", expiry),
    FIELD("_native", native),
    FIELD("_next", next),
    FIELD("_previous", previous),
    {"_sequence", T_PYSSIZET, offsetof(struct operation, sequence), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_doc, "What all operations keep."},
    {Py_tp_new, operation_new},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_traverse, state_traverse},
    {Py_tp_clear, state_clear},
    {Py_tp_methods, operation_methods},
    {Py_tp_getset, operation_accessors},
    {Py_tp_members, operation_members},
    {Py_am_await, operation_await},
    {0, NULL},
};

PyType_Spec operation_spec = {.name = "unio._core.OperationState",
                              .basicsize = sizeof(struct operation),
                              .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                              .slots = operation_slots};

/* AcceptState */

static PyObject *accept_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords;
    return state_new(type, ACCEPT);
}

static int accept_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(ACCEPTING(self)->socket);
    Py_VISIT(ACCEPTING(self)->address);
    return state_traverse(self, visit, arg);
}

static int accept_clear(PyObject *self) {
    Py_CLEAR(ACCEPTING(self)->socket);
    Py_CLEAR(ACCEPTING(self)->address);
    PyMem_Free(ACCEPTING(self)->peer);
    ACCEPTING(self)->peer = NULL;
    return state_clear(self);
}

static struct peer *exchange_whom(PyObject *operation, struct peer *peer, PyObject *address, PyObject **former) {
    struct peer *former_peer;
    BEGIN_SECTION(operation);
    former_peer = ACCEPTING(operation)->peer;
    *former = ACCEPTING(operation)->address;
    ACCEPTING(operation)->peer = peer;
    ACCEPTING(operation)->address = address;
    END_SECTION();
    return former_peer;
}

struct peer *exchange_peer(PyObject *operation, struct peer *peer, PyObject **address) {
    return exchange_whom(operation, peer, NULL, address);
}

static PyObject *get_address(PyObject *self, void *Py_UNUSED(ignored)) {
    struct peer peer;
    PyObject *address;
    int is_told;
    BEGIN_SECTION(self);
    address = Py_XNewRef(ACCEPTING(self)->address);
    if ((is_told = ACCEPTING(self)->peer != NULL))
        peer = *ACCEPTING(self)->peer;
    END_SECTION();
    if (is_told)
        return address_to(&peer.address, peer.size);
    if (!address)
        PyErr_SetString(PyExc_AttributeError, "address");
    return address;
}

static int set_address(PyObject *self, PyObject *address, void *Py_UNUSED(ignored)) {
    PyObject *former;
    PyMem_Free(exchange_whom(self, NULL, Py_XNewRef(address), &former));
    Py_XDECREF(former);
    return 0;
}

static void accept_dealloc(PyObject *self) { state_dealloc(self, accept_clear); }

static PyMemberDef accept_members[] = {
    {"socket", T_OBJECT_EX, offsetof(struct accept, socket), 0,
     "The socket that was accepted last, the caller's to close; None before there was one."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef accept_accessors[] = {
    {"address", get_address, set_address, "The address of its peer.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot accept_slots[] = {
    {Py_tp_doc, "What an accept keeps besides."},
    {Py_tp_new, accept_new},
    {Py_tp_dealloc, accept_dealloc},
    {Py_tp_traverse, accept_traverse},
    {Py_tp_clear, accept_clear},
    {Py_tp_members, accept_members},
    {Py_tp_getset, accept_accessors},
    {0, NULL},
};

PyType_Spec accept_spec = {.name = "unio._core.AcceptState",
                           .basicsize = sizeof(struct accept),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           .slots = accept_slots};
