/* The hot path of submit and wait, for ports that emulate completion over readiness.
 *
 * What is plain goes through here: a receive or a send with one buffer, on a stream socket, that nothing stands before.
 * Everything else is left to the Python that it is a short form of (queued_port.py, emulation.py, attempts.py), also in
 * the middle: each function here does what its namesake there would do, or hands over to it. So there is one emulation,
 * and its objects are Python's own: this file reads and writes the slots of their classes, at the offsets that the
 * classes themselves tell. The rules are those of lanes.py: who changes a lane holds the lock of its handle, and who
 * tries its first operation owns it.
 *
 * What it gains besides: the sends and receives that a thread submits between two waits are gathered, and tried in one
 * go at the next, and those that an epoll_wait has found are tried in one go as well, all of them without Python's lock.
 */
#include "core.h"

/* Where Python has no lock of its own, that does not keep other threads from what is read and written here. There, the
 * Python form does all the work. */
#ifndef Py_GIL_DISABLED

#include <errno.h>
#include <stddef.h>
#include <structmember.h> /* PyMemberDef, until Python 3.12 */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define EVENTS_MAX 256   /* fetched by one call at most; more of them wait in the kernel for the next */
#define GATHERED_MAX 256 /* so many are started at once: the first should not wait for a long time */
#define SWEEP_MS 50      /* how soon Python is let look for handles that were closed behind the port's back */
#define LIMIT 64         /* of the completions of one wait, unless told; port.py says the same */
#define ARGUMENTS_MAX 8  /* no method has more */
#define TAKES_MAX 256    /* packets taken before the kernel is asked again; queued_port.py says the same */
#define SEND_MAX (256 * 1024) /* bytes; what is larger goes in parts, as attempts.py says */

/* The classes, and where their instances keep what is used here. */

static PyTypeObject *recv_type, *send_type, *handle_type, *completion_type;
static PyObject *idle, *pending, *queued, *open_life, *slow_set_buffer;

static struct {
    Py_ssize_t handle, key, transferred, error, status, next, previous, sequence, expiry, verdict, native;
    Py_ssize_t views, size, buffer, grows;
    Py_ssize_t skips, lock, life, incoming, outgoing, readiness, running, serial, shows_drained, ended, socket, hot_path;
    Py_ssize_t active, first, last, ready, resting, request, drained;
    Py_ssize_t place, places;
} at;

/* The names of what is called, made once: a string that is made for each call costs more than some of the calls. */
static struct {
    PyObject *run, *run_on, *resume, *event, *lead, *close_kernel_once, *wake, *pass_on, *release, *complete, *sleeping, *leave,
        *act_on_results;
    PyObject *heap, *coming, *timeout, *limit;
} name;

#define SLOT(object, name) (*(PyObject **)((char *)(object) + at.name))

static inline void put(PyObject **slot, PyObject *value) { /* takes over the reference to the value */
    PyObject *old = *slot;
    *slot = value;
    Py_XDECREF(old);
}

static inline void put_ref(PyObject **slot, PyObject *value) {
    Py_INCREF(value);
    put(slot, value);
}

static inline int add_to(PyObject **slot, Py_ssize_t more) {
    PyObject *sum = PyLong_FromSsize_t(PyLong_AsSsize_t(*slot) + more);
    if (!sum)
        return -1;
    put(slot, sum);
    return 0;
}

/* The thread that runs, as one that has waited on a port; its module (places.py) owns it, and tells of each change. */
static _Thread_local PyObject *here __attribute__((tls_model("initial-exec")));

/* After a fork the child may use nothing of this: each hot path remembers in which process it was made. */
static unsigned generation;

static void forked(void) { generation++, here = NULL; }

struct hot_path {
    PyObject_HEAD
    PyObject *port; /* a weak reference */
    PyObject *queue, *packets, *append, *popleft, *places, *seat, *parked, *table, *backlog, *timers;
    PyObject *slow_submit, *slow_wait;
    PyObject *ring; /* an io_uring in the place of an epoll instance, or NULL */
    double slow_turn; /* when Python led last, which looks after what is seldom */
    struct gathered *gathered; /* lanes that this path owns, and has still to try */
    size_t gathered_count;
    unsigned generation, takes;
    int epoll; /* its descriptor, which Python sets, also when it makes another */
    char closed;
};

struct gathered {
    PyObject *handle, *lane;
};

static inline int usable(struct hot_path *self) { return !self->closed && self->generation == generation; }

static inline int sends(PyObject *operation) { return PyType_IsSubtype(Py_TYPE(operation), send_type); }

static inline int is_hot(PyObject *operation) {
    PyTypeObject *type = Py_TYPE(operation);
    if (type != recv_type && type != send_type && !PyType_IsSubtype(type, recv_type) &&
        !PyType_IsSubtype(type, send_type))
        return 0;
    PyObject *views = SLOT(operation, views); /* absent where a subclass has not called its base's __init__ */
    if (!views || !SLOT(operation, key) || PyTuple_GET_SIZE(views) != 1)
        return 0;
    Py_ssize_t size = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(views, 0))->len;
    return size > 0 && (size <= SEND_MAX || !sends(operation));
}

/* The port, or NULL with an exception where it is gone. */
static PyObject *port_of(struct hot_path *self) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *port;
    PyWeakref_GetRef(self->port, &port);
#else
    PyObject *port = PyWeakref_GetObject(self->port);
    port = port == Py_None ? NULL : Py_NewRef(port);
#endif
    if (!port && !PyErr_Occurred())
        PyErr_SetString(PyExc_ReferenceError, "the port is gone");
    return port;
}

