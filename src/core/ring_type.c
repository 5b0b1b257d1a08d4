/* unio._core.Ring: an io_uring for Python.
 *
 * A request is what the kernel has of ours: it holds what its result is given back with, and the views whose memory the
 * kernel may touch, until that result has come, whatever else becomes of them. Its address is the user_data of its entry,
 * with a number above it that is another one each time, so that a request to cancel never hits the next one in the same
 * place. Requests are reused.
 *
 * The ring's lock is never held over anything of Python's, since that may run any code, of a finalizer for instance. So
 * every method may be called from any thread, and from a signal handler, which runs between two steps of the interpreter
 * and not within one of these.
 */
#include "core.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "address.h"
#include "ring.h"

#define VECTOR_MAX 1024             /* IOV_MAX: the buffers of one call */
#define TRANSFER_MAX 0x7ffff000     /* the bytes of one call, of any system call of Linux */
#define TAKEN 256                   /* results that are taken in one go */
#define GENERATION_SHIFT 48         /* the addresses of a process have fewer bits, unless it asks for more */
#define ADDRESS_MASK ((UINT64_C(1) << GENERATION_SHIFT) - 1)
#define UNHEARD 0                   /* the user_data of an entry whose result nobody waits for */
#define WAKES 2                     /* of one that fetches a thread out of the kernel */
#define CANCELS 1                   /* a bit in that of one that cancels a request, beside the request's own */
#define NEVER UINT64_MAX
#define PAUSE_NANOSECONDS 1000000   /* before another try where the kernel lacks memory, or room for results */

struct message {
    struct msghdr header;
    struct sockaddr_storage address;
    socklen_t address_size; /* of an accepted peer's */
    struct iovec vector[];
};

struct request {
    struct request *next; /* of those that are free, or have a result */
    PyObject *owner, *views;
    struct message *message;
    int32_t result;
    uint32_t flags; /* of the result */
    uint16_t generation;
    uint8_t opcode;
    bool in_kernel, is_noted;
};

typedef struct {
    PyObject_HEAD
    struct ring ring;
    struct request *free; /* this and what follows is guarded by the ring's lock */
    struct request *noted, **noted_end; /* those with a result, the oldest first */
    Py_ssize_t in_flight;
    unsigned entered; /* threads that are in the kernel */
    bool open;
    pid_t process;
} Ring;

