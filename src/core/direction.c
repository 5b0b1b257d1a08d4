/* unio._core.Direction: the operations of one direction of a handle, oldest first. engine/handle.py has its twin in
 * Python, which says what each part is. */
#include "fields.h"
#include "port.h"

#include <structmember.h> /* T_OBJECT and its like, until Python 3.12 */

/* A list: the direction has a reference to the first and the last, and each operation to the one behind it and before
 * it. */

static PyObject *or_null(PyObject *link) { return link && link != Py_None ? link : NULL; }

/* The former one lives on: its caller has it, or the list. */
static void set_first(struct direction *self, PyObject *operation) {
    set_field((PyObject *)self, &self->first, Py_XNewRef(operation));
}

void direction_append(struct direction *self, PyObject *operation) {
    PyObject *last = self->last;
    put_ref(&OP(operation)->previous, last ? last : Py_None);
    put_ref(&OP(operation)->next, Py_None);
    if (last)
        put_ref(&OP(last)->next, operation);
    else
        set_first(self, operation);
    put_ref(&self->last, operation);
}

void direction_remove(struct direction *self, PyObject *operation) {
    PyObject *previous = Py_XNewRef(or_null(OP(operation)->previous));
    PyObject *following = Py_XNewRef(or_null(OP(operation)->next));
    Py_INCREF(operation);
    if (previous)
        put_ref(&OP(previous)->next, following ? following : Py_None);
    else
        set_first(self, following);
    if (following)
        put_ref(&OP(following)->previous, previous ? previous : Py_None);
    else
        put(&self->last, Py_XNewRef(previous));
    put_ref(&OP(operation)->previous, Py_None);
    put_ref(&OP(operation)->next, Py_None);
    Py_XDECREF(previous);
    Py_XDECREF(following);
    Py_DECREF(operation); /* which its caller still has */
}

void direction_restore(struct direction *self, PyObject *operation) {
    PyObject *following = self->first, *previous = NULL;
    while (following && OP(following)->sequence < OP(operation)->sequence) {
        previous = following;
        following = or_null(OP(following)->next);
    }
    put_ref(&OP(operation)->previous, previous ? previous : Py_None);
    put_ref(&OP(operation)->next, following ? following : Py_None);
    if (previous)
        put_ref(&OP(previous)->next, operation);
    else
        set_first(self, operation);
    put_ref(following ? &OP(following)->previous : &self->last, operation);
}

int own_locked(PyObject *handle, struct direction *direction) {
    POKE(direction->ready, 1);
    if (!has_first(direction) || !is_free(direction) || !is_open(handle))
        return 0;
    POKE(direction->active, 1);
    return 1;
}

static PyObject *restore(PyObject *self, PyObject *operation) {
    direction_restore(direction_of(self), operation);
    Py_RETURN_NONE;
}

static PyObject *append(PyObject *self, PyObject *operation) {
    direction_append(direction_of(self), operation);
    Py_RETURN_NONE;
}

static PyObject *remove_from(PyObject *self, PyObject *operation) {
    direction_remove(direction_of(self), operation);
    Py_RETURN_NONE;
}

/* operations(): a list of them; the caller holds the handle's lock. */
static PyObject *operations(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *list = PyList_New(0);
    for (PyObject *each = direction_of(self)->first; list && each; each = or_null(OP(each)->next))
        if (PyList_Append(list, each) < 0)
            Py_CLEAR(list);
    return list;
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
    struct direction *self = direction_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->first);
    Py_VISIT(self->last);
    return 0;
}

static int clear(PyObject *object) {
    struct direction *self = direction_of(object);
    Py_CLEAR(self->first);
    Py_CLEAR(self->last);
    return 0;
}

static void dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *direction_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    PyObject *made = type->tp_alloc(type, 0);
    if (made)
        direction_of(made)->ready = 1;
    return made;
}

static PyMemberDef members[] = {
    {"request", T_ULONGLONG, offsetof(struct direction, request), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FLAG(name) {#name, get_flag, set_flag, NULL, (void *)offsetof(struct direction, name)}

static PyGetSetDef attributes[] = {
    {"first", get_object, NULL, NULL, (void *)offsetof(struct direction, first)},
    FLAG(ready),
    FLAG(active),
    FLAG(resting),
    FLAG(drained),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"append", append, METH_O, NULL},
    {"remove", remove_from, METH_O, NULL},
    {"restore", restore, METH_O, NULL},
    {"operations", operations, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, direction_new},    {Py_tp_dealloc, dealloc},   {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
    {Py_tp_members, members}, {Py_tp_getset, attributes}, {Py_tp_methods, methods},   {0, NULL},
};

PyType_Spec direction_spec = {.name = "unio._core.Direction",
                              .basicsize = sizeof(struct direction),
                              .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                              .slots = slots};