/* Calls a method of the port and drops the result. */
static int call_port(struct hot_path *self, PyObject *method, PyObject *a, PyObject *b, PyObject *c) {
    PyObject *port = port_of(self);
    PyObject *result = port ? PyObject_CallMethodObjArgs(port, method, a, b, c, NULL) : NULL;
    Py_XDECREF(port);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int call(PyObject *object, PyObject *method) {
    PyObject *result = PyObject_CallMethodNoArgs(object, method);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Trying */

/* Makes an attempt of the first operation of a lane that this thread owns. Returns 0 where that is not for this file. */
static int prepare(struct hot_path *self, struct attempt *attempt, PyObject *handle, PyObject *lane) {
    PyObject *operation = SLOT(lane, first);
    if (SLOT(handle, life) != open_life || operation == Py_None || !is_hot(operation))
        return 0;
    Py_buffer *buffer = PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(SLOT(operation, views), 0));
    if (!self->ring)
        put_ref(&SLOT(lane, ready), Py_False);
    attempt->views = self->ring ? Py_NewRef(SLOT(operation, views)) : NULL;
    attempt->handle = Py_NewRef(handle);
    attempt->lane = Py_NewRef(lane);
    attempt->operation = Py_NewRef(operation);
    attempt->number = (const int *)((char *)SLOT(handle, socket) + sizeof(PyObject));
    attempt->sends = (char)sends(operation);
    attempt->skips = attempt->skipped = 0;
    attempt->done = attempt->sends ? (size_t)PyLong_AsSsize_t(SLOT(operation, transferred)) : 0;
    attempt->data = (char *)buffer->buf + attempt->done;
    attempt->size = (size_t)buffer->len - attempt->done;
    return 1;
}

/* Makes the system calls. The descriptor is looked up right before each, as Python's own sockets do. */
static void perform(struct attempt *attempts, int count) {
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        do {
            int number = __atomic_load_n(a->number, __ATOMIC_RELAXED);
            a->result = a->sends ? send(number, a->data, a->size, MSG_DONTWAIT | MSG_NOSIGNAL)
                                 : recv(number, a->data, a->size, MSG_DONTWAIT);
        } while (a->result < 0 && errno == EINTR);
        if (a->result < 0)
            a->result = -errno;
    }
}

/* Queues an operation that has succeeded, as CompletionQueue.complete does. */
static int complete(struct hot_path *self, PyObject *operation) {
    PyObject *result;
    if (SLOT(operation, expiry) != Py_None || self->closed) {
        result = PyObject_CallMethodObjArgs(self->queue, name.complete, operation, Py_None, NULL);
    } else {
        put_ref(&SLOT(operation, error), Py_None);
        put_ref(&SLOT(operation, native), Py_None);
        put_ref(&SLOT(operation, status), queued);
        result = PyObject_CallOneArg(self->append, operation);
    }
    Py_XDECREF(result);
    return result ? 0 : -1;
}

enum next { OVER, RUN_ON, JUDGE };

/* Acts on the result of an attempt, under the handle's lock. Says what is left to do without it. */
static enum next settle_locked(struct hot_path *self, struct attempt *a, int *failed) {
    PyObject *operation = a->operation, *lane = a->lane, *handle = a->handle;
    int drained = 0, done = a->result >= 0 && (!a->sends || (size_t)a->result == a->size);
    if (self->ring) {
        put(&SLOT(lane, request), PyLong_FromLong(0));
        put_ref(&SLOT(lane, drained), a->more || a->result == 0 ? Py_False : Py_True);
    }
    if (done) {
        PyObject *transferred = PyLong_FromSsize_t((Py_ssize_t)a->done + a->result);
        if (!transferred)
            return JUDGE;
        put(&SLOT(operation, transferred), transferred);
        /* attempts.py says why a receive that came up short shows that the socket is empty */
        drained = !a->sends && a->result > 0 && (size_t)a->result < a->size && SLOT(handle, shows_drained) == Py_True &&
                  SLOT(handle, ended) != Py_True;
        if (!drained)
            put_ref(&SLOT(lane, ready), Py_True);
        PyObject *following = SLOT(operation, next);
        if (following == Py_None)
            put_ref(&SLOT(lane, last), Py_None);
        else
            put_ref(&SLOT(following, previous), Py_None);
        put_ref(&SLOT(lane, first), following);
        put_ref(&SLOT(operation, next), Py_None);
        if (a->skips && SLOT(operation, expiry) == Py_None) {
            put_ref(&SLOT(operation, native), Py_None);
            put_ref(&SLOT(operation, status), idle);
            a->skipped = 1;
        } else {
            *failed |= complete(self, operation) < 0;
        }
        if (SLOT(lane, first) != Py_None && SLOT(lane, ready) == Py_True && SLOT(handle, life) == open_life)
            return RUN_ON;
    } else if (a->result != -EAGAIN || SLOT(operation, verdict) != Py_None || SLOT(lane, ready) == Py_True) {
        return JUDGE;
    }
    put_ref(&SLOT(lane, active), Py_False);
    *failed |= add_to(&SLOT(handle, running), -1) < 0;
    return OVER;
}

static void drop(struct attempt *a) {
    Py_DECREF(a->handle);
    Py_DECREF(a->lane);
    Py_DECREF(a->operation);
    Py_XDECREF(a->views);
}

static int settle(struct hot_path *self, struct attempt *a) {
    int failed = 0;
    lock_acquire(SLOT(a->handle, lock));
    enum next next = settle_locked(self, a, &failed);
    lock_release(SLOT(a->handle, lock));
    if (next == RUN_ON) {
        failed |= call_port(self, name.run, a->handle, a->lane, NULL) < 0;
    } else if (next == JUDGE) {
        PyObject *result = PyLong_FromSsize_t(a->result);
        failed |= !result || call_port(self, name.run_on, a->handle, a->lane, result) < 0;
        Py_XDECREF(result);
    } else if (SLOT(a->handle, life) != open_life) {
        failed |= call(a->handle, name.release) < 0;
    }
    drop(a);
    return failed ? -1 : 0;
}

