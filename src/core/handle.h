/* unio._core.HandleState and Direction: a handle and its directions; engine/handle.py says what each part is. */
#ifndef UNIO_HANDLE_H
#define UNIO_HANDLE_H

#include "completion_queue.h"

/* The operations of one direction of a handle: a list, guarded by the handle's lock. Any thread may ask for the first, so
 * that field has the direction's section besides. The flags are looked at without the lock, too. */
struct direction {
    PyObject_HEAD
    PyObject *first, *last;     /* NULL if it has none */
    unsigned long long request; /* what the kernel knows the first by, while it has that one */
    char ready, active, resting, drained;
};

/* What became of a handle; engine/handle.py has the same in Lifecycle. */
enum lifecycle { LIFECYCLE_OPEN, LIFECYCLE_CLOSING, LIFECYCLE_CLOSED, LIFECYCLE_ORPHANED, LIFECYCLE_DETACHED };

struct handle {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *key, *kind, *object, *socket, *identity, *before;
    PyObject *port;                   /* a weak reference */
    PyObject *queue;                  /* of its port */
    PyObject *lock;                   /* guards the directions, the status of their operations, and its life */
    PyObject *incoming, *outgoing;    /* directions */
    PyObject *readiness, *files;      /* directions, or NULL */
    Py_ssize_t serial;
    int number, private, running, failure, lifecycle;
    char closing, ended, shut_down, skip_on_success, shows_drained, stream, is_fast;
};

static inline struct handle *handle_of(PyObject *object) { return (struct handle *)object; }
static inline struct direction *direction_of(PyObject *object) { return (struct direction *)object; }

static inline int is_open(PyObject *handle) { return PEEK(handle_of(handle)->lifecycle) == LIFECYCLE_OPEN; }
static inline int has_first(const struct direction *direction) { return direction->first != NULL; }

/* Whether nobody is at a direction, so that it can be owned; the caller holds the handle's lock. */
static inline int is_free(struct direction *direction) { return !PEEK(direction->active) && !PEEK(direction->resting); }

/* Makes a handle of a class, with a lock and two directions of its own. */
PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *keywords);

/* Its method close (association.c). */
PyObject *handle_close(PyObject *handle, PyObject *ignored);

extern PyTypeObject *direction_type, *lock_type; /* of the copy of the package that C serves; see claim */

#endif
