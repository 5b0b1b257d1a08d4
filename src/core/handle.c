/* unio._core.HandleState: what a handle keeps. Its methods are those of EngineHandle, in Python; but for close(), whose
 * short form is in association.c. */
#include "fields.h"
#include "port.h"

#include <string.h>
#include <structmember.h> /* T_OBJECT and its like, until Python 3.12 */

#ifndef Py_GIL_DISABLED

/* A server makes a handle for each connection, with three objects that go with it. So those of which nobody has anything any
 * more are kept for the next, as completions are. */
#define KEPT_MAX 64

static PyObject *kept[KEPT_MAX];
static int kept_count;

static int is_unused(PyObject *direction) {
    return direction && Py_REFCNT(direction) == 1 && !has_first(direction_of(direction));
}

/* Whether a handle is one of the usual class, and what goes with it is to be kept. */
static int is_to_keep(PyObject *object) {
    struct handle *self = handle_of(object);
    return kept_count < KEPT_MAX && Py_TYPE(object) == handle_type && self->lock && Py_REFCNT(self->lock) == 1 &&
           is_unused(self->incoming) && is_unused(self->outgoing);
}

static void keep(PyObject *object) { kept[kept_count++] = object; }

static void begin_anew(PyObject *direction) {
    struct direction *self = direction_of(direction);
    self->request = 0;
    self->ready = 1;
    self->active = self->resting = self->drained = 0;
}

static PyObject *kept_handle(PyTypeObject *type) {
    if (type != handle_type || !kept_count)
        return NULL;
    PyObject *made = kept[--kept_count];
    struct handle *self = handle_of(made), fresh = {.lock = self->lock, .incoming = self->incoming, .outgoing = self->outgoing};
    begin_anew(self->incoming);
    begin_anew(self->outgoing);
    memcpy((char *)made + sizeof(PyObject), (char *)&fresh + sizeof(PyObject), sizeof fresh - sizeof(PyObject));
    PyObject_Init(made, type);
    PyObject_GC_Track(made);
    return made;
}

#else

static int is_to_keep(PyObject *object) {
    (void)object;
    return 0;
}

static void keep(PyObject *object) { (void)object; }

static PyObject *kept_handle(PyTypeObject *type) {
    (void)type;
    return NULL;
}

#endif

static int make_parts(struct handle *self) {
    self->lock = lock_type->tp_alloc(lock_type, 0);
    self->incoming = direction_type->tp_alloc(direction_type, 0);
    self->outgoing = direction_type->tp_alloc(direction_type, 0);
    if (!self->lock || !self->incoming || !self->outgoing)
        return -1;
    direction_of(self->incoming)->ready = direction_of(self->outgoing)->ready = 1;
    return 0;
}

PyObject *handle_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    PyObject *made = kept_handle(type);
    if (!made && (made = type->tp_alloc(type, 0)) && make_parts(handle_of(made)) < 0)
        Py_CLEAR(made);
    if (made) {
        handle_of(made)->private = -1;
        handle_of(made)->stream = 1;
    }
    return made;
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
    struct handle *self = handle_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->key);
    Py_VISIT(self->object);
    Py_VISIT(self->socket);
    Py_VISIT(self->queue);
    Py_VISIT(self->incoming);
    Py_VISIT(self->outgoing);
    Py_VISIT(self->readiness);
    Py_VISIT(self->files);
    return 0;
}

/* The lock and the directions stay, as a finalizer may still look at them. */
static int clear(PyObject *object) {
    struct handle *self = handle_of(object);
    Py_CLEAR(self->key);
    Py_CLEAR(self->object);
    Py_CLEAR(self->socket);
    Py_CLEAR(self->readiness);
    Py_CLEAR(self->files);
    return 0;
}

static void dealloc(PyObject *object) {
    struct handle *self = handle_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    clear(object);
    Py_CLEAR(self->kind);
    Py_CLEAR(self->identity);
    Py_CLEAR(self->before);
    Py_CLEAR(self->port);
    Py_CLEAR(self->queue);
    if (is_to_keep(object)) {
        keep(object);
        Py_DECREF(type); /* whose instance it is no longer */
        return;
    }
    Py_CLEAR(self->lock);
    Py_CLEAR(self->incoming);
    Py_CLEAR(self->outgoing);
    type->tp_free(object);
    Py_DECREF(type);
}

/* What is always there, the interpreter reads at once; of the others, nothing is None. */
#define FIXED(name) {#name, T_OBJECT_EX, offsetof(struct handle, name), READONLY, NULL}
#define KEPT(name) {#name, T_OBJECT_EX, offsetof(struct handle, name), 0, NULL}

static PyMemberDef members[] = {
    FIXED(lock),
    FIXED(incoming),
    FIXED(outgoing),
    KEPT(kind),
    KEPT(port),
    KEPT(queue),
    {"serial", T_PYSSIZET, offsetof(struct handle, serial), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct handle, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define AT(name) (void *)offsetof(struct handle, name)
#define OBJECT(name) {#name, get_object, set_object, NULL, AT(name)}
#define NUMBER(name) {#name, get_int, set_int, NULL, AT(name)}
#define FLAG(name) {#name, get_flag, set_flag, NULL, AT(name)}

static PyGetSetDef attributes[] = {
    OBJECT(key),
    OBJECT(object),
    OBJECT(socket),
    OBJECT(identity),
    OBJECT(before),
    OBJECT(readiness),
    OBJECT(files),
    NUMBER(number),
    NUMBER(private),
    NUMBER(running),
    NUMBER(failure),
    NUMBER(lifecycle),
    FLAG(closing),
    FLAG(ended),
    FLAG(shut_down),
    FLAG(skip_on_success),
    FLAG(shows_drained),
    FLAG(stream),
    FLAG(is_fast),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"close", handle_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, handle_new},  {Py_tp_dealloc, dealloc},   {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
    {Py_tp_members, members}, {Py_tp_getset, attributes}, {Py_tp_methods, methods},   {0, NULL},
};

PyType_Spec handle_spec = {.name = "unio._core.HandleState",
                           .basicsize = sizeof(struct handle),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           .slots = slots};
