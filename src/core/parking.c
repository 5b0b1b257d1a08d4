/* The sleep of the threads of a unio._core.QueueState: how they park, and who is woken for what. The leader sleeps in the
 * kernel, out of which it is interrupted; the others at a gate each, which who wakes them opens.
 */
#include "queue_locked.h"

#include <math.h>

#define LOOKS_PER_TIME 100 /* at a gate, until the clock is looked at */
#define HAND_OVER_SECONDS 1.0 /* how long a thread whose time is over waits for the one that is just waking it */

/* Rows */

static void add_to(struct row *row, struct waiter *waiter) {
    row->waiters[row->count] = (struct waiter *)Py_NewRef(waiter);
    POKE(row->count, row->count + 1);
}

/* Returns the reference to the one that is taken out. */
static struct waiter *take_out(struct row *row, size_t place) {
    struct waiter *waiter = row->waiters[place];
    POKE(row->count, row->count - 1);
    memmove(row->waiters + place, row->waiters + place + 1, (row->count - place) * sizeof *row->waiters);
    return waiter;
}

static struct waiter *take_out_if_there(struct row *row, const struct waiter *waiter) {
    Py_ssize_t place = find_in(row, waiter);
    return place < 0 ? NULL : take_out(row, (size_t)place);
}

/* Waking */

static int has_for_locked(struct queue *self, struct waiter *waiter) {
    return self->count && (waiter->slot || self->slots > 0);
}

int queue_has_for(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    int has = has_for_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return has;
}

/* Returns the reference to the one that is taken out of the parked. */
static struct waiter *unpark(struct queue *self, size_t place) {
    struct waiter *waiter = take_out(&self->parked, place);
    self->watchers -= waiter->watches != 0;
    waiter->watches = 0;
    return waiter;
}

/* Gives a slot to the thread that has parked last; NULL if there is none of either. The reference is the caller's, who
 * opens its gate. */
static struct waiter *release_last_locked(struct queue *self) {
    if (!self->parked.count || self->slots <= 0)
        return NULL;
    struct waiter *waiter = unpark(self, self->parked.count - 1);
    POKE(self->slots, self->slots - 1);
    POKE(waiter->slot, 1);
    POKE(waiter->woken, monotonic());
    add_to(&self->coming, waiter);
    return waiter;
}

