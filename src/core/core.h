/* What the files of unio._core share. */
#ifndef UNIO_CORE_H
#define UNIO_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* What only one thread at a time does, in a few instructions that run none of the program's code and make no system call.
 * Python's lock keeps the others out where there is one. */
#ifdef Py_GIL_DISABLED
typedef PyMutex mutex;
#define mutex_unlock(mutex) PyMutex_Unlock(mutex)

/* Tells the processor that a loop does nothing but look. */
#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("isb" ::: "memory")
#else
#define RELAX() ((void)0)
#endif

#define LOOKS_MAX 100 /* about a microsecond */

/* CPython's own mutex makes a system call as soon as it is taken, to let others run. Whoever has one of ours gives it back
 * sooner than that call returns. */
static inline void mutex_lock(mutex *mutex) {
    for (int i = 0; i < LOOKS_MAX && __atomic_load_n(&mutex->_bits, __ATOMIC_RELAXED); i++)
        RELAX();
    PyMutex_Lock(mutex);
}
#else
typedef struct {
    char none;
} mutex;
#define mutex_lock(mutex) ((void)(mutex))
#define mutex_unlock(mutex) ((void)(mutex))
#endif

/* The C library of GNU has room for a little more of what is each thread's own, which is then found without a call. */
#ifdef __GLIBC__
#define INITIAL_EXEC __attribute__((tls_model("initial-exec")))
#else
#define INITIAL_EXEC
#endif

/* A field that any thread may look at, with no lock: what it says may be over by then. */
#define PEEK(field) \
    __extension__({ \
        __typeof__(field) peeked; \
        __atomic_load(&(field), &peeked, __ATOMIC_RELAXED); \
        peeked; \
    })
#define POKE(field, value) \
    __extension__({ \
        __typeof__(field) poked = (__typeof__(field))(value); \
        __atomic_store(&(field), &poked, __ATOMIC_RELAXED); \
    })

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

/* What a dict has for a key, or NULL, perhaps with an exception. The reference is the caller's. */
static inline PyObject *dict_get(PyObject *dict, PyObject *key) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *found;
    PyDict_GetItemRef(dict, key, &found);
    return found;
#else
    return Py_XNewRef(PyDict_GetItemWithError(dict, key));
#endif
}

/* What a weak reference refers to, or NULL. The reference is the caller's. */
static inline PyObject *reference_get(PyObject *reference) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object;
    return PyWeakref_GetRef(reference, &object) < 0 ? (PyErr_Clear(), NULL) : object;
#else
    PyObject *object = PyWeakref_GetObject(reference);
    return object == Py_None ? NULL : Py_XNewRef(object);
#endif
}

struct direction;

/* Who an accepted connection is with. */
struct peer {
    struct sockaddr_storage address;
    socklen_t size;
};

enum kind { NEITHER = -1, RECV, SEND, ACCEPT, RECV_FROM, SEND_TO, POLL };

static inline int receives(enum kind kind) { return kind == RECV || kind == RECV_FROM; }
static inline int sends(enum kind kind) { return kind == SEND || kind == SEND_TO; }

/* What a call is told where one buffer does not say it all: of datagrams, and where there are several buffers. */
struct message {
    struct msghdr header;
    struct sockaddr_storage address; /* whom it comes from, or goes to */
    socklen_t address_size;          /* of an accepted peer's, where Python has requested that */
    size_t done, size;               /* of an attempt whose request this is with */
    struct iovec vector[];
};

/* An attempt of the first operation of a direction. */
struct attempt {
    PyObject *handle, *operation, *memory; /* what holds the memory that the kernel may read or write */
    struct direction *direction;
    const int *number; /* where the socket object keeps its descriptor: -1 once it is closed */
    char *data;
    size_t size, done; /* of polls the size is what they wait for: see polls.c, which also makes those without an operation */
    Py_ssize_t result; /* a count, or -errno */
    struct peer *peer;  /* of an accept: who it is */
    PyObject *accepted; /* its socket; or something to be dropped where no lock is held */
    struct message *message; /* NULL where one buffer says it all */
    char kind;
    char follows; /* another one of this direction, at once */
    char skips; /* it is attempted within submit, and queues nothing if it succeeds there */
    char skipped;
    char more; /* to receive: as far as a ring tells */
    char by_call; /* also where there is a ring */
};

