/* Tries of the hot path: preparing them, making the system calls, acting on what came of them. See hot_path.c. */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"

#define SEND_MAX (256 * 1024) /* bytes; what is larger goes in parts, as attempts.py says */

int is_plain(PyObject *operation, enum kind kind) {
    if (!OP(operation)->key) /* a subclass has not called its base's __init__ */
        return 0;
    if (kind == ACCEPT)
        return 1;
    char *data;
    Py_ssize_t size;
    PyObject *memory = memory_of(operation, &data, &size);
    Py_XDECREF(memory);
    return memory && size > 0 && (size <= SEND_MAX || kind == RECV);
}

/* Finds where the bytes come from or go to. Returns 0 where a program has written to what tells. */
static int prepare_buffer(struct attempt *attempt, PyObject *operation) {
    char *data;
    Py_ssize_t size;
    long long done = attempt->kind == SEND ? transferred_of(operation) : 0;
    PyObject *memory = memory_of(operation, &data, &size);
    if (!memory || done < 0 || done >= size) {
        Py_XDECREF(memory);
        return 0;
    }
    attempt->memory = memory;
    attempt->done = (size_t)done;
    attempt->data = data + done;
    attempt->size = (size_t)(size - done);
    return 1;
}

int prepare(struct hot_path *self, struct attempt *attempt, PyObject *handle, struct lane *lane) {
    PyObject *operation = lane->first;
    if (SLOT(handle, life) != open_life || !has_first(lane))
        return 0;
    enum kind kind = kind_of(operation);
    if (kind == NEITHER || !is_plain(operation, kind))
        return 0;
    struct attempt made = {.number = number_at(SLOT(handle, socket)), .kind = (char)kind};
    if (kind != ACCEPT && !prepare_buffer(&made, operation))
        return 0;
    if (kind == ACCEPT && !(made.peer = PyMem_Malloc(sizeof *made.peer)))
        return 0;
    if (kind == ACCEPT)
        made.peer->size = sizeof made.peer->address;
    if (!self->ring)
        lane->ready = 0;
    made.handle = Py_NewRef(handle);
    made.lane = (struct lane *)Py_NewRef(lane);
    made.operation = Py_NewRef(operation);
    *attempt = made;
    return 1;
}