static int open_gate(struct waiter *waiter) {
    POKE(waiter->is_woken, 1);
    PyObject *result = PyObject_CallMethodNoArgs(waiter->gate, name.release);
    Py_DECREF(waiter);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int queue_has_for_leader(struct queue *self, struct waiter *waiter) {
    struct waiter *released = NULL;
    mutex_lock(&self->mutex);
    self->keeps = self->takes_turns && is_quick(waiter) && waiter->came_at == self->parkings;
    int has = has_for_locked(self, waiter);
    if (has && !waiter->slot && !self->keeps)
        has = !self->coming.count && !(released = release_last_locked(self));
    mutex_unlock(&self->mutex);
    return released && open_gate(released) < 0 ? -1 : has;
}

/* Whether the leader is to be interrupted; then that has to be done. One interruption is enough, however many packets
 * follow. */
static int call_off_sleep(struct queue *self) {
    int sleeps = PEEK(self->sleeping);
    POKE(self->sleeping, 0);
    return sleeps;
}

static int interrupt(struct queue *self) {
    PyObject *result = PyObject_CallNoArgs(self->interrupt);
    Py_XDECREF(result);
    if (!result)
        POKE(self->sleeping, 1); /* a signal handler's exception, which may have come before the interruption */
    return result ? 0 : -1;
}

int queue_wake_leader(struct queue *self) {
    mutex_lock(&self->mutex);
    int sleeps = call_off_sleep(self);
    mutex_unlock(&self->mutex);
    return sleeps ? interrupt(self) : 0;
}

int queue_wake(struct queue *self) {
    mutex_lock(&self->mutex);
    int is_left = is_left_locked(self); /* to the runner, or to the leader, which looks when it is awake */
    struct waiter *released = is_left || self->keeps ? NULL : release_last_locked(self);
    /* Where no slot is free, somebody has to see it when those that run are blocked. */
    int sleeps = !released && !is_left && (self->slots > 0 || !self->watching) && call_off_sleep(self);
    mutex_unlock(&self->mutex);
    if (released)
        return open_gate(released) < 0 ? -1 : 1;
    return sleeps ? interrupt(self) : 0;
}

int queue_release_first(struct queue *self, int only_if_nobody_leads) {
    mutex_lock(&self->mutex);
    int is_seen_to = self->leader || self->called || (self->watchers && is_left_locked(self));
    int due = self->parked.count && !(only_if_nobody_leads && is_seen_to);
    struct waiter *waiter = due ? unpark(self, 0) : NULL;
    if (waiter)
        self->called = waiter;
    mutex_unlock(&self->mutex);
    return !waiter ? 0 : open_gate(waiter) < 0 ? -1 : 1;
}

int queue_rouse(struct queue *self) {
    struct waiter *waiter = NULL;
    mutex_lock(&self->mutex);
    for (size_t i = 0; i < self->parked.count && !waiter; i++) {
        if (PEEK(self->parked.waiters[i]->heard))
            waiter = unpark(self, i);
    }
    self->roused = !waiter;
    mutex_unlock(&self->mutex);
    return waiter ? open_gate(waiter) : 0;
}

/* It comes no more, or has come for something else. */
static void call_off_locked(struct queue *self, const struct waiter *waiter) {
    if (!waiter || self->called == waiter)
        self->called = NULL;
}

int queue_has_more(struct queue *self) {
    mutex_lock(&self->mutex);
    int more = self->count > self->coming.count;
    mutex_unlock(&self->mutex);
    return more;
}

int queue_pass_on(struct queue *self, const struct waiter *waiter) {
    mutex_lock(&self->mutex);
    call_off_locked(self, waiter);
    int more = self->count > self->coming.count; /* which wake leaves to the runner, if there is one */
    mutex_unlock(&self->mutex);
    int woken = more ? queue_wake(self) : 0;
    if (woken)
        return woken < 0 ? -1 : 0; /* that one passes on the rest */
    return queue_release_first(self, 1) < 0 ? -1 : 0;
}

void queue_arrive(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    struct waiter *arrived = take_out_if_there(&self->coming, waiter);
    mutex_unlock(&self->mutex);
    Py_XDECREF(arrived);
}

static int may_sleep_locked(struct queue *self, struct waiter *waiter) {
    return !self->closed && (gives_way_locked(self, waiter) || (!has_for_locked(self, waiter) && self->leader));
}

/* Until when a parked thread sleeps: it watches the runner while that has time, or has just had. */
static double watch_locked(struct queue *self, struct waiter *waiter) {
    int watches = has_time(self);
    self->watchers += (size_t)(watches - waiter->watches);
    waiter->watches = (char)watches;
    return watches ? self->runner_until : INFINITY;
}

/* Shows that a thread is about to sleep, unless there is something to see to. Says until when, where it watches. */
static int show(struct queue *self, struct waiter *waiter, double *until) {
    mutex_lock(&self->mutex);
    call_off_locked(self, waiter);
    int roused = PEEK(waiter->heard) && self->roused;
    if (roused)
        self->roused = 0;
    int sleeps = !roused && may_sleep_locked(self, waiter);
    if (sleeps) {
        add_to(&self->parked, waiter);
        POKE(waiter->is_woken, 0);
        POKE(self->parkings, self->parkings + 1);
        self->keeps = 0;
        *until = watch_locked(self, waiter);
    }
    mutex_unlock(&self->mutex);
    return sleeps;
}

/* Whether a thread sleeps on that has slept until a time: it keeps its place in the row then. */
static int sleep_on(struct queue *self, struct waiter *waiter, double *until) {
    mutex_lock(&self->mutex);
    int sleeps = find_in(&self->parked, waiter) >= 0 && may_sleep_locked(self, waiter);
    if (sleeps)
        *until = watch_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return sleeps;
}

static int pass_gate(struct waiter *waiter, double timeout) {
    PyObject *result = PyObject_CallMethod(waiter->gate, "acquire", "Od", Py_True, timeout < 0 ? -1.0 : timeout);
    int passed = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return passed;
}

#ifdef Py_GIL_DISABLED
/* Looks for a while whether the gate opens, as spin.h has it. */
static void look_at_gate(struct waiter *waiter) {
    uint64_t until_ns = spin_now_ns() + SPIN_NS;
    unsigned times = 0;
    int opens;
    Py_BEGIN_ALLOW_THREADS
    do {
        for (int i = 0; i < LOOKS_PER_TIME && !(opens = PEEK(waiter->is_woken)); i++)
            RELAX();
        times++;
    } while (!opens && spin_now_ns() < until_ns);
    Py_END_ALLOW_THREADS
    spin_ended(&waiter->spin, times + 1, opens);
}

/* Sleeps until the gate opens, unless it does so soon; one thread at a time looks for that. */
static int pass_gate_soon(struct queue *self, struct waiter *waiter, double timeout) {
    uint64_t began_ns = spin_now_ns();
    int looks = timeout != 0 && PEEK(self->slots) > 0 && spin_is_due(&waiter->spin) &&
                !__atomic_exchange_n(&self->is_looking, 1, __ATOMIC_RELAXED);
    if (looks) {
        look_at_gate(waiter);
        POKE(self->is_looking, 0);
    }
    int passed = pass_gate(waiter, timeout);
    if (!looks)
        spin_slept(&waiter->spin, spin_now_ns() - began_ns);
    return passed;
}
#else
#define pass_gate_soon(self, waiter, timeout) pass_gate(waiter, timeout) /* who waits for Python's lock would wait longer */
#endif

/* The seconds up to a time; negative for ever. */
static double seconds_to(double time) {
    double left = time - monotonic();
    return time == INFINITY ? -1 : left > 0 ? left : 0;
}

int queue_park(struct queue *self, struct waiter *waiter, double timeout) {
    if (timeout > constant.lock_seconds_max)
        timeout = constant.lock_seconds_max;
    double end = timeout < 0 ? INFINITY : monotonic() + timeout, until;
    if (!show(self, waiter, &until))
        return 0;
    int passed;
    do
        passed = pass_gate_soon(self, waiter, seconds_to(end < until ? end : until));
    while (passed == 0 && until < end && sleep_on(self, waiter, &until));
    if (passed > 0)
        return 0;
    mutex_lock(&self->mutex);
    Py_ssize_t place = find_in(&self->parked, waiter);
    struct waiter *shown = place < 0 ? NULL : unpark(self, (size_t)place);
    mutex_unlock(&self->mutex);
    Py_XDECREF(shown);
    if (!shown) { /* another thread is about to wake this one, and what it hands over must not be lost */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (pass_gate(waiter, HAND_OVER_SECONDS) < 0) {
            Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(traceback);
            return -1;
        }
        PyErr_Restore(type, value, traceback);
    }
    return passed;
}
