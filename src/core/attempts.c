/* Attempts of the fast path: making them, and acting on what came of them. calls.c has their system calls; see port.c. */
#include "port.h"

#include <errno.h>
#include <unistd.h>

/* What was seen before is not to count as seen after. Without the lock: the owner alone does this, and its call to the kernel
 * is behind it. */
static void expect_event(struct port *self, struct direction *direction) {
    if (!self->ring)
        POKE(direction->ready, 0);
}

int prepare(struct port *self, struct attempt *attempt, PyObject *handle, struct direction *direction) {
    if (is_direction_of_polls(handle, direction))
        return prepare_polls(attempt, handle, direction);
    if (!is_open(handle) || !has_first(direction))
        return 0;
    struct attempt made = {.number = number_at(handle_of(handle)->socket)};
    if (!prepare_operation(&made, handle, direction->first))
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
    struct message *message = a->message;
    a->memory = a->accepted = NULL;
    a->message = NULL;
    a->follows = a->kind == ACCEPT;
    a->number = number_at(handle_of(a->handle)->socket); /* a request does not keep it */
    int prepared = prepare_operation(a, a->handle, a->direction->first);
    if (prepared) {
        expect_event(self, a->direction);
        a->skips = a->skips && a->operation == operation;
        Py_DECREF(operation);
    }
    if (a->kind != ACCEPT) {
        PyMem_Free(a->peer);
        a->peer = NULL;
    }
    PyMem_Free(message);
    Py_XDECREF(memory);
    Py_XDECREF(accepted); /* last: what the program had there may run its code */
    return prepared;
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
int succeed(struct port *self, PyObject *operation) {
    set_status(operation, QUEUED); /* first: from then on another thread may take it */
    if (queue_append(self->queue, operation) == 0)
        return 0;
    set_status(operation, PENDING);
    return -1;
}

/* What is left to do for a direction after an attempt: nothing; another attempt, by this thread at once or by the leader
 * later; a request, with which a ring waits; or what Python knows, which makes the attempt once more, or judges what came of
 * it. */
enum next { OVER, GO_ON, LATER, WAIT, RUN, JUDGE };

/* Whether a datagram was larger than the buffer. */
static int is_cut_off(const struct attempt *a) {
    return a->message && receives(a->kind) && a->result >= 0 && (a->message->header.msg_flags & MSG_TRUNC);
}

/* Whether no event tells of room: a local datagram socket waits for its receiver's queue, and not for its own. */
static int misses_writable(const struct attempt *a) {
    struct handle *handle = handle_of(a->handle);
    return sends(a->kind) && !handle->stream && int_in(handle->socket, at.family) == AF_UNIX;
}

/* Whether an attempt has done what its operation is to do. */
static int is_done(const struct attempt *a) {
    if (a->kind == ACCEPT)
        return a->accepted != NULL;
    return a->result >= 0 && (receives(a->kind) || (size_t)a->result == a->size);
}

/* Whether a receive has shown that the socket is empty: engine/attempts.py says why one that came up short does. */
static int has_drained(const struct attempt *a) {
    return receives(a->kind) && a->result > 0 && (size_t)a->result < a->size &&
           handle_of(a->handle)->shows_drained && !PEEK(handle_of(a->handle)->ended);
}

/* Notes what an operation that has succeeded has brought. */
static void note(struct attempt *a) {
    if (a->kind == ACCEPT) { /* what it had is dropped without the lock: its finalizer may take it */
        a->accepted = exchange_field(a->operation, &ACCEPTING(a->operation)->socket, a->accepted);
        a->peer = exchange_peer(a->operation, a->peer, &a->memory);
    } else {
        set_transferred(a->operation, (long long)a->done + a->result);
        if (a->kind == RECV_FROM)
            a->accepted = exchange_sender(a->operation, a->message);
    }
}

/* Notes what an attempt has achieved, under the handle's lock. Says what that leaves to Python; nothing, if that is OVER. */
static enum next achieve_locked(struct port *self, struct attempt *a, int *failed) {
    PyObject *operation = a->operation;
    /* What accept4 says, it says again. A ring is not asked again: Python would leave that to C, for ever. */
    enum next otherwise = a->kind == ACCEPT && !(self->ring && a->result < 0) ? RUN : JUDGE;
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
            if (sends(a->kind)) /* what it has sent now is counted by who judges that */
                set_transferred(operation, (long long)a->done);
            *failed = 1;
            return otherwise;
        }
    } else if ((self->ring && !a->by_call) || OP(operation)->verdict != Py_None) {
        return otherwise;
    } else if (sends(a->kind) && a->result > 0) { /* a part */
        set_transferred(operation, (long long)a->done + a->result);
        POKE(a->direction->ready, 1);
    } else if (a->result != -EAGAIN || misses_writable(a)) {
        return otherwise;
    } else if (self->ring) {
        return receives(a->kind) ? WAIT : otherwise;
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
    if (goes_on && (!is_last || self->ring)) /* a request is no turn */
        return GO_ON;
    POKE(direction->active, 0);
    return goes_on ? LATER : OVER;
}

