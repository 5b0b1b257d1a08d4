/* Attempts of the fast path: preparing them, making the system calls, acting on what came of them. See port.c. */
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

int is_plain(PyObject *operation, enum kind kind) {
    if (!PEEK(OP(operation)->key)) /* a subclass has not called its base's __init__ */
        return 0;
    if (kind == ACCEPT)
        return 1;
    char *data;
    Py_ssize_t size;
    PyObject *memory = memory_of(operation, &data, &size);
    Py_XDECREF(memory);
    return memory && size > 0 && (size <= constant.send_max || kind == RECV);
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

/* Finds what an attempt of an operation needs. Returns 0 where that is not for C, and leaves the attempt as it is. */
static int prepare_operation(struct attempt *attempt, PyObject *operation) {
    enum kind kind = kind_in(operation);
    if (kind == NEITHER || !is_plain(operation, kind))
        return 0;
    struct attempt made = *attempt;
    made.kind = (char)kind;
    if (kind != ACCEPT && !prepare_buffer(&made, operation))
        return 0;
    if (kind == ACCEPT && !made.peer && !(made.peer = PyMem_Malloc(sizeof *made.peer)))
        return 0;
    if (kind == ACCEPT)
        made.peer->size = sizeof made.peer->address;
    made.operation = Py_NewRef(operation);
    *attempt = made;
    return 1;
}

/* What was seen before is not to count as seen after. Without the lock: the owner alone does this, and its call to the kernel
 * is behind it. */
static void expect_event(struct port *self, struct direction *direction) {
    if (!self->ring)
        POKE(direction->ready, 0);
}

int prepare(struct port *self, struct attempt *attempt, PyObject *handle, struct direction *direction) {
    if (!is_open(handle) || !has_first(direction))
        return 0;
    struct attempt made = {.number = number_at(handle_of(handle)->socket)};
    if (!prepare_operation(&made, direction->first))
        return 0;
    expect_event(self, direction);
    made.handle = Py_NewRef(handle);
    made.direction = (struct direction *)Py_NewRef(direction);
    *attempt = made;
    return 1;
}

/* Makes an attempt the one of what is first in its direction now. Returns 0 where that is not for C. */
static int prepare_next(struct port *self, struct attempt *a) {
    PyObject *operation = a->operation, *memory = a->memory, *accepted = a->accepted;
    a->memory = a->accepted = NULL;
    a->follows = a->kind == ACCEPT;
    a->number = number_at(handle_of(a->handle)->socket); /* a request does not keep it */
    int prepared = prepare_operation(a, a->direction->first);
    if (prepared) {
        expect_event(self, a->direction);
        a->skips = a->skips && a->operation == operation;
        Py_DECREF(operation);
    }
    if (a->kind != ACCEPT) {
        PyMem_Free(a->peer);
        a->peer = NULL;
    }
    Py_XDECREF(memory);
    Py_XDECREF(accepted); /* last: what the program had there may run its code */
    return prepared;
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
    if ((a->kind == ACCEPT && !a->follows) || (SENDS_WAIT && a->kind == SEND))
        unblock(number);
    if (a->kind == SEND)
        return send(number, a->data, a->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (a->kind == RECV)
        return recv(number, a->data, a->size, MSG_DONTWAIT);
    return accept_for_here(number, a->peer);
}

/* Makes the system calls. */
static void perform(struct attempt *attempts, int count) {
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        do
            a->result = attempt_once(a);
        while (a->result < 0 && errno == EINTR);
        if (a->result < 0)
            a->result = -errno;
    }
}

/* Makes the socket object of an accepted connection. If that raises, the connection is closed. */
static PyObject *socket_of(PyObject *listener, int number) {
    PyObject *made = socket_accepted(listener, number);
    if (!made && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear(); /* there may be some memory by now */
        made = socket_accepted(listener, number);
    }
    if (!made && PyErr_Occurred())
        close(number);
    else if (!made) /* it closes the number by itself where it raises */
        made = PyObject_CallFunction(accepted_socket, "Oi", listener, number);
    return made;
}

/* Queues an operation that has succeeded and has no deadline any more, as CompletionQueue.complete does. Like all that is
 * done under the handle's lock, it calls nothing. */
static int succeed(struct port *self, PyObject *operation) {
    set_status(operation, QUEUED); /* first: from then on another thread may take it */
    if (queue_append(self->queue, operation) == 0)
        return 0;
    set_status(operation, PENDING);
    return -1;
}

/* What is left to do for a direction after an attempt: nothing; another attempt, by this thread at once or by the leader
 * later; or what Python knows, which makes the attempt once more, or judges what came of it. */
enum next { OVER, GO_ON, LATER, RUN, JUDGE };

/* Whether an attempt has done what its operation is to do. */
static int is_done(const struct attempt *a) {
    if (a->kind == ACCEPT)
        return a->accepted != NULL;
    return a->result >= 0 && (a->kind == RECV || (size_t)a->result == a->size);
}

/* Whether a receive has shown that the socket is empty: engine/attempts.py says why one that came up short does. */
static int has_drained(const struct attempt *a) {
    return a->kind == RECV && a->result > 0 && (size_t)a->result < a->size &&
           handle_of(a->handle)->shows_drained && !PEEK(handle_of(a->handle)->ended);
}

/* Notes what an operation that has succeeded has brought. */
static void note(struct attempt *a) {
    if (a->kind == ACCEPT) { /* what it had is dropped without the lock: its finalizer may take it */
        a->accepted = exchange_field(a->operation, &ACCEPTING(a->operation)->socket, a->accepted);
        a->peer = exchange_peer(a->operation, a->peer, &a->memory);
    } else {
        set_transferred(a->operation, (long long)a->done + a->result);
    }
}

/* Notes what an attempt has achieved, under the handle's lock. Says what that leaves to Python; nothing, if that is OVER. */
static enum next achieve_locked(struct port *self, struct attempt *a, int *failed) {
    PyObject *operation = a->operation;
    enum next otherwise = a->kind == ACCEPT ? RUN : JUDGE; /* what accept4 says, it says again */
    if (is_done(a)) {
        note(a);
        if (!has_drained(a))
            POKE(a->direction->ready, 1);
        direction_remove(a->direction, operation); /* first: once it is queued, another thread may submit it to another handle */
        if (a->skips) {
            set_status(operation, IDLE);
            a->skipped = 1;
        } else if (succeed(self, operation) < 0) {
            direction_restore(a->direction, operation);
            if (a->kind == SEND) /* what it has sent now is counted by who judges that */
                set_transferred(operation, (long long)a->done);
            *failed = 1;
            return otherwise;
        }
    } else if (self->ring || OP(operation)->verdict != Py_None) {
        return otherwise;
    } else if (a->kind == SEND && a->result > 0) { /* a part */
        set_transferred(operation, (long long)a->done + a->result);
        POKE(a->direction->ready, 1);
    } else if (a->result != -EAGAIN) {
        return otherwise;
    }
    return OVER;
}

/* Acts on the result of an attempt, and gives the direction up if that was the last or enough. It is one step: a cancel that
 * comes before it leaves its verdict for it, and one that comes after it finds that nobody is at it. */
static enum next settle_locked(struct port *self, struct attempt *a, int is_last, int *failed) {
    struct direction *direction = a->direction;
    if (self->ring) {
        direction->request = 0;
        POKE(direction->drained, !a->more && a->result != 0);
    }
    enum next next = achieve_locked(self, a, failed);
    if (next != OVER)
        return next;
    int goes_on = has_first(direction) && PEEK(direction->ready) && is_open(a->handle);
    if (goes_on && !is_last)
        return GO_ON;
    POKE(direction->active, 0);
    return goes_on ? LATER : OVER;
}

static void drop(struct attempt *a) {
    Py_DECREF(a->handle);
    Py_DECREF(a->direction);
    Py_DECREF(a->operation);
    Py_XDECREF(a->memory);
    Py_XDECREF(a->accepted);
    PyMem_Free(a->peer);
}

/* Has Python go on with a direction that this thread owns. */
static int run_in_python(struct port *self, struct attempt *a, enum next next) {
    if (next == RUN)
        return call_port(self, name.run, a->handle, (PyObject *)a->direction, NULL);
    PyObject *result = PyLong_FromSsize_t(a->result);
    if (!result && (PyErr_Clear(), 1))
        result = PyLong_FromSsize_t(a->result); /* what it says would be lost, and there may be some memory by now */
    int done = result ? call_port(self, name.run_on, a->handle, (PyObject *)a->direction, result) : -1;
    Py_XDECREF(result);
    return done;
}

/* Leaves a direction that has had its attempts to the leader, which lets the others have their turn before. Returns 0 where
 * there is no memory for that: then it is this thread's again. */
static int leave_to_leader(struct port *self, struct attempt *a, PyObject **kept) {
    PyObject *entry = PyTuple_Pack(2, a->handle, a->direction);
    PyObject *result = entry ? PyObject_CallMethodOneArg(self->backlog, name.append, entry) : NULL;
    Py_XDECREF(entry);
    Py_XDECREF(result);
    if (result && queue_wake_leader(self->queue) < 0)
        keep_first(kept);
    if (result)
        return 1;
    PyErr_Clear();
    lock_acquire(handle_of(a->handle)->lock);
    int owned = own_locked(a->handle, a->direction);
    lock_release(handle_of(a->handle)->lock);
    return !owned; /* or else somebody else is at it by now */
}

/* Acts on the result of an attempt. Returns whether it is the next one of its direction now, and to be made. */
static int settle(struct port *self, struct attempt *a, int is_last, PyObject **kept) {
    int failed = 0;
    if (a->kind == ACCEPT && a->result >= 0 && !(a->accepted = socket_of(handle_of(a->handle)->socket, (int)a->result)))
        keep_first(kept);
    if (is_done(a)) /* its direction is this thread's, so nobody else ends it */
        deadline_discard(self->timers, a->operation, 0);
    lock_acquire(handle_of(a->handle)->lock);
    enum next next = settle_locked(self, a, is_last, &failed);
    lock_release(handle_of(a->handle)->lock);
    if (failed) /* it is not to be seen by what is called now */
        keep_first(kept);
    if (PEEK(self->closed) && call((PyObject *)self->queue, name.empty) < 0) /* with what has ended too late to be emptied by who closed it */
        keep_first(kept);
    if (next == LATER && !leave_to_leader(self, a, kept))
        next = GO_ON;
    if (next == GO_ON && prepare_next(self, a))
        return 1;
    if (next == GO_ON)
        next = RUN;
    if (next == RUN || next == JUDGE)
        failed = run_in_python(self, a, next);
    else
        failed = !is_open(a->handle) ? call(a->handle, name.release) : 0;
    if (failed < 0)
        keep_first(kept);
    drop(a);
    return 0;
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

/* Lets parked threads have what has come, as far as they may run. */
static void wake_parked(struct port *self, int most, PyObject **kept) {
    for (int i = 0; i < most && queue_has_parked(self->queue) && queue_has_more(self->queue); i++) {
        if (queue_wake(self->queue) < 0)
            keep_first(kept);
    }
}

/* Acts on the results of attempts. Returns how many of them are the next of their directions now, and to be made; those come
 * first. */
static int settle_all(struct port *self, struct attempt *attempts, int count, int is_last, PyObject **kept) {
    int left = 0;
    for (int i = 0; i < count; i++) {
        if (settle(self, &attempts[i], is_last, kept))
            attempts[left++] = attempts[i];
    }
    wake_parked(self, count, kept);
    return left;
}

/* Makes attempts, and what follows them in their directions, until it would block or each has had its turn. All that is first
 * comes before all that is second: no direction keeps another one waiting. */
static void make_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    for (int left = constant.attempts_max - 1; count; left--) { /* giving Python's lock up costs as much as some of the calls */
        Py_BEGIN_ALLOW_THREADS
        perform(attempts, count);
        Py_END_ALLOW_THREADS
        count = settle_all(self, attempts, count, left <= 0, kept);
    }
}

/* Prepares a request for an attempt, unless its operation is to end. With the handle's lock held, so that nobody ends it in
 * the middle. Returns false where that is not for C, or an exception is set; and true with no request where the ring is
 * full, for it is entered with no lock held. */
static int request_locked(struct port *self, struct attempt *a) {
    if (OP(a->operation)->verdict != Py_None || !is_open(a->handle))
        return 0;
    a->direction->request = ring_attempt(self->ring, a, PEEK(a->direction->drained));
    return a->direction->request || !PyErr_Occurred();
}

static void request_attempt(struct port *self, struct attempt *a, PyObject **kept) {
    PyObject *lock = handle_of(a->handle)->lock; /* whoever acts on the result needs it before the handle can go */
    int requested = 0, fits = 1;
    while (fits && !requested) {
        lock_acquire(lock);
        fits = request_locked(self, a);
        requested = a->direction->request != 0;
        lock_release(lock);
        if (fits && !requested)
            ring_make_room(self->ring, 1); /* another thread has filled it */
    }
    if (requested)
        return;
    if (PyErr_Occurred())
        keep_first(kept);
    if (call_port(self, name.run, a->handle, (PyObject *)a->direction, NULL) < 0)
        keep_first(kept);
    drop(a);
}

/* Requests each of a row of attempts; the next time that somebody enters the ring, the kernel has them. */
static void request_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    if (count)
        ring_make_room(self->ring, (unsigned)count);
    for (struct attempt *a = attempts; a < attempts + count; a++)
        request_attempt(self, a, kept);
}

