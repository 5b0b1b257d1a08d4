/* The buffers of operations: setting one, and looking at what was received.
 *
 * An operation has its buffer as a memoryview of its own, which nobody else ever sees. So where the next buffer is a
 * part of the same bytes or bytearray, as it is in a server that sends what it has just received, that view is moved
 * there, and no object is made.
 */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

static PyObject *slow_set_buffer, *slow_data;

PyObject *count_number(Py_ssize_t count) {
    static PyObject *latest;
    static Py_ssize_t latest_count;
    if (!latest || latest_count != count) {
        PyObject *number = PyLong_FromSsize_t(count);
        if (!number)
            return NULL;
        Py_XSETREF(latest, number);
        latest_count = count;
    }
    return Py_NewRef(latest);
}

static int is_bytes(PyObject *object) {
    return object && (PyByteArray_CheckExact(object) || PyBytes_CheckExact(object));
}

/* Narrows a view of an operation's own to a part of the same memory. */
static void move_view(PyObject *view, void *start, Py_ssize_t size) {
    Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
    raw->buf = start;
    raw->len = raw->shape[0] = size;
}

/* Has the view that the operation has show another part of what it is a view of, if the buffer is one. */
static int reuse_view(PyObject *operation, PyObject *buffer, int fills) {
    PyObject *views = SLOT(operation, views);
    if (!PyMemoryView_Check(buffer) || !views || Py_REFCNT(views) > 1 || PyTuple_GET_SIZE(views) != 1)
        return 0;
    PyObject *view = PyTuple_GET_ITEM(views, 0);
    Py_buffer given, *raw = PyMemoryView_GET_BUFFER(view);
    if (Py_REFCNT(view) > 1 || raw->ndim != 1 || raw->itemsize != 1 || !is_bytes(PyMemoryView_GET_BASE(view)))
        return 0;
    if (PyObject_GetBuffer(buffer, &given, PyBUF_SIMPLE) < 0) { /* it was released, or is not contiguous */
        PyErr_Clear();
        return 0;
    }
    int same = PyMemoryView_GET_BASE(buffer) == PyMemoryView_GET_BASE(view) && !(fills && given.readonly);
    if (same) {
        move_view(view, given.buf, given.len);
        raw->readonly = given.readonly;
    }
    PyBuffer_Release(&given);
    return same;
}

/* Makes the view of a buffer that is plain: contiguous bytes, in an object whose class has nothing of its own. */
static PyObject *plain_view(PyObject *buffer, int writable) {
    if (!PyMemoryView_Check(buffer) && !PyByteArray_CheckExact(buffer) && !PyBytes_CheckExact(buffer))
        return NULL;
    PyObject *view = PyMemoryView_FromObject(buffer);
    if (view) {
        Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
        if (raw->ndim == 1 && raw->itemsize == 1 && (!raw->format || !strcmp(raw->format, "B")) &&
            PyBuffer_IsContiguous(raw, 'C') && !(writable && raw->readonly))
            return view;
        Py_DECREF(view);
    }
    PyErr_Clear();
    return NULL;
}

static int make_view(PyObject *operation, PyObject *buffer, int fills) {
    PyObject *view = plain_view(buffer, fills), *views = view ? PyTuple_Pack(1, view) : NULL;
    Py_XDECREF(view);
    if (views)
        put(&SLOT(operation, views), views);
    PyErr_Clear(); /* what is wrong is for the slow form to say */
    return views != NULL;
}

/* set_buffer(operation, buffer): what the setter of an operation's buffer does, for those that are set again and again.
 */
static PyObject *set_buffer(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "set_buffer takes 2 arguments");
    PyObject *operation = args[0], *buffer = args[1];
    int fills = recv_type && is_recv(operation), sends = send_type && is_send(operation);
    if ((!fills && !sends) || SLOT(operation, status) != idle || SLOT(operation, native) != Py_None ||
        !(reuse_view(operation, buffer, fills) || make_view(operation, buffer, fills)))
        return PyObject_Vectorcall(slow_set_buffer, args, 2, NULL);
    PyObject *view = PyTuple_GET_ITEM(SLOT(operation, views), 0);
    PyObject *size = count_number(PyMemoryView_GET_BUFFER(view)->len);
    if (!size)
        return NULL;
    put(&SLOT(operation, size), size);
    put_ref(&SLOT(operation, buffer), buffer);
    if (fills)
        put_ref(&SLOT(operation, grows), Py_False); /* it is the caller's now */
    Py_RETURN_NONE;
}

/* data(operation): what Recv.data is. */
static PyObject *data(PyObject *module, PyObject *operation) {
    (void)module;
    PyObject *views = recv_type && is_recv(operation) ? SLOT(operation, views) : NULL;
    if (!views || !SLOT(operation, transferred) || PyTuple_GET_SIZE(views) != 1)
        return PyObject_CallOneArg(slow_data, operation);
    PyObject *view = PyTuple_GET_ITEM(views, 0);
    Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
    Py_ssize_t transferred = PyLong_AsSsize_t(SLOT(operation, transferred));
    if (transferred < 0 || transferred > raw->len) {
        PyErr_Clear();
        return PyObject_CallOneArg(slow_data, operation);
    }
    PyObject *part = PyMemoryView_FromObject(view);
    if (part)
        move_view(part, raw->buf, transferred);
    return part;
}

/* faster_setter(function): returns set_buffer, which calls this function where a buffer is not plain. */
static PyObject *faster_setter(PyObject *module, PyObject *function) {
    put_ref(&slow_set_buffer, function);
    return PyObject_GetAttrString(module, "set_buffer");
}

static PyObject *faster_data(PyObject *module, PyObject *function);

PyMethodDef buffer_functions[] = {
    {"data", data, METH_O, NULL},
    {"faster_data", faster_data, METH_O, NULL},
    {"faster_setter", faster_setter, METH_O, NULL},
    {"set_buffer", (PyCFunction)(void (*)(void))set_buffer, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

/* faster_data(function): the same for data, with the documentation of this function. */
static PyObject *faster_data(PyObject *module, PyObject *function) {
    put_ref(&slow_data, function);
    PyObject *text = PyObject_GetAttrString(function, "__doc__"); /* which the function keeps */
    buffer_functions[0].ml_doc = text && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    Py_XDECREF(text);
    return PyErr_Occurred() ? NULL : PyObject_GetAttrString(module, "data");
}

#endif