void drop_attempt(struct attempt *a) {
    Py_DECREF(a->handle);
    Py_DECREF(a->direction);
    Py_XDECREF(a->operation);
    Py_XDECREF(a->memory);
    Py_XDECREF(a->accepted);
    PyMem_Free(a->message);
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
int leave_to_leader(struct port *self, struct attempt *a, PyObject **kept) {
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

/* Prepares a request for an attempt, unless its operation is to end. With the handle's lock held, so that nobody ends it in
 * the middle. Returns false where that is not for C, or an exception is set; and true with no request where the ring is
 * full, for it is entered with no lock held. */
static int request_locked(struct port *self, struct attempt *a, int poll_first) {
    if (OP(a->operation)->verdict != Py_None || !is_open(a->handle))
        return 0;
    a->direction->request = ring_attempt(self->ring, a, poll_first);
    return a->direction->request || !PyErr_Occurred();
}

/* The same, by a thread that holds no lock. With *poll_first*, an attempt would block. */
static void request_attempt(struct port *self, struct attempt *a, int poll_first, PyObject **kept) {
    PyObject *lock = handle_of(a->handle)->lock; /* whoever acts on the result needs it before the handle can go */
    int requested = 0, fits = 1;
    while (fits && !requested) {
        lock_acquire(lock);
        fits = request_locked(self, a, poll_first);
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
    drop_attempt(a);
}

/* Acts on the result of an attempt. Returns whether it is the next one of its direction now, and to be made. */
static int settle(struct port *self, struct attempt *a, int is_last, PyObject **kept) {
    int failed = 0;
    if (a->kind == POLL)
        return settle_polls(self, a, is_last, kept);
    if (a->kind == ACCEPT && a->result >= 0 && !(a->accepted = socket_of(handle_of(a->handle)->socket, (int)a->result)))
        keep_first(kept);
    if (is_cut_off(a)) { /* Python has the words for it */
        note(a);
        a->result = -EMSGSIZE;
    }
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
    if (next == WAIT) {
        request_attempt(self, a, 1, kept);
        return 0;
    }
    if (next == RUN || next == JUDGE)
        failed = run_in_python(self, a, next);
    else
        failed = !is_open(a->handle) ? call(a->handle, name.release) : 0;
    if (failed < 0)
        keep_first(kept);
    drop_attempt(a);
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

unsigned long long request_first_locked(struct port *self, PyObject *handle, struct direction *direction) {
    struct attempt attempt;
    if (!prepare(self, &attempt, handle, direction))
        return 0;
    if (!request_locked(self, &attempt, PEEK(direction->drained)) || !direction->request)
        drop_attempt(&attempt);
    return direction->request;
}

/* Requests each of a row of attempts; the next time that somebody enters the ring, the kernel has them. */
static void request_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    if (count)
        ring_make_room(self->ring, (unsigned)count);
    for (struct attempt *a = attempts; a < attempts + count; a++)
        request_attempt(self, a, PEEK(a->direction->drained), kept);
}

/* Makes attempts, and what follows them in their directions, until it would block or each has had its turn. All that is first
 * comes before all that is second: no direction keeps another one waiting. */
static void make_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    for (int left = constant.attempts_max - 1; count && !(self->ring && left < 0); left--) { /* giving Python's lock up costs as much as some of the calls */
        Py_BEGIN_ALLOW_THREADS
        perform(attempts, count);
        Py_END_ALLOW_THREADS
        count = settle_all(self, attempts, count, left <= 0, kept);
    }
    if (self->ring) /* whose results come after those of others */
        request_attempts(self, attempts, count, kept);
}

/* Has what is made by a call come first in a row of attempts. Returns how many there are. */
static int sort_out(struct attempt *attempts, int count) {
    int by_call = 0;
    for (int i = 0; i < count; i++) {
        if (attempts[i].by_call) {
            struct attempt other = attempts[by_call];
            attempts[by_call++] = attempts[i];
            attempts[i] = other;
        }
    }
    return by_call;
}

void start_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    int by_call = self->ring ? sort_out(attempts, count) : count;
    make_attempts(self, attempts, by_call, kept);
    if (self->ring)
        request_attempts(self, attempts + by_call, count - by_call, kept);
}

void settle_requests(struct port *self, struct attempt *attempts, int count, PyObject **kept) {
    start_attempts(self, attempts, settle_all(self, attempts, count, 0, kept), kept);
}

/* The backlog */

int has_backlog(const struct port *self) {
    Py_ssize_t size = PyObject_Size(self->backlog);
    return size < 0 ? (PyErr_Clear(), 1) : size > 0;
}

/* Owns the direction of an entry of the backlog and prepares its attempt, or has Python resume it, which knows of other
 * directions and of handles that have left. Returns how many attempts that makes, or -1 with an exception. */
static int resume_entry(struct port *self, PyObject *handle, PyObject *direction, struct attempt *attempt) {
    int is_plain = Py_TYPE(handle) == handle_type && handle_of(handle)->is_fast && is_open(handle) &&
                   direction != handle_of(handle)->files;
    if (!is_plain)
        return call_port(self, name.resume, handle, direction, NULL);
    lock_acquire(handle_of(handle)->lock);
    int owned = own_locked(handle, direction_of(direction));
    lock_release(handle_of(handle)->lock);
    if (!owned || prepare(self, attempt, handle, direction_of(direction)))
        return owned;
    return call_port(self, name.run, handle, direction, NULL);
}

/* Takes the oldest entry out, and resumes its direction. Returns as above. */
static int resume_oldest(struct port *self, struct attempt *attempt) {
    PyObject *entry = PyObject_CallMethodNoArgs(self->backlog, name.popleft);
    if (!entry)
        return PyErr_ExceptionMatches(PyExc_IndexError) ? (PyErr_Clear(), 0) : -1; /* another thread has it */
    int prepared = resume_entry(self, PyTuple_GET_ITEM(entry, 0), PyTuple_GET_ITEM(entry, 1), attempt);
    if (prepared < 0) { /* it is not done with */
        PyObject *kept = NULL;
        keep_first(&kept);
        PyObject *result = PyObject_CallMethodOneArg(self->backlog, name.append, entry);
        Py_XDECREF(result);
        if (!result)
            keep_first(&kept);
        raise_kept(kept);
    }
    Py_DECREF(entry);
    return prepared;
}

void start_backlog(struct port *self, struct attempt *attempts, int room, PyObject **kept) {
    int prepared = 0;
    Py_ssize_t left = PyObject_Size(self->backlog);
    for (; left > 0 && prepared < room; left--) {
        int more = resume_oldest(self, &attempts[prepared]);
        if (more < 0)
            keep_first(kept);
        else
            prepared += more;
    }
    start_attempts(self, attempts, prepared, kept);
}

/* What was gathered */

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
