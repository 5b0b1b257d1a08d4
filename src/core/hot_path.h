/* What the files of the hot path share: see hot_path.c. */
#ifndef UNIO_HOT_PATH_H
#define UNIO_HOT_PATH_H

#include "completion.h"
#include "core.h"
#include "operation.h"
#include "spin.h"

#include <sys/epoll.h>

#define GATHERED_MAX 256 /* so many are started at once: the first should not wait for a long time */
#define EVENTS_MAX 256   /* fetched by one call at most; more of them wait in the kernel for the next */

struct gathered {
    PyObject *handle;
    struct lane *lane;
};

/* What one call deals with at once. A thread's stack may have 32 KiB, and this takes more. */
struct room {
    struct epoll_event events[EVENTS_MAX];
    struct attempt attempts[2 * EVENTS_MAX]; /* an event may be one for each direction */
    struct gathered gathered[GATHERED_MAX];
};

struct hot_path {
    PyObject_HEAD
    PyObject *port; /* a weak reference */
    PyObject *queue, *packets, *places, *seat, *parked, *table, *backlog, *timers;
    PyObject *table_reference; /* the weak reference that the book of handles has of the table */
    PyObject *strays;          /* numbers that Python forgets once they join: see epoll.py, which sets it */
    PyObject *model;           /* a handle that others are made like, or NULL */
    int model_family, model_protocol; /* of its socket */
    PyObject *ring; /* an io_uring in the place of an epoll instance, or NULL */
    double slow_turn; /* when Python led last, which looks after what is seldom */
    double first_take; /* when the first of takes was */
    struct gathered *gathered; /* lanes that this path owns, and has still to try */
    size_t gathered_count;
    struct room *room; /* for the next call that needs one, or NULL */
    unsigned generation, takes;
    int epoll; /* its descriptor, which Python sets, also when it makes another */
    struct spin spin;
    char closed;
};

/* What a port begins with whose class has its methods from here. */
struct fast_port {
    PyObject_HEAD
    PyObject *hot_path; /* NULL, or None, until it has one */
};

/* The Python forms of those methods: what is not plain is left to them. */
extern struct slow_forms {
    PyObject *associate, *submit, *wait, *post;
} slow;

/* The classes, and where their instances keep what is used here (classes.c). */

extern PyTypeObject *handle_type;
extern PyObject *open_life, *closed_life, *made_socket;

extern struct offsets {
    Py_ssize_t handle_key, object, number, skips, lock, life, incoming, outgoing, readiness, shows_drained, ended, socket;
    Py_ssize_t hot_path;
    Py_ssize_t family, type, protocol; /* ints, of a socket */
    Py_ssize_t place, places;
} at;

/* The names of what is called, made once: a string that is made for each call costs more than some of the calls. */
extern struct names {
    PyObject *run, *run_on, *resume, *event, *lead, *close_kernel_once, *wake, *pass_on, *release, *discard, *empty, *sleeping, *leave,
        *look_again, *act_on_results;
    PyObject *heap, *coming, *timeout, *limit, *key, *gettimeout, *close, *skip_on_success;
} name;

/* The thread that runs, as one that has waited on a port; its module (places.py) owns it, and tells of each change. */
extern _Thread_local PyObject *here __attribute__((tls_model("initial-exec")));

/* After a fork the child may use nothing of this: each hot path remembers in which process it was made. */
extern unsigned generation;

#define SLOT(object, name) (*(PyObject **)((char *)(object) + at.name))

static inline void put(PyObject **slot, PyObject *value) { /* takes over the reference to the value */
    PyObject *old = *slot;
    *slot = value;
    Py_XDECREF(old);
}

static inline PyObject *exchange(PyObject **slot, PyObject *value) { /* returns the reference to the former value */
    PyObject *old = *slot;
    *slot = Py_NewRef(value);
    return old;
}

static inline void put_ref(PyObject **slot, PyObject *value) {
    Py_INCREF(value);
    put(slot, value);
}

static inline int has_first(const struct lane *lane) { return lane->first && lane->first != Py_None; }

static inline int usable(struct hot_path *self) { return !self->closed && self->generation == generation; }

/* A number above all before it, by which operations are ordered. */
Py_ssize_t next_sequence(void);

/* The port, or NULL with an exception where it is gone. */
PyObject *port_of(struct hot_path *self);

/* Calls a method of the port, or of another object, and drops the result. Returns -1 with an exception if it fails. */
int call_port(struct hot_path *self, PyObject *method, PyObject *a, PyObject *b, PyObject *c);
int call(PyObject *object, PyObject *method);

/* Room for a call, which gives it back; NULL with an exception if there is no memory. A port keeps one, and seldom needs
 * another: where two threads start what was gathered at once, or one in the middle of another call. */
struct room *take_room(struct hot_path *self);
void give_back_room(struct hot_path *self, struct room *room);

/* Completions (completions.c) */

/* Takes packets out of the queue, as CompletionQueue.take does. */
PyObject *take(struct hot_path *self, Py_ssize_t limit);

/* Puts the completions of a batch back to the head of the queue, as no wait can return them after all. */
void give_back(struct hot_path *self, PyObject *batch);

/* Tries (tries.c) */

/* Whether an operation is plain: it accepts; or it receives, or sends, with one buffer that is neither empty nor too large. */
int is_plain(PyObject *operation, enum kind kind);

/* Makes an attempt of the first operation of a lane that this thread owns. Returns 0 where that is not for C. */
int prepare(struct hot_path *self, struct attempt *attempt, PyObject *handle, struct lane *lane);

/* Makes the attempts, or requests of them, and acts on what comes of them. */
void make_attempts(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept);

/* Acts on the results of attempts; then lets parked threads have what came of it, as far as they may run. */
void settle_all(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept);

/* Tries an operation that was just linked, and nothing else. Returns whether it has succeeded and queues nothing. */
int try_at_once(struct hot_path *self, PyObject *handle, struct lane *lane);

/* Tries what was gathered. Any thread may do it. */
int start_gathered(struct hot_path *self);

/* The same by a thread that does not go on to take what comes of it (hot_path.c). */
int start_for_others(struct hot_path *self);

/* Joining and leaving a port (association.c) */

/* Makes a plain socket join, and returns its handle. Returns NULL, without an exception, where that is not for C, or has
 * failed: Python then says how. */
PyObject *associate(struct hot_path *self, PyObject *socket, PyObject *key);

/* Has C close the handles of the class that it has learned. */
int put_close(void);

/* An exception that one step raised, a signal handler's say, must not keep the others from being done. */
void keep_first(PyObject **kept);
int raise_kept(PyObject *kept);

#endif
