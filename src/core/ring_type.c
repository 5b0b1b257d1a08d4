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

#include "address.h"

#define TAKEN 64                    /* results that are taken in one go */
#define UNHEARD 0                   /* the user_data of an entry whose result nobody waits for */
#define WAKES 2                     /* of one that fetches a thread out of the kernel */
#define CANCELS 1                   /* a bit in that of one that cancels a request, beside the request's own */
#define NEVER UINT64_MAX
#define PAUSE_NANOSECONDS 1000000   /* before another attempt where the kernel lacks memory, or room for results */
#define ADDRESS_MASK ((UINT64_C(1) << GENERATION_SHIFT) - 1)

PyObject *ring_error(int number, const char *what)
{
    PyObject *arguments = Py_BuildValue("(is)", number, what);
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

static struct request *request_of(uint64_t user_data)
{
    return (struct request *)(uintptr_t)(user_data & ADDRESS_MASK & ~(uint64_t)CANCELS);
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
    bool open = self->open, lacking;
    self->entered += open;
    pthread_mutex_unlock(&self->ring.lock);
    if (!open)
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

static void release(struct request *request)
{
    Py_CLEAR(request->memory);
    if (request->is_attempt) {
        Py_CLEAR(request->handle);
        Py_CLEAR(request->direction);
        Py_CLEAR(request->operation);
        if (request->opcode == IORING_OP_ACCEPT)
            PyMem_Free(request->peer);
    } else {
        Py_CLEAR(request->owner);
        Py_CLEAR(request->socket);
        free(request->message);
        request->message = NULL;
    }
}

/* Entries that are no requests */

/* An entry that is no request, with the lock held. Returns false if the queue is full. */
static bool add_locked(Ring *self, int opcode, uint64_t address, uint32_t flags, uint64_t user_data)
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
        bool done = !self->open || add_locked(self, opcode, address, flags, user_data);
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

/* Results
 *
 * A result that was taken out of the ring stays with its request until an iteration gives it out. So nothing has to be
 * allocated to take it, and it is not lost with a signal handler's exception, which comes right behind the call that
 * waits.
 */

/* With the lock held, note a result. A poll that goes on can have several before the first is given out. */
static void note(Ring *self, const struct io_uring_cqe *result)
{
    struct request *request = request_of(result->user_data);
    bool more = request->is_noted && request->result >= 0;
    if (!more)
        request->result = result->res;
    else if (result->res >= 0)
        request->result |= result->res;
    request->flags = result->flags;
    if (!(result->flags & IORING_CQE_F_MORE))
        request->in_kernel = false;
    if (request->is_noted)
        return;
    request->is_noted = true;
    request->next = NULL;
    *self->noted_end = request;
    self->noted_end = &request->next;
}

/* Take out the results that are there, those before the first with this user_data. Returns how many there were. */
static unsigned take(Ring *self, uint64_t until)
{
    unsigned count = TAKEN, all = 0;
    while (count == TAKEN) {
        struct io_uring_cqe taken[TAKEN];
        bool cancelling = false;
        pthread_mutex_lock(&self->ring.lock);
        count = self->open ? ring_take(&self->ring, taken, TAKEN, until) : 0;
        for (unsigned i = 0; i < count; i++) {
            uint64_t name = taken[i].user_data;
            if (name == UNHEARD || name == WAKES)
                continue;
            if (name & CANCELS) {
                /* The kernel doesn't find a request that is just about to be tried once more: ask again, until it has
                 * ended. */
                const struct request *request = request_of(name);
                bool there = request->in_kernel && request->generation == name >> GENERATION_SHIFT;
                if (there && taken[i].res == -ENOENT)
                    cancelling = add_locked(self, IORING_OP_ASYNC_CANCEL, name & ~(uint64_t)CANCELS, 0, name);
                continue;
            }
            note(self, &taken[i]);
            all++;
        }
        pthread_mutex_unlock(&self->ring.lock);
        if (cancelling)
            ring_cross(self, false, 0, NULL);
    }
    return all;
}

/* What else there is to a result, whose request is this thread's: it has ended, or its result is a number alone. */
static PyObject *detail(const struct request *request, int32_t result, uint32_t flags)
{
    if (request->is_attempt) {
        bool accepted = request->opcode == IORING_OP_ACCEPT && result >= 0;
        PyObject *more = accepted ? address_to(&request->peer->address, request->peer->size) : Py_NewRef(Py_None);
        return more ? Py_BuildValue("(OON)", request->handle, request->direction, more) : NULL;
    }
    struct message *message = request->message;
    if (result < 0)
        Py_RETURN_NONE;
    switch (request->opcode) {
    case IORING_OP_ACCEPT:
        return address_to(&message->address, message->address_size);
    case IORING_OP_POLL_ADD:
        return PyBool_FromLong(flags & IORING_CQE_F_MORE);
    case IORING_OP_RECV:
        return PyBool_FromLong(flags & IORING_CQE_F_SOCK_NONEMPTY);
    case IORING_OP_RECVMSG: {
        if (!message->header.msg_name)
            return PyBool_FromLong(flags & IORING_CQE_F_SOCK_NONEMPTY);
        PyObject *address = address_to(&message->address, message->header.msg_namelen);
        return address ? Py_BuildValue("(Ni)", address, message->header.msg_flags) : NULL;
    }
    default:
        Py_RETURN_NONE;
    }
}

/* With the lock held, keep a request for the next use. */
static void give_back(Ring *self, struct request *request)
{
    request->next = self->free;
    self->free = request;
    self->in_flight--;
    self->of_files -= request->is_of_file;
}

/* A result that was taken out. Where its request goes on, that may get another result as soon as the lock is free, and
 * another thread may take that one and be done with the request: so all that is needed of it is here. */
struct result {
    struct request *request;
    PyObject *owner; /* a reference */
    uint64_t name;
    int32_t number;
    uint32_t flags;
    bool ended;
};

/* Takes out the oldest result. Returns whether there was one. */
static bool take_oldest(Ring *self, struct result *result)
{
    pthread_mutex_lock(&self->ring.lock);
    struct request *request = self->noted;
    if (request) {
        if (!(self->noted = request->next))
            self->noted_end = &self->noted;
        request->is_noted = false;
        request->number_at = NULL; /* the kernel has it */
        PyObject *owner = request->is_attempt || !request->owner ? Py_None : request->owner;
        *result = (struct result){request,         Py_NewRef(owner), name_of(request),
                                  request->result, request->flags,   !request->in_kernel};
    }
    pthread_mutex_unlock(&self->ring.lock);
    return request;
}

/* Puts a result back for want of memory: it comes first the next time, unless another one of its request has come since. */
static void put_back(Ring *self, const struct result *result)
{
    struct request *request = result->request;
    pthread_mutex_lock(&self->ring.lock);
    bool goes_on = request->in_kernel && name_of(request) == result->name;
    if (!request->is_noted && (result->ended || goes_on)) {
        request->is_noted = true;
        request->next = self->noted;
        self->noted = request;
        if (!request->next)
            self->noted_end = &request->next;
    }
    pthread_mutex_unlock(&self->ring.lock);
}

static void end_request(Ring *self, struct request *request)
{
    release(request);
    pthread_mutex_lock(&self->ring.lock);
    give_back(self, request);
    pthread_mutex_unlock(&self->ring.lock);
}

/* The next result: the owner, what the request is cancelled by, the number, and the detail. */
static PyObject *ring_next_result(Ring *self)
{
    struct result result;
    if (!take_oldest(self, &result))
        return NULL;
    PyObject *more = result.ended ? detail(result.request, result.number, result.flags)
                                  : PyBool_FromLong(result.flags & IORING_CQE_F_MORE); /* of a poll that goes on */
    PyObject *told = more ? Py_BuildValue("(OKiN)", result.owner, (unsigned long long)result.name, result.number, more)
                          : NULL;
    Py_DECREF(result.owner);
    if (!told)
        put_back(self, &result);
    else if (result.ended)
        end_request(self, result.request);
    return told;
}

static PyObject *ring_self(PyObject *self) { return Py_NewRef(self); }

/* What wakes a thread is left to that thread, which may be about to go to sleep and would not hear of it otherwise. */
unsigned ring_take_some(PyObject *self) { return take((Ring *)self, WAKES); }

static PyObject *ring_take_now(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(ring_take_some(self));
}

static PyObject *ring_wait(Ring *self, PyObject *timeout)
{
    int64_t nanoseconds = -1;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        nanoseconds = seconds <= 0 ? 0 : seconds >= 1e9 ? INT64_C(1000000000000000000) : (int64_t)(seconds * 1e9) + 1;
    }
    pthread_mutex_lock(&self->ring.lock);
    if (self->noted)
        nanoseconds = 0; /* what an exception has left */
    pthread_mutex_unlock(&self->ring.lock);
    ring_cross(self, true, nanoseconds, NULL);
    return PyLong_FromUnsignedLong(take(self, NEVER));
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

static const uint8_t opcodes[] = {[RECV] = IORING_OP_RECV, [SEND] = IORING_OP_SEND, [ACCEPT] = IORING_OP_ACCEPT};

static void fill_entry(struct io_uring_sqe *entry, const struct attempt *attempt, int poll_first)
{
    if (attempt->kind == ACCEPT) {
        entry->addr = (uint64_t)(uintptr_t)&attempt->peer->address;
        entry->addr2 = (uint64_t)(uintptr_t)&attempt->peer->size;
        entry->accept_flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
        return;
    }
    entry->addr = (uint64_t)(uintptr_t)attempt->data;
    entry->len = (uint32_t)(attempt->size < TRANSFER_MAX ? attempt->size : TRANSFER_MAX);
    if (attempt->kind == SEND)
        entry->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    else if (poll_first)
        entry->ioprio = IORING_RECVSEND_POLL_FIRST;
}

unsigned long long ring_attempt(PyObject *object, const struct attempt *attempt, int poll_first)
{
    Ring *self = (Ring *)object;
    struct io_uring_sqe *entry;
    struct target target = {.number_at = attempt->number, .number = -1};
    struct request *request = ring_try_begin(self, opcodes[(int)attempt->kind], &target, &entry);
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
    } else {
        request->done = (uint32_t)attempt->done; /* of a send, which has no more than SEND_MAX */
        request->size = entry->len;
    }
    ring_advance(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    return name;
}

/* Takes an attempt back out of its request, whose references it takes over. */
static struct attempt attempt_of(struct request *request)
{
    struct attempt attempt = {
        .handle = request->handle,
        .operation = request->operation,
        .direction = request->direction,
        .memory = request->memory,
        .kind = request->opcode == IORING_OP_SEND ? SEND : request->opcode == IORING_OP_RECV ? RECV : ACCEPT,
        .result = request->result,
        .more = (request->flags & IORING_CQE_F_SOCK_NONEMPTY) != 0,
    };
    if (attempt.kind == ACCEPT) {
        attempt.peer = request->peer;
    } else {
        attempt.done = request->done;
        attempt.size = request->size;
    }
    request->memory = NULL;
    request->is_attempt = false;
    return attempt;
}

unsigned ring_wait_ms(PyObject *object, int timeout_ms, struct spin *spin)
{
    Ring *self = (Ring *)object;
    ring_cross(self, true, ring_has_results(object) ? 0 : timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000000, spin);
    return take(self, NEVER);
}

int ring_take_attempts(PyObject *object, struct attempt *attempts, int most)
{
    Ring *self = (Ring *)object;
    int count = 0;
    pthread_mutex_lock(&self->ring.lock);
    struct request **place = &self->noted, *request;
    while (count < most && (request = *place)) {
        if (!request->is_attempt) {
            place = &request->next;
            continue;
        }
        if (!(*place = request->next))
            self->noted_end = place;
        attempts[count++] = attempt_of(request);
        request->is_noted = false;
        give_back(self, request);
    }
    pthread_mutex_unlock(&self->ring.lock);
    return count;
}

int ring_has_results(PyObject *object)
{
    Ring *self = (Ring *)object;
    pthread_mutex_lock(&self->ring.lock);
    bool any = self->noted;
    pthread_mutex_unlock(&self->ring.lock);
    return any;
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
