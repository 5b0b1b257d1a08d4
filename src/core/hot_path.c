/* The hot path of submit and wait, for ports that emulate completion over readiness.
 *
 * What is plain goes through here: an accept, or a receive or a send with one buffer, on a stream socket, that nothing
 * stands before.
 * Everything else is left to the Python that it is a short form of (queued_port.py, emulation.py, attempts.py), also in
 * the middle: each function here does what its namesake there would do, or hands over to it. So there is one emulation,
 * and its objects are Python's own: this file reads and writes the slots of their classes, at the offsets that the
 * classes themselves tell. The rules are those of lanes.py: who changes a lane holds the lock of its handle, and who
 * tries its first operation owns it.
 *
 * What it gains besides: the sends and receives that a thread submits between two waits are gathered, and tried in one
 * go at the next, and those that an epoll_wait has found are tried in one go as well, all of them without Python's lock.
 */
#include "hot_path.h"

/* Where Python has no lock of its own, that does not keep other threads from what is read and written here. There, the
 * Python form does all the work. */
#ifndef Py_GIL_DISABLED

#include <errno.h>
#include <structmember.h> /* T_INT, until Python 3.12 */
#include <time.h>

#define SWEEP_MS 50      /* how soon Python is let look for handles that were closed behind the port's back */
#define LIMIT 64         /* of the completions of one wait, unless told; port.py says the same */
#define ARGUMENTS_MAX 8  /* no method has more */
#define TRIES_MAX 16     /* how often what has ended in a ring is looked for in one go; io_uring.py says the same */
#define TAKES_MAX 256    /* packets taken before the kernel is asked again; queued_port.py says the same */
#define ASK_MS 1         /* and how soon after the first of them it is; queued_port.py says the same */

struct room *take_room(struct hot_path *self) {
    struct room *room = self->room ? self->room : PyMem_Malloc(sizeof *room);
    self->room = NULL;
    if (!room)
        PyErr_NoMemory();
    return room;
}

void give_back_room(struct hot_path *self, struct room *room) {
    if (self->room)
        PyMem_Free(room);
    else
        self->room = room;
}

/* Acts on the results of attempts that were taken out of the ring. */
static void settle_results(struct hot_path *self, PyObject **kept) {
    struct room *room = take_room(self);
    int count = room ? EVENTS_MAX : 0;
    if (!room)
        keep_first(kept);
    while (count == EVENTS_MAX) {
        count = ring_take_attempts(self->ring, room->attempts, EVENTS_MAX);
        settle_all(self, room->attempts, count, kept);
    }
    if (room)
        give_back_room(self, room);
}

/* Acts on all results that were, and has the ring start what has become the first of its lane. */
static void act_on_results(struct hot_path *self, PyObject **kept) {
    settle_results(self, kept);
    if (ring_has_results(self->ring) && call_port(self, name.act_on_results, NULL, NULL, NULL) < 0)
        keep_first(kept);
    ring_submit_gathered(self->ring);
}

/* Where nobody is parked, the leader has to take what comes of it. */
int start_for_others(struct hot_path *self) {
    PyObject *kept = NULL, *port;
    if (!self->gathered_count && !self->ring)
        return 0;
    /* A handle may be closed when its port is gone, or while it goes: then who drops the port ends what is in flight. */
    if (!(port = port_of(self)))
        return PyErr_ExceptionMatches(PyExc_ReferenceError) ? (PyErr_Clear(), 0) : -1;
    if (start_gathered(self) < 0)
        keep_first(&kept);
    if (self->ring) {
        ring_submit_gathered(self->ring);
        /* What has ended already is settled, so that what is behind it can start. */
        for (int i = 0; i < TRIES_MAX && ring_take_some(self->ring) > 0; i++)
            act_on_results(self, &kept);
    }
    if (!PyList_GET_SIZE(self->parked) && packets_count(self->packets) > 0 && call(self->queue, name.wake) < 0)
        keep_first(&kept);
    Py_DECREF(port);
    return raise_kept(kept);
}

/* Links an operation into its lane, if nothing stands before it; where that is not for this file, refuses. Says TRY
 * where this thread has become the lane's owner and is not to gather it. */
enum linked { REFUSED, LINKED, TRY };

/* What the last flight has left. It goes when the lock is given back: an error leads to what is the program's. */
struct left {
    PyObject *error, *verdict;
};

