/* unio._core.BufferedState: what an operation with a buffer keeps besides; RecvState and SendState. operation_state.py has
 * the same in Python.
 *
 * A buffer that is plain is taken here: contiguous bytes, in an object whose class has nothing of its own. It is checked,
 * and taken, by operations/sockets.py otherwise.
 *
 * An operation has its buffer as a memoryview of its own, which nobody else ever sees. So where the next buffer is a
 * part of the same bytes or bytearray, as it is in a server that sends what it has just received, that view is moved
 * there, and no object is made: of the instructions of an echo, that saves one in fourteen. PyMemoryView_GET_BUFFER is
 * documented to give "the memoryview's private copy of the exporter's buffer"; its shape and its strides are arrays of
 * the view's own as well, for each of one dimension. So what is written there changes that view and nothing else.
 */
#include "port.h"

#include <string.h>
#include <structmember.h> /* T_OBJECT_EX and its like, until Python 3.12 */

/* Narrows a view of an operation's own to a part of the same memory. */
static void move_view(PyObject *view, void *start, Py_ssize_t size) {
    Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
    raw->buf = start;
    raw->len = raw->shape[0] = size;
    raw->strides[0] = 1; /* one byte alone may have had others */
}

static int is_bytes(PyObject *object) {
    return object && (PyByteArray_CheckExact(object) || PyBytes_CheckExact(object));
}

static int is_one_view(PyObject *views) { return views && PyTuple_Check(views) && PyTuple_GET_SIZE(views) == 1; }

/* Of a tuple of views, in bytes. */
static Py_ssize_t size_of(PyObject *views) {
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(views); i++)
        size += PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, i))->len;
    return size;
}

PyObject *memory_of(PyObject *self, char **data, Py_ssize_t *size) {
    PyObject *views, *own, *memory = NULL;
    BEGIN_SECTION(self);
    views = BUFFERED(self)->views;
    own = BUFFERED(self)->buffer;
    if (views == Py_None && is_bytes(own)) { /* a receive's own, or a transport's, of which no view was made yet */
        *size = Py_SIZE(own);
        *data = PyBytes_CheckExact(own) ? PyBytes_AS_STRING(own) : PyByteArray_AS_STRING(own);
        memory = Py_NewRef(own);
    } else if (is_one_view(views)) {
        Py_buffer *raw = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, 0));
        *size = raw->len;
        *data = raw->buf;
        memory = Py_NewRef(views);
    } else if (views && PyTuple_Check(views) && PyTuple_GET_SIZE(views) && PyTuple_GET_SIZE(views) <= constant.vector_max) {
        *size = size_of(views);
        *data = NULL;
        memory = Py_NewRef(views);
    }
    END_SECTION();
    return memory;
}

int pieces_of(PyObject *views, size_t done, size_t most, struct iovec *vector, int room) {
    int count = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(views) && count < room && most; i++) {
        const Py_buffer *view = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, i));
        size_t skipped = done < (size_t)view->len ? done : (size_t)view->len, size = (size_t)view->len - skipped;
        done -= skipped;
        if (!size)
            continue;
        if (size > most)
            size = most;
        most -= size;
        vector[count].iov_base = (char *)view->buf + skipped;
        vector[count++].iov_len = size;
    }
    return count;
}

/* Taking a buffer */

/* What an operation has got, as one step: the former goes behind it. */
static void take_views(PyObject *self, PyObject *buffer, PyObject *views, Py_ssize_t size) {
    struct buffered *buffered = BUFFERED(self);
    PyObject *former, *former_views = NULL;
    BEGIN_SECTION(self);
    former = buffered->buffer;
    __atomic_store_n(&buffered->buffer, Py_NewRef(buffer), __ATOMIC_RELEASE);
    if (views) {
        former_views = buffered->views;
        __atomic_store_n(&buffered->views, views, __ATOMIC_RELEASE);
    }
    buffered->size = size;
    buffered->grows = 0; /* it is the caller's now */
    END_SECTION();
    Py_XDECREF(former_views);
    Py_XDECREF(former);
}

void take_bytes(PyObject *self, PyObject *bytes) { take_views(self, bytes, Py_NewRef(Py_None), PyBytes_GET_SIZE(bytes)); }

#ifndef Py_GIL_DISABLED

/* Has the view that the operation has show another part of what it is a view of, if the buffer is one. Returns the size
 * of that part, or -1. That nobody else has the view, only Python's lock lets one know. */
