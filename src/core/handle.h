/* unio._core.HandleState and Lane: a handle and its directions; lanes.py says what each part is. */
#ifndef UNIO_HANDLE_H
#define UNIO_HANDLE_H

#include "completion_queue.h"

/* The operations of one direction of a handle: a list, guarded by the handle's lock. Any thread may ask for the first, so
 * that field has the lane's section besides. The flags are looked at without the lock, too. */
struct lane {
    PyObject_HEAD
    PyObject *first, *last;     /* NULL if it has none */
    unsigned long long request; /* what the kernel knows the first by, while it has that one */
    char ready, active, resting, drained;
};

/* What became of a handle; lanes.py has the same in Life. */
enum life { LIFE_OPEN, LIFE_CLOSING, LIFE_CLOSED, LIFE_ORPHANED };

struct handle {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *key, *kind, *object, *socket, *identity;
    PyObject *port;                   /* a weak reference */
    PyObject *queue;                  /* of its port */
    PyObject *lock;                   /* guards the lanes, the status of their operations, and its life */
    PyObject *incoming, *outgoing;    /* lanes */
    PyObject *readiness, *files;      /* lanes, or NULL */
    Py_ssize_t serial;
    int number, private, running, failure, life;
    char closing, ended, shut_down, skip_on_success, shows_drained, stream, is_fast;
};

static inline struct handle *handle_of(PyObject *object) { return (struct handle *)object; }
static inline struct lane *lane_of(PyObject *object) { return (struct lane *)object; }

static inline int is_open(PyObject *handle) { return PEEK(handle_of(handle)->life) == LIFE_OPEN; }
static inline int has_first(const struct lane *lane) { return lane->first != NULL; }

/* Whether nobody is at a lane, so that it can be owned; the caller holds the handle's lock. */
static inline int is_free(struct lane *lane) { return !PEEK(lane->active) && !PEEK(lane->resting); }

/* Makes a handle of a class, with a lock and two lanes of its own. */
PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *keywords);

/* Its method close (association.c). */
PyObject *handle_close(PyObject *handle, PyObject *ignored);

extern PyTypeObject *lane_type, *lock_type; /* of the copy of the package that C serves; see claim */

#endif
