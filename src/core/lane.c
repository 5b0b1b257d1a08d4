/* unio._core.LaneState: what lanes.Lane keeps, where C finds it without a detour; the class says what each is. */
#include "core.h"

#ifndef Py_GIL_DISABLED

#include <structmember.h> /* T_OBJECT and its like, until Python 3.12 */

static int traverse(PyObject *object, visitproc visit, void *arg) {
    struct lane *self = (struct lane *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->first);
    Py_VISIT(self->last);
    return 0;
}

static int clear(PyObject *object) {
    struct lane *self = (struct lane *)object;
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

static PyMemberDef members[] = {
    {"first", T_OBJECT, offsetof(struct lane, first), 0, NULL},
    {"last", T_OBJECT, offsetof(struct lane, last), 0, NULL},
    {"request", T_ULONGLONG, offsetof(struct lane, request), 0, NULL},
    {"ready", T_BOOL, offsetof(struct lane, ready), 0, NULL},
    {"active", T_BOOL, offsetof(struct lane, active), 0, NULL},
    {"resting", T_BOOL, offsetof(struct lane, resting), 0, NULL},
    {"drained", T_BOOL, offsetof(struct lane, drained), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_dealloc, dealloc},   {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},           {Py_tp_members, members},   {0, NULL},
};

PyType_Spec lane_spec = {.name = "unio._core.LaneState",
                         .basicsize = sizeof(struct lane),
                         .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                         .slots = slots};

#endif