static PyObject *os_error(int number, const char *what)
{
    PyObject *arguments = Py_BuildValue("(is)", number, what);
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

/* Entering the kernel */

static void leave(Ring *self)
{
    pthread_mutex_lock(&self->ring.lock);
    bool last = --self->entered == 0 && !self->open;
    pthread_mutex_unlock(&self->ring.lock);
    if (last)
        ring_close(&self->ring);
}

/* Enter without the interpreter's lock; nothing on a closed ring. */
static void enter(Ring *self, bool for_results, int64_t nanoseconds)
{
    pthread_mutex_lock(&self->ring.lock);
    bool open = self->open;
    self->entered += open;
    pthread_mutex_unlock(&self->ring.lock);
    if (!open)
        return;
    Py_BEGIN_ALLOW_THREADS
    int result = for_results ? ring_enter(&self->ring, nanoseconds) : ring_submit(&self->ring);
    if (result == -EAGAIN || result == -EBUSY) {
        struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
        nanosleep(&pause, NULL);
    }
    Py_END_ALLOW_THREADS
    leave(self);
}

/* Requests */

static void release(struct request *request)
{
    Py_CLEAR(request->owner);
    Py_CLEAR(request->views);
    free(request->message);
    request->message = NULL;
}

static uint64_t name_of(const struct request *request)
{
    return (uint64_t)(uintptr_t)request | (uint64_t)request->generation << GENERATION_SHIFT;
}

/* A request and a free entry for it, with the lock held; NULL and an exception, without the lock, if there is none. */
static struct request *begin(Ring *self, int opcode, int number, struct io_uring_sqe **entry)
{
    for (;;) {
        pthread_mutex_lock(&self->ring.lock);
        if (!self->open) {
            pthread_mutex_unlock(&self->ring.lock);
            return (void *)os_error(EBADF, "the ring is closed");
        }
        struct request *request = self->free;
        *entry = ring_next(&self->ring);
        if (*entry && request) {
            self->free = request->next;
            self->in_flight++;
            request->in_kernel = true;
            request->generation++;
            request->opcode = (uint8_t)opcode;
            (*entry)->opcode = (uint8_t)opcode;
            (*entry)->fd = number;
            (*entry)->user_data = name_of(request);
            return request;
        }
        pthread_mutex_unlock(&self->ring.lock);
        if (!*entry) {
            enter(self, false, 0);
        } else if (!(request = calloc(1, sizeof *request))) {
            return (void *)PyErr_NoMemory();
        } else {
            pthread_mutex_lock(&self->ring.lock);
            request->next = self->free;
            self->free = request;
            pthread_mutex_unlock(&self->ring.lock);
        }
    }
}

/* Let the kernel have it, and the lock go. Returns what the request is cancelled by. */
static PyObject *commit(Ring *self, struct request *request, PyObject *owner, PyObject *views, struct message *message,
                        uint64_t name)
{
    request->owner = Py_NewRef(owner);
    request->views = Py_XNewRef(views);
    request->message = message;
    ring_publish(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    return PyLong_FromUnsignedLongLong(name);
}

/* Where the bytes of a tuple of memoryviews are, up to *most* after the first *done*. Returns how many parts that makes. */
static int parts(PyObject *views, Py_ssize_t done, Py_ssize_t most, struct iovec *vector)
{
    int count = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(views) && count < VECTOR_MAX && most; i++) {
        const Py_buffer *view = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, i));
        Py_ssize_t skipped = done < view->len ? done : view->len, size = view->len - skipped;
        done -= skipped;
        if (!size)
            continue;
        if (size > most)
            size = most;
        most -= size;
        vector[count].iov_base = (char *)view->buf + skipped;
        vector[count++].iov_len = (size_t)size;
    }
    return count;
}

static bool are_views(PyObject *views)
{
    bool fine = PyTuple_Check(views);
    for (Py_ssize_t i = 0; fine && i < PyTuple_GET_SIZE(views); i++)
        fine = PyMemoryView_Check(PyTuple_GET_ITEM(views, i));
    if (!fine)
        PyErr_SetString(PyExc_TypeError, "the buffers are a tuple of memoryviews");
    return fine;
}

static struct message *new_message(const struct iovec *vector, int count)
{
    struct message *message = calloc(1, sizeof *message + (size_t)count * sizeof *vector);
    if (!message)
        return (void *)PyErr_NoMemory();
    if (count)
        memcpy(message->vector, vector, (size_t)count * sizeof *vector);
    message->header.msg_iov = message->vector;
    message->header.msg_iovlen = (size_t)count;
    return message;
}

/* Receive, send, read or write: *single* is the operation for one buffer and *many* the one for several; the other
 * fields of the entry are the same for both. */
