/* The packets of a port: what collections.deque does, for C without a call. Each step is done under Python's lock. */
#include "core.h"

#ifndef Py_GIL_DISABLED

#define ROOM_MIN 64 /* a power of two, like all sizes of the ring */

static int grow(struct packets *self) {
    size_t room = self->ring ? 2 * (self->mask + 1) : ROOM_MIN;
    PyObject **ring = PyMem_New(PyObject *, room);
    if (!ring)
        ring = PyMem_New(PyObject *, room); /* a completion has nowhere else to go, and there may be some memory by now */
    if (!ring) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < self->count; i++)
        ring[i] = self->ring[(self->head + i) & self->mask];
    PyMem_Free(self->ring);
    self->ring = ring;
    self->mask = room - 1;
    self->head = 0;
    return 0;
}

int packets_append(PyObject *object, PyObject *packet) {
    struct packets *self = (struct packets *)object;
    if ((!self->ring || self->count > self->mask) && grow(self) < 0)
        return -1;
    self->ring[(self->head + self->count++) & self->mask] = Py_NewRef(packet);
    return 0;
}

int packets_appendleft(PyObject *object, PyObject *packet) {
    struct packets *self = (struct packets *)object;
    if ((!self->ring || self->count > self->mask) && grow(self) < 0)
        return -1;
    self->head = (self->head - 1) & self->mask;
    self->ring[self->head] = Py_NewRef(packet);
    self->count++;
    return 0;
}

PyObject *packets_first(PyObject *object) {
    struct packets *self = (struct packets *)object;
    return self->count ? self->ring[self->head] : NULL;
}

PyObject *packets_popleft(PyObject *object) {
    struct packets *self = (struct packets *)object;
    if (!self->count)
        return NULL;
    PyObject *packet = self->ring[self->head];
    self->head = (self->head + 1) & self->mask;
    if (!--self->count && self->mask >= ROOM_MIN) { /* what a rush has taken is given back */
        PyMem_Free(self->ring);
        self->ring = NULL;
    }
    return packet;
}

static PyObject *append(PyObject *self, PyObject *packet) {
    if (packets_append(self, packet) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *appendleft(PyObject *self, PyObject *packet) {
    if (packets_appendleft(self, packet) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *popleft(PyObject *self, PyObject *ignored) {
    (void)ignored;
    PyObject *packet = packets_popleft(self);
    if (!packet)
        PyErr_SetString(PyExc_IndexError, "there is no packet");
    return packet;
}

static PyObject *copy(PyObject *object, PyObject *ignored) {
    (void)ignored;
    struct packets *self = (struct packets *)object;
    PyObject *list = PyList_New((Py_ssize_t)self->count);
    while (list && (size_t)PyList_GET_SIZE(list) != self->count) /* making it has run a finalizer that has changed this */
        Py_SETREF(list, PyList_New((Py_ssize_t)self->count));
    for (size_t i = 0; list && i < self->count; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(self->ring[(self->head + i) & self->mask]));
    return list;
}

static Py_ssize_t length(PyObject *self) { return packets_count(self); }

static int traverse(PyObject *object, visitproc visit, void *arg) {
    struct packets *self = (struct packets *)object;
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < self->count; i++)
        Py_VISIT(self->ring[(self->head + i) & self->mask]);
    return 0;
}

static int clear(PyObject *object) {
    for (PyObject *packet; (packet = packets_popleft(object));)
        Py_DECREF(packet);
    return 0;
}

static void dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    PyMem_Free(((struct packets *)object)->ring);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"append", append, METH_O, NULL},
    {"appendleft", appendleft, METH_O, NULL},
    {"popleft", popleft, METH_NOARGS, NULL},
    {"copy", copy, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
    {Py_tp_methods, methods}, {Py_sq_length, length},     {0, NULL},
};

PyType_Spec packets_spec = {.name = "unio._core.Packets",
                            .basicsize = sizeof(struct packets),
                            .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                            .slots = slots};

#endif
