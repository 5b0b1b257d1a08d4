/* unio._core.FastPort: the fast path of submit, wait, post and associate, for ports with a queue of their own.
 *
 * What is plain goes through here: an accept, or a receive or a send with one buffer, on a stream socket, that nothing
 * stands before. Everything else is left to the Python that it is a short form of (engine/port.py, engine/readiness.py,
 * engine/attempts.py), also in the middle: each function here does what its namesake there would do, or hands over to
 * it. So there is one emulation. The rules are those of engine/handle.py: who changes a direction holds the lock of its
 * handle, and who attempts its first operation owns it.
 *
 * What it gains besides: the sends and receives that a thread submits between two waits are gathered, and attempted in
 * one go at the next, and those that the kernel has told of are attempted in one go as well, all of them without
 * Python's lock.
 *
 * Without Python's lock all of this holds as well. A port's fields that change are the queue's, which has a mutex, or are
 * looked at as a hint; the table and the backlog are Python's own, each of whose steps is one; what is gathered is each
 * thread's own, and taken from it under a mutex. docs/threads.md has the order of the locks.
 */
#include "port.h"

#include <errno.h>
#include <math.h>

#define ARGUMENTS_MAX 8 /* no method has more */
#define SECONDS_MAX 1e6 /* a longer time-out is Python's */

struct room *take_room(struct port *self) {
    struct room *room = __atomic_exchange_n(&self->room, NULL, __ATOMIC_ACQ_REL);
    if (!room && !(room = PyMem_RawMalloc(sizeof *room)))
        PyErr_NoMemory();
    return room;
}

void give_back_room(struct port *self, struct room *room) {
    PyMem_RawFree(__atomic_exchange_n(&self->room, room, __ATOMIC_ACQ_REL));
}

/* Acts on the results of attempts that were taken out of the ring. */
static void settle_results(struct port *self, PyObject **kept) {
    struct room *room = take_room(self);
    int count = room ? EVENTS_MAX : 0;
    if (!room)
        keep_first(kept);
    while (count == EVENTS_MAX) {
        count = ring_take_attempts(self->ring, room->attempts, EVENTS_MAX);
        settle_requests(self, room->attempts, count, kept);
    }
    if (room)
        give_back_room(self, room);
}

/* Acts on all results that were, and has the ring start what has become the first of its direction. */
static void act_on_results(struct port *self, PyObject **kept) {
    settle_results(self, kept);
    if (ring_has_results(self->ring) && call_port(self, name.act_on_results, NULL, NULL, NULL) < 0)
        keep_first(kept);
    ring_submit_gathered(self->ring);
}

