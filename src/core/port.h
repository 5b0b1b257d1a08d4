/* What the files of the fast path share: see port.c. */
#ifndef UNIO_PORT_H
#define UNIO_PORT_H

#include "completion.h"
#include "handle.h"
#include "kernel.h"
#include "operation.h"
#include "spin.h"
#include "timers.h"

#include <math.h>

#define DIRECTIONS 3 /* of a handle: what comes in, what goes out, and polls */

/* What one call deals with at once. A thread's stack may have 32 KiB, and this takes more. */
struct room {
    union events events;
    struct attempt attempts[DIRECTIONS * EVENTS_MAX]; /* an event may be one for each */
    struct gathered gathered[GATHERED_MAX];
};

/* unio._core.FastPort: what a port begins with whose class has methods from here. */
struct port {
    PyObject_HEAD
    struct queue *queue; /* NULL until the port is fit for this */
    struct deadlines *timers;
    PyObject *table, *backlog;
    PyObject *reference;       /* a weak reference to the port, which its handles have */
    PyObject *table_reference; /* the weak reference that the registry of handles has of the table */
    PyObject *ring;            /* an io_uring in the place of a kernel that tells readiness, or NULL */
    struct kernel kernel;
    double slow_turn;  /* when Python led last, which looks after what is seldom; or C saw that it needs not */
    struct room *room; /* for the next call that needs one, or NULL */
    unsigned generation;
    struct spin spin;
    int writer;       /* the end of the pipe that tells of signals */
    PyObject *before; /* the program's own descriptor, an int, while Python writes to that */
    char hearing;     /* whether it may: the main thread sleeps */
    char tells;       /* whether the program is to be told too, as far as is known */
    char closed;
};

/* Whether Python gives C what sets the descriptor for signals without a system call: set_wakeup_fd looks at it. */
#define HEARING_IS_CHEAP (PY_VERSION_HEX >= 0x030D0000)

/* What engine/hearing.py has for sleeps of the main thread: what sets the descriptor, and the one before the first sleep. */
extern struct hearing {
    PyObject *write_signals_to, *before;
} hearing;

/* The Python forms of its methods: what is not plain is left to them. */
extern struct slow_forms {
    PyObject *associate, *submit, *wait, *post;
} slow;

/* The classes, and where their instances keep what is used here (classes.c). */

extern PyTypeObject *handle_type;
extern PyObject *accepted_socket, *socket_kind, *readiness;

extern struct offsets {
    Py_ssize_t family, type, protocol; /* ints, of a socket */
} at;

static inline int int_in(PyObject *socket, Py_ssize_t offset) { return *(const int *)((char *)socket + offset); }

/* Where the instances of a class have a slot; -1 with an exception where it is none. */
int offset_of(PyObject *class, const char *name, Py_ssize_t *offset);

/* After a fork the child may use nothing of this: each port remembers in which process it was made. */
extern unsigned generation;

static inline void put(PyObject **slot, PyObject *value) { /* takes over the reference to the value */
    PyObject *old = *slot;
    *slot = value;
    Py_XDECREF(old);
}

static inline void put_ref(PyObject **slot, PyObject *value) {
    Py_INCREF(value);
    put(slot, value);
}

static inline int usable(struct port *self) {
    return self->queue && !PEEK(self->closed) && self->generation == generation;
}

/* The port, if it may use this. */
static inline struct port *usable_port(PyObject *object) {
    struct port *self = (struct port *)object;
    return usable(self) ? self : NULL;
}

/* The thread as one that waits on this port, if it does and may do all that its port does. */
static inline struct waiter *waiter_here(struct port *self) {
    return current && current->belongs == self->queue->serial && !holds_lock() ? current : NULL;
}

/* Calls the Python form of a method, with the arguments of this one (port.c). */
PyObject *call_slow(PyObject *port, PyObject *function, PyObject *const *args, Py_ssize_t count, PyObject *names);

/* A number of seconds, negative for None. Returns 0, perhaps with an exception, for what is Python's to take or refuse. */
static inline int read_seconds(PyObject *given, double *seconds) {
    *seconds = given == Py_None ? -1 : PyFloat_CheckExact(given) || PyLong_CheckExact(given) ? PyFloat_AsDouble(given) : NAN;
    return given == Py_None || *seconds >= 0;
}

/* A number above all before it, by which operations are ordered. */
Py_ssize_t next_sequence(void);

/* Calls a method of the port, or of another object, and drops the result. Returns -1 with an exception if it fails. */
int call_port(struct port *self, PyObject *method, PyObject *a, PyObject *b, PyObject *c);
int call(PyObject *object, PyObject *method);

/* Room for a call, which gives it back; NULL with an exception if there is no memory. A port keeps one, and seldom needs
 * another: where two threads start what was gathered at once, or one in the middle of another call. */
struct room *take_room(struct port *self);
void give_back_room(struct port *self, struct room *room);

/* Directions (direction.c); the caller holds the handle's lock. */

void direction_append(struct direction *direction, PyObject *operation);
void direction_remove(struct direction *direction, PyObject *operation);

/* Puts an operation back where it was, in the order of submission. */
void direction_restore(struct direction *direction, PyObject *operation);

/* Makes this thread the owner of a direction that is worth an attempt, as an event says, like EngineHandle.own. */
int own_locked(PyObject *handle, struct direction *direction);

