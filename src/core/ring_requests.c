/* unio._core.Ring: its requests, each as an entry of the ring. */
#include "ring_type.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "operation.h"

#define VECTOR_MAX 1024 /* IOV_MAX: the buffers of one call */
#define POSITION_NONE UINT64_MAX /* the offset of what has no position: a pipe */

static bool add_block(Ring *self)
{
    struct block *block = calloc(1, sizeof *block);
    if (!block)
        return false;
    pthread_mutex_lock(&self->ring.lock);
    block->next = self->blocks;
    self->blocks = block;
    for (int i = 0; i < BLOCK; i++) {
        block->requests[i].next = self->free;
        self->free = &block->requests[i];
    }
    pthread_mutex_unlock(&self->ring.lock);
    return true;
}

/* For PyArg_ParseTuple: the target that an object stands for. */
static int target_from(PyObject *object, void *place)
{
    struct target *target = place;
    if (is_socket(object))
        *target = (struct target){.socket = object, .number_at = number_at(object), .number = -1};
    else
        *target = (struct target){.number = (int)PyLong_AsLong(object)};
    return !PyErr_Occurred();
}

struct request *ring_try_begin(Ring *self, int opcode, const struct target *target, struct io_uring_sqe **entry)
{
    for (;;) {
        pthread_mutex_lock(&self->ring.lock);
        if (!self->open) {
            pthread_mutex_unlock(&self->ring.lock);
            return (void *)ring_error(EBADF, "the ring is closed");
        }
        struct request *request = self->free;
        *entry = ring_next(&self->ring);
        if (*entry && request) {
            self->free = request->next;
            self->in_flight++;
            request->in_kernel = true;
            request->is_of_file = false;
            request->generation++;
            request->number_at = target->number_at;
            request->opcode = (uint8_t)opcode;
            (*entry)->opcode = (uint8_t)opcode;
            (*entry)->fd = target->number;
            (*entry)->user_data = name_of(request);
            return request;
        }
        pthread_mutex_unlock(&self->ring.lock);
        if (!*entry)
            return NULL;
        if (!add_block(self))
            return (void *)PyErr_NoMemory();
    }
}

struct request *ring_begin(Ring *self, int opcode, const struct target *target, struct io_uring_sqe **entry)
{
    struct request *request;
    while (!(request = ring_try_begin(self, opcode, target, entry)) && !PyErr_Occurred())
        ring_cross(self, false, 0, NULL);
    return request;
}

/* What the kernel does to a file it does to the end, unless it has not begun. */
static void count_file(Ring *self, struct request *request)
{
    request->is_of_file = true;
    self->of_files++;
}

