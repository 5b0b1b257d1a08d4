/* unio._core.Ring: an io_uring for Python.
 *
 * A request is what the kernel has of ours: it holds what its result is given back with, and the memory that the kernel
 * may touch, until that result has come, whatever else becomes of them. Its address is the user_data of its entry, with a
 * number above it that is another one each time, so that a request to cancel never hits the next one in the same place.
 * Requests are reused.
 *
 * The ring's lock is never held over anything of Python's, since that may run any code, of a finalizer for instance. So
 * every method may be called from any thread, and from a signal handler, which runs between two steps of the interpreter
 * and not within one of these.
 */
#include "ring_type.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NANOSECONDS 1000000 /* before another attempt where the kernel lacks memory, or room for results */

PyObject *ring_error(int number, const char *what)
{
    PyObject *arguments = Py_BuildValue("(is)", number, what);
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

/* Entering the kernel */

/* Has an entry name the descriptor that its socket has now. The kernel tells late what it has taken: the request may have
 * ended since, and its socket be gone. */
static void bind_entry(struct io_uring_sqe *entry)
{
    if (entry->opcode == IORING_OP_NOP || entry->opcode == IORING_OP_ASYNC_CANCEL)
        return;
    const struct request *request = request_of(entry->user_data);
    bool waits = name_of(request) == entry->user_data && request->in_kernel && !request->is_noted;
    if (waits && request->number_at)
        __atomic_store_n(&entry->fd, __atomic_load_n(request->number_at, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

static void leave(Ring *self)
{
    pthread_mutex_lock(&self->ring.lock);
    bool last = --self->entered == 0 && !self->open;
    pthread_mutex_unlock(&self->ring.lock);
    if (last)
        ring_close(&self->ring);
}

bool ring_cross(Ring *self, bool for_results, int64_t nanoseconds, struct spin *spin)
{
    pthread_mutex_lock(&self->ring.lock);
    bool enters = self->open && !(for_results && nanoseconds == 0 && ring_is_quiet(&self->ring)), lacking;
    self->entered += enters;
    pthread_mutex_unlock(&self->ring.lock);
    if (!enters)
        return true;
    Py_BEGIN_ALLOW_THREADS
    int result = for_results ? ring_enter(&self->ring, nanoseconds, spin) : ring_submit(&self->ring);
    lacking = result == -EAGAIN || result == -EBUSY || result == -ENOMEM;
    if (lacking) {
        struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
        nanosleep(&pause, NULL);
    }
    Py_END_ALLOW_THREADS
    leave(self);
    return !lacking;
}

/* Entries that are no requests */

bool ring_add_locked(Ring *self, int opcode, uint64_t address, uint32_t flags, uint64_t user_data)
{
    struct io_uring_sqe *entry = ring_next(&self->ring);
    if (!entry)
        return false;
    entry->opcode = (uint8_t)opcode;
    entry->addr = address;
    entry->cancel_flags = flags;
    entry->user_data = user_data;
    ring_advance(&self->ring);
    return true;
}

/* Add an entry that is no request, by a thread without the ring's lock; nothing on a closed ring. */
static void add_plain(Ring *self, int opcode, uint64_t address, uint32_t flags, uint64_t user_data)
{
    for (;;) {
        pthread_mutex_lock(&self->ring.lock);
        bool done = !self->open || ring_add_locked(self, opcode, address, flags, user_data);
        pthread_mutex_unlock(&self->ring.lock);
        if (done)
            return;
        ring_cross(self, false, 0, NULL);
    }
}

static void cancel(Ring *self, uint64_t wanted)
{
    add_plain(self, IORING_OP_ASYNC_CANCEL, wanted, 0, wanted | CANCELS);
}

static PyObject *ring_cancel(Ring *self, PyObject *name)
{
    uint64_t wanted = PyLong_AsUnsignedLongLong(name);
    if (PyErr_Occurred())
        return NULL;
    if (wanted) /* there may be nothing to cancel by now */
        cancel(self, wanted);
    Py_RETURN_NONE;
}

static PyObject *ring_cancel_all(Ring *self, PyObject *Py_UNUSED(ignored))
{
    uint32_t flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
    add_plain(self, IORING_OP_ASYNC_CANCEL, 0, flags, UNHEARD);
    ring_cross(self, false, 0, NULL);
    Py_RETURN_NONE;
}

static PyObject *ring_interrupt(Ring *self, PyObject *Py_UNUSED(ignored))
{
    add_plain(self, IORING_OP_NOP, 0, 0, WAKES);
    ring_cross(self, false, 0, NULL);
    Py_RETURN_NONE;
}

/* For the fast path */

void ring_make_room(PyObject *object, unsigned attempts)
{
    Ring *self = (Ring *)object;
    for (bool enough = false; !enough;) {
        pthread_mutex_lock(&self->ring.lock);
        enough = !self->open || self->ring.entries_count - ring_gathered(&self->ring) >= attempts;
        pthread_mutex_unlock(&self->ring.lock);
        if (!enough)
            ring_cross(self, false, 0, NULL);
    }
}

static bool has_gathered(Ring *self)
{
    pthread_mutex_lock(&self->ring.lock);
    bool any = self->open && ring_gathered(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    return any;
}

void ring_submit_gathered(PyObject *object)
{
    if (has_gathered((Ring *)object)) /* or else not even Python's lock is given up */
        ring_cross((Ring *)object, false, 0, NULL);
}

static int opcode_of(const struct attempt *attempt)
{
    if (attempt->kind == ACCEPT)
        return IORING_OP_ACCEPT;
    if (attempt->kind == POLL)
        return IORING_OP_POLL_ADD;
    if (sends(attempt->kind))
        return attempt->message ? IORING_OP_SENDMSG : IORING_OP_SEND;
    return attempt->message ? IORING_OP_RECVMSG : IORING_OP_RECV;
}

static void fill_entry(struct io_uring_sqe *entry, const struct attempt *attempt, int poll_first)
{
    if (attempt->kind == ACCEPT) {
        entry->addr = (uint64_t)(uintptr_t)&attempt->peer->address;
        entry->addr2 = (uint64_t)(uintptr_t)&attempt->peer->size;
        entry->accept_flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
        return;
    }
    if (attempt->kind == POLL) {
        entry->poll32_events = poll_events((uint32_t)attempt->size);
        return;
    }
    if (attempt->message) {
        entry->addr = (uint64_t)(uintptr_t)&attempt->message->header;
        entry->len = 1;
    } else {
        entry->addr = (uint64_t)(uintptr_t)attempt->data;
        entry->len = (uint32_t)(attempt->size < TRANSFER_MAX ? attempt->size : TRANSFER_MAX);
    }
    if (sends(attempt->kind))
        entry->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    else if (poll_first)
        entry->ioprio = IORING_RECVSEND_POLL_FIRST;
}

unsigned long long ring_attempt(PyObject *object, const struct attempt *attempt, int poll_first)
{
    Ring *self = (Ring *)object;
    struct io_uring_sqe *entry;
    struct target target = {.number_at = attempt->number, .number = -1};
    struct request *request = ring_try_begin(self, opcode_of(attempt), &target, &entry);
    if (!request)
        return 0;
    fill_entry(entry, attempt, poll_first);
    uint64_t name = entry->user_data;
    request->is_attempt = true;
    request->handle = attempt->handle;
    request->operation = attempt->operation;
    request->direction = attempt->direction;
    request->memory = attempt->memory;
    if (attempt->kind == ACCEPT) {
        request->peer = attempt->peer;
    } else if (attempt->message) {
        request->told = attempt->message;
        request->told->done = attempt->done;
        request->told->size = attempt->size;
    } else {
        request->done = (uint32_t)attempt->done; /* of a send, which has no more than SEND_MAX */
        request->size = entry->len;
    }
    ring_advance(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    return name;
}

/* After this the kernel has what was prepared before: what names a number must not be left. */
static PyObject *ring_submit_now(Ring *self, PyObject *Py_UNUSED(ignored))
{
    while (has_gathered(self) && !ring_cross(self, false, 0, NULL))
        continue;
    Py_RETURN_NONE;
}

/* Life */

static PyObject *ring_shut(Ring *self, PyObject *Py_UNUSED(ignored))
{
    /* In a forked child the lock may be held for ever, by a thread that only the parent has; nobody else is there. */
    bool own = self->process == getpid();
    if (own)
        pthread_mutex_lock(&self->ring.lock);
    bool last = self->open && (!own || !self->entered);
    self->open = false;
    if (own)
        pthread_mutex_unlock(&self->ring.lock);
    if (last)
        ring_close(&self->ring);
    Py_RETURN_NONE;
}

static PyObject *ring_make(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    unsigned entries;
    static char *names[] = {"entries", NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "I", names, &entries))
        return NULL;
    Ring *self = (Ring *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    const char *what;
    int result = ring_open(&self->ring, entries, bind_entry, &what);
    if (result < 0) {
        Py_DECREF(self);
        return ring_error(-result, what);
    }
    self->open = true;
    self->noted_end = &self->noted;
    self->process = getpid();
    return (PyObject *)self;
}

/* What the program has given an operation may lead to the port, and so to this ring, which holds the operation while it is
 * in flight. The collector has to see that; then the port's finalizer is called, which ends the requests. Nothing is
 * cleared here: the kernel may still write to the memory that they name. */
static int ring_traverse(Ring *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (const struct block *block = self->blocks; block; block = block->next) {
        for (const struct request *request = block->requests; request < block->requests + BLOCK; request++) {
            if (!request->in_kernel && !request->is_noted) /* it is free, and its fields say nothing */
                continue;
            Py_VISIT(request->memory);
            if (request->is_attempt) {
                Py_VISIT(request->handle);
                Py_VISIT(request->operation);
                Py_VISIT(request->direction);
            } else {
                Py_VISIT(request->owner);
                Py_VISIT(request->socket);
            }
        }
    }
    return 0;
}

static void ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->open)
        Py_DECREF(ring_shut(self, NULL));
    while (self->blocks && !self->in_flight) { /* or else they are leaked: the kernel may still write to what they name */
        struct block *block = self->blocks;
        self->blocks = block->next;
        free(block);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *ring_in_flight(Ring *self, void *Py_UNUSED(closure))
{
    pthread_mutex_lock(&self->ring.lock);
    Py_ssize_t count = self->in_flight;
    pthread_mutex_unlock(&self->ring.lock);
    return PyLong_FromSsize_t(count);
}

static PyObject *ring_revocable(Ring *self, void *Py_UNUSED(closure))
{
    pthread_mutex_lock(&self->ring.lock);
    Py_ssize_t count = self->in_flight - self->of_files;
    pthread_mutex_unlock(&self->ring.lock);
    return PyLong_FromSsize_t(count);
}

#define METHOD(name, function, kind) {name, (PyCFunction)(void (*)(void))(function), kind, NULL}

static PyMethodDef methods[] = {
    METHOD("accept", ring_accept, METH_VARARGS),
    METHOD("cancel", ring_cancel, METH_O),
    METHOD("cancel_all", ring_cancel_all, METH_NOARGS),
    METHOD("close", ring_shut, METH_NOARGS),
    METHOD("connect", ring_connect, METH_VARARGS),
    METHOD("interrupt", ring_interrupt, METH_NOARGS),
    METHOD("poll", ring_poll, METH_VARARGS),
    METHOD("read", ring_read, METH_VARARGS),
    METHOD("recv", ring_recv, METH_VARARGS),
    METHOD("recv_message", ring_recv_message, METH_VARARGS),
    METHOD("send", ring_send, METH_VARARGS),
    METHOD("send_message", ring_send_message, METH_VARARGS),
    METHOD("submit", ring_submit_now, METH_NOARGS),
    METHOD("sync", ring_sync, METH_VARARGS),
    METHOD("take", ring_take_now, METH_NOARGS),
    METHOD("wait", ring_wait, METH_O),
    METHOD("write", ring_write, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"in_flight", (getter)ring_in_flight, NULL, NULL, NULL},
    {"revocable", (getter)ring_revocable, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, ring_make},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_iter, ring_self},
    {Py_tp_iternext, ring_next_result},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

PyType_Spec ring_spec = {"unio._core.Ring", sizeof(Ring), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, slots};
