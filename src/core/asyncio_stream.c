/* unio._core.StreamState: what a transport of a stream does for each message. stream_state.py has the same in Python, and
 * StreamTransport what both leave to it.
 *
 * It derives from asyncio's own class of transports, whose slots are looked at before. What it gains: what has come is handed
 * to the protocol, and what is written leaves, without a step of Python's or an object beside the bytes themselves.
 */
#include "asyncio_loop.h"
#include "operation.h"

#include "handle.h"

#include <errno.h>
#include <string.h>
#include <structmember.h> /* T_OBJECT and its like, until Python 3.12 */
#include <sys/socket.h>

#define RECEIVED_MAX (256 * 1024) /* bytes: so much of one connection comes in a turn */


struct stream {
    PyObject_HEAD
    PyObject *extra;                                         /* of asyncio.BaseTransport */
    PyObject *high_water, *loop, *low_water, *is_proto_paused; /* of asyncio's _FlowControlMixin */
    PyObject *context, *protocol, *recv, *send;
    PyObject *first, *more; /* what is written and not submitted: bytes, and a list of those that follow, or NULL */
    long long size;         /* of that and of what is being sent */
    char buffered, flushing, paused, closing, barred, lost;
    char receiving, sending; /* submitted and not delivered yet: an operation is idle before, once a wait has taken it */
};

static inline struct stream *STREAM(PyObject *stream) { return (struct stream *)stream; }

PyTypeObject *stream_type;

static struct {
    PyObject *data_received, *receive_rarely, *take_end, *fail, *write_rarely, *overflow, *maybe_pause, *maybe_resume, *sent_all,
        *send_failed, *empty;
} known;

