/* A kernel that tells readiness, as the fast path asks it: epoll's or kqueue's. */
#ifndef UNIO_KERNEL_H
#define UNIO_KERNEL_H

#include "core.h"
#include "spin.h"

#ifdef __linux__
#include <sys/epoll.h>

/* As kernel/kqueue_cdef.h has it for the libraries that bring kqueue to Linux. */
struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    intptr_t data;
    uintptr_t udata;
};
#else
#include <sys/event.h>
#endif

#define EVENTS_MAX 256 /* fetched by one call at most; more of them wait in the kernel for the next */

/* What one call has fetched. */
union events {
#ifdef __linux__
    struct epoll_event of_epoll[EVENTS_MAX];
#endif
    struct kevent of_kqueue[EVENTS_MAX];
};

/* What an event says of a descriptor. */
struct readiness {
    int number;        /* -1 where it is of something else */
    Py_ssize_t serial; /* that of the handle which it is for; 0 where the kernel doesn't tell */
    int failure;       /* the errno of a connect, or 0 */
    char incoming, outgoing, ended;
};

struct kernel;

/* What a kernel does in its own way. None of it waits, but for the first; and that is called without Python's lock. */
struct kernel_calls {
    int (*wait)(const struct kernel *self, union events *events, int timeout_ms); /* how many, or -1 and errno */
    struct readiness (*readiness)(const union events *events, int index);
    PyObject *(*arguments)(const union events *events, int index);
    int (*add)(struct kernel *self, int number, Py_ssize_t serial);
    void (*remove)(struct kernel *self, int number);
    char tells_urgent; /* see EnginePort.tells_urgent */
};

struct kernel {
    const struct kernel_calls *calls; /* NULL where a ring is in its place */
    int number;                       /* the descriptor of its set */
    int inside;                       /* threads that use the number without leading */
    char ended;                       /* none of them may any more */
    PyObject *stale; /* epoll's: numbers that Python forgets once they join: see epoll.py, which has the set */
#ifdef __linux__
    int (*kevent)(int, const struct kevent *, int, struct kevent *, int, const struct timespec *); /* a library's */
#endif
};

/* Say which kernel it is, with what Python gives: the methods _use_epoll(number, stale) and _use_kqueue(number, kevent). The
 * last is the address of a library's kevent, on Linux; elsewhere the C library's own is called. Return -1 with an exception
 * for what else is given. */
int kernel_use_epoll(struct kernel *self, PyObject *args);
int kernel_use_kqueue(struct kernel *self, PyObject *args);

/* Waits for events, which a signal ends, without Python's lock; the caller leads. Returns how many, or -errno. */
int kernel_wait(struct kernel *self, union events *events, int timeout_ms, struct spin *spin);

struct readiness kernel_readiness(const struct kernel *self, const union events *events, int index);

/* The arguments of the port's own _event. */
PyObject *kernel_arguments(const struct kernel *self, const union events *events, int index);

/* Has the kernel tell of a descriptor, which stands for a handle that has just joined; or no more. The first returns -1,
 * perhaps with an exception, where it doesn't. */
int kernel_add(struct kernel *self, int number, Py_ssize_t serial);
void kernel_remove(struct kernel *self, int number);

/* From its return on, only who leads uses the number. */
void kernel_end(struct kernel *self);

#endif
