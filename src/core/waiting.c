/* The fast path of wait: takes what there is, or leads, or sleeps while another thread does. What is seldom, deadlines and
 * closed sockets and what was broken off, is left to Python (engine/waiting.py); see port.c.
 */
#include "port.h"

#include <math.h>

#define SECONDS_MAX 1e6 /* a longer time-out is Python's */

/* The arguments of a wait, where they are plain. */
struct timing {
    double timeout; /* seconds; negative for ever */
    double until;   /* when that is over, on the monotonic clock */
    Py_ssize_t limit;
    int over; /* it has come to its end with nothing */
};

/* The seconds that are left of a wait; negative for ever. */
static double left_of(const struct timing *wait) {
    double left = wait->timeout <= 0 ? wait->timeout : wait->until - monotonic();
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
    if (self->ring && has_backlog(self))
        return 0;
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

/* The milliseconds up to a time, rounded up: the kernel must not return early. */
static int milliseconds_to(double time) {
    double left = time > 0 ? ceil((time - monotonic()) * 1e3) : 0;
    return left <= 0 ? 0 : (int)left;
}

/* One turn of the leader, as WaitingPort._turn_once makes it where there are no deadlines and no leftovers. It keeps its
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
    if (!has && (queue_count(queue) > 0 || has_backlog(self))) /* packets are for threads that run, or are about to */
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

/* Takes what there is for this thread to take, as WaitingPort._wait does; an empty list where that is nothing. */
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

PyObject *port_wait(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    struct timing wait = {-1, 0, constant.limit, 0};
    struct waiter *waiter = self ? waiter_here(self) : NULL;
    if (!waiter || !read_arguments(&wait, args, count, names))
        return call_slow(port, slow.wait, args, count, names);
    if (wait.timeout > 0)
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