/* An exception that one step raised, a signal handler's say, must not keep the others from being done. */
static void keep_first(PyObject **kept) {
    if (!*kept) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, kept, &traceback);
        PyErr_NormalizeException(&type, kept, &traceback);
        if (traceback)
            PyException_SetTraceback(*kept, traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    } else {
        PyErr_WriteUnraisable(NULL);
    }
}

static int raise_kept(PyObject *kept) {
    if (!kept)
        return 0;
    PyErr_SetObject((PyObject *)Py_TYPE(kept), kept);
    Py_DECREF(kept);
    return -1;
}

/* Acts on a row of attempts; then lets parked threads have what came of it, as far as they may run. */
static void settle_all(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    for (int i = 0; i < count; i++) {
        if (settle(self, &attempts[i]) < 0)
            keep_first(kept);
    }
    for (int i = 0; i < count && PyList_GET_SIZE(self->parked) && PyObject_Size(self->packets) > 0; i++) {
        if (call(self->queue, name.wake) < 0)
            keep_first(kept);
    }
}

static void make_attempts(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    Py_BEGIN_ALLOW_THREADS
    perform(attempts, count);
    Py_END_ALLOW_THREADS
    settle_all(self, attempts, count, kept);
}

/* Prepares a request for each of a row of attempts; the next time that somebody enters the ring, the kernel has them.
 * Once there is room, this keeps Python's lock, so that nobody ends such an operation in the middle. */
static void request_attempts(struct hot_path *self, struct attempt *attempts, int count, PyObject **kept) {
    ring_make_room(self->ring, (unsigned)count);
    for (struct attempt *a = attempts; a < attempts + count; a++) {
        PyObject *request = NULL;
        if (SLOT(a->operation, verdict) == Py_None && SLOT(a->handle, life) == open_life)
            request = ring_attempt(self->ring, a, SLOT(a->lane, drained) == Py_True);
        if (request) {
            put(&SLOT(a->lane, request), request);
        } else {
            if (PyErr_Occurred())
                keep_first(kept);
            if (call_port(self, name.run, a->handle, a->lane, NULL) < 0)
                keep_first(kept);
            drop(a);
        }
    }
}

/* Submitting */

/* Tries what was gathered. Any thread may do it. */
static int start_gathered(struct hot_path *self) {
    PyObject *kept = NULL;
    while (self->gathered_count) {
        struct attempt attempts[GATHERED_MAX];
        struct gathered taken[GATHERED_MAX];
        size_t count = self->gathered_count;
        int prepared = 0;
        memcpy(taken, self->gathered, count * sizeof *taken);
        self->gathered_count = 0;
        for (size_t i = 0; i < count; i++) {
            if (prepare(self, &attempts[prepared], taken[i].handle, taken[i].lane))
                prepared++;
            else if (call_port(self, name.run, taken[i].handle, taken[i].lane, NULL) < 0)
                keep_first(&kept);
            Py_DECREF(taken[i].handle);
            Py_DECREF(taken[i].lane);
        }
        if (!self->ring)
            make_attempts(self, attempts, prepared, &kept);
        else
            request_attempts(self, attempts, prepared, &kept);
    }
    return raise_kept(kept);
}