/* Calls a method of its class's in Python, and drops what that returns. */
static int call_method(PyObject *self, PyObject *method, PyObject *argument) {
    PyObject *result = PyObject_CallMethodObjArgs(self, method, argument, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* The same in the transport's context. */
static int call_method_within(PyObject *self, PyObject *method, PyObject *argument) {
    if (PyContext_Enter(STREAM(self)->context) < 0)
        return -1;
    int done = call_method(self, method, argument);
    return PyContext_Exit(STREAM(self)->context) < 0 ? -1 : done;
}

/* The connection ends by the exception that is set, unless that ends the program. */
static int fail(PyObject *self, const char *message) {
    PyObject *error = take_reportable(), *said = error ? PyUnicode_FromString(message) : NULL, *result = NULL;
    if (said)
        result = PyObject_CallMethodObjArgs(self, known.fail, error, said, NULL);
    Py_XDECREF(said);
    Py_XDECREF(error);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Receiving */

static int receive(PyObject *self) {
    struct stream *stream = STREAM(self);
    if (!stream->recv || stream->receiving)
        return 0;
    if (turns_submit(stream->loop, stream->recv) == 0) {
        stream->receiving = 1;
        return 0;
    }
    return fail(self, "Fatal read error on socket transport");
}

/* Hands bytes to the protocol, in the transport's context, and receives more. */
static int take(PyObject *self, PyObject *data) {
    struct stream *stream = STREAM(self);
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *result = PyObject_CallMethodOneArg(protocol, known.data_received, data);
    Py_DECREF(protocol);
    Py_XDECREF(result);
    if (!result)
        return fail(self, "Fatal error: protocol.data_received() call failed.");
    if (stream->closing || stream->paused || stream->receiving)
        return 0;
    return receive(self);
}

#if defined(MSG_NOSIGNAL) && defined(MSG_DONTWAIT)

static ssize_t recv_now(int number, char *data, Py_ssize_t room) {
    ssize_t came;
    do
        came = recv(number, data, (size_t)room, MSG_DONTWAIT);
    while (came < 0 && errno == EINTR);
    return came;
}

/* Receives what else is there, of a connection that had more than a receive has room for. Returns how much that is; where
 * nothing is, or something is wrong, the next receive tells. That the socket is empty by then, as far as that can be seen, is
 * noted as an attempt of the port's notes it: before the call, for an event that comes in the middle of it to count. */
static Py_ssize_t receive_rest(PyObject *recv, char *data, Py_ssize_t room) {
    PyObject *object = field_of(recv, &OP(recv)->handle);
    struct handle *handle = object ? handle_of(object) : NULL;
    ssize_t came = -1;
    if (handle && handle->is_fast && is_socket(handle->socket)) {
        int number = number_in(handle->socket), empties = handle->shows_drained && !PEEK(handle->ended);
        if (empties)
            POKE(direction_of(handle->incoming)->ready, 0);
        Py_BEGIN_ALLOW_THREADS
        came = recv_now(number, data, room);
        Py_END_ALLOW_THREADS
        if (empties && (came == room || came == 0))
            POKE(direction_of(handle->incoming)->ready, 1);
    }
    Py_XDECREF(object);
    return came > 0 ? came : 0;
}

#else

static Py_ssize_t receive_rest(PyObject *recv, char *data, Py_ssize_t room) {
    (void)recv, (void)data, (void)room;
    return 0;
}

#endif

/* What has come. A receive has little room, since there is one for each connection, whether something comes or not. Where it
 * is full, the rest is received into the bytes themselves that the protocol gets: nothing is copied, and it is the memory that
 * the last such bytes have left, which is still in the processor's cache. */
static PyObject *received_bytes(PyObject *recv) {
    char *data;
    Py_ssize_t size, came = (Py_ssize_t)transferred_of(recv);
    PyObject *memory = memory_of(recv, &data, &size);
    if (!memory)
        return PyErr_NoMemory();
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, came < size ? came : RECEIVED_MAX);
    if (bytes) {
        memcpy(PyBytes_AS_STRING(bytes), data, (size_t)came);
        if (came == size)
            _PyBytes_Resize(&bytes, came + receive_rest(recv, PyBytes_AS_STRING(bytes) + came, RECEIVED_MAX - came));
    }
    Py_DECREF(memory);
    return bytes;
}

/* _received(completion): what the receive calls when it has completed. */
PyObject *stream_received(PyObject *self, PyObject *completion) {
    struct stream *stream = STREAM(self);
    int done;
    stream->receiving = 0;
    if (PyTuple_GET_ITEM(completion, 3) != Py_None || stream->closing || stream->paused || stream->buffered) {
        done = call_method(self, known.receive_rarely, completion);
    } else if (!transferred_of(stream->recv)) {
        done = call_method_within(self, known.take_end, NULL);
    } else {
        PyObject *data = received_bytes(stream->recv);
        done = data ? PyContext_Enter(stream->context) : fail(self, "Fatal read error on socket transport");
        if (data && done == 0) {
            done = take(self, data);
            if (PyContext_Exit(stream->context) < 0)
                done = -1;
        }
        Py_XDECREF(data);
    }
    return done < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *stream_receive(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return receive(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *stream_take(PyObject *self, PyObject *data) { return take(self, data) < 0 ? NULL : Py_NewRef(Py_None); }

/* Sending */

/* Puts what is to be sent behind what is. */
static int append_written(struct stream *stream, PyObject *data) {
    if (!stream->first) {
        stream->first = Py_NewRef(data);
        return 0;
    }
    if (!stream->more && !(stream->more = PyList_New(0)))
        return -1;
    return PyList_Append(stream->more, data);
}

/* Takes what is written out, as one piece; NULL, without an exception, where that is nothing. */
static PyObject *take_written(struct stream *stream) {
    PyObject *all;
    if (stream->more) {
        if (PyList_Insert(stream->more, 0, stream->first) < 0)
            return NULL;
        if (!(all = PyObject_CallMethod(known.empty, "join", "O", stream->more))) {
            PyList_SetSlice(stream->more, 0, 1, NULL);
            return NULL;
        }
        Py_CLEAR(stream->more);
        Py_CLEAR(stream->first);
        return all;
    }
    all = stream->first;
    stream->first = NULL;
    return all;
}

static long long number_of(PyObject *object) { return object ? PyLong_AsLongLong(object) : 0; }

#if defined(MSG_NOSIGNAL) && defined(MSG_DONTWAIT) && !defined(__APPLE__) && !defined(__NetBSD__)

/* Sends what is written at once, as far as the system takes it; what is wrong, the send at the end of the turn tells. */
static int send_now(PyObject *self) {
    struct stream *stream = STREAM(self);
    PyObject *handle = field_of(stream->send, &OP(stream->send)->handle), *all = take_written(stream);
    int number = handle && is_socket(handle_of(handle)->socket) ? number_in(handle_of(handle)->socket) : -1;
    Py_XDECREF(handle);
    if (!all)
        return -1;
    ssize_t sent = -1;
    if (number >= 0 && PyBytes_CheckExact(all)) {
        Py_BEGIN_ALLOW_THREADS
        sent = send(number, PyBytes_AS_STRING(all), (size_t)PyBytes_GET_SIZE(all), MSG_DONTWAIT | MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS
    }
    if (sent > 0 && sent < PyBytes_GET_SIZE(all)) {
        PyObject *view = PyMemoryView_FromObject(all);
        stream->first = view ? PySequence_GetSlice(view, sent, PyBytes_GET_SIZE(all)) : NULL;
        Py_XDECREF(view);
    } else if (sent <= 0) {
        stream->first = Py_NewRef(all);
    }
    int failed = PyErr_Occurred() != NULL;
    stream->size -= sent > 0 ? sent : 0;
    Py_DECREF(all);
    return failed ? -1 : 0;
}

/* More is written than may wait: it leaves at once, as far as that can be, before the protocol is asked to pause. */
static int overflow(PyObject *self) {
    struct stream *stream = STREAM(self);
    if (stream->flushing && !stream->sending && send_now(self) < 0)
        return -1;
    return stream->size > number_of(stream->high_water) ? call_method(self, known.maybe_pause, NULL) : 0;
}

#else

static int overflow(PyObject *self) { return call_method(self, known.overflow, NULL); }

#endif

/* Has bytes sent at the end of this turn, or when what is being sent has left. */
static int gather(PyObject *self, PyObject *data, Py_ssize_t size) {
    struct stream *stream = STREAM(self);
    if (append_written(stream, data) < 0)
        return -1;
    stream->size += size;
    if (!stream->flushing && !stream->sending) {
        if (turns_before_wait(stream->loop, self) < 0)
            return -1;
        stream->flushing = 1;
    }
    if (stream->size > number_of(stream->high_water))
        return overflow(self);
    return 0;
}

static PyObject *stream_write(PyObject *self, PyObject *data) {
    int done;
    if (!PyBytes_CheckExact(data) || !PyBytes_GET_SIZE(data) || STREAM(self)->barred)
        done = call_method(self, known.write_rarely, data);
    else
        done = gather(self, data, PyBytes_GET_SIZE(data));
    return done < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *stream_gather(PyObject *self, PyObject *data) {
    Py_ssize_t size = PyObject_Length(data);
    return size < 0 || gather(self, data, size) < 0 ? NULL : Py_NewRef(Py_None);
}

int stream_flush(PyObject *self) {
    struct stream *stream = STREAM(self);
    stream->flushing = 0;
    if (stream->lost || !stream->first || stream->sending)
        return 0;
    PyObject *data = take_written(stream);
    int done = data ? 0 : -1;
    if (data && PyBytes_CheckExact(data))
        take_bytes(stream->send, data);
    else if (data)
        done = PyObject_SetAttrString(stream->send, "buffer", data);
    Py_XDECREF(data);
    if (done == 0 && turns_submit(stream->loop, stream->send) == 0) {
        stream->sending = 1;
        return 0;
    }
    return fail(self, "Fatal write error on socket transport");
}

static PyObject *flush(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return stream_flush(self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* _sent(completion): what the send calls when it has completed. */
PyObject *stream_sent(PyObject *self, PyObject *completion) {
    struct stream *stream = STREAM(self);
    long long sent = transferred_of(stream->send);
    stream->sending = 0;
    take_bytes(stream->send, known.empty);
    if (stream->lost)
        Py_RETURN_NONE;
    if (PyTuple_GET_ITEM(completion, 3) != Py_None)
        return PyObject_CallMethodOneArg(self, known.send_failed, completion);
    stream->size -= sent;
    int done = 0;
    if (stream->is_proto_paused == Py_True && stream->size <= number_of(stream->low_water))
        done = call_method_within(self, known.maybe_resume, NULL);
    if (done == 0 && stream->first)
        done = stream_flush(self);
    else if (done == 0 && (stream->closing || stream->barred))
        done = call_method(self, known.sent_all, NULL);
    return done < 0 ? NULL : Py_NewRef(Py_None);
}

/* _take_written(): what is written and not submitted, as one piece; None if that is nothing. */
static PyObject *stream_take_written(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *all = take_written(STREAM(self));
    return all || PyErr_Occurred() ? all : Py_NewRef(Py_None);
}

/* _put_back(data): puts bytes to the head of that, where nothing else is. */
static PyObject *stream_put_back(PyObject *self, PyObject *data) {
    Py_XSETREF(STREAM(self)->first, Py_NewRef(data));
    Py_RETURN_NONE;
}

/* _begin_state(context) */
static PyObject *begin(PyObject *self, PyObject *context) {
    Py_XSETREF(STREAM(self)->context, Py_NewRef(context));
    Py_RETURN_NONE;
}

/* The type */

static int traverse(PyObject *self, visitproc visit, void *arg) {
    struct stream *stream = STREAM(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(stream->extra);
    Py_VISIT(stream->loop);
    Py_VISIT(stream->context);
    Py_VISIT(stream->protocol);
    Py_VISIT(stream->recv);
    Py_VISIT(stream->send);
    Py_VISIT(stream->first);
    Py_VISIT(stream->more);
    return 0;
}

static int clear(PyObject *self) {
    struct stream *stream = STREAM(self);
    Py_CLEAR(stream->extra);
    Py_CLEAR(stream->high_water);
    Py_CLEAR(stream->loop);
    Py_CLEAR(stream->low_water);
    Py_CLEAR(stream->is_proto_paused);
    Py_CLEAR(stream->context);
    Py_CLEAR(stream->protocol);
    Py_CLEAR(stream->recv);
    Py_CLEAR(stream->send);
    Py_CLEAR(stream->first);
    Py_CLEAR(stream->more);
    return 0;
}

static void dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"write", stream_write, METH_O, NULL},
    {"_received", stream_received, METH_O, NULL},
    {"_receive", stream_receive, METH_NOARGS, NULL},
    {"_take", stream_take, METH_O, NULL},
    {"_gather", stream_gather, METH_O, NULL},
    {"_flush", flush, METH_NOARGS, NULL},
    {"_sent", stream_sent, METH_O, NULL},
    {"_take_written", stream_take_written, METH_NOARGS, NULL},
    {"_put_back", stream_put_back, METH_O, NULL},
    {"_begin_state", begin, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define AT(name) (void *)offsetof(struct stream, name)
#define OBJECT(name) {"_" #name, get_object, set_object, NULL, AT(name)}
#define FLAG(name) {"_" #name, get_flag, set_flag, NULL, AT(name)}

static PyGetSetDef attributes[] = {
    OBJECT(context), OBJECT(protocol), OBJECT(recv),  OBJECT(send), FLAG(buffered), FLAG(flushing),
    FLAG(paused),    FLAG(closing),    FLAG(barred), FLAG(lost),   FLAG(receiving),  FLAG(sending),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"_size", T_LONGLONG, offsetof(struct stream, size), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},    {Py_tp_traverse, traverse}, {Py_tp_clear, clear}, {Py_tp_methods, methods},
    {Py_tp_getset, attributes}, {Py_tp_members, members},   {0, NULL},
};

static PyType_Spec spec = {.name = "unio._core.StreamState",
                           .basicsize = sizeof(struct stream),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           .slots = slots};

static const struct place places[] = {
    {"_extra", offsetof(struct stream, extra)},
    {"_high_water", offsetof(struct stream, high_water)},
    {"_loop", offsetof(struct stream, loop)},
    {"_low_water", offsetof(struct stream, low_water)},
    {"_protocol_paused", offsetof(struct stream, is_proto_paused)},
    {NULL, 0},
};

static int intern_names(void) {
    const struct {
        PyObject **at;
        const char *spelled;
    } wanted[] = {
        {&known.data_received, "data_received"}, {&known.receive_rarely, "_receive_rarely"},
        {&known.take_end, "_take_end"},          {&known.fail, "_fail"},
        {&known.write_rarely, "_write_rarely"},
        {&known.maybe_pause, "_maybe_pause_protocol"},   {&known.overflow, "_overflow"},
        {&known.maybe_resume, "_maybe_resume_protocol"}, {&known.sent_all, "_sent_all"},
        {&known.send_failed, "_send_failed"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!*wanted[i].at && !(*wanted[i].at = PyUnicode_InternFromString(wanted[i].spelled)))
            return -1;
    }
    return known.empty || (known.empty = PyBytes_FromStringAndSize(NULL, 0)) ? 0 : -1;
}

/* The C library of GNU takes large blocks from the system one by one, and gives them back, each page of which costs a fault;
 * until one was freed: from then on it keeps blocks of that size, as those of a busy program are wanted again at once. */
static void keep_large_blocks(void) { PyMem_RawFree(PyMem_RawMalloc(4 * RECEIVED_MAX)); }

/* know_transports(asyncio.transports._FlowControlMixin): the class of what derives from that here; None where its slots are
 * elsewhere. */
static PyObject *know_transports(PyObject *Py_UNUSED(module), PyObject *base) {
    if (!stream_type && !has_slots_at(base, places, offsetof(struct stream, context)))
        Py_RETURN_NONE;
    if (intern_names() < 0)
        return NULL;
    keep_large_blocks();
    if (!stream_type)
        stream_type = (PyTypeObject *)PyType_FromSpecWithBases(&spec, base);
    return Py_XNewRef((PyObject *)stream_type);
}

PyMethodDef stream_functions[] = {
    {"know_transports", know_transports, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