/* What shares the listener may have had it block again, and no flag of accept4 keeps that from waiting: see calls.py. */
static void unblock(int number) {
    int flags = fcntl(number, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(number, F_SETFL, flags | O_NONBLOCK);
}

static ssize_t try_once(struct attempt *a) {
    int number = __atomic_load_n(a->number, __ATOMIC_RELAXED); /* right before the call, as Python's own sockets do */
    if (a->kind == SEND)
        return send(number, a->data, a->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (a->kind == RECV)
        return recv(number, a->data, a->size, MSG_DONTWAIT);
    unblock(number);
    return accept4(number, (struct sockaddr *)&a->peer->address, &a->peer->size, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* Makes the system calls. */
static void perform(struct attempt *attempts, int count) {
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        do
            a->result = try_once(a);
        while (a->result < 0 && errno == EINTR);
        if (a->result < 0)
            a->result = -errno;
    }
}

/* Makes the socket of an accepted connection; if that raises, the connection is closed. */
static int adopt(struct attempt *a) {
    PyObject *number = PyLong_FromSsize_t(a->result), *flags = PyLong_FromLong(SOCK_NONBLOCK);
    PyObject *address = address_to(&a->peer->address, a->peer->size);
    if (number && flags && address) {
        a->accepted = PyObject_CallFunctionObjArgs(made_socket, SLOT(a->handle, socket), number, flags, NULL);
        if (a->accepted)
            put_ref(&ACCEPTING(a->operation)->address, address);
    } else {
        close((int)a->result);
    }
    Py_XDECREF(number);
    Py_XDECREF(flags);
    Py_XDECREF(address);
    return a->accepted ? 0 : -1;
}

/* Takes back the deadline of an operation that has succeeded. Its lane is this thread's, so nobody else ends it. */
static int discard_expiry(struct hot_path *self, PyObject *operation) {
    PyObject *expiry = OP(operation)->expiry;
    if (expiry == Py_None)
        return 0;
    OP(operation)->expiry = Py_NewRef(Py_None);
    PyObject *result = PyObject_CallMethodOneArg(self->timers, name.discard, expiry);
    Py_DECREF(expiry);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Queues an operation that has succeeded and has no deadline any more, as CompletionQueue.complete does. Like all that is
 * done under the handle's lock, it calls nothing. */
static int succeed(struct hot_path *self, PyObject *operation) {
    put_ref(&OP(operation)->error, Py_None);
    put_ref(&OP(operation)->native, Py_None);
    if (packets_append(self->packets, operation) < 0)
        return -1;
    set_status(operation, QUEUED); /* nobody takes it meanwhile, as Python's lock is held */
    return 0;
}

enum next { OVER, RUN_ON, JUDGE };

/* Whether an attempt has done what its operation is to do. */
static int is_done(const struct attempt *a) {
    if (a->kind == ACCEPT)
        return a->accepted != NULL;
    return a->result >= 0 && (a->kind == RECV || (size_t)a->result == a->size);
}

/* Whether a receive has shown that the socket is empty: attempts.py says why one that came up short does. */
static int has_drained(const struct attempt *a) {
    return a->kind == RECV && a->result > 0 && (size_t)a->result < a->size &&
           SLOT(a->handle, shows_drained) == Py_True && SLOT(a->handle, ended) != Py_True;
}

/* Notes what an operation that has succeeded has brought. */
static void note(struct attempt *a) {
    if (a->kind == ACCEPT) {
        PyObject *former = ACCEPTING(a->operation)->socket; /* is dropped without the lock: its finalizer may take it */
        ACCEPTING(a->operation)->socket = a->accepted;
        a->accepted = former;
        return;
    }
    set_transferred(a->operation, (long long)a->done + a->result);
}

/* Acts on the result of an attempt, under the handle's lock. Says what is left to do without it. */
static enum next settle_locked(struct hot_path *self, struct attempt *a, int *failed) {
    PyObject *operation = a->operation, *handle = a->handle;
    struct lane *lane = a->lane;
    if (self->ring) {
        lane->request = 0;
        lane->drained = !a->more && a->result != 0;
    }
    if (is_done(a)) {
        note(a);
        if (!has_drained(a))
            lane->ready = 1;
        if (a->skips) {
            put_ref(&OP(operation)->native, Py_None);
            set_status(operation, IDLE);
            a->skipped = 1;
        } else if (succeed(self, operation) < 0) { /* first: where it fails, the operation keeps its place */
            *failed = 1;
            return a->kind == ACCEPT ? RUN_ON : JUDGE;
        }
        PyObject *following = OP(operation)->next;
        if (following == Py_None)
            put_ref(&lane->last, Py_None);
        else
            put_ref(&OP(following)->previous, Py_None);
        put_ref(&lane->first, following);
        put_ref(&OP(operation)->next, Py_None);
        if (has_first(lane) && lane->ready && SLOT(handle, life) == open_life)
            return RUN_ON;
    } else if (a->result != -EAGAIN || OP(operation)->verdict != Py_None || lane->ready) {
        return a->kind == ACCEPT ? RUN_ON : JUDGE; /* what accept4 says, it says again */
    }
    lane->active = 0;
    return OVER;
}

static void drop(struct attempt *a) {
    Py_DECREF(a->handle);
    Py_DECREF(a->lane);
    Py_DECREF(a->operation);
    Py_XDECREF(a->memory);
    Py_XDECREF(a->accepted);
    PyMem_Free(a->peer);
}

static int settle(struct hot_path *self, struct attempt *a) {
    PyObject *kept = NULL;
    int failed = 0;
    if (a->kind == ACCEPT && a->result >= 0 && adopt(a) < 0)
        keep_first(&kept);
    if (is_done(a) && discard_expiry(self, a->operation) < 0)
        keep_first(&kept);
    lock_acquire(SLOT(a->handle, lock));
    enum next next = settle_locked(self, a, &failed);
    lock_release(SLOT(a->handle, lock));
    if (PyErr_Occurred()) { /* it is not to be seen by what is called now */
        keep_first(&kept);
        failed = 0;
    }
    if (self->closed && call(self->queue, name.empty) < 0) /* with what has ended too late to be emptied by who closed it */
        keep_first(&kept);
    if (next == RUN_ON) {
        failed |= call_port(self, name.run, a->handle, (PyObject *)a->lane, NULL) < 0;
    } else if (next == JUDGE) {
        PyObject *result = PyLong_FromSsize_t(a->result);
        if (!result && (PyErr_Clear(), 1))
            result = PyLong_FromSsize_t(a->result); /* what it says would be lost, and there may be some memory by now */
        failed |= !result || call_port(self, name.run_on, a->handle, (PyObject *)a->lane, result) < 0;
        Py_XDECREF(result);
    } else if (SLOT(a->handle, life) != open_life) {
        failed |= call(a->handle, name.release) < 0;
    }
    drop(a);
    if (failed)
        keep_first(&kept);
    return raise_kept(kept);
}

void keep_first(PyObject **kept) {
    if (!*kept) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, kept, &traceback);
        PyErr_NormalizeException(&type, kept, &traceback);
        if (traceback)
            PyException_SetTraceback(*kept, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    } else {
        PyErr_WriteUnraisable(NULL);
    }
}

int raise_kept(PyObject *kept) {
    if (!kept)
        return 0;
    PyErr_SetObject((PyObject *)Py_TYPE(kept), kept);
    Py_DECREF(kept);
    return -1;
}

void settle_all(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    for (int i = 0; i < count; i++) {
        if (settle(self, &attempts[i]) < 0)
            keep_first(kept);
    }
    for (int i = 0; i < count && PyList_GET_SIZE(self->parked) && packets_count(self->packets) > 0; i++) {
        if (call(self->queue, name.wake) < 0)
            keep_first(kept);
    }
}

void make_attempts(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    Py_BEGIN_ALLOW_THREADS
    perform(attempts, count);
    Py_END_ALLOW_THREADS
    settle_all(self, attempts, count, kept);
}

/* Prepares a request for each of a row of attempts; the next time that somebody enters the ring, the kernel has them.
 * Once there is room, this keeps Python's lock, so that nobody ends such an operation in the middle. */
static void request_attempts(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    ring_make_room(self->ring, (unsigned)count);
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        unsigned long long request = 0;
        if (OP(a->operation)->verdict == Py_None && SLOT(a->handle, life) == open_life)
            request = ring_attempt(self->ring, a, a->lane->drained);
        if (request) {
            a->lane->request = request;
        } else {
            if (PyErr_Occurred())
                keep_first(kept);
            if (call_port(self, name.run, a->handle, (PyObject *)a->lane, NULL) < 0)
                keep_first(kept);
            drop(a);
        }
    }
}

/* Tries all that is gathered now, which makes place for more. */
static void try_gathered(struct hot_path *self, struct room *room, PyObject **kept) {
    size_t count = self->gathered_count;
    int prepared = 0;
    memcpy(room->gathered, self->gathered, count * sizeof *room->gathered);
    self->gathered_count = 0;
    for (struct gathered *each = room->gathered; each < room->gathered + count; each++) {
        if (prepare(self, &room->attempts[prepared], each->handle, each->lane))
            prepared++;
        else if (call_port(self, name.run, each->handle, (PyObject *)each->lane, NULL) < 0)
            keep_first(kept);
        Py_DECREF(each->handle);
        Py_DECREF(each->lane);
    }
    if (!self->ring)
        make_attempts(self, room->attempts, prepared, kept);
    else
        request_attempts(self, room->attempts, prepared, kept);
}

int start_gathered(struct hot_path *self) {
    PyObject *kept = NULL;
    struct room *room = self->gathered_count ? take_room(self) : NULL;
    if (!room)
        return self->gathered_count ? -1 : 0;
    while (self->gathered_count)
        try_gathered(self, room, &kept);
    give_back_room(self, room);
    return raise_kept(kept);
}

int try_at_once(struct hot_path *self, PyObject *handle, struct lane *lane) {
    struct attempt attempt;
    if (!prepare(self, &attempt, handle, lane)) /* the handle was closed in the meantime */
        return call_port(self, name.run, handle, (PyObject *)lane, NULL);
    attempt.skips = 1;
    Py_BEGIN_ALLOW_THREADS
    perform(&attempt, 1);
    Py_END_ALLOW_THREADS
    if (settle(self, &attempt) < 0)
        return -1;
    return attempt.skipped;
}


#endif