/* Where nobody is parked, the leader has to take what comes of it. */
int start_for_others(struct port *self) {
    PyObject *kept = NULL;
    if (start_gathered(self) < 0)
        keep_first(&kept);
    if (self->ring) {
        ring_submit_gathered(self->ring);
        /* What has ended already is settled, so that what is behind it can start. */
        for (int i = 0; i < constant.attempts_max && ring_take_some(self->ring) > 0; i++)
            act_on_results(self, &kept);
    }
    if (!queue_has_parked(self->queue) && queue_count(self->queue) > 0 && queue_wake(self->queue) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}

/* The port's own methods. Who calls one holds the port for as long as that takes. */

/* The port, if it may use this. */
static struct port *usable_port(PyObject *object) {
    struct port *self = (struct port *)object;
    return usable(self) ? self : NULL;
}

/* The thread as one that waits on this port, if it does and may do all that its port does. */
static struct waiter *waiter_here(struct port *self) {
    return current && current->belongs == self->queue->serial && !holds_lock() ? current : NULL;
}

/* Calls the Python form of a method, with the arguments of this one. */
static PyObject *call_slow(PyObject *port, PyObject *function, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *stack[ARGUMENTS_MAX + 1] = {port};
    Py_ssize_t all = count + (names ? PyTuple_GET_SIZE(names) : 0);
    if (all > ARGUMENTS_MAX)
        return PyErr_Format(PyExc_TypeError, "%zd arguments are too many", all);
    memcpy(stack + 1, args, (size_t)all * sizeof *args);
    return PyObject_Vectorcall(function, stack, (size_t)count + 1, names);
}

static PyObject *port_associate(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    int has_key_by_name = names && PyTuple_GET_SIZE(names) == 1 && PyTuple_GET_ITEM(names, 0) == name.key;
    if (self && (names ? count == 1 && has_key_by_name : count == 1 || count == 2)) {
        PyObject *key = names || count == 2 ? args[1] : Py_None, *handle = associate(self, args[0], key);
        if (handle)
            return handle;
    }
    return call_slow(port, slow.associate, args, count, names);
}

/* Submitting */

/* What is to be submitted, and what comes of it. */
struct submission {
    PyObject *operation, *handle;
    struct direction *direction;
    struct deadline *deadline; /* NULL where it has no time-out */
    double due;
    int is_urgent; /* its deadline comes before all others */
    /* What the last flight has left. It goes when the lock is given back: an error leads to what is the program's. */
    PyObject *error, *verdict;
};

/* Links an operation into its direction; where that is not for this file, refuses. Says OWNED where this thread has become
 * the direction's owner, and FULL where it has gathered that, and there is room for no more. FAILED is a lack of memory: the
 * operation is idle again. */
enum linked { FAILED = -1, REFUSED, LINKED, OWNED, FULL };

/* Of the operation whose flight has just begun: sets its deadline, if it has one. */
static int limit_locked(struct port *self, struct submission *it) {
    OP(it->operation)->sequence = next_sequence();
    if (it->deadline)
        it->is_urgent = deadline_set(self->timers, it->deadline, it->operation, it->due);
    return it->is_urgent;
}

static enum linked link_locked(struct port *self, struct submission *it) {
    PyObject *operation = it->operation;
    struct direction *direction = it->direction;
    if (!is_open(it->handle) || (has_first(direction) && PEEK(handle_of(it->handle)->skip_on_success)) ||
        !begin_flight(operation))
        return REFUSED;
    if (limit_locked(self, it) < 0) {
        set_status(operation, IDLE);
        return FAILED;
    }
    it->verdict = exchange_field(operation, &OP(operation)->verdict, Py_NewRef(Py_None));
    it->error = exchange_field(operation, &OP(operation)->error, Py_NewRef(Py_None));
    set_transferred(operation, 0);
    direction_append(direction, operation);
    if (!PEEK(direction->ready) || !is_free(direction))
        return LINKED;
    POKE(direction->active, 1);
    return OWNED;
}

/* Only the thread itself adds to its gathering. */
static int is_full(const struct waiter *waiter) { return PEEK(waiter->gathering->count) == GATHERED_MAX; }

/* Notes a direction that this thread owns, to be attempted at its next wait. With the handle's lock held: who ends the
 * operation from then on finds it here, and starts it. */
static void gather_locked(struct gathering *gathering, PyObject *handle, struct direction *direction) {
    mutex_lock(&gathering->mutex);
    struct gathered *place = &gathering->directions[gathering->count];
    place->handle = Py_NewRef(handle);
    place->direction = (struct direction *)Py_NewRef(direction);
    POKE(gathering->count, gathering->count + 1);
    mutex_unlock(&gathering->mutex);
}

/* Links an operation, and gathers it unless it is to be attempted at once. */
static enum linked link_and_gather(struct port *self, struct waiter *waiter, struct submission *it) {
    struct handle *handle = handle_of(it->handle);
    lock_acquire(handle->lock);
    enum linked done = link_locked(self, it);
    int gathers = done == OWNED && !PEEK(handle->skip_on_success);
    if (gathers)
        gather_locked(waiter->gathering, it->handle, it->direction);
    lock_release(handle->lock);
    return !gathers ? done : is_full(waiter) ? FULL : LINKED;
}

/* Whether a handle is one of this port's that C may act for. */
static int is_fast_here(struct port *self, PyObject *handle) {
    return Py_TYPE(handle) == handle_type && handle_of(handle)->is_fast &&
           handle_of(handle)->queue == (PyObject *)self->queue;
}

/* Whether a receive's own buffer was filled: Python gets it a larger one. */
static int is_to_grow(PyObject *operation, enum kind kind) {
    return kind == RECV && BUFFERED(operation)->grows && transferred_of(operation) == BUFFERED(operation)->size;
}

/* Whether what is prepared is for this file. Not where what is gathered is being started, and a finalizer comes in the
 * middle. */
static int is_for_here(struct port *self, const struct waiter *waiter, const struct submission *it, enum kind kind) {
    return waiter && usable(self) && it->handle && is_fast_here(self, it->handle) && is_plain(it->operation, kind) &&
           !is_to_grow(it->operation, kind) && !is_full(waiter);
}

/* Submits what is prepared. Returns as submit_fast does. */
static int submit_prepared(struct port *self, struct waiter *waiter, struct submission *it, int *skipped) {
    int done = link_and_gather(self, waiter, it);
    if (done == FAILED) {
        PyErr_NoMemory();
    } else if (done == OWNED) {
        *skipped = attempt_at_once(self, it->handle, it->direction);
        done = *skipped < 0 ? -1 : 1;
    } else if (done == FULL && start_for_others(self) < 0) {
        done = -1;
    }
    if (done > 0 && it->is_urgent && queue_wake_leader(self->queue) < 0) /* it may sleep past the new deadline */
        done = -1;
    return done;
}

/* Submits an operation that is plain, with a time-out of so many seconds, or with none if that is negative. Says in *skipped
 * whether it has succeeded and queues nothing. Returns 0 where that is not for this file. */
static int submit_fast(struct port *self, PyObject *operation, double timeout, int *skipped) {
    enum kind kind = kind_of(operation);
    if (kind == NEITHER)
        return 0;
    struct submission it = {.operation = operation, .handle = field_of(operation, &OP(operation)->handle)};
    int done = 1;
    if (timeout >= 0) { /* first: making its deadline may run a finalizer, which may do anything */
        it.due = monotonic() + timeout;
        it.deadline = deadline_for(self->timers, operation);
        done = it.deadline ? 1 : -1;
    }
    struct waiter *waiter = waiter_here(self);
    if (done > 0 && (done = is_for_here(self, waiter, &it, kind))) {
        it.direction = direction_of(kind == SEND ? handle_of(it.handle)->outgoing : handle_of(it.handle)->incoming);
        done = submit_prepared(self, waiter, &it, skipped);
    }
    Py_XDECREF(it.handle);
    Py_XDECREF(it.deadline);
    Py_XDECREF(it.verdict); /* last: their finalizers may run any code, which may take the lock */
    Py_XDECREF(it.error);
    return done;
}

/* A number of seconds, negative for None. Returns 0, perhaps with an exception, for what is Python's to take or refuse. */
static int read_seconds(PyObject *given, double *seconds) {
    *seconds = given == Py_None ? -1 : PyFloat_CheckExact(given) || PyLong_CheckExact(given) ? PyFloat_AsDouble(given) : NAN;
    return given == Py_None || *seconds >= 0;
}

/* The time-out of a submit, given as its second argument or by name. */
static int read_submit_timeout(PyObject *const *args, Py_ssize_t count, PyObject *names, double *timeout) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count < 1 || count + named > 2 || (named && PyTuple_GET_ITEM(names, 0) != name.timeout))
        return 0;
    return read_seconds(count + named == 2 ? args[1] : Py_None, timeout);
}