static Py_ssize_t reuse_view(PyObject *self, PyObject *buffer, int fills) {
    PyObject *views = BUFFERED(self)->views;
    if (!PyMemoryView_Check(buffer) || !is_one_view(views) || Py_REFCNT(views) > 1)
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

#else

static Py_ssize_t reuse_view(PyObject *self, PyObject *buffer, int fills) {
    (void)self, (void)buffer, (void)fills;
    return -1;
}

#endif

/* Makes the view of a buffer that is plain; NULL without an exception where it is not, or there is no memory. */
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

/* Makes the views of several buffers that are plain, those of no bytes left out; NULL as above. */
static PyObject *plain_views(PyObject *buffers, int writable) {
    PyObject *views = PyList_New(0), *given = views ? PySequence_Tuple(buffers) : NULL, *made = NULL;
    Py_ssize_t count = given ? PyTuple_GET_SIZE(given) : 0, done = 0;
    for (; done < count; done++) {
        PyObject *view = plain_view(PyTuple_GET_ITEM(given, done), writable);
        int failed = !view || (PyMemoryView_GET_BUFFER(view)->len && PyList_Append(views, view) < 0);
        Py_XDECREF(view);
        if (failed)
            break;
    }
    if (given && done == count)
        made = PyList_AsTuple(views);
    Py_XDECREF(views);
    Py_XDECREF(given);
    return made;
}

/* Takes a buffer that is plain, or several. Returns whether they are; where that is not for C, nothing has happened yet. */
static int take_plain(PyObject *self, PyObject *buffer) {
    int fills = receives(OP(self)->kind), several = PyTuple_CheckExact(buffer) || PyList_CheckExact(buffer);
    Py_ssize_t size = several ? -1 : reuse_view(self, buffer, fills);
    PyObject *views = NULL;
    if (size < 0) {
        PyObject *view = several ? NULL : plain_view(buffer, fills);
        views = several ? plain_views(buffer, fills) : view ? PyTuple_Pack(1, view) : NULL;
        Py_XDECREF(view);
        PyErr_Clear(); /* what is wrong is for the slow form to say */
        if (!views)
            return 0;
        size = size_of(views);
    }
    take_views(self, buffer, views, size);
    return 1;
}

static int set_buffer(PyObject *self, PyObject *buffer, void *ignored) {
    (void)ignored;
    int is_known = receives(OP(self)->kind) || sends(OP(self)->kind); /* of the others, their classes say what they do */
    if (is_known && buffer && operation_is_idle(self) && OP(self)->native == Py_None && take_plain(self, buffer))
        return 0;
    return set_in_python(self, "_set_buffer", buffer, "buffer");
}

/* Making one */

/* What a program gives to make a receive or a send of. */
struct given {
    PyObject *handle, *buffer, *state;
};

/* Takes arguments as they usually are, which is much shorter. */
static int read_usual(struct given *given, PyObject *args, PyObject *keywords) {
    Py_ssize_t count = PyTuple_GET_SIZE(args);
    if (count < 1 || count > 2 || (keywords && (PyDict_GET_SIZE(keywords) != 1 || !name.state)))
        return 0;
    given->handle = PyTuple_GET_ITEM(args, 0);
    given->buffer = count == 2 ? PyTuple_GET_ITEM(args, 1) : NULL;
    if (keywords) {
        given->state = dict_get(keywords, name.state);
        Py_XDECREF(given->state); /* the caller has it */
    }
    return given->state != NULL;
}

/* Whether an operation of these is a few fields to fill; what is not, or is wrong, is for its class in Python. */
static int is_usual(const struct given *given, enum kind kind) {
    if (!handle_type || Py_TYPE(given->handle) != handle_type || handle_of(given->handle)->kind != socket_kind)
        return 0;
    if (given->buffer == Py_None)
        return kind == RECV && handle_of(given->handle)->stream;
    return !(PyBytes_CheckExact(given->buffer) && !PyBytes_GET_SIZE(given->buffer));
}

/* Gives a receive a buffer of its own. */
static int take_own(PyObject *self) {
    PyObject *own = PyByteArray_FromStringAndSize(NULL, constant.buffer_min);
    if (!own)
        return -1;
    memset(PyByteArray_AS_STRING(own), 0, (size_t)constant.buffer_min); /* a program may look beyond what has come */
    take_views(self, own, Py_NewRef(Py_None), constant.buffer_min);
    BUFFERED(self)->grows = 1;
    Py_DECREF(own);
    return 0;
}

static int make_usual(PyObject *self, const struct given *given) {
    PyObject *key = field_of(given->handle, &handle_of(given->handle)->key);
    int done = state_prepare(self, given->handle, key ? key : Py_None, given->state);
    Py_XDECREF(key);
    if (done < 0)
        return -1;
    return given->buffer == Py_None ? take_own(self) : PyObject_SetAttr(self, name.buffer, given->buffer);
}

int buffered_make_usual(PyObject *self, PyObject *handle, PyObject *buffer, PyObject *state) {
    const struct given given = {handle, buffer, state};
    return !is_usual(&given, kind_in(self)) ? 0 : make_usual(self, &given) < 0 ? -1 : 1;
}

static int make(PyObject *self, const struct given *given, enum kind kind) {
    if (is_usual(given, kind))
        return make_usual(self, given);
    PyObject *made = PyObject_CallMethod(self, "_make", "OOO", given->handle, given->buffer, given->state);
    Py_XDECREF(made);
    return made ? 0 : -1;
}

static char *given_names[] = {"handle", "buffer", "state", NULL};

static int recv_init(PyObject *self, PyObject *args, PyObject *keywords) {
    struct given given = {NULL, NULL, Py_None};
    if (!read_usual(&given, args, keywords)) {
        given = (struct given){NULL, NULL, Py_None};
        if (PyErr_Occurred() || !PyArg_ParseTupleAndKeywords(args, keywords, "O|O$O:Recv", given_names, &given.handle,
                                                             &given.buffer, &given.state))
            return -1;
    }
    if (!given.buffer)
        given.buffer = Py_None;
    return make(self, &given, RECV);
}

static int send_init(PyObject *self, PyObject *args, PyObject *keywords) {
    struct given given = {NULL, NULL, Py_None};
    if (!read_usual(&given, args, keywords) || !given.buffer) {
        given = (struct given){NULL, NULL, Py_None};
        if (PyErr_Occurred() || !PyArg_ParseTupleAndKeywords(args, keywords, "OO|$O:Send", given_names, &given.handle,
                                                             &given.buffer, &given.state))
            return -1;
    }
    return make(self, &given, SEND);
}

/* Showing it */

/* The views of the memory, a new reference. That of a receive's own buffer is made when it is first asked for, and holds
 * the buffer at its size, as somebody else may have that from then on. */
static PyObject *get_views(PyObject *self, void *ignored) {
    (void)ignored;
    PyObject *views = field_or_error(self, &BUFFERED(self)->views, "_made_views");
    if (views != Py_None)
        return views;
    Py_DECREF(views);
    PyObject *own = field_or_error(self, &BUFFERED(self)->buffer, "_buffer");
    PyObject *view = own ? PyMemoryView_FromObject(own) : NULL, *former = NULL;
    views = view ? PyTuple_Pack(1, view) : NULL;
    Py_XDECREF(view);
    if (views) {
        BEGIN_SECTION(self);
        if (BUFFERED(self)->views == Py_None && BUFFERED(self)->buffer == own) {
            former = BUFFERED(self)->views;
            __atomic_store_n(&BUFFERED(self)->views, Py_NewRef(views), __ATOMIC_RELEASE);
        }
        END_SECTION();
        Py_XDECREF(former);
        if (!former) /* another thread was quicker */
            Py_SETREF(views, get_views(self, NULL));
    }
    Py_XDECREF(own);
    return views;
}

static PyObject *get_buffer(PyObject *self, void *ignored) {
    (void)ignored;
    PyObject *views = get_views(self, NULL);
    if (!views)
        return NULL;
    Py_DECREF(views);
    return field_or_error(self, &BUFFERED(self)->buffer, "_buffer");
}

/* Another view of the memory that a view shows. Without its lock, CPython 3.13 miscounts the views of a view that several
 * threads make and drop at once, and the memory is let go too early; so there the operation's own has none. */
static PyObject *view_of_view(PyObject *view) {
#ifdef Py_GIL_DISABLED
    if (is_bytes(PyMemoryView_GET_BASE(view)))
        return PyMemoryView_FromObject(PyMemoryView_GET_BASE(view));
#endif
    return PyMemoryView_FromObject(view);
}

static PyObject *get_data(PyObject *self, void *ignored) {
    (void)ignored;
    PyObject *views = get_views(self, NULL), *part = NULL;
    if (is_one_view(views)) {
        PyObject *view = PyTuple_GET_ITEM(views, 0);
        part = view_of_view(view);
        if (part) {
            Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
            long long transferred = transferred_of(self);
            move_view(part, raw->buf, transferred < raw->len ? (Py_ssize_t)transferred : raw->len);
        }
    } else if (views) {
        PyErr_SetString(PyExc_TypeError,
                        "the data are spread over several buffers: look at Recv.buffer and Recv.transferred");
    }
    Py_XDECREF(views);
    return part;
}

/* The types */

PyObject *buffered_made(PyTypeObject *type, enum kind kind) {
    PyObject *self = state_new(type, kind);
    if (self)
        BUFFERED(self)->views = Py_NewRef(Py_None);
    return self;
}

static PyObject *buffered_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords; /* __init__ takes them */
    return buffered_made(type, NEITHER);
}

