/* Attempts of the fast path: what each of them needs, and its system call. attempts.c has the rest; see port.c. */
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Whether a handle of datagrams has an operation for them; one on a stream is Python's. */
static int fits(PyObject *handle, enum kind kind) {
    return (kind != RECV_FROM && kind != SEND_TO) || !handle_of(handle)->stream;
}

int is_plain(PyObject *handle, PyObject *operation, enum kind kind) {
    if (!PEEK(OP(operation)->key) || !fits(handle, kind)) /* a subclass has not called its base's __init__ */
        return 0;
    if (kind == POLL) /* which is queued also where success is skipped */
        return POLLING(operation)->wanted && !PEEK(handle_of(handle)->skip_on_success);
    if (kind == ACCEPT)
        return 1;
    char *data;
    Py_ssize_t size;
    PyObject *memory = memory_of(operation, &data, &size);
    Py_XDECREF(memory);
    return memory && size > 0 && (size <= constant.send_max || receives(kind));
}

/* Whether a call has to be told more than where one buffer is. */
static int needs_message(const struct attempt *a, PyObject *handle) {
    return !a->data || a->kind == SEND_TO || (receives(a->kind) && !handle_of(handle)->stream);
}

/* Makes what such a call is told. Returns 0 where that is not for C, or there is no memory. */
static int prepare_message(struct attempt *a, PyObject *handle, PyObject *operation) {
    int pieces = a->data ? 1 : (int)PyTuple_GET_SIZE(a->memory);
    struct message *message = PyMem_Malloc(sizeof *message + (size_t)pieces * sizeof *message->vector);
    if (!message)
        return 0;
    memset(message, 0, offsetof(struct message, address));
    if (a->data)
        message->vector[0] = (struct iovec){.iov_base = a->data, .iov_len = a->size};
    else
        pieces = pieces_of(a->memory, a->done, a->size, message->vector, pieces);
    message->header.msg_iov = message->vector;
    message->header.msg_iovlen = pieces;
    a->message = message;
    if (a->kind == SEND_TO)
        return read_receiver(operation, handle, message);
    if (!handle_of(handle)->stream && receives(a->kind)) {
        message->header.msg_name = &message->address;
        message->header.msg_namelen = sizeof message->address;
    }
    return 1;
}

/* Finds where the bytes come from or go to. Returns 0 where that is not for C: a program has written to what tells, say. */
static int prepare_buffer(struct attempt *a, PyObject *handle, PyObject *operation) {
    char *data;
    Py_ssize_t size;
    long long done = sends(a->kind) ? transferred_of(operation) : 0;
    PyObject *memory = memory_of(operation, &data, &size);
    if (!memory || done < 0 || done >= size) {
        Py_XDECREF(memory);
        return 0;
    }
    a->memory = memory;
    a->done = (size_t)done;
    a->data = data ? data + done : NULL;
    a->size = (size_t)(size - done);
    if (!needs_message(a, handle) || prepare_message(a, handle, operation))
        return 1;
    PyMem_Free(a->message);
    Py_DECREF(memory);
    return 0;
}

int prepare_operation(struct attempt *attempt, PyObject *handle, PyObject *operation) {
    enum kind kind = kind_in(operation);
    if (kind == NEITHER || kind == POLL || !is_plain(handle, operation, kind))
        return 0;
    struct attempt made = *attempt;
    made.kind = (char)kind;
    made.by_call = !handle_of(handle)->stream;
    if (kind != ACCEPT && !prepare_buffer(&made, handle, operation))
        return 0;
    if (kind == ACCEPT && !made.peer && !(made.peer = PyMem_Malloc(sizeof *made.peer)))
        return 0;
    if (kind == ACCEPT)
        made.peer->size = sizeof made.peer->address;
    made.operation = Py_NewRef(operation);
    *attempt = made;
    return 1;
}

#ifndef MSG_NOSIGNAL /* macOS: its descriptors are told when they join */
#define MSG_NOSIGNAL 0
#endif

#if defined(__APPLE__) || defined(__NetBSD__)
#define SENDS_WAIT 1 /* a send that is asked not to wait does so where the socket is full: see engine/syscalls.py */
#else
#define SENDS_WAIT 0
#endif

/* What shares the socket may have had it block again, and no flag keeps an accept from waiting: see
 * engine/syscalls.py. */
static void unblock(int number) {
    int flags = fcntl(number, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(number, F_SETFL, flags | O_NONBLOCK);
}

/* Accepts a connection that doesn't block, and that no program started from here has. */
static int accept_for_here(int number, struct peer *peer) {
#ifdef SOCK_CLOEXEC
    return accept4(number, (struct sockaddr *)&peer->address, &peer->size, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    int accepted = accept(number, (struct sockaddr *)&peer->address, &peer->size);
    if (accepted >= 0) {
        fcntl(accepted, F_SETFD, FD_CLOEXEC);
        unblock(accepted);
    }
    return accepted;
#endif
}

static ssize_t attempt_once(struct attempt *a) {
    int number = __atomic_load_n(a->number, __ATOMIC_RELAXED); /* right before the call, as Python's own sockets do */
    if (a->kind == POLL)
        return poll_once(number, a->size);
    if ((a->kind == ACCEPT && !a->follows) || (SENDS_WAIT && sends(a->kind)))
        unblock(number);
    if (a->kind == ACCEPT)
        return accept_for_here(number, a->peer);
    if (sends(a->kind))
        return a->message ? sendmsg(number, &a->message->header, MSG_DONTWAIT | MSG_NOSIGNAL)
                          : send(number, a->data, a->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return a->message ? recvmsg(number, &a->message->header, MSG_DONTWAIT) : recv(number, a->data, a->size, MSG_DONTWAIT);
}

void perform(struct attempt *attempts, int count) {
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        do
            a->result = attempt_once(a);
        while (a->result < 0 && errno == EINTR);
        if (a->result < 0)
            a->result = -errno;
    }
}