static PyObject *port_submit(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    double timeout;
    if (self && read_submit_timeout(args, count, names, &timeout)) {
        int skipped = 0, done = submit_fast(self, args[0], timeout, &skipped);
        if (done < 0)
            return NULL;
        if (done)
            return PyBool_FromLong(skipped);
    }
    PyErr_Clear();
    return call_slow(port, slow.submit, args, count, names);
}

/* Posting */

/* Post, as EnginePort.post does. Like everything that it does until it wakes somebody, it is one step of Python's, so
 * that it may be called from a signal handler. */
static PyObject *port_post(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    if (!self || names || count < 1 || count > 3)
        return call_slow(port, slow.post, args, count, names);
    PyObject *zero = PyLong_FromLong(0); /* a small number: it is there */
    PyObject *completion = posted_completion(args[0], count > 1 ? args[1] : Py_None, count > 2 ? args[2] : zero);
    Py_DECREF(zero);
    if (completion && !usable(self)) { /* making it has run a finalizer that has closed the port */
        Py_DECREF(completion);
        return call_slow(port, slow.post, args, count, names);
    }
    int failed = !completion || queue_append(self->queue, completion) < 0;
    Py_XDECREF(completion);
    if (!failed && PEEK(self->queue->closed)) /* in another thread just now; who closed it may have emptied it before */
        failed = call((PyObject *)self->queue, name.empty) < 0;
    if (failed || queue_wake(self->queue) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Waiting */

/* Hearing of signals, as EnginePort._sleep says: what is between these two is a sleep of the main thread. */

static int hears(struct waiter *waiter) { return waiter && PEEK(waiter->hears) && !PEEK(waiter->heard); }

static PyObject *write_signals_to(PyObject *number) { return PyObject_CallOneArg(hearing.write_signals_to, number); }

/* Returns -1, with what a signal handler raises, and ends with end_hearing all the same. The port can be closed meanwhile:
 * who does that leaves the pipe to the end of this. */
static int begin_hearing(struct port *self, struct waiter *waiter) {
    __atomic_store_n(&self->hearing, 1, __ATOMIC_SEQ_CST);
    POKE(self->tells, 1);
    if (__atomic_load_n(&self->closed, __ATOMIC_SEQ_CST))
        return 0;
    PyObject *number = PyLong_FromLong(self->writer);
    self->before = number ? write_signals_to(number) : NULL;
    Py_XDECREF(number);
    if (!self->before)
        return -1;
    POKE(waiter->heard, 1);
    if (!PyList_GET_SIZE(hearing.before) && PyList_Append(hearing.before, self->before) < 0)
        return -1;
    if (PyLong_AsLong(self->before) < 0)
        POKE(self->tells, 0);
    else if (call_port(self, name.forward_to, self->before, NULL, NULL) < 0)
        return -1;
    return PyErr_CheckSignals(); /* of those that came before this */
}

/* Has Python write to the program's own descriptor again, or to one that a handler has set meanwhile. */
static void write_as_before(struct port *self) {
    PyObject *now = write_signals_to(self->before);
    if (!now) { /* it was closed meanwhile */
        PyErr_Clear();
        PyObject *none = PyLong_FromLong(-1); /* a small number: it is there */
        now = write_signals_to(none);
        Py_DECREF(none);
    }
    if (now && PyLong_AsLong(now) != self->writer)
        Py_XDECREF(write_signals_to(now));
    Py_XDECREF(now);
    PyErr_Clear();
}

static int end_hearing(struct port *self, struct waiter *waiter) {
    PyObject *kept = NULL, *before = self->before;
    if (PyErr_Occurred())
        keep_first(&kept);
    POKE(waiter->heard, 0);
    if (before) {
        write_as_before(self);
        if (PyList_GET_SIZE(hearing.before) && PyList_GET_ITEM(hearing.before, 0) == before)
            PyList_SetSlice(hearing.before, 0, 1, NULL);
    }
    self->before = NULL;
    POKE(self->tells, 0);
    __atomic_store_n(&self->hearing, 0, __ATOMIC_SEQ_CST);
    if (before && PyLong_AsLong(before) >= 0 && call_port(self, name.forward_no_more, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    Py_XDECREF(before);
    if (__atomic_load_n(&self->closed, __ATOMIC_SEQ_CST) && call_port(self, name.close_signal_pipe, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}

/* The arguments of a wait, where they are plain. */
struct timing {
    double timeout; /* seconds; negative for ever */
    double until;   /* when that is over, on the monotonic clock */
    Py_ssize_t limit;
    int over; /* it has come to its end with nothing */
};

/* The seconds that are left of a wait; negative for ever. */
static double left_of(const struct timing *wait) {
    double left = wait->timeout < 0 ? -1 : wait->until - monotonic();
    return wait->timeout < 0 || left > 0 ? left : 0;
}

/* Whether a wait leaves what there is to the runner. One that only looks does not, and one whose time is over neither. */
static int wait_gives_way(struct port *self, struct waiter *waiter, const struct timing *wait) {
    return queue_gives_way(self->queue, waiter) && left_of(wait) != 0;
}

static PyObject *time_left(const struct timing *wait) {
    return wait->timeout < 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(left_of(wait));
}

/* Until when there is nothing to see to but events: the next deadline, or that somebody looks for what nobody tells. Zero
 * where there is something now. */
static double quiet_until(struct port *self) {
    double sweep = PEEK(self->slow_turn) + constant.sweep_seconds, now = monotonic();
    if (PyObject_Size(self->backlog) != 0)
        return PyErr_Clear(), 0;
    if (sweep <= now) {
        if (!has_open_sockets_only(self))
            return 0;
        POKE(self->slow_turn, now);
        sweep = now + constant.sweep_seconds;
    }
    if (deadlines_next(self->timers) <= now && deadlines_are_due(self->timers, now))
        return 0;
    double due = deadlines_next(self->timers);
    return due < sweep ? due : sweep;
}

/* Has Python lead. Returns 0 where another thread does. */
static int lead_slowly(struct port *self, struct waiter *waiter, const struct timing *wait) {
    POKE(self->slow_turn, monotonic());
    PyObject *left = time_left(wait), *led = NULL;
    if (left)
        led = PyObject_CallMethodObjArgs((PyObject *)self, name.lead, (PyObject *)waiter, left, NULL);
    int result = led ? PyObject_IsTrue(led) : -1;
    Py_XDECREF(led);
    Py_XDECREF(left);
    return result;
}

static int harvest(struct port *self, int timeout_ms);

/* The milliseconds up to a time, rounded up: the kernel must not return early. */
static int milliseconds_to(double time) {
    double left = ceil((time - monotonic()) * 1e3);
    return left <= 0 ? 0 : (int)left;
}

/* One turn of the leader, as EnginePort._turn_once makes it where there are no deadlines and no leftovers. It keeps its
 * slot if there are packets, and only asks the kernel for more. */
static int turn(struct port *self, struct waiter *waiter, double until) {
    struct queue *queue = self->queue;
    POKE(queue->sleeping, 1); /* from here on whoever queues a packet interrupts; so look at the queue after this */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int has = !usable(self) ? 1 : queue_has_for_leader(queue, waiter);
    if (has < 0)
        return -1;
    double due = deadlines_next(self->timers); /* who sets an earlier one from here on interrupts as well */
    int timeout_ms = has ? 0 : milliseconds_to(due < until ? due : until);
    if (!has && queue_count(queue) > 0) /* they are for threads that run, or are about to */
        timeout_ms = 0;
    else if (!has && PEEK(waiter->slot)) {
        queue_arrive(queue, waiter); /* who was woken for what others have taken would else wait for itself */
        if (queue_leave(queue, waiter) && queue_count(queue) > 0 && queue_wake(queue) < 0)
            return -1;
    }
    return harvest(self, timeout_ms);
}

/* Leads until there is something to take, or Python has something to see to, or the time is over. Returns 0 where another
 * thread leads. */
static int lead(struct port *self, struct waiter *waiter, const struct timing *wait) {
    struct queue *queue = self->queue;
    if (wait_gives_way(self, waiter, wait))
        return 0;
    double quiet = quiet_until(self);
    if (!quiet || (queue_count(queue) > 0 && !queue_has_for(queue, waiter))) /* those that run are to be watched */
        return lead_slowly(self, waiter, wait);
    if (!queue_lead(queue, (PyObject *)waiter))
        return 0;
    double until = wait->timeout < 0 || quiet < wait->until ? quiet : wait->until;
    PyObject *kept = NULL;
    int has = turn(self, waiter, until);
    if (has < 0) {
        keep_first(&kept);
        if (call_port(self, name.look_again, NULL, NULL, NULL) < 0)
            keep_first(&kept);
    } else if ((has = queue_has_for_leader(queue, waiter)) < 0) {
        keep_first(&kept);
    }
    queue_end_lead(queue, (PyObject *)waiter, waiter);
    if (PEEK(self->closed) && call_port(self, name.close_kernel_once, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    return raise_kept(kept) < 0 ? -1 : 1;
}

static int read_timeout(struct timing *wait, PyObject *given) {
    return read_seconds(given, &wait->timeout) && wait->timeout < SECONDS_MAX;
}

static int read_limit(struct timing *wait, PyObject *given) {
    wait->limit = PyLong_CheckExact(given) ? PyLong_AsSsize_t(given) : -1;
    return wait->limit > 0;
}

static int read_arguments(struct timing *wait, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    int plain = count + named <= 2;
    for (Py_ssize_t i = 0; plain && i < count + named; i++) {
        PyObject *called = i < count ? NULL : PyTuple_GET_ITEM(names, i - count); /* in code, they are interned */
        if (called ? called == name.timeout && !count : i == 0)
            plain = read_timeout(wait, args[i]);
        else
            plain = (!called || called == name.limit) && read_limit(wait, args[i]);
    }
    if (!plain)
        PyErr_Clear(); /* a number that is too large is for Python to refuse */
    return plain;
}

/* Waits in Python, for what is left of the time. */
static PyObject *wait_slowly(PyObject *port, struct port *self, const struct timing *wait) {
    POKE(self->slow_turn, monotonic());
    PyObject *args[2] = {time_left(wait), PyLong_FromSsize_t(wait->limit)};
    PyObject *batch = args[0] && args[1] ? call_slow(port, slow.wait, args, 2, NULL) : NULL;
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    return batch;
}

/* Ends a wait with the exception that is set: what this thread had or was to have goes to others. */
static PyObject *give_up(struct port *self, struct waiter *waiter, PyObject *batch) {
    PyObject *kept = NULL;
    keep_first(&kept);
    if (queue_give_back(self->queue, batch) < 0)
        keep_first(&kept);
    Py_XDECREF(batch);
    queue_arrive(self->queue, waiter);
    queue_leave(self->queue, waiter); /* and no code of Python's before this: another signal could come there */
    if (queue_pass_on(self->queue, waiter) < 0)
        keep_first(&kept);
    raise_kept(kept);
    return NULL;
}

/* Takes what there is for this thread to take, as EnginePort._wait does; an empty list where that is nothing. */
static PyObject *take_fast(struct port *self, struct waiter *waiter, const struct timing *wait) {
    struct queue *queue = self->queue;
    if (!queue_count(queue) || queue_should_ask(queue) || !usable(self) || wait_gives_way(self, waiter, wait) ||
        !queue_enter(queue, waiter))
        return PyList_New(0);
    PyObject *batch = queue_take(queue, queue_limit(queue, waiter, wait->limit));
    if (!batch || !PyList_GET_SIZE(batch))
        return batch;
    queue_arrive(queue, waiter);
    if (queue_is_shared(queue))
        queue_begin_turn(queue, waiter, PyList_GET_SIZE(batch));
    return queue_pass_on(queue, waiter) < 0 ? give_up(self, waiter, batch) : batch;
}

/* Sleeps while another thread leads, unless there is something to take. */
static int follow(struct port *self, struct waiter *waiter, const struct timing *wait) {
    struct queue *queue = self->queue;
    if (queue_has_for(queue, waiter) && !wait_gives_way(self, waiter, wait)) {
        POKE(queue->takes, 0); /* the leader asks the kernel often enough */
        return 0;
    }
    queue_arrive(queue, waiter);
    if (queue_leave(queue, waiter) && queue_count(queue) > 0 && queue_wake(queue) < 0)
        return -1;
    double left = left_of(wait);
    if (left == 0 || !hears(waiter))
        return left == 0 ? 0 : queue_park(queue, waiter, left);
    int failed = begin_hearing(self, waiter) < 0 || queue_park(queue, waiter, left) < 0;
    return end_hearing(self, waiter) < 0 || failed ? -1 : 0;
}

/* Asks the kernel where that is due, or has another thread do that. */
static int ask(struct port *self, struct waiter *waiter, const struct timing *wait) {
    if (queue_has_for(self->queue, waiter) && !queue_should_ask(self->queue) && !wait_gives_way(self, waiter, wait))
        return 0;
    int led = lead(self, waiter, wait);
    if (!led && self->ring && start_for_others(self) < 0) /* who leads it sleeps in there, and takes nothing along */
        return -1;
    return led ? led : follow(self, waiter, wait);
}

/* Whether the time of a wait is over, and there is nothing to see to before it ends. */
static int is_over(struct port *self, const struct timing *wait) {
    return left_of(wait) == 0 && !queue_count(self->queue) && quiet_until(self) && all_stand(self);
}

/* Ends a wait that has nothing to return; an empty batch is. */
static PyObject *end_empty(struct port *self, struct waiter *waiter, PyObject *batch) {
    struct queue *queue = self->queue;
    queue_arrive(queue, waiter);
    if (queue_leave(queue, waiter) && queue_count(queue) > 0 && queue_wake(queue) < 0)
        return give_up(self, waiter, batch);
    return queue_pass_on(queue, waiter) < 0 ? give_up(self, waiter, batch) : batch;
}

/* Waits until there is something to return, or the time is over. An empty list that is not the last word (wait->over) where
 * Python is to find out what is the matter: the time is over and there are deadlines or closed sockets, or the port is
 * closed, or the thread another port's by now, as a finalizer that ran in the middle of this has waited there. */
static PyObject *wait_fast(struct port *self, struct waiter *waiter, struct timing *wait) {
    for (;;) {
        if (start_own_gathered(self, waiter) < 0 || ask(self, waiter, wait) < 0)
            return give_up(self, waiter, NULL);
        if (self->ring)
            ring_submit_gathered(self->ring);
        /* A signal handler that raises does so as soon as this returns, and what it would return were lost. */
        if (PyErr_CheckSignals() < 0)
            return give_up(self, waiter, NULL);
        PyObject *batch = take_fast(self, waiter, wait);
        int is_here = current == waiter && waiter->belongs == self->queue->serial;
        if (!is_here && call((PyObject *)waiter, name.leave) < 0)
            return give_up(self, waiter, batch);
        if (!batch || PyList_GET_SIZE(batch) || !is_here || !usable(self))
            return batch;
        if (is_over(self, wait)) {
            wait->over = 1;
            return end_empty(self, waiter, batch);
        }
        if (left_of(wait) == 0)
            return batch;
        Py_DECREF(batch);
    }
}

static PyObject *port_wait(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    struct timing wait = {-1, 0, constant.limit, 0};
    struct waiter *waiter = self ? waiter_here(self) : NULL;
    if (!waiter || !read_arguments(&wait, args, count, names))
        return call_slow(port, slow.wait, args, count, names);
    if (wait.timeout >= 0)
        wait.until = monotonic() + wait.timeout;
    waiter->came_at = PEEK(self->queue->parkings);
    if (queue_is_shared(self->queue))
        queue_end_turn(self->queue, waiter);
    Py_INCREF(waiter);
    PyObject *batch = wait_fast(self, waiter, &wait);
    Py_DECREF(waiter);
    if (!batch || wait.over || PyList_GET_SIZE(batch))
        return batch;
    Py_DECREF(batch);
    return wait_slowly(port, self, &wait);
}

/* Harvesting */

/* Whether C may act for a handle on what an event says: not if it comes too late, for who had the number before. */
static int is_for(const struct readiness *told, PyObject *handle) {
    return Py_TYPE(handle) == handle_type && handle_of(handle)->is_fast &&
           (!told->serial || told->serial == handle_of(handle)->serial);
}

/* The handle that an event is for, if C may act for it; or NULL, perhaps with an exception. */
static PyObject *find_fast(struct port *self, const struct readiness *told) {
    PyObject *key = PyLong_FromLong(told->number), *handle = key ? dict_get(self->table, key) : NULL;
    Py_XDECREF(key);
    if (handle && !is_for(told, handle))
        Py_CLEAR(handle);
    return handle;
}

/* Has Python act on an event. */
static int pass_event(struct port *self, const union events *events, int index) {
    PyObject *arguments = kernel_arguments(&self->kernel, events, index);
    PyObject *method = arguments ? PyObject_GetAttr((PyObject *)self, name.event) : NULL;
    PyObject *result = method ? PyObject_CallObject(method, arguments) : NULL;
    Py_XDECREF(result), Py_XDECREF(method), Py_XDECREF(arguments);
    return result ? 0 : -1;
}

/* Notes which directions an event makes worth an attempt; those that this file can attempt are prepared. */
static int notice(struct port *self, const union events *events, int index, struct attempt *attempts, PyObject **kept) {
    struct readiness told = kernel_readiness(&self->kernel, events, index);
    PyObject *handle = find_fast(self, &told);
    int prepared = 0;
    if (!handle) {
        if (PyErr_Occurred() || pass_event(self, events, index) < 0)
            keep_first(kept);
        return 0;
    }
    struct direction *directions[2] = {direction_of(handle_of(handle)->incoming), direction_of(handle_of(handle)->outgoing)};
    int owned[2];
    lock_acquire(handle_of(handle)->lock);
    if (told.ended)
        POKE(handle_of(handle)->ended, 1);
    if (told.failure)
        POKE(handle_of(handle)->failure, told.failure);
    owned[0] = told.incoming && own_locked(handle, directions[0]);
    owned[1] = told.outgoing && own_locked(handle, directions[1]);
    PyObject *readiness = handle_of(handle)->readiness;
    lock_release(handle_of(handle)->lock);
    for (int i = 0; i < 2; i++) {
        if (!owned[i])
            continue;
        if (prepare(self, &attempts[prepared], handle, directions[i]))
            prepared++;
        else if (call_port(self, name.run, handle, (PyObject *)directions[i], NULL) < 0)
            keep_first(kept);
    }
    if (readiness && readiness != Py_None && call_port(self, name.resume, handle, readiness, NULL) < 0)
        keep_first(kept);
    Py_DECREF(handle);
    return prepared;
}

/* For a wait of the leader: NULL where as many threads run as may, for then no processor is left to look with. */
static struct spin *spin_of(struct port *self) { return PEEK(self->queue->slots) > 0 ? &self->spin : NULL; }

/* Waits in the kernel for up to so many milliseconds, without Python's lock. Returns how many events or results there are,
 * or -errno; events are NULL where there is a ring. */
static int ask_kernel(struct port *self, union events *events, int timeout_ms, struct spin *spin) {
    return self->ring ? (int)ring_wait_ms(self->ring, timeout_ms, spin)
                      : kernel_wait(&self->kernel, events, timeout_ms, spin);
}

/* The same; and in the main thread a signal ends it. What takes system calls for that is done only before it falls asleep.
 * Returns -EINTR with an exception, too. */
static int sleep_in_kernel(struct port *self, union events *events, int timeout_ms) {
    struct spin *spin = spin_of(self);
    struct waiter *waiter = current;
    if (timeout_ms == 0 || !hears(waiter) || (spin && spin_is_due(spin)))
        return ask_kernel(self, events, timeout_ms, spin);
    int found = ask_kernel(self, events, 0, NULL);
    if (found)
        return found;
    Py_INCREF(waiter);
    if (begin_hearing(self, waiter) < 0)
        found = -EINTR;
    else if (PEEK(self->queue->sleeping)) /* or else the first look has taken the interruption, of which a ring tells nothing */
        found = ask_kernel(self, events, timeout_ms, spin);
    if (end_hearing(self, waiter) < 0)
        found = -EINTR;
    Py_DECREF(waiter);
    return found;
}

/* Enters the ring, which starts what was requested, waits for results and acts on them. */
static int harvest_ring(struct port *self, int timeout_ms) {
    PyObject *kept = NULL;
    int found = sleep_in_kernel(self, NULL, timeout_ms);
    POKE(self->queue->sleeping, 0);
    POKE(self->queue->takes, 0);
    /* First, as a handler that raises is not to do so in the middle of a result; the ring keeps those for the next wait. */
    if (PyErr_Occurred() || PyErr_CheckSignals() < 0)
        return -1;
    act_on_results(self, &kept);
    return raise_kept(kept) < 0 ? -1 : found > 0;
}

/* Waits for events and acts on them. Returns how many there were, or -1 with an exception. */
static int harvest_events(struct port *self, int timeout_ms, struct room *room) {
    int found = sleep_in_kernel(self, &room->events, timeout_ms), prepared = 0;
    POKE(self->queue->sleeping, 0); /* what comes of them, this thread sees without being interrupted */
    POKE(self->queue->takes, 0);
    if (found < 0) {
        errno = -found;
        if (errno != EINTR && !PyErr_Occurred())
            PyErr_SetFromErrno(PyExc_OSError);
        return PyErr_Occurred() || PyErr_CheckSignals() < 0 ? -1 : 0;
    }
    PyObject *kept = NULL;
    for (int i = 0; i < found; i++)
        prepared += notice(self, &room->events, i, &room->attempts[prepared], &kept);
    start_attempts(self, room->attempts, prepared, &kept);
    return raise_kept(kept) < 0 ? -1 : found;
}

/* Waits for events, or results, and acts on them. Returns whether there were any, or -1 with an exception. */
static int harvest(struct port *self, int timeout_ms) {
    if (self->ring)
        return harvest_ring(self, timeout_ms);
    struct room *room = take_room(self);
    int found = room ? harvest_events(self, timeout_ms, room) : -1;
    if (room)
        give_back_room(self, room);
    return found;
}

/* _harvest_fast(timeout in milliseconds): whether there was anything. */
static PyObject *port_harvest(PyObject *port, PyObject *timeout_ms) {
    int most_ms = (int)PyLong_AsLong(timeout_ms);
    int found = PyErr_Occurred() ? -1 : harvest((struct port *)port, most_ms);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

/* _start_all(): starts what threads have gathered. */
static PyObject *port_start_all(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    if (self->queue && self->generation == generation && start_for_others(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _is_heard(): whether the main thread waits, and Python writes to the pipe. */
static PyObject *port_is_heard(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    return PyBool_FromLong(self->generation == generation && __atomic_load_n(&self->hearing, __ATOMIC_SEQ_CST));
}

/* _tells_program(): whether what is written to the pipe just now is for the program's own descriptor as well. */
static PyObject *port_tells_program(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(PEEK(((struct port *)port)->tells));
}

/* _write_signals_to(descriptor): have Python do that while the main thread sleeps. */
static PyObject *port_write_signals_to(PyObject *port, PyObject *number) {
    ((struct port *)port)->writer = (int)PyLong_AsLong(number);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* _begin_fast(queue, table, backlog, timers, ring or None): from now on the port uses this. */
static PyObject *port_begin(PyObject *port, PyObject *args) {
    struct port *self = (struct port *)port;
    PyObject *queue, *table, *backlog, *timers, *ring;
    if (!PyArg_ParseTuple(args, "OO!OO!O", &queue, &PyDict_Type, &table, &backlog, deadlines_type, &timers, &ring))
        return NULL;
    if (!(self->reference = PyWeakref_NewRef(port, NULL)) || !(self->table_reference = PyWeakref_NewRef(table, NULL)))
        return NULL;
    self->table = Py_NewRef(table);
    self->backlog = Py_NewRef(backlog);
    self->timers = deadlines_of(Py_NewRef(timers));
    self->ring = ring == Py_None ? NULL : Py_NewRef(ring);
    self->generation = generation;
    self->queue = (struct queue *)Py_NewRef(queue);
    Py_RETURN_NONE;
}

/* _end_fast(): it is closed. */
static PyObject *port_end(PyObject *port, PyObject *Py_UNUSED(ignored)) {
    struct port *self = (struct port *)port;
    __atomic_store_n(&self->closed, 1, __ATOMIC_SEQ_CST);
    kernel_end(&self->kernel);
    Py_RETURN_NONE;
}

#ifdef __linux__
/* _use_epoll(number, stale): its kernel, which is said before _begin_fast. */
static PyObject *port_use_epoll(PyObject *port, PyObject *args) {
    return kernel_use_epoll(&((struct port *)port)->kernel, args) < 0 ? NULL : Py_NewRef(Py_None);
}
#endif

/* _use_kqueue(number, kevent) */
static PyObject *port_use_kqueue(PyObject *port, PyObject *args) {
    return kernel_use_kqueue(&((struct port *)port)->kernel, args) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The type */

static int port_traverse(PyObject *port, visitproc visit, void *arg) {
    struct port *self = (struct port *)port;
    Py_VISIT(self->queue);
    Py_VISIT(self->table);
    Py_VISIT(self->backlog);
    Py_VISIT(self->timers);
    Py_VISIT(self->ring);
    Py_VISIT(self->kernel.stale);
    return 0;
}

static int port_clear(PyObject *port) {
    struct port *self = (struct port *)port;
    Py_CLEAR(self->queue);
    Py_CLEAR(self->table);
    Py_CLEAR(self->backlog);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->ring);
    Py_CLEAR(self->kernel.stale);
    Py_CLEAR(self->reference);
    Py_CLEAR(self->table_reference);
    return 0;
}

static void port_dealloc(PyObject *port) {
    PyTypeObject *type = Py_TYPE(port);
    PyObject_GC_UnTrack(port);
    port_clear(port);
    PyMem_RawFree(((struct port *)port)->room);
    type->tp_free(port);
    Py_DECREF(type);
}

#define METHOD(name, function, kind) {name, (PyCFunction)(void (*)(void))(function), kind, NULL}

static PyMethodDef methods[] = {
    METHOD("associate", port_associate, METH_FASTCALL | METH_KEYWORDS),
    METHOD("submit", port_submit, METH_FASTCALL | METH_KEYWORDS),
    METHOD("wait", port_wait, METH_FASTCALL | METH_KEYWORDS),
    METHOD("post", port_post, METH_FASTCALL | METH_KEYWORDS),
    METHOD("_begin_fast", port_begin, METH_VARARGS),
    METHOD("_end_fast", port_end, METH_NOARGS),
    METHOD("_harvest_fast", port_harvest, METH_O),
    METHOD("_is_heard", port_is_heard, METH_NOARGS),
    METHOD("_tells_program", port_tells_program, METH_NOARGS),
    METHOD("_start_all", port_start_all, METH_NOARGS),
    METHOD("_write_signals_to", port_write_signals_to, METH_O),
#ifdef __linux__
    METHOD("_use_epoll", port_use_epoll, METH_VARARGS),
#endif
    METHOD("_use_kqueue", port_use_kqueue, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, port_dealloc}, {Py_tp_traverse, port_traverse}, {Py_tp_clear, port_clear},
    {Py_tp_methods, methods},      {0, NULL},
};

PyType_Spec port_spec = {.name = "unio._core.FastPort",
                         .basicsize = sizeof(struct port),
                         .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                         .slots = slots};