static enum linked link_locked(struct hot_path *self, PyObject *operation, PyObject *handle, struct lane *lane,
                               struct left *left) {
    if (status_of(operation) != IDLE || SLOT(handle, life) != open_life || has_first(lane) ||
        lane->active || lane->resting)
        return REFUSED;
    set_status(operation, PENDING);
    left->verdict = exchange(&OP(operation)->verdict, Py_None);
    left->error = exchange(&OP(operation)->error, Py_None);
    set_transferred(operation, 0);
    OP(operation)->sequence = next_sequence();
    put_ref(&OP(operation)->next, Py_None);
    put_ref(&OP(operation)->previous, Py_None);
    put_ref(&lane->first, operation);
    put_ref(&lane->last, operation);
    if (lane->ready) {
        lane->active = 1;
        if (SLOT(handle, skips) == Py_True)
            return TRY;
        struct gathered *gathered = &self->gathered[self->gathered_count++];
        gathered->handle = Py_NewRef(handle);
        gathered->lane = (struct lane *)Py_NewRef(lane);
    }
    return LINKED;
}

/* Submits an operation that is plain, and says in *skipped whether it has succeeded and queues nothing. */
static int submit_hot(struct hot_path *self, PyObject *operation, int *skipped) {
    if (!usable(self) || !here || SLOT(here, places) != self->places || holds_lock())
        return 0;
    enum kind kind = kind_of(operation);
    if (kind == NEITHER)
        return 0;
    PyObject *handle = OP(operation)->handle;
    if (!handle || Py_TYPE(handle) != handle_type || SLOT(handle, hot_path) != (PyObject *)self ||
        !is_plain(operation, kind))
        return 0;
    if (kind == RECV && BUFFERED(operation)->grows && transferred_of(operation) == BUFFERED(operation)->size)
        return 0; /* its buffer was filled: Python gets it a larger one */
    struct lane *lane = (struct lane *)(kind == SEND ? SLOT(handle, outgoing) : SLOT(handle, incoming));
    struct left left = {NULL, NULL};
    lock_acquire(SLOT(handle, lock));
    int done = link_locked(self, operation, handle, lane, &left);
    lock_release(SLOT(handle, lock));
    if (done == TRY) {
        *skipped = try_at_once(self, handle, lane);
        done = *skipped < 0 ? -1 : 1;
    } else if (done == LINKED && self->gathered_count == GATHERED_MAX && start_for_others(self) < 0) {
        done = -1;
    }
    Py_XDECREF(left.verdict); /* last: their finalizers may run any code, which may take the lock */
    Py_XDECREF(left.error);
    return done;
}

/* The port's own methods. Who calls one holds the port for as long as that takes. */

/* The hot path of a port that may use it, or NULL. */
static struct hot_path *usable_path(PyObject *port) {
    struct hot_path *self = (struct hot_path *)((struct fast_port *)port)->hot_path;
    return self && usable(self) ? self : NULL;
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
    struct hot_path *self = usable_path(port);
    int has_key_by_name = names && PyTuple_GET_SIZE(names) == 1 && PyTuple_GET_ITEM(names, 0) == name.key;
    if (self && (names ? count == 1 && has_key_by_name : count == 1 || count == 2)) {
        PyObject *key = names || count == 2 ? args[1] : Py_None, *handle = associate(self, args[0], key);
        if (handle)
            return handle;
    }
    return call_slow(port, slow.associate, args, count, names);
}

static PyObject *port_submit(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct hot_path *self = usable_path(port);
    if (self && count == 1 && !names) {
        int skipped = 0, done = submit_hot(self, args[0], &skipped);
        if (done < 0)
            return NULL;
        if (done)
            return PyBool_FromLong(skipped);
    }
    return call_slow(port, slow.submit, args, count, names);
}

/* Posting */

/* Whether CompletionQueue.wake has something to do: threads are parked, or the leader sleeps. */
static int somebody_sleeps(struct hot_path *self) {
    PyObject *sleeping = PyObject_GetAttr(self->queue, name.sleeping);
    int somebody = PyList_GET_SIZE(self->parked) || sleeping != Py_False;
    Py_XDECREF(sleeping);
    PyErr_Clear();
    return somebody;
}

/* Post, as QueuedPort.post does. Like everything that it does until it wakes somebody, it is one step of Python's, so that
 * it may be called from a signal handler. */
