/* Attributes of objects of C for Python: the closure of each is the offset of its field. PyMemberDef has no such ones:
 * without Python's lock, its T_OBJECT looks at what another thread may just be dropping, and its numbers are no atomics. */
#include "fields.h"

static void *at_offset(PyObject *self, void *offset) { return (char *)self + (size_t)offset; }

/* Whether an attribute is given a value; or else it is to be deleted, which raises. */
static int is_given(const PyObject *value) {
    if (!value)
        PyErr_SetString(PyExc_TypeError, "this attribute can't be deleted");
    return value != NULL;
}

PyObject *get_object(PyObject *self, void *offset) {
    PyObject *value = field_of(self, at_offset(self, offset));
    return value ? value : Py_NewRef(Py_None);
}

int set_object(PyObject *self, PyObject *value, void *offset) {
    if (!is_given(value))
        return -1;
    set_field(self, at_offset(self, offset), Py_NewRef(value));
    return 0;
}

PyObject *get_flag(PyObject *self, void *offset) {
    const char *flag = at_offset(self, offset);
    return PyBool_FromLong(__atomic_load_n(flag, __ATOMIC_ACQUIRE));
}

/* An exchange: who puts one value in the place of another sees what had led to that. */
int set_flag(PyObject *self, PyObject *value, void *offset) {
    int truth = is_given(value) ? PyObject_IsTrue(value) : -1;
    if (truth >= 0)
        __atomic_exchange_n((char *)at_offset(self, offset), (char)truth, __ATOMIC_ACQ_REL);
    return truth < 0 ? -1 : 0;
}

PyObject *get_int(PyObject *self, void *offset) {
    int *number = at_offset(self, offset);
    return PyLong_FromLong(PEEK(*number));
}

int set_int(PyObject *self, PyObject *value, void *offset) {
    int number = is_given(value) ? (int)PyLong_AsLong(value) : -1;
    if (PyErr_Occurred())
        return -1;
    POKE(*(int *)at_offset(self, offset), number);
    return 0;
}