PyObject *ring_commit(Ring *self, struct request *request, PyObject *owner, const struct target *target, PyObject *views,
                      struct message *message, uint64_t name)
{
    PyObject *number = PyLong_FromUnsignedLongLong(name); /* first: a request that nobody could name would be lost */
    if (!number) {
        request->in_kernel = false;
        request->number_at = NULL;
        request->next = self->free;
        self->free = request;
        self->in_flight--;
        self->of_files -= request->is_of_file;
        pthread_mutex_unlock(&self->ring.lock);
        free(message);
        return NULL;
    }
    request->is_attempt = false;
    request->owner = Py_XNewRef(owner);
    request->socket = Py_XNewRef(target->socket);
    request->memory = Py_XNewRef(views);
    request->message = message;
    ring_advance(&self->ring);
    pthread_mutex_unlock(&self->ring.lock);
    return number;
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

static struct message *new_message(int parts)
{
    struct message *message = calloc(1, sizeof *message + (size_t)parts * sizeof *message->vector);
    if (message)
        message->header.msg_iov = message->vector;
    else
        PyErr_NoMemory();
    return message;
}

/* A message with the buffers as its parts. */
static struct message *message_of(PyObject *views, Py_ssize_t done, Py_ssize_t most)
{
    int room = PyTuple_GET_SIZE(views) < VECTOR_MAX ? (int)PyTuple_GET_SIZE(views) : VECTOR_MAX;
    struct message *message = new_message(room);
    if (message)
        message->header.msg_iovlen = (size_t)pieces_of(views, (size_t)done, (size_t)most, message->vector, room);
    return message;
}

/* Receive, send, read or write: *single* is the operation for one buffer and *many* the one for several; the other
 * fields of the entry are the same for both. */
static PyObject *transfer(Ring *self, PyObject *owner, const struct target *target, PyObject *views, Py_ssize_t done,
                          Py_ssize_t most, int single, int many, uint64_t offset, uint32_t flags, uint16_t hints)
{
    struct iovec one = {NULL, 0};
    struct message *message = NULL;
    if (!are_views(views) || (PyTuple_GET_SIZE(views) > 1 && !(message = message_of(views, done, most))))
        return NULL;
    int count = message ? (int)message->header.msg_iovlen : pieces_of(views, (size_t)done, (size_t)most, &one, 1);
    if (message && count <= 1) { /* the others are empty, or done */
        one = count ? message->vector[0] : one;
        free(message);
        message = NULL;
    }
    struct io_uring_sqe *entry;
    struct request *request = ring_begin(self, message ? many : single, target, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    if ((single == IORING_OP_READ || single == IORING_OP_WRITE) && offset != POSITION_NONE)
        count_file(self, request);
    entry->off = offset;
    entry->msg_flags = flags;
    entry->ioprio = hints;
    if (!message) {
        entry->addr = (uint64_t)(uintptr_t)one.iov_base;
        entry->len = (uint32_t)one.iov_len;
    } else if (many == IORING_OP_RECVMSG || many == IORING_OP_SENDMSG) {
        entry->addr = (uint64_t)(uintptr_t)&message->header;
        entry->len = 1;
    } else {
        entry->addr = (uint64_t)(uintptr_t)message->vector;
        entry->len = (uint32_t)count;
    }
    return ring_commit(self, request, owner, target, views, message, entry->user_data);
}

PyObject *ring_recv(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    struct target target;
    int poll_first;
    if (!PyArg_ParseTuple(arguments, "OO&Op", &owner, target_from, &target, &views, &poll_first))
        return NULL;
    return transfer(self, owner, &target, views, 0, TRANSFER_MAX, IORING_OP_RECV, IORING_OP_RECVMSG, 0, 0,
                    poll_first ? IORING_RECVSEND_POLL_FIRST : 0);
}

PyObject *ring_send(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    struct target target;
    Py_ssize_t done, most;
    if (!PyArg_ParseTuple(arguments, "OO&Onn", &owner, target_from, &target, &views, &done, &most))
        return NULL;
    /* The kernel's own wait for room is none once the peer has ended its side; see engine/ring_requests.py. */
    return transfer(self, owner, &target, views, done, most, IORING_OP_SEND, IORING_OP_SENDMSG, 0,
                    MSG_NOSIGNAL | MSG_DONTWAIT, 0);
}

PyObject *ring_read(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    struct target target;
    Py_ssize_t done;
    long long offset;
    if (!PyArg_ParseTuple(arguments, "OO&OnL", &owner, target_from, &target, &views, &done, &offset))
        return NULL;
    return transfer(self, owner, &target, views, done, TRANSFER_MAX, IORING_OP_READ, IORING_OP_READV, (uint64_t)offset,
                    0, 0);
}

PyObject *ring_write(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    struct target target;
    Py_ssize_t done;
    long long offset;
    if (!PyArg_ParseTuple(arguments, "OO&OnL", &owner, target_from, &target, &views, &done, &offset))
        return NULL;
    return transfer(self, owner, &target, views, done, TRANSFER_MAX, IORING_OP_WRITE, IORING_OP_WRITEV, (uint64_t)offset,
                    0, 0);
}

/* One message with all of its buffers; *address* is where a sent one goes, or NULL. */
static PyObject *exchange(Ring *self, int opcode, PyObject *owner, const struct target *target, PyObject *views,
                          int family, PyObject *address)
{
    struct message *message = are_views(views) ? message_of(views, 0, TRANSFER_MAX) : NULL;
    if (!message)
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
    struct request *request = ring_begin(self, opcode, target, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    entry->addr = (uint64_t)(uintptr_t)&message->header;
    entry->len = 1;
    /* Where a datagram has no room, the kernel would try it again with what the first attempt has left of it:
     * nothing. */
    entry->msg_flags = opcode == IORING_OP_SENDMSG ? MSG_NOSIGNAL | MSG_DONTWAIT : 0;
    return ring_commit(self, request, owner, target, views, message, entry->user_data);
}

PyObject *ring_recv_message(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views;
    struct target target;
    if (!PyArg_ParseTuple(arguments, "OO&O", &owner, target_from, &target, &views))
        return NULL;
    return exchange(self, IORING_OP_RECVMSG, owner, &target, views, 0, Py_None);
}

PyObject *ring_send_message(Ring *self, PyObject *arguments)
{
    PyObject *owner, *views, *address;
    struct target target;
    int family;
    if (!PyArg_ParseTuple(arguments, "OO&OiO", &owner, target_from, &target, &views, &family, &address))
        return NULL;
    return exchange(self, IORING_OP_SENDMSG, owner, &target, views, family, address);
}

PyObject *ring_accept(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    struct target target;
    if (!PyArg_ParseTuple(arguments, "OO&", &owner, target_from, &target))
        return NULL;
    struct message *message = new_message(0);
    if (!message)
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = ring_begin(self, IORING_OP_ACCEPT, &target, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    message->address_size = sizeof message->address;
    entry->addr = (uint64_t)(uintptr_t)&message->address;
    entry->addr2 = (uint64_t)(uintptr_t)&message->address_size;
    entry->accept_flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    return ring_commit(self, request, owner, &target, NULL, message, entry->user_data);
}

PyObject *ring_connect(Ring *self, PyObject *arguments)
{
    PyObject *owner, *address;
    struct target target;
    int family;
    if (!PyArg_ParseTuple(arguments, "OO&iO", &owner, target_from, &target, &family, &address))
        return NULL;
    struct message *message = new_message(0);
    if (!message)
        return NULL;
    int size = address_from(family, address, &message->address);
    struct io_uring_sqe *entry;
    struct request *request = size < 0 ? NULL : ring_begin(self, IORING_OP_CONNECT, &target, &entry);
    if (!request) {
        free(message);
        return NULL;
    }
    entry->addr = (uint64_t)(uintptr_t)&message->address;
    entry->addr2 = (uint64_t)size;
    return ring_commit(self, request, owner, &target, NULL, message, entry->user_data);
}

PyObject *ring_poll(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    struct target target;
    int again;
    unsigned events;
    if (!PyArg_ParseTuple(arguments, "OO&Ip", &owner, target_from, &target, &events, &again))
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = ring_begin(self, IORING_OP_POLL_ADD, &target, &entry);
    if (!request)
        return NULL;
    entry->poll32_events = poll_events(events);
    entry->len = again ? IORING_POLL_ADD_MULTI : 0;
    return ring_commit(self, request, owner, &target, NULL, NULL, entry->user_data);
}

PyObject *ring_sync(Ring *self, PyObject *arguments)
{
    PyObject *owner;
    struct target target;
    if (!PyArg_ParseTuple(arguments, "OO&", &owner, target_from, &target))
        return NULL;
    struct io_uring_sqe *entry;
    struct request *request = ring_begin(self, IORING_OP_FSYNC, &target, &entry);
    if (!request)
        return NULL;
    count_file(self, request);
    return ring_commit(self, request, owner, &target, NULL, NULL, entry->user_data);
}