static PyObject *port_post(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct hot_path *self = usable_path(port);
    if (!self || names || count < 1 || count > 3)
        return call_slow(port, slow.post, args, count, names);
    PyObject *zero = PyLong_FromLong(0); /* a small number: it is there */
    PyObject *completion = posted_completion(args[0], count > 1 ? args[1] : Py_None, count > 2 ? args[2] : zero);
    Py_DECREF(zero);
    if (completion && !usable(self)) { /* making it has run a finalizer that has closed the port */
        Py_DECREF(completion);
        return call_slow(port, slow.post, args, count, names);
    }
    int failed = !completion || packets_append(self->packets, completion) < 0;
    Py_XDECREF(completion);
    if (failed || (somebody_sleeps(self) && call(self->queue, name.wake) < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* Waiting */

static PyObject *harvest(struct hot_path *self, int timeout_ms);

static double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The arguments of a wait, where they are plain. */
struct wait {
    double timeout; /* seconds; negative for ever */
    double until;   /* when that is over, on the monotonic clock */
    Py_ssize_t limit;
};

static PyObject *time_left(const struct wait *wait) {
    double left = wait->until - monotonic();
    return wait->timeout < 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(left > 0 ? left : 0);
}

/* Whether there is nothing to see to but events: no deadline, no leftovers, and nobody who leads or is parked. */
static int may_lead(struct hot_path *self) {
    PyObject *heap = PyObject_GetAttr(self->timers, name.heap);
    int none = heap && PyList_GET_SIZE(heap) == 0;
    PyErr_Clear();
    Py_XDECREF(heap);
    return none && PyList_GET_SIZE(self->seat) && !PyList_GET_SIZE(self->parked) &&
           PyObject_Size(self->backlog) == 0 && monotonic() < self->slow_turn + SWEEP_MS * 1e-3;
}

/* Appends what must not be lost: a list that was emptied needs memory for it, and there may be some the next time. */
static int keep_item(PyObject *list, PyObject *item) {
    if (!PyList_Append(list, item))
        return 0;
    PyErr_Clear();
    return PyList_Append(list, item);
}

static int move_item(PyObject *from, PyObject *to) {
    Py_ssize_t size = PyList_GET_SIZE(from);
    return size && !PyList_SetSlice(from, size - 1, size, NULL) && !keep_item(to, Py_None);
}

/* Has Python lead, if nobody does. */
static int lead_slowly(struct hot_path *self, PyObject *waiter, const struct wait *wait) {
    self->slow_turn = monotonic();
    PyObject *left = time_left(wait);
    int failed = !left || call_port(self, name.lead, waiter, left, NULL) < 0;
    Py_XDECREF(left);
    return failed ? -1 : 0;
}

/* Takes a place for the thread, or has Python lead on: to those that came to wait meanwhile goes what they may take. */
static int come_back(struct hot_path *self, PyObject *waiter, const struct wait *wait) {
    PyObject *place = SLOT(waiter, place);
    if (PyList_GET_SIZE(place))
        return 0;
    PyObject *coming = PyObject_GetAttr(self->queue, name.coming);
    int others = PyList_GET_SIZE(self->parked) || !coming || PyList_GET_SIZE(coming);
    Py_XDECREF(coming);
    if (others)
        return lead_slowly(self, waiter, wait);
    move_item(self->places, place);
    return PyErr_Occurred() ? -1 : 0;
}

/* One turn of a thread that waits alone, as QueuedPort._lead makes it where may_lead holds. It keeps its place if there are
 * packets, and only asks the kernel for more. */
static int lead(struct hot_path *self, PyObject *waiter, const struct wait *wait) {
    if (!PyList_GET_SIZE(self->seat))
        return 0;
    if (PyList_SetSlice(self->seat, 0, 1, NULL) < 0)
        return -1;
    PyObject *found = NULL;
    int most_ms = wait->timeout < 0 || wait->timeout >= SWEEP_MS * 1e-3 ? SWEEP_MS : (int)(wait->timeout * 1e3);
    /* From here on whoever queues a packet interrupts; so look at the queue after this. */
    if (PyObject_SetAttr(self->queue, name.sleeping, Py_True) == 0) {
        int quiet = packets_count(self->packets) == 0 && usable(self);
        if (quiet)
            move_item(SLOT(waiter, place), self->places);
        PyErr_Clear(); /* there was no memory for that: it keeps its place */
        found = harvest(self, quiet ? most_ms : 0);
    }
    PyObject *kept = NULL;
    if (!found) {
        keep_first(&kept);
        if (call_port(self, name.look_again, NULL, NULL, NULL) < 0)
            keep_first(&kept);
    }
    Py_XDECREF(found);
    if (PyObject_SetAttr(self->queue, name.sleeping, Py_False) < 0 || keep_item(self->seat, Py_None) < 0 ||
        (self->closed && call_port(self, name.close_kernel_once, NULL, NULL, NULL) < 0))
        keep_first(&kept);
    if (!kept && come_back(self, waiter, wait) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}

static int read_timeout(struct wait *wait, PyObject *given) {
    if (given == Py_None)
        wait->timeout = -1;
    else if (PyFloat_CheckExact(given) || PyLong_CheckExact(given))
        wait->timeout = PyFloat_AsDouble(given);
    else
        return 0;
    return given == Py_None || (wait->timeout >= 0 && wait->timeout < 1e6);
}

static int read_limit(struct wait *wait, PyObject *given) {
    wait->limit = PyLong_CheckExact(given) ? PyLong_AsSsize_t(given) : -1;
    return wait->limit > 0;
}

static int read_arguments(struct wait *wait, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    int plain = count + named <= 2;
    for (Py_ssize_t i = 0; plain && i < count + named; i++) {
        PyObject *called = i < count ? NULL : PyTuple_GET_ITEM(names, i - count); /* in code, they are interned */
        if (called ? called == name.timeout && !count : i == 0)
            plain = read_timeout(wait, args[i]);
        else
            plain = (!called || called == name.limit) && read_limit(wait, args[i]);
    }
    PyErr_Clear(); /* a number that is too large is for Python to refuse */
    return plain;
}

/* Waits in Python, for what is left of the time. */
static PyObject *wait_slowly(PyObject *port, struct hot_path *self, const struct wait *wait) {
    self->slow_turn = monotonic();
    PyObject *args[2] = {time_left(wait), PyLong_FromSsize_t(wait->limit)};
    PyObject *batch = args[0] && args[1] ? call_slow(port, slow.wait, args, 2, NULL) : NULL;
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    return batch;
}

/* Ends a wait that has taken something with an exception. */
static void drop_batch(struct hot_path *self, PyObject **batch) {
    PyObject *kept = NULL;
    keep_first(&kept);
    give_back(self, *batch);
    Py_CLEAR(*batch);
    raise_kept(kept);
}

/* Takes what there is for this thread to take, as QueuedPort._wait does; an empty list where that is nothing. */
static PyObject *take_hot(struct hot_path *self, PyObject *place, Py_ssize_t limit) {
    if (self->takes >= TAKES_MAX || !usable(self) || PyList_GET_SIZE(place) == 0)
        return PyList_New(0);
    PyObject *batch = take(self, limit);
    if (!batch || PyList_GET_SIZE(batch) == 0)
        return batch;
    if (self->takes == 0)
        self->first_take = monotonic();
    self->takes += (unsigned)PyList_GET_SIZE(batch);
    int parked = PyList_GET_SIZE(self->parked) > 0, nobody_leads = PyList_GET_SIZE(self->seat) > 0;
    if ((parked && nobody_leads) || (packets_count(self->packets) > 0 && (parked || !nobody_leads))) {
        if (call(self->queue, name.pass_on) < 0)
            drop_batch(self, &batch);
    }
    return batch;
}

/* Ends a wait with the exception that is set: what this thread had or was to have goes to others. */
static PyObject *give_up(struct hot_path *self, PyObject *waiter) {
    PyObject *kept = NULL;
    keep_first(&kept);
    if (call(waiter, name.leave) < 0)
        keep_first(&kept);
    if (call(self->queue, name.pass_on) < 0)
        keep_first(&kept);
    raise_kept(kept);
    return NULL;
}

/* Asks the kernel where that is due. Where there is nothing to take, and this is not for C, the slow wait does it. */
static int ask(struct hot_path *self, PyObject *waiter, const struct wait *wait) {
    int empty = packets_count(self->packets) == 0;
    if (!empty && self->takes < TAKES_MAX && (!self->takes || monotonic() < self->first_take + ASK_MS * 1e-3))
        return 0;
    if (may_lead(self))
        return lead(self, waiter, wait);
    if (empty)
        return 0;
    self->takes = 0; /* also where another thread leads, which asks often enough */
    return lead_slowly(self, waiter, wait);
}

/* Takes what there is, after having asked the kernel where that is due; an empty list where that is nothing. */
static PyObject *wait_once(struct hot_path *self, PyObject *waiter, const struct wait *wait) {
    if (self->gathered_count && start_gathered(self) < 0)
        return give_up(self, waiter);
    if (ask(self, waiter, wait) < 0)
        return give_up(self, waiter);
    if (self->ring)
        ring_submit_gathered(self->ring);
    /* A signal handler that raises does so as soon as this returns, and what it would return were lost. */
    if (PyErr_CheckSignals() < 0)
        return give_up(self, waiter);
    PyObject *batch = take_hot(self, SLOT(waiter, place), wait->limit);
    /* A finalizer that ran in the middle of this may have waited on another port, to which the thread belongs now. */
    if (here != waiter && call(waiter, name.leave) < 0 && batch)
        drop_batch(self, &batch);
    return batch;
}

static PyObject *port_wait(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct hot_path *self = usable_path(port);
    struct wait wait = {-1, 0, LIMIT};
    if (!self || !here || SLOT(here, places) != self->places || holds_lock() || !read_arguments(&wait, args, count, names))
        return call_slow(port, slow.wait, args, count, names);
    if (wait.timeout >= 0)
        wait.until = monotonic() + wait.timeout;
    PyObject *waiter = Py_NewRef(here), *batch = wait_once(self, waiter, &wait);
    Py_DECREF(waiter);
    if (!batch || PyList_GET_SIZE(batch))
        return batch;
    Py_DECREF(batch);
    return wait_slowly(port, self, &wait);
}

/* Makes this thread the owner of a lane that an event was for, as EmulatedHandle.own does. Returns whether it is. */
static int own(PyObject *handle, struct lane *lane) {
    lane->ready = 1;
    if (!has_first(lane))
        return 0;
    lock_acquire(SLOT(handle, lock));
    int owned = has_first(lane) && lane->ready && !lane->active &&
                !lane->resting && SLOT(handle, life) == open_life;
    if (owned)
        lane->active = 1;
    lock_release(SLOT(handle, lock));
    return owned;
}

/* Notes which lanes an event makes worth trying; those that this file can try are prepared. */
static int notice(struct hot_path *self, struct epoll_event *event, struct attempt *attempts, PyObject **kept) {
    PyObject *number = PyLong_FromLong(event->data.fd), *handle, *mask;
    int prepared = 0;
    handle = number ? PyDict_GetItemWithError(self->table, number) : NULL;
    if (!handle || Py_TYPE(handle) != handle_type || SLOT(handle, hot_path) != (PyObject *)self) {
        mask = PyLong_FromUnsignedLong(event->events);
        if (!number || !mask || call_port(self, name.event, number, mask, NULL) < 0)
            keep_first(kept);
        Py_XDECREF(number);
        Py_XDECREF(mask);
        return 0;
    }
    Py_DECREF(number);
    Py_INCREF(handle);
    if (event->events & (EPOLLRDHUP | EPOLLPRI))
        put_ref(&SLOT(handle, ended), Py_True);
    int ways[2] = {(event->events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
                   (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0};
    struct lane *lanes[2] = {(struct lane *)SLOT(handle, incoming), (struct lane *)SLOT(handle, outgoing)};
    for (int i = 0; i < 2; i++) {
        if (!ways[i] || !own(handle, lanes[i]))
            continue;
        if (prepare(self, &attempts[prepared], handle, lanes[i]))
            prepared++;
        else if (call_port(self, name.run, handle, (PyObject *)lanes[i], NULL) < 0)
            keep_first(kept);
    }
    PyObject *readiness = SLOT(handle, readiness);
    if (readiness != Py_None && call_port(self, name.resume, handle, readiness, NULL) < 0)
        keep_first(kept);
    Py_DECREF(handle);
    return prepared;
}

/* For a wait of the leader: NULL where as many threads run as may, for then no processor is left to look with. */
static struct spin *spin_of(struct hot_path *self) {
    return PyList_GET_SIZE(self->places) ? &self->spin : NULL;
}

/* Enters the ring, which starts what was requested, waits for results and acts on them. */
static PyObject *harvest_ring(struct hot_path *self, int timeout_ms) {
    PyObject *kept = NULL;
    unsigned found = ring_wait_ms(self->ring, timeout_ms, spin_of(self));
    self->takes = 0;
    act_on_results(self, &kept);
    if (!kept && PyErr_CheckSignals() < 0)
        keep_first(&kept);
    if (raise_kept(kept) < 0)
        return NULL;
    return PyBool_FromLong(found != 0);
}

/* Waits for events, which a signal ends. Nothing found may be the end of a look that was in vain: had a signal come in
 * the middle of it, no sleep may follow before its handler has run. */
static int wait_for_events(int epoll, struct epoll_event *events, int timeout_ms, struct spin *spin) {
    if (timeout_ms == 0 || !spin)
        return epoll_wait(epoll, events, EVENTS_MAX, timeout_ms);
    uint64_t began_ns = spin_now_ns();
    int found;
    if (!spin_is_due(spin)) {
        found = epoll_wait(epoll, events, EVENTS_MAX, timeout_ms);
        spin_slept(spin, spin_now_ns() - began_ns);
        return found;
    }
    unsigned times = 0;
    do {
        found = epoll_wait(epoll, events, EVENTS_MAX, 0);
        times++;
    } while (found == 0 && spin_now_ns() - began_ns < SPIN_NS);
    spin_ended(spin, times, found > 0);
    return found;
}

/* Waits for events and acts on them. Returns how many there were, or -1 with an exception. */
static int harvest_events(struct hot_path *self, int timeout_ms, struct room *room) {
    struct spin *spin = spin_of(self);
    int epoll = self->epoll, found, prepared = 0;
    Py_BEGIN_ALLOW_THREADS
    found = wait_for_events(epoll, room->events, timeout_ms, spin);
    Py_END_ALLOW_THREADS
    self->takes = 0;
    if (found < 0) {
        if (errno != EINTR)
            PyErr_SetFromErrno(PyExc_OSError);
        return PyErr_Occurred() || PyErr_CheckSignals() < 0 ? -1 : 0;
    }
    PyObject *kept = NULL;
    for (int i = 0; i < found; i++)
        prepared += notice(self, &room->events[i], &room->attempts[prepared], &kept);
    make_attempts(self, room->attempts, prepared, &kept);
    return raise_kept(kept) < 0 ? -1 : found;
}

/* Waits for events, or results, and acts on them. Returns whether there were any. */
static PyObject *harvest(struct hot_path *self, int timeout_ms) {
    if (self->ring)
        return harvest_ring(self, timeout_ms);
    struct room *room = take_room(self);
    int found = room ? harvest_events(self, timeout_ms, room) : -1;
    if (room)
        give_back_room(self, room);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static PyObject *hot_path_harvest(struct hot_path *self, PyObject *timeout_ms) {
    int most_ms = (int)PyLong_AsLong(timeout_ms);
    return PyErr_Occurred() ? NULL : harvest(self, most_ms);
}

static PyObject *hot_path_start_gathered(struct hot_path *self, PyObject *ignored) {
    (void)ignored;
    if (self->generation == generation && start_for_others(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* close(port). A garbage collection has taken the weak references to a port before it has the port close itself, which
 * takes what is Python's to do. */
static PyObject *hot_path_close(struct hot_path *self, PyObject *port) {
    PyObject *reference = PyWeakref_NewRef(port, NULL);
    if (!reference)
        return NULL;
    Py_XSETREF(self->port, reference);
    self->closed = 1;
    Py_CLEAR(self->model);
    Py_RETURN_NONE;
}

/* The type */

/* HotPath(port, queue, table, backlog[, ring]) */
static PyObject *hot_path_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)keywords;
    PyObject *port, *queue, *table, *backlog, *ring = NULL;
    if (!PyArg_ParseTuple(args, "OOO!O|O", &port, &queue, &PyDict_Type, &table, &backlog, &ring))
        return NULL;
    struct hot_path *self = (struct hot_path *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->generation = generation;
    self->epoll = -1;
    self->port = PyWeakref_NewRef(port, NULL);
    self->queue = Py_NewRef(queue);
    self->table = Py_NewRef(table);
    self->backlog = Py_NewRef(backlog);
    self->table_reference = PyWeakref_NewRef(table, NULL);
    self->ring = Py_XNewRef(ring);
    self->packets = PyObject_GetAttrString(queue, "packets");
    self->timers = PyObject_GetAttrString(queue, "timers");
    self->places = PyObject_GetAttrString(queue, "places");
    self->seat = PyObject_GetAttrString(queue, "seat");
    self->parked = PyObject_GetAttrString(queue, "_parked");
    self->gathered = PyMem_Calloc(GATHERED_MAX, sizeof *self->gathered);
    if (!self->port || !self->table_reference || !self->packets || !self->timers || !self->places || !self->seat || !self->parked ||
        !self->gathered) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int hot_path_traverse(struct hot_path *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->port);
    Py_VISIT(self->queue);
    Py_VISIT(self->packets);
    Py_VISIT(self->table);
    Py_VISIT(self->backlog);
    Py_VISIT(self->timers);
    Py_VISIT(self->model);
    Py_VISIT(self->ring);
    for (size_t i = 0; i < self->gathered_count; i++) {
        Py_VISIT(self->gathered[i].handle);
        Py_VISIT(self->gathered[i].lane);
    }
    return 0;
}

static int hot_path_clear(struct hot_path *self) {
    Py_CLEAR(self->port);
    Py_CLEAR(self->queue);
    Py_CLEAR(self->packets);
    Py_CLEAR(self->table);
    Py_CLEAR(self->backlog);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->places);
    Py_CLEAR(self->seat);
    Py_CLEAR(self->parked);
    Py_CLEAR(self->table_reference);
    Py_CLEAR(self->strays);
    Py_CLEAR(self->model);
    Py_CLEAR(self->ring);
    while (self->gathered_count) {
        self->gathered_count--;
        Py_CLEAR(self->gathered[self->gathered_count].handle);
        Py_CLEAR(self->gathered[self->gathered_count].lane);
    }
    return 0;
}

static void hot_path_dealloc(struct hot_path *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    hot_path_clear(self);
    PyMem_Free(self->gathered);
    PyMem_Free(self->room);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef hot_path_methods[] = {
    {"harvest", FAST(hot_path_harvest), METH_O, NULL},
    {"start_gathered", FAST(hot_path_start_gathered), METH_NOARGS, NULL},
    {"close", FAST(hot_path_close), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef hot_path_members[] = {
    {"epoll", T_INT, offsetof(struct hot_path, epoll), 0, NULL},
    {"strays", T_OBJECT, offsetof(struct hot_path, strays), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot hot_path_slots[] = {
    {Py_tp_members, hot_path_members},
    {Py_tp_new, hot_path_new},           {Py_tp_dealloc, hot_path_dealloc}, {Py_tp_traverse, hot_path_traverse},
    {Py_tp_clear, hot_path_clear},       {Py_tp_methods, hot_path_methods}, {0, NULL},
};

PyType_Spec hot_path_spec = {.name = "unio._core.HotPath",
                             .basicsize = sizeof(struct hot_path),
                             .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                             .slots = hot_path_slots};

/* The methods of a port that are C: its class stands before the Python classes that have their namesakes. */

static PyMethodDef port_methods[] = {
    {"associate", FAST(port_associate), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"submit", FAST(port_submit), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"wait", FAST(port_wait), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"post", FAST(port_post), METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef port_members[] = {
    {"_hot_path", T_OBJECT, offsetof(struct fast_port, hot_path), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int port_traverse(PyObject *port, visitproc visit, void *arg) {
    Py_VISIT(((struct fast_port *)port)->hot_path);
    return 0;
}

static int port_clear(PyObject *port) {
    Py_CLEAR(((struct fast_port *)port)->hot_path);
    return 0;
}

static void port_dealloc(PyObject *port) {
    PyTypeObject *type = Py_TYPE(port);
    PyObject_GC_UnTrack(port);
    port_clear(port);
    type->tp_free(port);
    Py_DECREF(type);
}

static PyType_Slot port_slots[] = {
    {Py_tp_dealloc, port_dealloc}, {Py_tp_traverse, port_traverse}, {Py_tp_clear, port_clear},
    {Py_tp_methods, port_methods}, {Py_tp_members, port_members},   {0, NULL},
};

PyType_Spec fast_port_spec = {.name = "unio._core.FastPort",
                              .basicsize = sizeof(struct fast_port),
                              .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                              .slots = port_slots};

#endif