static PyObject *transfer(Ring *self, PyObject *owner, int number, PyObject *views, Py_ssize_t done, Py_ssize_t most,
                          int single, int many, uint64_t offset, uint32_t flags, uint16_t hints)
{
    struct iovec vector[VECTOR_MAX];
    if (!are_views(views))
        return NULL;
    int count = parts(views, done, most, vector);
    struct message *message = NULL;
    if (count > 1 && !(message = new_message(vector, count)))
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = begin(self, count > 1 ? many : single, number, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    entry->off = offset;
    entry->msg_flags = flags;
    entry->ioprio = hints;
    if (count <= 1) {
        entry->addr = count ? (uint64_t)(uintptr_t)vector[0].iov_base : 0;
        entry->len = count ? (uint32_t)vector[0].iov_len : 0;
    } else if (many == IORING_OP_RECVMSG || many == IORING_OP_SENDMSG) {
        entry->addr = (uint64_t)(uintptr_t)&message->header;
        entry->len = 1;
    } else {
        entry->addr = (uint64_t)(uintptr_t)message->vector;
        entry->len = (uint32_t)count;
    }
    return commit(self, request, owner, views, message, entry->user_data);
}

static PyObject *ring_recv(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    int number, poll_first;
    if (!PyArg_ParseTuple(arguments, "OiOp", &owner, &number, &views, &poll_first))
        return NULL;
    return transfer(self, owner, number, views, 0, TRANSFER_MAX, IORING_OP_RECV, IORING_OP_RECVMSG, 0, 0,
                    poll_first ? IORING_RECVSEND_POLL_FIRST : 0);
}

static PyObject *ring_send(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    int number;
    Py_ssize_t done, most;
    if (!PyArg_ParseTuple(arguments, "OiOnn", &owner, &number, &views, &done, &most))
        return NULL;
    /* The kernel's own wait for room is none once the peer has ended its side; see requests.py. */
    return transfer(self, owner, number, views, done, most, IORING_OP_SEND, IORING_OP_SENDMSG, 0,
                    MSG_NOSIGNAL | MSG_DONTWAIT, 0);
}

static PyObject *ring_read(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    int number;
    Py_ssize_t done;
    long long offset;
    if (!PyArg_ParseTuple(arguments, "OiOnL", &owner, &number, &views, &done, &offset))
        return NULL;
    return transfer(self, owner, number, views, done, TRANSFER_MAX, IORING_OP_READ, IORING_OP_READV, (uint64_t)offset,
                    0, 0);
}

static PyObject *ring_write(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    int number;
    Py_ssize_t done;
    long long offset;
    if (!PyArg_ParseTuple(arguments, "OiOnL", &owner, &number, &views, &done, &offset))
        return NULL;
    return transfer(self, owner, number, views, done, TRANSFER_MAX, IORING_OP_WRITE, IORING_OP_WRITEV, (uint64_t)offset,
                    0, 0);
}

/* One message with all of its buffers; *address* is where a sent one goes, or NULL. */
static PyObject *exchange(Ring *self, int opcode, PyObject *owner, int number, PyObject *views, int family,
                          PyObject *address)
{
    struct iovec vector[VECTOR_MAX];
    struct message *message = NULL;
    if (!are_views(views) || !(message = new_message(vector, parts(views, 0, TRANSFER_MAX, vector))))
        return NULL;
    if (opcode == IORING_OP_RECVMSG) {
        message->header.msg_name = &message->address;
        message->header.msg_namelen = sizeof message->address;
    } else if (address != Py_None) {
        int size = address_from(family, address, &message->address);
        if (size < 0) {
            free(message);
            return NULL;
        }
        message->header.msg_name = &message->address;
        message->header.msg_namelen = (socklen_t)size;
    }
    struct io_uring_sqe *entry;
    struct request *request = begin(self, opcode, number, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    entry->addr = (uint64_t)(uintptr_t)&message->header;
    entry->len = 1;
    /* Where a datagram has no room, the kernel would try it again with what the first try has left of it: nothing. */
    entry->msg_flags = opcode == IORING_OP_SENDMSG ? MSG_NOSIGNAL | MSG_DONTWAIT : 0;
    return commit(self, request, owner, views, message, entry->user_data);
}

static PyObject *ring_recv_message(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    int number;
    if (!PyArg_ParseTuple(arguments, "OiO", &owner, &number, &views))
        return NULL;
    return exchange(self, IORING_OP_RECVMSG, owner, number, views, 0, Py_None);
}

static PyObject *ring_send_message(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views, *address;
    int number, family;
    if (!PyArg_ParseTuple(arguments, "OiOiO", &owner, &number, &views, &family, &address))
        return NULL;
    return exchange(self, IORING_OP_SENDMSG, owner, number, views, family, address);
}

static PyObject *ring_accept(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    int number;
    if (!PyArg_ParseTuple(arguments, "Oi", &owner, &number))
        return NULL;
    struct message *message = new_message(NULL, 0);
    if (!message)
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = begin(self, IORING_OP_ACCEPT, number, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    message->address_size = sizeof message->address;
    entry->addr = (uint64_t)(uintptr_t)&message->address;
    entry->addr2 = (uint64_t)(uintptr_t)&message->address_size;
    entry->accept_flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    return commit(self, request, owner, NULL, message, entry->user_data);
}

static PyObject *ring_connect(Ring *self, PyObject *arguments)
{
    PyObject *owner, *address;
    int number, family;
    if (!PyArg_ParseTuple(arguments, "OiiO", &owner, &number, &family, &address))
        return NULL;
    struct message *message = new_message(NULL, 0);
    if (!message)
        return NULL;
    int size = address_from(family, address, &message->address);
    struct io_uring_sqe *entry;
    struct request *request = size < 0 ? NULL : begin(self, IORING_OP_CONNECT, number, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    entry->addr = (uint64_t)(uintptr_t)&message->address;
    entry->addr2 = (uint64_t)size;
    return commit(self, request, owner, NULL, message, entry->user_data);
}

static PyObject *ring_poll(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    int number, again;
    unsigned events;
    if (!PyArg_ParseTuple(arguments, "OiIp", &owner, &number, &events, &again))
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = begin(self, IORING_OP_POLL_ADD, number, &entry);
    if (!request)
        return NULL;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16; /* what was 16 bits wide once is still where these were */
#endif
    entry->poll32_events = events;
    entry->len = again ? IORING_POLL_ADD_MULTI : 0;
    return commit(self, request, owner, NULL, NULL, entry->user_data);
}

static PyObject *ring_sync(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    int number;
    if (!PyArg_ParseTuple(arguments, "Oi", &owner, &number))
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = begin(self, IORING_OP_FSYNC, number, &entry);
    return request ? commit(self, request, owner, NULL, NULL, entry->user_data) : NULL;
}

/* An entry that is no request, with the lock held. Returns false if the queue is full. */
static bool publish_locked(Ring *self, int opcode, uint64_t address, uint32_t flags, uint64_t user_data)
{
    struct io_uring_sqe *entry = ring_next(&self->ring);
    if (!entry)
        return false;
    entry->opcode = (uint8_t)opcode;
    entry->addr = address;
    entry->cancel_flags = flags;
    entry->user_data = user_data;
    ring_publish(&self->ring);
    return true;
}

/* The same without the lock; nothing on a closed ring. */
static void publish_plain(Ring *self, int opcode, uint64_t address, uint32_t flags, uint64_t user_data)
{
    for (;;) {
        pthread_mutex_lock(&self->ring.lock);
        bool done = !self->open || publish_locked(self, opcode, address, flags, user_data);
        pthread_mutex_unlock(&self->ring.lock);
        if (done)
            return;
        enter(self, false, 0);
    }
}

static void cancel(Ring *self, uint64_t wanted)
{
    publish_plain(self, IORING_OP_ASYNC_CANCEL, wanted, 0, wanted | CANCELS);
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
    publish_plain(self, IORING_OP_ASYNC_CANCEL, 0, flags, UNHEARD);
    enter(self, false, 0);
    Py_RETURN_NONE;
}

static PyObject *ring_interrupt(Ring *self, PyObject *Py_UNUSED(ignored))
{
    publish_plain(self, IORING_OP_NOP, 0, 0, WAKES);
    enter(self, false, 0);
    Py_RETURN_NONE;
}

/* Results
 *
 * A result that was taken out of the ring stays with its request until an iteration gives it out. So nothing has to be
 * allocated to take it, and it is not lost with a signal handler's exception, which comes right behind the call that
 * waits.
 */

static struct request *request_of(uint64_t user_data)
{
    return (struct request *)(uintptr_t)(user_data & ADDRESS_MASK & ~(uint64_t)CANCELS);
}

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
                    cancelling = publish_locked(self, IORING_OP_ASYNC_CANCEL, name & ~(uint64_t)CANCELS, 0, name);
                continue;
            }
            note(self, &taken[i]);
            all++;
        }
        pthread_mutex_unlock(&self->ring.lock);
        if (cancelling)
            enter(self, false, 0);
    }
    return all;
}