/* Sockets (sockets.c) */

/* The socket object of a connection that a listener has accepted, as made_socket makes it; NULL where it does not, without
 * an exception where Python is to do it. The number stays the caller's until it has. */
PyObject *socket_accepted(PyObject *listener, int number);

/* Whether a socket object is seen to have no time-out but zero, by which it doesn't block; or else its method tells. */
int socket_is_unblocked(PyObject *socket);

/* Closes a socket object as its method does. Returns -1 with what that raises. */
int socket_close(PyObject *socket);

/* Looking for what was closed behind the port's back (sweep.c) */

extern PyTypeObject *file_type; /* io.FileIO */

/* Whether no handle was. Where there are many, or it takes code of the program's, that is left to Python: then this says
 * what leads there. */
int all_stand(struct port *self);

/* Whether there is nothing that Python has to look at every now and then, as FIFOs may be, nor many handles, which it looks
 * at for no more than a share of the time. */
int has_open_sockets_only(struct port *self);

/* Attempts (calls.c) */

/* Whether an operation of a handle is plain: it accepts; or it receives, or sends, some bytes and not too many. */
int is_plain(PyObject *handle, PyObject *operation, enum kind kind);

/* Finds what an attempt of an operation needs. Returns 0 where that is not for C, and leaves the attempt as it is. */
int prepare_operation(struct attempt *attempt, PyObject *handle, PyObject *operation);

/* Makes the system calls. */
void perform(struct attempt *attempts, int count);

/* Attempts (attempts.c) */

/* Makes an attempt of the first operation of a direction that this thread owns. Returns 0 where that is not for C. */
int prepare(struct port *self, struct attempt *attempt, PyObject *handle, struct direction *direction);

/* Makes the attempts and those that follow them, or requests them of a ring, and acts on what comes of them. */
void start_attempts(struct port *self, struct attempt *attempts, int count, PyObject **kept);

/* Requests an attempt of the first operation of a direction that this thread owns, with the handle's lock held. Returns what
 * it is cancelled by; 0, perhaps with an exception, where that is not for C, or the ring is full. */
unsigned long long request_first_locked(struct port *self, PyObject *handle, struct direction *direction);

/* Whether directions have had their attempts, and wait for the next turn. */
int has_backlog(const struct port *self);

/* Attempts those; there is room for so many attempts, and the others stay. */
void start_backlog(struct port *self, struct attempt *attempts, int room, PyObject **kept);

/* Acts on the results of attempts that a ring has made, and requests those that follow them. */
void settle_requests(struct port *self, struct attempt *attempts, int count, PyObject **kept);

/* Attempts an operation that was just linked, and nothing else. Returns whether it has succeeded and queues nothing. */
int attempt_at_once(struct port *self, PyObject *handle, struct direction *direction);

/* For polls.c: queues an operation that has succeeded, under the handle's lock; leaves a direction to the leader, but for 0,
 * which says that there is no memory and it is this thread's; drops what an attempt has. */
int succeed(struct port *self, PyObject *operation);
int leave_to_leader(struct port *self, struct attempt *a, PyObject **kept);
void drop_attempt(struct attempt *a);

/* Polls (polls.c) */

int is_direction_of_polls(PyObject *handle, const struct direction *direction);

/* NULL where polls have none yet, as Python makes it. */
struct direction *direction_of_polls(PyObject *handle);

/* As prepare does it, of that direction. */
int prepare_polls(struct attempt *attempt, PyObject *handle, struct direction *direction);

/* What poll(2) tells, or -1 and errno. */
int poll_once(int number, size_t wanted);

/* Acts on it, or on what a ring has told of a poll. Returns whether there is another attempt of the direction to be made. */
int settle_polls(struct port *self, struct attempt *a, int is_last, PyObject **kept);

/* Starts what this thread has gathered, or what all have; that, any thread may do. */
int start_own_gathered(struct port *self, const struct waiter *waiter);
int start_gathered(struct port *self);

/* Harvesting (harvest.c) */

/* Starts what one thread has gathered, or all, by a thread that does not go on to take what comes of it. */
int start_for_others(struct port *self);

/* Waits for events, or results, and acts on them. Returns whether there were any, or -1 with an exception. */
int harvest(struct port *self, int timeout_ms);

/* Hearing of signals (hearing.c): what is between these two is a sleep of the main thread. The first returns -1 with what a
 * signal handler raises, and ends with the second all the same. */

static inline int hears(struct waiter *waiter) { return waiter && PEEK(waiter->hears) && !PEEK(waiter->heard); }

int begin_hearing(struct port *self, struct waiter *waiter);
int end_hearing(struct port *self, struct waiter *waiter);

/* The methods that have files of their own (submitting.c, waiting.c) */

PyObject *port_submit(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *port_wait(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names);

/* Joining and leaving a port (association.c) */

/* Makes a plain socket join, and returns its handle. Returns NULL, without an exception, where that is not for C, or has
 * failed: Python then says how. */
PyObject *associate(struct port *self, PyObject *socket, PyObject *key);

/* An exception that one step raised, a signal handler's say, must not keep the others from being done. */
void keep_first(PyObject **kept);
int raise_kept(PyObject *kept);

#endif