/* The same by a thread that does not go on to take what comes of it: where nobody is parked, the leader has to. */
static int start_for_others(struct hot_path *self) {
    PyObject *kept = NULL;
    if (!self->gathered_count)
        return 0;
    if (start_gathered(self) < 0)
        keep_first(&kept);
    if (!PyList_GET_SIZE(self->parked) && PyObject_Size(self->packets) > 0 && call(self->queue, name.wake) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}

/* Links an operation into its lane, if nothing stands before it; where that is not for this file, refuses. Says TRY
 * where this thread has become the lane's owner and is not to gather it. */
enum linked { REFUSED, LINKED, TRY };

static enum linked link_locked(struct hot_path *self, PyObject *operation, PyObject *handle, PyObject *lane) {
    if (SLOT(operation, status) != idle || SLOT(handle, life) != open_life || SLOT(lane, first) != Py_None ||
        SLOT(lane, active) != Py_False || SLOT(lane, resting) != Py_False)
        return REFUSED;
    PyObject *zero = PyLong_FromLong(0); /* a small number: it is there */
    put_ref(&SLOT(operation, status), pending);
    put_ref(&SLOT(operation, verdict), Py_None);
    put_ref(&SLOT(operation, error), Py_None);
    put(&SLOT(operation, transferred), zero);
    add_to(&SLOT(handle, serial), 1);
    put_ref(&SLOT(operation, sequence), SLOT(handle, serial));
    put_ref(&SLOT(operation, next), Py_None);
    put_ref(&SLOT(operation, previous), Py_None);
    put_ref(&SLOT(lane, first), operation);
    put_ref(&SLOT(lane, last), operation);
    if (SLOT(lane, ready) == Py_True) {
        put_ref(&SLOT(lane, active), Py_True);
        add_to(&SLOT(handle, running), 1);
        if (SLOT(handle, skips) == Py_True)
            return TRY;
        struct gathered *gathered = &self->gathered[self->gathered_count++];
        gathered->handle = Py_NewRef(handle);
        gathered->lane = Py_NewRef(lane);
    }
    return LINKED;
}

/* Tries an operation that was just linked, and nothing else. Returns whether it has succeeded and queues nothing. */
static int try_at_once(struct hot_path *self, PyObject *handle, PyObject *lane) {
    struct attempt attempt;
    if (!prepare(self, &attempt, handle, lane)) /* the handle was closed in the meantime */
        return call_port(self, name.run, handle, lane, NULL);
    attempt.skips = 1;
    Py_BEGIN_ALLOW_THREADS
    perform(&attempt, 1);
    Py_END_ALLOW_THREADS
    if (settle(self, &attempt) < 0)
        return -1;
    return attempt.skipped;
}

/* Submits an operation that is plain, and says in *skipped whether it has succeeded and queues nothing. */
static int submit_hot(struct hot_path *self, PyObject *operation, int *skipped) {
    if (!usable(self) || !here || SLOT(here, places) != self->places)
        return 0;
    if (!PyType_IsSubtype(Py_TYPE(operation), recv_type) && !PyType_IsSubtype(Py_TYPE(operation), send_type))
        return 0;
    PyObject *handle = SLOT(operation, handle);
    if (!handle || Py_TYPE(handle) != handle_type || SLOT(handle, hot_path) != (PyObject *)self || !is_hot(operation))
        return 0;
    int fills = !sends(operation);
    if (fills && SLOT(operation, grows) == Py_True &&
        PyLong_AsSsize_t(SLOT(operation, transferred)) == PyLong_AsSsize_t(SLOT(operation, size)))
        return 0; /* its buffer was filled: Python gets it a larger one */
    PyObject *lane = fills ? SLOT(handle, incoming) : SLOT(handle, outgoing);
    lock_acquire(SLOT(handle, lock));
    enum linked linked = link_locked(self, operation, handle, lane);
    lock_release(SLOT(handle, lock));
    if (linked == TRY) {
        *skipped = try_at_once(self, handle, lane);
        return *skipped < 0 ? -1 : 1;
    }
    if (linked && self->gathered_count == GATHERED_MAX && start_for_others(self) < 0)
        return -1;
    return linked;
}

/* Calls the Python form of a method, with the arguments of this one. */
static PyObject *call_slow(struct hot_path *self, PyObject *function, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    PyObject *stack[ARGUMENTS_MAX + 1], *result = NULL;
    Py_ssize_t all = count + (names ? PyTuple_GET_SIZE(names) : 0);
    if (all > ARGUMENTS_MAX)
        return PyErr_Format(PyExc_TypeError, "%zd arguments are too many", all);
    stack[0] = port_of(self);
    if (stack[0]) {
        memcpy(stack + 1, args, (size_t)all * sizeof *args);
        result = PyObject_Vectorcall(function, stack, (size_t)count + 1, names);
        Py_DECREF(stack[0]);
    }
    return result;
}

static PyObject *hot_path_submit(struct hot_path *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count == 1 && !names) {
        int skipped = 0, done = submit_hot(self, args[0], &skipped);
        if (done < 0)
            return NULL;
        if (done)
            return PyBool_FromLong(skipped);
    }
    return call_slow(self, self->slow_submit, args, count, names);
}

/* Waiting */

static PyObject *completion_of(PyObject *operation) {
    PyObject *completion = completion_type->tp_alloc(completion_type, 4);
    if (!completion)
        return NULL;
    PyObject *key = SLOT(operation, key); /* a program may have deleted it */
    PyTuple_SET_ITEM(completion, 0, Py_NewRef(key ? key : Py_None));
    PyTuple_SET_ITEM(completion, 1, Py_NewRef(operation));
    PyTuple_SET_ITEM(completion, 2, Py_NewRef(SLOT(operation, transferred)));
    PyTuple_SET_ITEM(completion, 3, Py_NewRef(SLOT(operation, error)));
    put_ref(&SLOT(operation, status), idle); /* last: from here on another thread may submit it again */
    return completion;
}

/* Takes packets out of the queue, as CompletionQueue.take does. */
static PyObject *take(struct hot_path *self, Py_ssize_t limit) {
    PyObject *batch = PyList_New(0);
    while (batch && PyList_GET_SIZE(batch) < limit && PyObject_Size(self->packets) > 0) {
        PyObject *packet = PyObject_CallNoArgs(self->popleft);
        if (!packet) { /* another thread was quicker */
            PyErr_Clear();
            break;
        }
        if (Py_TYPE(packet) != completion_type)
            Py_SETREF(packet, completion_of(packet));
        if (!packet || PyList_Append(batch, packet) < 0)
            Py_CLEAR(batch);
        Py_XDECREF(packet);
    }
    return batch;
}

static PyObject *harvest(struct hot_path *self, int timeout_ms);

static double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The arguments of a wait, where they are plain. */
struct wait {
    double timeout; /* seconds; negative for ever */
    double until;   /* when that is over, on the monotonic clock */
    Py_ssize_t limit;
};

static PyObject *time_left(const struct wait *wait) {
    double left = wait->until - monotonic();
    return wait->timeout < 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(left > 0 ? left : 0);
}

/* Whether there is nothing to see to but events: no deadline, no leftovers, and nobody who leads or is parked. */
static int may_lead(struct hot_path *self) {
    PyObject *heap = PyObject_GetAttr(self->timers, name.heap);
    int none = heap && PyList_GET_SIZE(heap) == 0;
    PyErr_Clear();
    Py_XDECREF(heap);
    return none && PyList_GET_SIZE(self->seat) && !PyList_GET_SIZE(self->parked) &&
           PyObject_Size(self->backlog) == 0 && monotonic() < self->slow_turn + SWEEP_MS * 1e-3;
}

static int move_item(PyObject *from, PyObject *to) {
    Py_ssize_t size = PyList_GET_SIZE(from);
    return size && !PyList_SetSlice(from, size - 1, size, NULL) && !PyList_Append(to, Py_None);
}