static PyObject *detail(const struct request *request)
{
    struct message *message = request->message;
    if (request->result < 0)
        Py_RETURN_NONE;
    switch (request->opcode) {
    case IORING_OP_ACCEPT:
        return address_to(&message->address, message->address_size);
    case IORING_OP_POLL_ADD:
        return PyBool_FromLong(request->flags & IORING_CQE_F_MORE);
    case IORING_OP_RECV:
        return PyBool_FromLong(request->flags & IORING_CQE_F_SOCK_NONEMPTY);
    case IORING_OP_RECVMSG: {
        if (!message->header.msg_name)
            return PyBool_FromLong(request->flags & IORING_CQE_F_SOCK_NONEMPTY);
        PyObject *address = address_to(&message->address, message->header.msg_namelen);
        return address ? Py_BuildValue("(Ni)", address, message->header.msg_flags) : NULL;
    }
    default:
        Py_RETURN_NONE;
    }
}

/* The next result: the owner, what the request is cancelled by, the number, and the detail. */
static PyObject *ring_next_result(Ring *self)
{
    pthread_mutex_lock(&self->ring.lock);
    struct request *request = self->noted;
    if (request && !(self->noted = request->next))
        self->noted_end = &self->noted;
    bool ended = false;
    if (request) {
        request->is_noted = false;
        ended = !request->in_kernel;
    }
    pthread_mutex_unlock(&self->ring.lock);
    if (!request)
        return NULL;
    PyObject *more = detail(request), *result = NULL;
    if (more)
        result = Py_BuildValue("(OKiN)", request->owner, (unsigned long long)name_of(request), request->result, more);
    if (ended) {
        release(request);
        pthread_mutex_lock(&self->ring.lock);
        request->next = self->free;
        self->free = request;
        self->in_flight--;
        pthread_mutex_unlock(&self->ring.lock);
    }
    return result;
}

