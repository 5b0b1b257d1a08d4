/* Looking for handles that were closed behind the port's back, which nobody tells of: what WaitingPort._sweep finds out, as
 * far as that takes none of the program's own code. */
#include "port.h"

#include <sys/stat.h>

#define OTHERS_MAX 64 /* handles of a port that are no sockets, beyond which Python looks */

PyTypeObject *file_type;

static int is_socket_that_stands(const struct handle *handle) {
    return Py_TYPE(handle->object) == socket_type && number_in(handle->object) == handle->number;
}

/* Whether it is a number, or a plain file or pipe: what can be asked from here. */
static int is_number_or_file(const struct handle *handle) {
    return PyLong_CheckExact(handle->object) || Py_TYPE(handle->object) == file_type;
}

/* Whether a number is that of what was associated by it. Its identity is a pair of ints. */
static int is_same_file(struct handle *handle) {
    struct stat now;
    PyObject *identity = field_of((PyObject *)handle, &handle->identity);
    int same = identity && PyTuple_CheckExact(identity) && PyTuple_GET_SIZE(identity) == 2 &&
               fstat(handle->number, &now) == 0 &&
               PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(identity, 0)) == (unsigned long long)now.st_dev &&
               PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(identity, 1)) == (unsigned long long)now.st_ino;
    Py_XDECREF(identity);
    return same;
}

static int stands(struct handle *handle) {
    PyObject *object = field_of((PyObject *)handle, &handle->object);
    int same = object && PyLong_CheckExact(object) && is_same_file(handle);
    if (object && Py_TYPE(object) == file_type) {
        PyObject *number = PyObject_CallMethodNoArgs(object, name.fileno);
        same = number && PyLong_AsLong(number) == handle->number;
        Py_XDECREF(number);
    }
    Py_XDECREF(object);
    PyErr_Clear();
    return same;
}

/* The handles that are no sockets, as strong references. Returns how many there are, or -1 where a socket was closed, or
 * something is for Python to ask. */
static int find_others(PyObject *table, PyObject **others) {
    Py_ssize_t place = 0;
    PyObject *number, *object;
    int count = 0, plain = 1;
    BEGIN_SECTION(table);
    while (plain && PyDict_Next(table, &place, &number, &object)) {
        struct handle *handle = handle_of(object);
        plain = Py_TYPE(object) == handle_type && handle->object;
        if (!plain || is_socket_that_stands(handle))
            continue;
        plain = is_number_or_file(handle) && count < OTHERS_MAX;
        if (plain)
            others[count++] = Py_NewRef(object);
    }
    END_SECTION();
    while (!plain && count)
        Py_DECREF(others[--count]);
    return plain ? count : -1;
}

static int has_many(struct port *self) { return PyDict_GET_SIZE(self->table) > constant.sweep_freely; }

int has_open_sockets_only(struct port *self) {
    PyObject *others[OTHERS_MAX];
    int count = has_many(self) ? -1 : find_others(self->table, others);
    for (int i = 0; i < count; i++)
        Py_DECREF(others[i]);
    return count == 0;
}

int all_stand(struct port *self) {
    if (has_many(self)) /* Python looks every now and then, when it leads */
        return 1;
    PyObject *others[OTHERS_MAX];
    int count = find_others(self->table, others), stand = count >= 0;
    for (int i = 0; i < count; i++) {
        stand = stand && stands(handle_of(others[i]));
        Py_DECREF(others[i]);
    }
    return stand;
}