/* Takes a place for the thread, or has Python lead on: to those that came to wait meanwhile goes what they may take. */
static int come_back(struct hot_path *self, PyObject *place, const struct wait *wait) {
    PyObject *coming = PyObject_GetAttr(self->queue, name.coming);
    int others = PyList_GET_SIZE(self->parked) || !coming || PyList_GET_SIZE(coming);
    Py_XDECREF(coming);
    if (others) {
        PyObject *left = time_left(wait);
        int failed = !left || call_port(self, name.lead, here, left, NULL) < 0;
        Py_XDECREF(left);
        return failed ? -1 : 0;
    }
    move_item(self->places, place);
    return PyErr_Occurred() ? -1 : 0;
}

/* One turn of a thread that waits alone, as QueuedPort._lead makes it where may_lead holds. */
static int lead(struct hot_path *self, PyObject *place, const struct wait *wait) {
    if (!PyList_GET_SIZE(self->seat) || PyList_SetSlice(self->seat, 0, 1, NULL) < 0)
        return 0;
    move_item(place, self->places);
    PyObject *found = NULL;
    int most_ms = wait->timeout < 0 || wait->timeout >= SWEEP_MS * 1e-3 ? SWEEP_MS : (int)(wait->timeout * 1e3);
    /* From here on whoever queues a packet interrupts; so look at the queue after this. */
    if (PyObject_SetAttr(self->queue, name.sleeping, Py_True) == 0) {
        int quiet = PyObject_Size(self->packets) == 0 && usable(self);
        found = harvest(self, quiet ? most_ms : 0);
    }
    PyObject *kept = NULL;
    if (!found)
        keep_first(&kept);
    Py_XDECREF(found);
    if (PyObject_SetAttr(self->queue, name.sleeping, Py_False) < 0 || PyList_Append(self->seat, Py_None) < 0 ||
        (self->closed && call_port(self, name.close_kernel_once, NULL, NULL, NULL) < 0))
        keep_first(&kept);
    if (!kept && come_back(self, place, wait) < 0)
        keep_first(&kept);
    return raise_kept(kept);
}

static int read_timeout(struct wait *wait, PyObject *given) {
    if (given == Py_None)
        wait->timeout = -1;
    else if (PyFloat_CheckExact(given) || PyLong_CheckExact(given))
        wait->timeout = PyFloat_AsDouble(given);
    else
        return 0;
    return given == Py_None || (wait->timeout >= 0 && wait->timeout < 1e6);
}

static int read_limit(struct wait *wait, PyObject *given) {
    wait->limit = PyLong_CheckExact(given) ? PyLong_AsSsize_t(given) : -1;
    return wait->limit > 0;
}

static int read_arguments(struct wait *wait, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    int plain = count + named <= 2;
    for (Py_ssize_t i = 0; plain && i < count + named; i++) {
        PyObject *called = i < count ? NULL : PyTuple_GET_ITEM(names, i - count); /* in code, they are interned */
        if (called ? called == name.timeout : i == 0)
            plain = read_timeout(wait, args[i]);
        else
            plain = (!called || called == name.limit) && read_limit(wait, args[i]);
    }
    PyErr_Clear(); /* a number that is too large is for Python to refuse */
    return plain;
}

/* Waits in Python, for what is left of the time. */
static PyObject *wait_slowly(struct hot_path *self, const struct wait *wait) {
    self->slow_turn = monotonic();
    PyObject *args[2] = {time_left(wait), PyLong_FromSsize_t(wait->limit)};
    PyObject *batch = args[0] && args[1] ? call_slow(self, self->slow_wait, args, 2, NULL) : NULL;
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    return batch;
}

/* Takes what there is for this thread to take, as QueuedPort._wait does; an empty list where that is nothing. */
static PyObject *take_hot(struct hot_path *self, PyObject *place, Py_ssize_t limit) {
    if (self->takes >= TAKES_MAX || !usable(self) || PyList_GET_SIZE(place) == 0)
        return PyList_New(0);
    PyObject *batch = take(self, limit);
    if (!batch || PyList_GET_SIZE(batch) == 0)
        return batch;
    self->takes += (unsigned)PyList_GET_SIZE(batch);
    int parked = PyList_GET_SIZE(self->parked) > 0, nobody_leads = PyList_GET_SIZE(self->seat) > 0;
    if ((parked && nobody_leads) || (PyObject_Size(self->packets) > 0 && (parked || !nobody_leads))) {
        if (call(self->queue, name.pass_on) < 0)
            Py_CLEAR(batch);
    }
    return batch;
}

/* Ends a wait with the exception that is set: what this thread had or was to have goes to others. */
static PyObject *give_up(struct hot_path *self) {
    PyObject *kept = NULL;
    keep_first(&kept);
    if (call(here, name.leave) < 0)
        keep_first(&kept);
    if (call(self->queue, name.pass_on) < 0)
        keep_first(&kept);
    raise_kept(kept);
    return NULL;
}

static PyObject *hot_path_wait(struct hot_path *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct wait wait = {-1, 0, LIMIT};
    if (!usable(self) || !here || SLOT(here, places) != self->places || !read_arguments(&wait, args, count, names))
        return call_slow(self, self->slow_wait, args, count, names);
    PyObject *place = SLOT(here, place);
    if (wait.timeout >= 0)
        wait.until = monotonic() + wait.timeout;
    if (self->gathered_count && start_gathered(self) < 0)
        return give_up(self);
    if (PyObject_Size(self->packets) == 0 && may_lead(self) && lead(self, place, &wait) < 0)
        return give_up(self);
    if (self->ring)
        ring_submit_gathered(self->ring);
    /* A signal handler that raises does so as soon as this returns, and what it would return were lost. */
    if (PyErr_CheckSignals() < 0)
        return give_up(self);
    PyObject *batch = take_hot(self, place, wait.limit);
    if (!batch || PyList_GET_SIZE(batch))
        return batch;
    Py_DECREF(batch);
    return wait_slowly(self, &wait);
}

