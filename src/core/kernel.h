/* A kernel that tells readiness, as the fast path asks it. */
#ifndef UNIO_KERNEL_H
#define UNIO_KERNEL_H

#include "core.h"
#include "spin.h"

#include <sys/epoll.h>

#define EVENTS_MAX 256 /* fetched by one call at most; more of them wait in the kernel for the next */

struct event {
    struct epoll_event of_kernel;
};

struct kernel {
    int number; /* the descriptor of its set */
    PyObject *stale; /* numbers that Python forgets once they join: see epoll.py, which sets it */
};

/* What an event says of a descriptor. */
struct readiness {
    int number;
    char incoming, outgoing, ended;
};

/* Waits for events, which a signal ends, without Python's lock. Returns how many, or -errno. */
int kernel_wait(struct kernel *self, struct event *events, int timeout_ms, struct spin *spin);

struct readiness kernel_readiness(const struct event *event);

/* The arguments of the port's own _event. */
PyObject *kernel_arguments(const struct event *event);

/* Has the kernel tell of a descriptor, which stands for a handle that has just joined; or no more. The first returns -1,
 * perhaps with an exception, where it doesn't. */
int kernel_add(struct kernel *self, int number);
void kernel_remove(struct kernel *self, int number);

#endif
