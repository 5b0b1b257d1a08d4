/* What the files of unio._core share. */
#ifndef UNIO_CORE_H
#define UNIO_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>

/* Keeps other threads out of the fields of an object that the program may read and write in any thread at any time. In
 * there, nothing is called. Where Python has a lock of its own, that does. */
#ifdef Py_GIL_DISABLED
#define BEGIN_SECTION(object) Py_BEGIN_CRITICAL_SECTION(object)
#define END_SECTION() Py_END_CRITICAL_SECTION()
#else
#define BEGIN_SECTION(object) ((void)(object))
#define END_SECTION() ((void)0)
#endif

struct lock {
    PyObject_HEAD
    int held;          /* how often its owner has taken it */
    const void *owner; /* what only the thread that holds it has */
#ifdef Py_GIL_DISABLED
    PyMutex mutex;
#else
    int sleepers;
#endif
};

/* A thread that has to wait gives Python's lock up meanwhile. */
void lock_acquire(PyObject *lock);
void lock_release(PyObject *lock);
void lock_forked(void);

/* Whether the calling thread holds one: then what the program asks for has to be put off. */
int holds_lock(void);

/* A queue: the packets are from head on, round the end of the ring. */
struct packets {
    PyObject_HEAD
    PyObject **ring; /* NULL while it is empty, perhaps */
    size_t mask, head, count;
};

static inline Py_ssize_t packets_count(const PyObject *packets) {
    return (Py_ssize_t)((const struct packets *)packets)->count;
}

int packets_append(PyObject *packets, PyObject *packet);
int packets_appendleft(PyObject *packets, PyObject *packet);
/* NULL, without an exception, if there is none; the first is a borrowed reference, to a packet that stays. */
PyObject *packets_popleft(PyObject *packets);
PyObject *packets_first(PyObject *packets);

/* A lane, as lanes.py says; first and last are NULL, or None, if it has no operation. */
struct lane {
    PyObject_HEAD
    PyObject *first, *last;
    unsigned long long request;
    char ready, active, resting, drained;
};

/* Who an accepted connection is with. */
struct peer {
    struct sockaddr_storage address;
    socklen_t size;
};

enum kind { NEITHER = -1, RECV, SEND, ACCEPT };

/* A try of the first operation of a lane. */
struct attempt {
    PyObject *handle, *operation, *memory; /* what holds the memory that the kernel may read or write */
    struct lane *lane;
    const int *number; /* where the socket object keeps its descriptor: -1 once it is closed */
    char *data;
    size_t size, done;
    Py_ssize_t result; /* a count, or -errno */
    struct peer *peer;  /* of an accept: who it is */
    PyObject *accepted; /* its socket */
    char kind;
    char skips; /* it is tried within submit, and queues nothing if it succeeds there */
    char skipped;
    char more; /* to receive: as far as a ring tells */
};

/* Sockets (sockets.c) */

extern PyTypeObject *socket_type; /* socket.socket; NULL until it is known where its objects keep their descriptors */

/* Where a socket object keeps its descriptor, which is -1 once it is closed. */
static inline const int *number_at(PyObject *socket) { return (const int *)((char *)socket + sizeof(PyObject)); }

static inline int is_socket(PyObject *object) { return socket_type && PyObject_TypeCheck(object, socket_type); }

struct spin;

/* What a ring does for the hot path. Those that enter the kernel give Python's lock up: the first, if it has no room for
 * so many attempts, the second, if anything is gathered, and the third. */
void ring_make_room(PyObject *ring, unsigned attempts);
void ring_submit_gathered(PyObject *ring);
unsigned ring_wait_ms(PyObject *ring, int timeout_ms, struct spin *spin);
/* Prepares a request, which takes over the references of the attempt. Returns what it is cancelled by; 0 if it fails. */
unsigned long long ring_attempt(PyObject *ring, const struct attempt *attempt, int poll_first);
int ring_take_attempts(PyObject *ring, struct attempt *attempts, int most);
int ring_has_results(PyObject *ring);
unsigned ring_take_some(PyObject *ring);

extern PyType_Spec lock_spec, packets_spec, lane_spec, hot_path_spec, fast_port_spec, ring_spec;
extern PyType_Spec operation_spec, buffered_spec, recv_spec, send_spec, accept_spec, completion_spec;
extern PyMethodDef lock_functions[], socket_functions[], class_functions[], association_functions[];

#endif
