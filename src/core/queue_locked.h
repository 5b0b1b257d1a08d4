/* What the files of unio._core.QueueState share: small steps, each of them with the queue's mutex held by the caller.
 *
 * All of a queue is guarded by its own mutex, the last in the order of locks: nothing is called with it held but what counts
 * a reference. So who shows itself and looks does that in one step, and no wake-up can be lost. A signal handler of the
 * program's, which may post in the middle of any method, runs between the steps of Python, and never here.
 */
#ifndef UNIO_QUEUE_LOCKED_H
#define UNIO_QUEUE_LOCKED_H

#include "completion_queue.h"

/* The first packet, whose reference is the caller's (packets.c); NULL if there is none. */
PyObject *queue_pop_locked(struct queue *self);

/* Rows of threads */

static inline Py_ssize_t find_in(const struct row *row, const struct waiter *waiter) {
    for (size_t i = row->count; i > 0; i--)
        if (row->waiters[i - 1] == waiter)
            return (Py_ssize_t)i - 1;
    return -1;
}

/* Turns: see turns.c. */

static inline int is_quick(const struct waiter *waiter) { return waiter->pace < constant.quick_seconds; }

static inline int has_time(struct queue *self) { return monotonic() < self->runner_until; }

/* Whether a thread leaves what comes to the runner. */
static inline int gives_way_locked(struct queue *self, const struct waiter *waiter) {
    return self->runner && self->runner != waiter && has_time(self);
}

/* The same for those that wait. The runner itself needs no clock where one of them watches it, and looks at that. */
static inline int is_left_locked(struct queue *self) {
    return self->runner && ((self->runner == current && self->watchers) || has_time(self));
}

static inline void stop_running_locked(struct queue *self, const struct waiter *waiter) {
    if (self->runner == waiter)
        POKE(self->runner, NULL);
}

#endif