/* Numbers that Python says, each where its own module has it (classes.c). */
extern struct constants {
    unsigned takes_max;      /* packets that are taken before the kernel is asked again */
    double quick_seconds;    /* for each packet: a turn that takes less is a quick one */
    double pace_max;         /* how many times that a turn counts for at most */
    double pace_weight;      /* of the last turn, in the pace of a thread */
    Py_ssize_t slow_limit;   /* of the packets that a thread which isn't quick takes at a time */
    double run_seconds;      /* how long a quick thread is waited for */
    double ask_seconds;      /* how soon after the first of them it is asked again */
    double sweep_seconds;    /* how soon Python is let look for handles that were closed behind the port's back */
    double lock_seconds_max; /* the longest wait for a lock */
    Py_ssize_t vector_max;   /* buffers of one call */
    int attempts_max;        /* of a direction in one go; so often what has ended in a ring is looked for, too */
    Py_ssize_t limit;        /* of the completions of one wait, unless told */
    Py_ssize_t sweep_freely; /* handles up to which they are looked at whenever a wait ends with nothing */
    Py_ssize_t send_max;     /* bytes; what is larger goes in parts */
    Py_ssize_t buffer_min;   /* bytes that a receive's own buffer has at first */
} constant;

/* The names of what is called, made once: a string that is made for each call costs more than some of the calls. */
extern struct names {
    PyObject *run, *run_on, *resume, *event, *fileno, *lead, *close_kernel_once, *release, *empty, *leave, *look_again,
        *act_on_results, *append, *close_signal_pipe, *forward_no_more, *forward_to, *timeout, *limit, *key, *gettimeout,
        *close, *slow_close, *state, *buffer,
        *init, *socket, *address, *popleft;
} name;

/* Sockets (sockets.c) */

extern PyTypeObject *socket_type; /* socket.socket; NULL until it is known where its objects keep their descriptors */

/* Where a socket object keeps its descriptor, which is -1 once it is closed. */
static inline const int *number_at(PyObject *socket) { return (const int *)((char *)socket + sizeof(PyObject)); }

static inline int number_in(PyObject *socket) { return __atomic_load_n(number_at(socket), __ATOMIC_RELAXED); }

static inline int is_socket(PyObject *object) { return socket_type && PyObject_TypeCheck(object, socket_type); }

/* Signals (signals.c) */

/* In a forked child: what the kernel does for each is the program's again. */
void signals_forked(void);

struct spin;

/* What a ring does for a port. Those that enter the kernel give Python's lock up: the first, if it has no room for
 * so many attempts, the second, if anything is gathered, and the third. */
void ring_make_room(PyObject *ring, unsigned attempts);
void ring_submit_gathered(PyObject *ring);
unsigned ring_wait_ms(PyObject *ring, int timeout_ms, struct spin *spin);
/* Prepares a request, which takes over the references of the attempt. Returns what it is cancelled by; 0 if it fails, or,
 * without an exception, if the ring is full. */
unsigned long long ring_attempt(PyObject *ring, const struct attempt *attempt, int poll_first);
int ring_take_attempts(PyObject *ring, struct attempt *attempts, int most);
int ring_has_results(PyObject *ring);
unsigned ring_take_some(PyObject *ring);

extern PyType_Spec lock_spec, queue_spec, waiter_spec, direction_spec, handle_spec, port_spec, ring_spec;
extern PyType_Spec deadline_spec, deadlines_spec, task_spec;
extern PyType_Spec operation_spec, buffered_spec, recv_spec, send_spec, recv_from_spec, send_to_spec, accept_spec, poll_spec;
extern PyType_Spec completion_spec;
extern PyMethodDef lock_functions[], socket_functions[], class_functions[], association_functions[], task_functions[];
extern PyMethodDef signal_functions[], handle_functions[], turns_functions[], stream_functions[];
extern PyType_Spec turns_spec;

/* The exception that is set, with its traceback; no more set (task.c). */
PyObject *take_raised(void);

#endif
