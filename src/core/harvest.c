/* What the leader is told by the kernel, and what is done about it: events make directions worth an attempt, and a ring has
 * the results of attempts. Also how what threads have gathered is started by one that doesn't go on to lead.
 */
#include "port.h"

#include <errno.h>

/* Results of a ring */

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

/* Events */

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
    struct direction *directions[DIRECTIONS] = {
        direction_of(handle_of(handle)->incoming), direction_of(handle_of(handle)->outgoing), direction_of_polls(handle)};
    int owned[DIRECTIONS];
    lock_acquire(handle_of(handle)->lock);
    if (told.ended)
        POKE(handle_of(handle)->ended, 1);
    if (told.failure)
        POKE(handle_of(handle)->failure, told.failure);
    owned[0] = told.incoming && own_locked(handle, directions[0]);
    owned[1] = told.outgoing && own_locked(handle, directions[1]);
    owned[2] = directions[2] && own_locked(handle, directions[2]);
    lock_release(handle_of(handle)->lock);
    for (int i = 0; i < DIRECTIONS; i++) {
        if (!owned[i])
            continue;
        if (prepare(self, &attempts[prepared], handle, directions[i]))
            prepared++;
        else if (call_port(self, name.run, handle, (PyObject *)directions[i], NULL) < 0)
            keep_first(kept);
    }
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

/* The same; and in the main thread a signal ends it. Where that takes system calls, it is done only before it falls asleep.
 * Returns -EINTR with an exception, too. */
static int sleep_in_kernel(struct port *self, union events *events, int timeout_ms) {
    struct spin *spin = spin_of(self);
    struct waiter *waiter = current;
    if (timeout_ms == 0 || !hears(waiter) || (spin && spin_is_due(spin)))
        return ask_kernel(self, events, timeout_ms, spin);
    int found = HEARING_IS_CHEAP ? 0 : ask_kernel(self, events, 0, NULL);
    if (found)
        return found;
    Py_INCREF(waiter);
    if (begin_hearing(self, waiter) < 0)
        found = -EINTR;
    /* It sleeps no more where the first look has taken the interruption, of which a ring tells nothing. */
    else if (HEARING_IS_CHEAP || PEEK(self->queue->sleeping))
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
    start_backlog(self, room->attempts, DIRECTIONS * EVENTS_MAX, &kept);
    return raise_kept(kept) < 0 ? -1 : found;
}

int harvest(struct port *self, int timeout_ms) {
    if (self->ring)
        return harvest_ring(self, timeout_ms);
    struct room *room = take_room(self);
    int found = room ? harvest_events(self, timeout_ms, room) : -1;
    if (room)
        give_back_room(self, room);
    return found;
}
