/* Fields of objects of C that Python's attributes show, and which any thread may read and write at any time (fields.c). */
#ifndef UNIO_FIELDS_H
#define UNIO_FIELDS_H

#include "core.h"

/* A new reference to what is in a field of an object; NULL without an exception where that is nothing. */
static inline PyObject *field_of(PyObject *object, PyObject **field) {
    PyObject *value;
    BEGIN_SECTION(object);
    value = Py_XNewRef(*field);
    END_SECTION();
    return value;
}

/* Puts a value into a field, takes over the reference to it, and returns that to the former one. The store is atomic as
 * the readers of Python's members look at the field first without the section. */
static inline PyObject *exchange_field(PyObject *object, PyObject **field, PyObject *value) {
    PyObject *former;
    BEGIN_SECTION(object);
    former = *field;
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
    END_SECTION();
    return former;
}

/* The same where the former one may be dropped at once: no lock is held, or it lives on. */
static inline void set_field(PyObject *object, PyObject **field, PyObject *value) {
    Py_XDECREF(exchange_field(object, field, value));
}

/* For PyGetSetDef, with the offset of the field as the closure. Nothing is None. */
PyObject *get_object(PyObject *self, void *offset);
int set_object(PyObject *self, PyObject *value, void *offset);

/* Of a char. */
PyObject *get_flag(PyObject *self, void *offset);
int set_flag(PyObject *self, PyObject *value, void *offset);

PyObject *get_int(PyObject *self, void *offset);
int set_int(PyObject *self, PyObject *value, void *offset);

#endif
