/* The buffers of operations: Recv.buffer, Send.buffer and Recv.data, which are properties in Python.
 *
 * An operation has its buffer as a memoryview of its own, which nobody else ever sees. So where the next buffer is a
 * part of the same bytes or bytearray, as it is in a server that sends what it has just received, that view is moved
 * there, and no object is made.
 */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

static PyObject *slow_buffer, *slow_data; /* the properties that these are a short form of */

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

char *memory_of(PyObject *operation, Py_ssize_t *size) {
    PyObject *views = SLOT(operation, views), *own = SLOT(operation, buffer);
    if (views == Py_None && own && PyByteArray_CheckExact(own)) { /* a receive's own, of which no view was made yet */
        *size = PyByteArray_GET_SIZE(own);
        return PyByteArray_AS_STRING(own);
    }
    if (!views || !PyTuple_Check(views) || PyTuple_GET_SIZE(views) != 1)
        return NULL;
    Py_buffer *buffer = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, 0));
    *size = buffer->len;
    return buffer->buf;
}

/* Narrows a view of an operation's own to a part of the same memory. */
static void move_view(PyObject *view, void *start, Py_ssize_t size) {
    Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
    raw->buf = start;
    raw->len = raw->shape[0] = size;
    raw->strides[0] = 1; /* one byte alone may have had others */
}

/* Has the view that the operation has show another part of what it is a view of, if the buffer is one. Returns the size
 * of that part, or -1. */
static Py_ssize_t reuse_view(PyObject *operation, PyObject *buffer, int fills) {
    PyObject *views = SLOT(operation, views);
    if (!PyMemoryView_Check(buffer) || !views || !PyTuple_Check(views) || Py_REFCNT(views) > 1 ||
        PyTuple_GET_SIZE(views) != 1)
        return -1;
    PyObject *view = PyTuple_GET_ITEM(views, 0);
    Py_buffer given, *raw = PyMemoryView_GET_BUFFER(view);
    if (Py_REFCNT(view) > 1 || raw->ndim != 1 || raw->itemsize != 1 || !is_bytes(PyMemoryView_GET_BASE(view)))
        return -1;
    if (PyObject_GetBuffer(buffer, &given, PyBUF_SIMPLE) < 0) { /* it was released, or is not contiguous */
        PyErr_Clear();
        return -1;
    }
    Py_ssize_t size = given.len;
    int same = PyMemoryView_GET_BASE(buffer) == PyMemoryView_GET_BASE(view) && !(fills && given.readonly);
    if (same) {
        move_view(view, given.buf, size);
        raw->readonly = given.readonly;
    }
    PyBuffer_Release(&given);
    return same ? size : -1;
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

/* Gives the operation a new view. Returns its size, or -1. With the former one may go what has a finalizer. */
static Py_ssize_t make_view(PyObject *operation, PyObject *buffer, int fills) {
    PyObject *view = plain_view(buffer, fills), *views = view ? PyTuple_Pack(1, view) : NULL;
    Py_ssize_t size = views ? PyMemoryView_GET_BUFFER(view)->len : -1;
    Py_XDECREF(view);
    PyErr_Clear(); /* what is wrong is for the slow form to say */
    if (views)
        put(&SLOT(operation, views), views);
    return size;
}

/* Has a receive's own buffer held at its size, before somebody else has it. */
static void hold_own(PyObject *operation) {
    PyObject *own = SLOT(operation, buffer);
    if (SLOT(operation, views) == Py_None && own)
        make_view(operation, own, 1);
}

static PyObject *get_buffer(PyObject *operation, void *ignored) {
    (void)ignored;
    hold_own(operation);
    PyObject *buffer = SLOT(operation, buffer);
    return buffer && SLOT(operation, views) != Py_None ? Py_NewRef(buffer) : slow_buffer->ob_type->tp_descr_get(slow_buffer, operation, NULL);
}

static int set_buffer(PyObject *operation, PyObject *buffer, void *ignored) {
    (void)ignored;
    int fills = kind_of(operation) == RECV;
    Py_ssize_t bytes = -1;
    if (buffer && SLOT(operation, status) == idle && SLOT(operation, native) == Py_None) {
        bytes = reuse_view(operation, buffer, fills);
        if (bytes < 0)
            bytes = make_view(operation, buffer, fills);
    }
    if (bytes < 0)
        return slow_buffer->ob_type->tp_descr_set(slow_buffer, operation, buffer);
    PyObject *size = count_number(bytes);
    if (!size)
        return -1;
    put(&SLOT(operation, size), size);
    put_ref(&SLOT(operation, buffer), buffer);
    if (fills)
        put_ref(&SLOT(operation, grows), Py_False); /* it is the caller's now */
    return 0;
}

static PyObject *get_data(PyObject *operation, void *ignored) {
    (void)ignored;
    hold_own(operation);
    PyObject *views = SLOT(operation, views);
    Py_ssize_t transferred = transferred_of(operation);
    if (views && PyTuple_Check(views) && PyTuple_GET_SIZE(views) == 1) {
        PyObject *view = PyTuple_GET_ITEM(views, 0);
        Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
        if (transferred >= 0 && transferred <= raw->len) {
            PyObject *part = PyMemoryView_FromObject(view);
            if (part)
                move_view(part, raw->buf, transferred);
            return part;
        }
    }
    return slow_data->ob_type->tp_descr_get(slow_data, operation, NULL);
}

/* Puts an accessor into a class, with the documentation of the property that it is a short form of. */
static int put_accessor(PyTypeObject *type, PyGetSetDef *accessor, PyObject *property) {
    PyObject *text = PyObject_GetAttrString(property, "__doc__"); /* which the property keeps */
    accessor->doc = text && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    Py_XDECREF(text);
    PyObject *descriptor = text ? PyDescr_NewGetSet(type, accessor) : NULL;
    int failed = !descriptor || PyObject_SetAttrString((PyObject *)type, accessor->name, descriptor) < 0;
    Py_XDECREF(descriptor);
    return failed ? -1 : 0;
}

int put_accessors(void) {
    static PyGetSetDef of_recv = {"buffer", get_buffer, set_buffer, NULL, NULL};
    static PyGetSetDef of_send = {"buffer", get_buffer, set_buffer, NULL, NULL};
    static PyGetSetDef data = {"data", get_data, NULL, NULL, NULL};
    PyObject *recv = (PyObject *)recv_type;
    if (!(slow_buffer = PyObject_GetAttrString(recv, "buffer")) || !(slow_data = PyObject_GetAttrString(recv, "data")))
        return -1;
    if (put_accessor(recv_type, &of_recv, slow_buffer) < 0 || put_accessor(send_type, &of_send, slow_buffer) < 0)
        return -1;
    return put_accessor(recv_type, &data, slow_data);
}

#endif