static PyObject *ring_self(PyObject *self) { return Py_NewRef(self); }

/* What wakes a thread is left to that thread, which may be about to go to sleep and would not hear of it otherwise. */
static PyObject *ring_take_some(Ring *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(take(self, WAKES));
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
    enter(self, true, nanoseconds);
    return PyLong_FromUnsignedLong(take(self, NEVER));
}

static PyObject *ring_submit_now(Ring *self, PyObject *Py_UNUSED(ignored))
{
    pthread_mutex_lock(&self->ring.lock);
    bool any = self->open && ring_gathered(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    if (any) /* or else not even Python's lock is given up */
        enter(self, false, 0);
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
    int result = ring_open(&self->ring, entries, &what);
    if (result < 0) {
        Py_DECREF(self);
        return os_error(-result, what);
    }
    self->open = true;
    self->noted_end = &self->noted;
    self->process = getpid();
    return (PyObject *)self;
}

static void ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->open)
        Py_DECREF(ring_shut(self, NULL));
    while (self->free) { /* one that is in flight is leaked instead: the kernel may still write to what it names */
        struct request *request = self->free;
        self->free = request->next;
        free(request);
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
    METHOD("take", ring_take_some, METH_NOARGS),
    METHOD("wait", ring_wait, METH_O),
    METHOD("write", ring_write, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"in_flight", (getter)ring_in_flight, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, ring_make},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_iter, ring_self},
    {Py_tp_iternext, ring_next_result},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

PyType_Spec ring_spec = {"unio._core.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