/* Makes this thread the owner of a lane that an event was for, as EmulatedHandle.own does. Returns whether it is. */
static int own(PyObject *handle, PyObject *lane) {
    put_ref(&SLOT(lane, ready), Py_True);
    if (SLOT(lane, first) == Py_None)
        return 0;
    lock_acquire(SLOT(handle, lock));
    int owned = SLOT(lane, first) != Py_None && SLOT(lane, ready) == Py_True && SLOT(lane, active) == Py_False &&
                SLOT(lane, resting) == Py_False && SLOT(handle, life) == open_life;
    if (owned) {
        put_ref(&SLOT(lane, active), Py_True);
        add_to(&SLOT(handle, running), 1);
    }
    lock_release(SLOT(handle, lock));
    return owned;
}

/* Notes which lanes an event makes worth trying; those that this file can try are prepared. */
static int notice(struct hot_path *self, struct epoll_event *event, struct attempt *attempts, PyObject **kept) {
    PyObject *number = PyLong_FromLong(event->data.fd), *handle, *mask;
    int prepared = 0;
    handle = number ? PyDict_GetItemWithError(self->table, number) : NULL;
    if (!handle || Py_TYPE(handle) != handle_type || SLOT(handle, hot_path) != (PyObject *)self) {
        mask = PyLong_FromUnsignedLong(event->events);
        if (!number || !mask || call_port(self, name.event, number, mask, NULL) < 0)
            keep_first(kept);
        Py_XDECREF(number);
        Py_XDECREF(mask);
        return 0;
    }
    Py_DECREF(number);
    Py_INCREF(handle);
    if (event->events & (EPOLLRDHUP | EPOLLPRI))
        put_ref(&SLOT(handle, ended), Py_True);
    int ways[2] = {(event->events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
                   (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0};
    PyObject *lanes[2] = {SLOT(handle, incoming), SLOT(handle, outgoing)};
    for (int i = 0; i < 2; i++) {
        if (!ways[i] || !own(handle, lanes[i]))
            continue;
        if (prepare(self, &attempts[prepared], handle, lanes[i]))
            prepared++;
        else if (call_port(self, name.run, handle, lanes[i], NULL) < 0)
            keep_first(kept);
    }
    PyObject *readiness = SLOT(handle, readiness);
    if (readiness != Py_None && call_port(self, name.resume, handle, readiness, NULL) < 0)
        keep_first(kept);
    Py_DECREF(handle);
    return prepared;
}

/* Enters the ring, which starts what was requested, waits for results and acts on them. */
static PyObject *harvest_ring(struct hot_path *self, int timeout_ms) {
    struct attempt attempts[EVENTS_MAX];
    PyObject *kept = NULL;
    unsigned found = ring_wait_ms(self->ring, timeout_ms);
    int count = EVENTS_MAX;
    self->takes = 0;
    while (count == EVENTS_MAX) {
        count = ring_take_attempts(self->ring, attempts, EVENTS_MAX);
        settle_all(self, attempts, count, &kept);
    }
    if (ring_has_results(self->ring) && call_port(self, name.act_on_results, NULL, NULL, NULL) < 0)
        keep_first(&kept);
    ring_submit_gathered(self->ring); /* what has become the first of its lane */
    if (!kept && PyErr_CheckSignals() < 0)
        keep_first(&kept);
    if (raise_kept(kept) < 0)
        return NULL;
    return PyBool_FromLong(found != 0);
}

/* Waits for events and acts on them. Returns whether there were any. */
static PyObject *harvest(struct hot_path *self, int timeout_ms) {
    if (self->ring)
        return harvest_ring(self, timeout_ms);
    struct epoll_event events[EVENTS_MAX];
    struct attempt attempts[2 * EVENTS_MAX];
    int found, prepared = 0;
    Py_BEGIN_ALLOW_THREADS
    found = epoll_wait(self->epoll, events, EVENTS_MAX, timeout_ms);
    Py_END_ALLOW_THREADS
    self->takes = 0;
    if (found < 0) {
        if (errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
        if (PyErr_CheckSignals() < 0)
            return NULL;
        found = 0;
    }
    PyObject *kept = NULL;
    for (int i = 0; i < found; i++)
        prepared += notice(self, &events[i], &attempts[prepared], &kept);
    make_attempts(self, attempts, prepared, &kept);
    if (raise_kept(kept) < 0)
        return NULL;
    return PyBool_FromLong(found);
}

static PyObject *hot_path_harvest(struct hot_path *self, PyObject *timeout_ms) {
    int most_ms = (int)PyLong_AsLong(timeout_ms);
    return PyErr_Occurred() ? NULL : harvest(self, most_ms);
}

static PyObject *hot_path_start_gathered(struct hot_path *self, PyObject *ignored) {
    (void)ignored;
    if (self->generation == generation && start_for_others(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *hot_path_close(struct hot_path *self, PyObject *ignored) {
    (void)ignored;
    self->closed = 1;
    Py_RETURN_NONE;
}

/* The type */

/* HotPath(port, queue, table, backlog, slow_submit, slow_wait[, ring]) */
static PyObject *hot_path_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)keywords;
    PyObject *port, *queue, *table, *backlog, *slow_submit, *slow_wait, *ring = NULL;
    if (!PyArg_ParseTuple(args, "OOO!OOO|O", &port, &queue, &PyDict_Type, &table, &backlog, &slow_submit, &slow_wait,
                          &ring))
        return NULL;
    struct hot_path *self = (struct hot_path *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->generation = generation;
    self->epoll = -1;
    self->port = PyWeakref_NewRef(port, NULL);
    self->queue = Py_NewRef(queue);
    self->table = Py_NewRef(table);
    self->backlog = Py_NewRef(backlog);
    self->slow_submit = Py_NewRef(slow_submit);
    self->slow_wait = Py_NewRef(slow_wait);
    self->ring = Py_XNewRef(ring);
    self->packets = PyObject_GetAttrString(queue, "packets");
    self->append = self->packets ? PyObject_GetAttrString(self->packets, "append") : NULL;
    self->popleft = self->packets ? PyObject_GetAttrString(self->packets, "popleft") : NULL;
    self->timers = PyObject_GetAttrString(queue, "timers");
    self->places = PyObject_GetAttrString(queue, "places");
    self->seat = PyObject_GetAttrString(queue, "seat");
    self->parked = PyObject_GetAttrString(queue, "_parked");
    self->gathered = PyMem_Calloc(GATHERED_MAX, sizeof *self->gathered);
    if (!self->port || !self->append || !self->popleft || !self->timers || !self->places || !self->seat || !self->parked ||
        !self->gathered) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int hot_path_traverse(struct hot_path *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->port);
    Py_VISIT(self->queue);
    Py_VISIT(self->packets);
    Py_VISIT(self->append);
    Py_VISIT(self->popleft);
    Py_VISIT(self->table);
    Py_VISIT(self->backlog);
    Py_VISIT(self->timers);
    for (size_t i = 0; i < self->gathered_count; i++) {
        Py_VISIT(self->gathered[i].handle);
        Py_VISIT(self->gathered[i].lane);
    }
    return 0;
}

static int hot_path_clear(struct hot_path *self) {
    Py_CLEAR(self->port);
    Py_CLEAR(self->queue);
    Py_CLEAR(self->packets);
    Py_CLEAR(self->append);
    Py_CLEAR(self->popleft);
    Py_CLEAR(self->table);
    Py_CLEAR(self->backlog);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->places);
    Py_CLEAR(self->seat);
    Py_CLEAR(self->parked);
    Py_CLEAR(self->slow_submit);
    Py_CLEAR(self->slow_wait);
    Py_CLEAR(self->ring);
    while (self->gathered_count) {
        self->gathered_count--;
        Py_CLEAR(self->gathered[self->gathered_count].handle);
        Py_CLEAR(self->gathered[self->gathered_count].lane);
    }
    return 0;
}

static void hot_path_dealloc(struct hot_path *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    hot_path_clear(self);
    PyMem_Free(self->gathered);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef hot_path_methods[] = {
    {"submit", FAST(hot_path_submit), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"wait", FAST(hot_path_wait), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"harvest", FAST(hot_path_harvest), METH_O, NULL},
    {"start_gathered", FAST(hot_path_start_gathered), METH_NOARGS, NULL},
    {"close", FAST(hot_path_close), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef hot_path_members[] = {
    {"epoll", T_INT, offsetof(struct hot_path, epoll), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot hot_path_slots[] = {
    {Py_tp_members, hot_path_members},
    {Py_tp_new, hot_path_new},           {Py_tp_dealloc, hot_path_dealloc}, {Py_tp_traverse, hot_path_traverse},
    {Py_tp_clear, hot_path_clear},       {Py_tp_methods, hot_path_methods}, {0, NULL},
};

PyType_Spec hot_path_spec = {.name = "unio._core.HotPath",
                             .basicsize = sizeof(struct hot_path),
                             .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                             .slots = hot_path_slots};

/* Learning where the classes keep things */

static int find(PyObject *class, const char *name, Py_ssize_t *offset) {
    PyObject *found = PyObject_GetAttrString(class, name);
    if (!found)
        return -1;
    int fits = Py_TYPE(found) == &PyMemberDescr_Type;
    if (fits)
        *offset = ((PyMemberDescrObject *)found)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%R has no slot %s", class, name);
    Py_DECREF(found);
    return fits ? 0 : -1;
}

static int intern_names(void) {
    const struct {
        PyObject **at;
        const char *spelled;
    } wanted[] = {
        {&name.act_on_results, "_act_on_results"},
        {&name.run, "_run"},           {&name.run_on, "_run_on"},   {&name.resume, "_resume"},
        {&name.event, "_event"},       {&name.lead, "_lead"},       {&name.close_kernel_once, "_close_kernel_once"},
        {&name.wake, "wake"},          {&name.pass_on, "pass_on"},  {&name.release, "release"},
        {&name.complete, "complete"},  {&name.sleeping, "sleeping"}, {&name.heap, "_heap"},
        {&name.coming, "_coming"},     {&name.timeout, "timeout"},  {&name.limit, "limit"},
        {&name.leave, "leave"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!*wanted[i].at && !(*wanted[i].at = PyUnicode_InternFromString(wanted[i].spelled)))
            return -1;
    }
    return 0;
}

/* learn(Recv, Send, EmulatedHandle, Lane, Waiter, Completion, Status, Life): tells this file the classes of the rest. */
static PyObject *learn(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *recv_class, *send_class, *handle_class, *lane_class, *waiter_class, *completion_class, *status, *life;
    if (!PyArg_ParseTuple(args, "OOOOOOOO", &recv_class, &send_class, &handle_class, &lane_class, &waiter_class,
                          &completion_class, &status, &life))
        return NULL;
    const struct {
        PyObject *class;
        const char *name;
        Py_ssize_t *offset;
    } wanted[] = {
        {recv_class, "handle", &at.handle},
        {recv_class, "key", &at.key},
        {recv_class, "transferred", &at.transferred},
        {recv_class, "error", &at.error},
        {recv_class, "_status", &at.status},
        {recv_class, "_next", &at.next},
        {recv_class, "_previous", &at.previous},
        {recv_class, "_sequence", &at.sequence},
        {recv_class, "_expiry", &at.expiry},
        {recv_class, "_verdict", &at.verdict},
        {recv_class, "_native", &at.native},
        {recv_class, "_views", &at.views},
        {recv_class, "_size", &at.size},
        {recv_class, "_buffer", &at.buffer},
        {recv_class, "_grows", &at.grows},
        {handle_class, "skip_on_success", &at.skips},
        {handle_class, "lock", &at.lock},
        {handle_class, "life", &at.life},
        {handle_class, "incoming", &at.incoming},
        {handle_class, "outgoing", &at.outgoing},
        {handle_class, "readiness", &at.readiness},
        {handle_class, "running", &at.running},
        {handle_class, "sequence", &at.serial},
        {handle_class, "shows_drained", &at.shows_drained},
        {handle_class, "ended", &at.ended},
        {handle_class, "socket", &at.socket},
        {handle_class, "hot_path", &at.hot_path},
        {lane_class, "active", &at.active},
        {lane_class, "first", &at.first},
        {lane_class, "last", &at.last},
        {lane_class, "ready", &at.ready},
        {lane_class, "resting", &at.resting},
        {lane_class, "request", &at.request},
        {lane_class, "drained", &at.drained},
        {waiter_class, "place", &at.place},
        {waiter_class, "places", &at.places},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (find(wanted[i].class, wanted[i].name, wanted[i].offset) < 0)
            return NULL;
    }
    recv_type = (PyTypeObject *)Py_NewRef(recv_class);
    send_type = (PyTypeObject *)Py_NewRef(send_class);
    handle_type = (PyTypeObject *)Py_NewRef(handle_class);
    completion_type = (PyTypeObject *)Py_NewRef(completion_class);
    idle = PyObject_GetAttrString(status, "IDLE");
    pending = PyObject_GetAttrString(status, "PENDING");
    queued = PyObject_GetAttrString(status, "QUEUED");
    open_life = PyObject_GetAttrString(life, "OPEN");
    if (!idle || !pending || !queued || !open_life || intern_names() < 0)
        return NULL;
    pthread_atfork(NULL, NULL, forked);
    Py_RETURN_NONE;
}

/* Setting a buffer */

/* Makes the view of a buffer that is plain: contiguous bytes, in an object whose class has nothing of its own. */
static PyObject *plain_view(PyObject *buffer, int writable) {
    if (!PyMemoryView_Check(buffer) && !PyByteArray_CheckExact(buffer) && !PyBytes_CheckExact(buffer))
        return NULL;
    PyObject *view = PyMemoryView_FromObject(buffer);
    if (view) {
        Py_buffer *raw = PyMemoryView_GET_BUFFER(view);
        if (raw->ndim == 1 && raw->itemsize == 1 && (!raw->format || !strcmp(raw->format, "B")) &&
            PyBuffer_IsContiguous(raw, 'C') && !(writable && raw->readonly))
            return view;
        Py_DECREF(view);
    }
    PyErr_Clear();
    return NULL;
}

/* set_buffer(operation, buffer): what the setter of an operation's buffer does, for those that are set again and again.
 */
static PyObject *set_buffer(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "set_buffer takes 2 arguments");
    PyObject *operation = args[0], *view = NULL;
    int fills = recv_type && PyType_IsSubtype(Py_TYPE(operation), recv_type);
    if ((fills || (send_type && PyType_IsSubtype(Py_TYPE(operation), send_type))) && SLOT(operation, status) == idle &&
        SLOT(operation, native) == Py_None)
        view = plain_view(args[1], fills);
    if (!view)
        return PyObject_Vectorcall(slow_set_buffer, args, 2, NULL);
    PyObject *views = PyTuple_Pack(1, view), *size = PyLong_FromSsize_t(PyMemoryView_GET_BUFFER(view)->len);
    Py_DECREF(view);
    if (!views || !size) {
        Py_XDECREF(views);
        Py_XDECREF(size);
        return NULL;
    }
    put(&SLOT(operation, views), views);
    put(&SLOT(operation, size), size);
    put_ref(&SLOT(operation, buffer), args[1]);
    if (fills)
        put_ref(&SLOT(operation, grows), Py_False); /* it is the caller's now */
    Py_RETURN_NONE;
}

/* faster_setter(function): returns set_buffer, which calls this function where a buffer is not plain. */
static PyObject *faster_setter(PyObject *module, PyObject *function) {
    put_ref(&slow_set_buffer, function);
    return PyObject_GetAttrString(module, "set_buffer");
}

/* keeps_number(socket, number): whether the descriptor of a socket object is where this file looks for it. */
static PyObject *keeps_number(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *socket;
    int number;
    if (!PyArg_ParseTuple(args, "Oi", &socket, &number))
        return NULL;
    return PyBool_FromLong(*(const int *)((char *)socket + sizeof(PyObject)) == number);
}

/* thread_waits(waiter): notes the calling thread's waiter, which its caller keeps alive until it notes another. */
static PyObject *thread_waits(PyObject *module, PyObject *waiter) {
    (void)module;
    here = waiter == Py_None ? NULL : waiter;
    Py_RETURN_NONE;
}

PyMethodDef hot_path_functions[] = {
    {"faster_setter", faster_setter, METH_O, NULL},
    {"set_buffer", FAST(set_buffer), METH_FASTCALL, NULL},
    {"learn", learn, METH_VARARGS, NULL},
    {"keeps_number", keeps_number, METH_VARARGS, NULL},
    {"thread_waits", thread_waits, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#endif