void settle_requests(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    request_attempts(self, attempts, settle_all(self, attempts, count, 0, kept), kept);
}

void start_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    if (self->ring)
        request_attempts(self, attempts, count, kept);
    else
        make_attempts(self, attempts, count, kept);
}

/* Takes out what is gathered, which makes place for more. Returns how many there are. */
static unsigned take_gathered(struct gathering *gathering, struct gathered *directions) {
    mutex_lock(&gathering->mutex);
    unsigned count = gathering->count;
    memcpy(directions, gathering->directions, count * sizeof *directions);
    POKE(gathering->count, 0);
    mutex_unlock(&gathering->mutex);
    return count;
}

/* Tries so many directions that were gathered. */
static void attempt_gathered(struct port *self, struct room *room, unsigned count, PyObject **kept) {
    int prepared = 0;
    for (struct gathered *each = room->gathered; each < room->gathered + count; each++) {
        if (prepare(self, &room->attempts[prepared], each->handle, each->direction))
            prepared++;
        else if (call_port(self, name.run, each->handle, (PyObject *)each->direction, NULL) < 0)
            keep_first(kept);
        Py_DECREF(each->handle);
        Py_DECREF(each->direction);
    }
    start_attempts(self, room->attempts, prepared, kept);
}

/* Takes out what one of the threads has gathered. A gathering goes with its thread, under the queue's mutex. */
static unsigned take_any_gathered(struct queue *queue, struct gathered *directions) {
    unsigned count = 0;
    mutex_lock(&queue->mutex);
    for (struct gathering *each = queue->gatherings; each && !count; each = each->next)
        count = PEEK(each->count) ? take_gathered(each, directions) : 0;
    mutex_unlock(&queue->mutex);
    return count;
}