static PyObject *recv_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords;
    return buffered_made(type, RECV);
}

static PyObject *send_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords;
    return buffered_made(type, SEND);
}

int buffered_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(BUFFERED(self)->views);
    Py_VISIT(BUFFERED(self)->buffer);
    return state_traverse(self, visit, arg);
}

int buffered_clear(PyObject *self) {
    Py_CLEAR(BUFFERED(self)->views);
    Py_CLEAR(BUFFERED(self)->buffer);
    return state_clear(self);
}

static void buffered_dealloc(PyObject *self) { state_dealloc(self, buffered_clear); }

static PyGetSetDef buffered_accessors[] = {
    {"buffer", get_buffer, set_buffer,
     "The buffer, or the sequence of buffers, in the order in which they are filled or sent.\n\n"
     "The operation holds them, so that a ``bytearray`` can't be resized, for as long as it names them. Assign\n"
     "another buffer to let go. Assigning while the operation is in flight raises :class:`unio.InFlight`.",
     NULL},
    {"_views", get_views, NULL, "The parts of the memory that is filled or sent.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef buffered_members[] = {
    {"_made_views", T_OBJECT_EX, offsetof(struct buffered, views), 0, NULL},
    {"_buffer", T_OBJECT_EX, offsetof(struct buffered, buffer), 0, NULL},
    {"_size", T_PYSSIZET, offsetof(struct buffered, size), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot buffered_slots[] = {
    {Py_tp_doc, "What an operation with a buffer keeps besides, or with several of them."},
    {Py_tp_new, buffered_new},
    {Py_tp_dealloc, buffered_dealloc},
    {Py_tp_traverse, buffered_traverse},
    {Py_tp_clear, buffered_clear},
    {Py_tp_getset, buffered_accessors},
    {Py_tp_members, buffered_members},
    {0, NULL},
};

static PyGetSetDef recv_accessors[] = {
    {"data", get_data, NULL,
     "What the last completion delivered: a view of the buffer, so that nothing is copied.\n\n"
     "The next submission fills the same memory; ``bytes(operation.data)`` outlives that. Raises :class:`TypeError`\n"
     "where there are several buffers.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef recv_members[] = {
    {"_grows", T_BOOL, offsetof(struct buffered, grows), 0,
     "Whether the buffer is its own, and a larger one is to follow once it was filled."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot recv_slots[] = {
    {Py_tp_doc, "RecvState(handle, buffer=None, *, state=None)\n--\n\nWhat a receive keeps besides."},
    {Py_tp_new, recv_new},
    {Py_tp_init, recv_init},
    {Py_tp_dealloc, buffered_dealloc},
    {Py_tp_traverse, buffered_traverse},
    {Py_tp_clear, buffered_clear},
    {Py_tp_getset, recv_accessors},
    {Py_tp_members, recv_members},
    {0, NULL},
};

static PyType_Slot send_slots[] = {
    {Py_tp_doc, "SendState(handle, buffer, *, state=None)\n--\n\n"
                "What a send keeps besides: nothing. By its class, C knows that the operation is one."},
    {Py_tp_new, send_new},
    {Py_tp_init, send_init},
    {Py_tp_dealloc, buffered_dealloc},
    {Py_tp_traverse, buffered_traverse},
    {Py_tp_clear, buffered_clear},
    {0, NULL},
};

#define STATE(spec_name, slots_of_it)                                                                                  \
    {.name = "unio._core." spec_name,                                                                                  \
     .basicsize = sizeof(struct buffered),                                                                             \
     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,                                            \
     .slots = slots_of_it}

PyType_Spec buffered_spec = STATE("BufferedState", buffered_slots);
PyType_Spec recv_spec = STATE("RecvState", recv_slots);
PyType_Spec send_spec = STATE("SendState", send_slots);
