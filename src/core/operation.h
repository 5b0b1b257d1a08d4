/* Operations: what each keeps. operation.c has those that all are, buffers.c those with a buffer.
 *
 * Who may touch what: the links and the status of an operation are guarded by the lock of its handle. The status and the
 * count can be looked at without. Everything else, any thread of the program may read and write at any time; so each
 * access to one of these objects goes through the functions below, or is made where Python's lock keeps the others out.
 * What is dropped may run any code, so that is done behind it, where no lock is held.
 */
#ifndef UNIO_OPERATION_H
#define UNIO_OPERATION_H

#include "fields.h"

/* Where an operation is in its cycle; operation_state.py says what each means. */
enum status { IDLE, PENDING, QUEUED };

struct operation {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *handle, *key, *state; /* NULL until __init__ has been called */
    PyObject *error, *verdict, *expiry, *native; /* these and the next two are None where there is none */
    PyObject *next, *previous;
    long long transferred;
    Py_ssize_t sequence;
    unsigned char status; /* an enum status */
    signed char kind;     /* an enum kind, by the class: see state_new */
};

/* An operation with a buffer. */
struct buffered {
    struct operation operation;
    PyObject *views;  /* a tuple of memoryviews, or None while a receive's own buffer has none */
    PyObject *buffer; /* NULL until __init__ has been called */
    Py_ssize_t size;  /* of the views, in bytes */
    char grows;       /* of a receive: whether the buffer is its own */
};

/* A receive of datagrams. Of the sender of the last it has an address or, until somebody asks for that, what the kernel has
 * said; neither until __init__ has been called. */
struct recv_from {
    struct buffered buffered;
    PyObject *address;
    struct peer sender;
    char is_told; /* whether the sender is what counts */
};

/* A send of datagrams, with its address in both forms; of the kernel's the size is 0 where it is not known. */
struct send_to {
    struct buffered buffered;
    PyObject *address;
    struct peer receiver;
};

/* What a poll waits for, and what it has found: as unio.Readiness and as its number, -1 where that was not found by C. */
struct poll {
    struct operation operation;
    PyObject *readiness, *found;
    unsigned long long request; /* what a ring knows it by, as long as *native* is True */
    signed char wanted, told;
};

/* Of its peer it has an address or, until somebody asks for that, what the kernel has said; neither until __init__ has been
 * called. */
struct accept {
    struct operation operation;
    PyObject *socket, *address;
    struct peer *peer;
};

static inline struct operation *OP(PyObject *operation) { return (struct operation *)operation; }
static inline struct buffered *BUFFERED(PyObject *operation) { return (struct buffered *)operation; }
static inline struct recv_from *RECEIVING(PyObject *operation) { return (struct recv_from *)operation; }
static inline struct send_to *SENDING(PyObject *operation) { return (struct send_to *)operation; }
static inline struct poll *POLLING(PyObject *operation) { return (struct poll *)operation; }
static inline struct accept *ACCEPTING(PyObject *operation) { return (struct accept *)operation; }

extern PyTypeObject *operation_type; /* OperationState, of the copy of the package that C serves; see claim */

/* What an operation is to C: ACCEPT has a struct accept, POLL a struct poll, and the others begin with a struct buffered; RECV_FROM has a struct
 * recv_from, and SEND_TO has a struct send_to. */
static inline enum kind kind_in(PyObject *operation) { return (enum kind)OP(operation)->kind; }

/* The same of any object of the program's. */
static inline enum kind kind_of(PyObject *object) {
    return operation_type && PyObject_TypeCheck(object, operation_type) ? kind_in(object) : NEITHER;
}

static inline enum status status_of(PyObject *operation) {
    return (enum status)__atomic_load_n(&OP(operation)->status, __ATOMIC_ACQUIRE);
}

/* Idle comes last of all that is done to an operation: from there on another thread may submit it again. */
static inline void set_status(PyObject *operation, enum status status) {
    __atomic_store_n(&OP(operation)->status, (unsigned char)status, __ATOMIC_RELEASE);
}

/* Begins a flight, unless the operation is on one: of two threads that try, one succeeds. */
static inline int begin_flight(PyObject *operation) {
    unsigned char idle = IDLE;
    return __atomic_compare_exchange_n(&OP(operation)->status, &idle, PENDING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* How many bytes an operation has transferred. */
static inline long long transferred_of(PyObject *operation) {
#ifdef Py_GIL_DISABLED
    return __atomic_load_n(&OP(operation)->transferred, __ATOMIC_RELAXED);
#else
    return OP(operation)->transferred;
#endif
}

static inline void set_transferred(PyObject *operation, long long count) {
#ifdef Py_GIL_DISABLED
    __atomic_store_n(&OP(operation)->transferred, count, __ATOMIC_RELAXED);
#else
    OP(operation)->transferred = count;
#endif
}

/* What every class of states has (operation.c); the others add their own fields. */
PyObject *state_new(PyTypeObject *type, enum kind kind);
int state_traverse(PyObject *operation, visitproc visit, void *arg);
int state_clear(PyObject *operation);
void state_dealloc(PyObject *operation, inquiry clear);

/* Begins the life of an operation, or begins it anew. */
int state_prepare(PyObject *operation, PyObject *handle, PyObject *key, PyObject *state);

static inline int operation_is_idle(PyObject *operation) { return status_of(operation) == IDLE; }

/* Raises InFlight for an operation that is; -1 if it has. */
int must_be_idle(PyObject *operation);

/* Has a method of its class in unio.operations do what an attribute is set to, with all checks. */
int set_in_python(PyObject *operation, const char *method, PyObject *value, const char *attribute);

/* A new reference, or AttributeError as a slot of Python's raises it. */
PyObject *field_or_error(PyObject *operation, PyObject **field, const char *name);

/* Awaiting one (task.c); in a task, C does so from when it knows what it makes for that. */
PyObject *operation_await(PyObject *operation);
int know_awaiting(void);

/* Gives an accept what the kernel has said of its peer. Returns what it had of the former one, which is the caller's to free,
 * and in *address its address, to drop where no lock is held. */
struct peer *exchange_peer(PyObject *operation, struct peer *peer, PyObject **address);

/* Has an operation with a buffer, which is idle, take one that is bytes, of which no view is made. */
void take_bytes(PyObject *operation, PyObject *bytes);

/* What holds the memory of an operation with a buffer, and its size; NULL if that is more than one call takes. *data is where
 * it is, or NULL where it is in several pieces: then what is returned is a tuple of memoryviews. */
PyObject *memory_of(PyObject *operation, char **data, Py_ssize_t *size);

/* Where the bytes of a tuple of memoryviews are, up to *most* after the first *done*, in up to *room* pieces. Returns how
 * many that makes. */
int pieces_of(PyObject *views, size_t done, size_t most, struct iovec *vector, int room);

/* Makes an operation with a buffer, where that is a few fields to fill. Returns 0 where it is for its class in operations.py,
 * and -1 with an exception. */
int buffered_make_usual(PyObject *operation, PyObject *handle, PyObject *buffer, PyObject *state);
PyObject *buffered_made(PyTypeObject *type, enum kind kind);
int buffered_traverse(PyObject *operation, visitproc visit, void *arg);
int buffered_clear(PyObject *operation);

/* Notes whom a datagram has come from (datagrams.c). Returns what the operation had of the last, to drop where no lock is
 * held. */
PyObject *exchange_sender(PyObject *operation, const struct message *message);

/* Fills in where a datagram goes. Returns 0 where only Python knows. */
int read_receiver(PyObject *operation, PyObject *handle, struct message *message);

#endif