/* The same of this thread alone. It may be another port's by now, as a finalizer that ran meanwhile has waited there: then
 * its gathering is gone. */
static unsigned take_own_gathered(const struct waiter *waiter, struct gathered *directions) {
    return waiter->gathering ? take_gathered(waiter->gathering, directions) : 0;
}

/* Attempts what this thread has gathered, or, without its waiter, what each of them has; and what that has led to. */
static int start(struct port *self, const struct waiter *waiter) {
    PyObject *kept = NULL;
    struct room *room = take_room(self);
    unsigned count = room != NULL;
    if (!room)
        return -1;
    while (count) {
        count = waiter ? take_own_gathered(waiter, room->gathered) : take_any_gathered(self->queue, room->gathered);
        attempt_gathered(self, room, count, &kept);
    }
    give_back_room(self, room);
    return raise_kept(kept);
}

int start_own_gathered(struct port *self, const struct waiter *waiter) {
    return PEEK(waiter->gathering->count) ? start(self, waiter) : 0;
}

static int has_gathered(struct queue *queue) {
    int has = 0;
    mutex_lock(&queue->mutex);
    for (struct gathering *each = queue->gatherings; each && !has; each = each->next)
        has = PEEK(each->count) > 0;
    mutex_unlock(&queue->mutex);
    return has;
}

int start_gathered(struct port *self) { return has_gathered(self->queue) ? start(self, NULL) : 0; }

int attempt_at_once(struct port *self, PyObject *handle, struct direction *direction) {
    struct attempt attempt;
    if (!prepare(self, &attempt, handle, direction)) /* the handle was closed in the meantime */
        return call_port(self, name.run, handle, (PyObject *)direction, NULL);
    attempt.skips = 1;
    PyObject *kept = NULL;
    Py_BEGIN_ALLOW_THREADS
    perform(&attempt, 1);
    Py_END_ALLOW_THREADS
    if (settle(self, &attempt, 0, &kept)) { /* what another thread has put behind it */
        start_attempts(self, &attempt, 1, &kept);
        if (queue_count(self->queue) > 0 && queue_wake(self->queue) < 0)
            keep_first(&kept);
    }
    return raise_kept(kept) < 0 ? -1 : attempt.skipped;
}
