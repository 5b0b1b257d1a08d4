/* The fast path of submit: links an operation into its direction, and gathers it for the next wait of its thread, or attempts
 * it at once. What is not plain is left to Python; see port.c.
 */
#include "port.h"

/* What is to be submitted, and what comes of it. */
struct submission {
    PyObject *operation, *handle;
    struct direction *direction;
    struct deadline *deadline; /* NULL where it has no time-out */
    double due;
    int is_urgent; /* its deadline comes before all others */
    /* What the last flight has left. It goes when the lock is given back: an error leads to what is the program's. */
    PyObject *error, *verdict;
};

/* Links an operation into its direction; where that is not for this file, refuses. Says OWNED where this thread has become
 * the direction's owner, and FULL where it has gathered that, and there is room for no more. FAILED is a lack of memory: the
 * operation is idle again. */
enum linked { FAILED = -1, REFUSED, LINKED, OWNED, FULL };

/* Of the operation whose flight has just begun: sets its deadline, if it has one. */
static int limit_locked(struct port *self, struct submission *it) {
    OP(it->operation)->sequence = next_sequence();
    if (it->deadline)
        it->is_urgent = deadline_set(self->timers, it->deadline, it->operation, it->due);
    return it->is_urgent;
}

static enum linked link_locked(struct port *self, struct submission *it) {
    PyObject *operation = it->operation;
    struct direction *direction = it->direction;
    if (!is_open(it->handle) || (has_first(direction) && PEEK(handle_of(it->handle)->skip_on_success)) ||
        !begin_flight(operation))
        return REFUSED;
    if (limit_locked(self, it) < 0) {
        set_status(operation, IDLE);
        return FAILED;
    }
    it->verdict = exchange_field(operation, &OP(operation)->verdict, Py_NewRef(Py_None));
    it->error = exchange_field(operation, &OP(operation)->error, Py_NewRef(Py_None));
    set_transferred(operation, 0);
    if (is_direction_of_polls(it->handle, direction)) /* it does not depend on those ahead of it */
        POKE(direction->ready, 1);
    direction_append(direction, operation);
    if (!PEEK(direction->ready) || !is_free(direction))
        return LINKED;
    POKE(direction->active, 1);
    return OWNED;
}

/* Only the thread itself adds to its gathering. */
static int is_full(const struct waiter *waiter) { return PEEK(waiter->gathering->count) == GATHERED_MAX; }

/* Notes a direction that this thread owns, to be attempted at its next wait. With the handle's lock held: who ends the
 * operation from then on finds it here, and starts it. */
static void gather_locked(struct gathering *gathering, PyObject *handle, struct direction *direction) {
    mutex_lock(&gathering->mutex);
    struct gathered *place = &gathering->directions[gathering->count];
    place->handle = Py_NewRef(handle);
    place->direction = (struct direction *)Py_NewRef(direction);
    POKE(gathering->count, gathering->count + 1);
    mutex_unlock(&gathering->mutex);
}

/* Links an operation, and gathers it unless it is to be attempted at once. */
static enum linked link_and_gather(struct port *self, struct waiter *waiter, struct submission *it) {
    struct handle *handle = handle_of(it->handle);
    lock_acquire(handle->lock);
    enum linked done = link_locked(self, it);
    int gathers = done == OWNED && !PEEK(handle->skip_on_success);
    if (gathers)
        gather_locked(waiter->gathering, it->handle, it->direction);
    lock_release(handle->lock);
    return !gathers ? done : is_full(waiter) ? FULL : LINKED;
}

/* Whether a handle is one of this port's that C may act for. */
static int is_fast_here(struct port *self, PyObject *handle) {
    return Py_TYPE(handle) == handle_type && handle_of(handle)->is_fast &&
           handle_of(handle)->queue == (PyObject *)self->queue;
}

/* Whether a receive's own buffer was filled: Python gets it a larger one. */
static int is_to_grow(PyObject *operation, enum kind kind) {
    return kind == RECV && BUFFERED(operation)->grows && transferred_of(operation) == BUFFERED(operation)->size;
}

/* Whether what is prepared is for this file. Not where what is gathered is being started, and a finalizer comes in the
 * middle. */
static int is_for_here(struct port *self, const struct waiter *waiter, const struct submission *it, enum kind kind) {
    return waiter && usable(self) && it->handle && is_fast_here(self, it->handle) && is_plain(it->handle, it->operation, kind) &&
           !is_to_grow(it->operation, kind) && !is_full(waiter);
}

/* Submits what is prepared. Returns as submit_fast does. */
static int submit_prepared(struct port *self, struct waiter *waiter, struct submission *it, int *skipped) {
    int done = link_and_gather(self, waiter, it);
    if (done == FAILED) {
        PyErr_NoMemory();
    } else if (done == OWNED) {
        *skipped = attempt_at_once(self, it->handle, it->direction);
        done = *skipped < 0 ? -1 : 1;
    } else if (done == FULL && start_for_others(self) < 0) {
        done = -1;
    }
    if (done > 0 && it->is_urgent && queue_wake_leader(self->queue) < 0) /* it may sleep past the new deadline */
        done = -1;
    return done;
}

static struct direction *direction_for(PyObject *handle, enum kind kind) {
    if (kind == POLL)
        return direction_of_polls(handle);
    return direction_of(sends(kind) ? handle_of(handle)->outgoing : handle_of(handle)->incoming);
}

/* Submits an operation that is plain, with a time-out of so many seconds, or with none if that is negative. Says in *skipped
 * whether it has succeeded and queues nothing. Returns 0 where that is not for this file. */
static int submit_fast(struct port *self, PyObject *operation, double timeout, int *skipped) {
    enum kind kind = kind_of(operation);
    if (kind == NEITHER)
        return 0;
    struct submission it = {.operation = operation, .handle = field_of(operation, &OP(operation)->handle)};
    int done = 1;
    if (timeout >= 0) { /* first: making its deadline may run a finalizer, which may do anything */
        it.due = monotonic() + timeout;
        it.deadline = deadline_for(self->timers, operation);
        done = it.deadline ? 1 : -1;
    }
    struct waiter *waiter = waiter_here(self);
    if (done > 0 && (done = is_for_here(self, waiter, &it, kind))) {
        it.direction = direction_for(it.handle, kind);
        done = it.direction ? submit_prepared(self, waiter, &it, skipped) : 0;
    }
    Py_XDECREF(it.handle);
    Py_XDECREF(it.deadline);
    Py_XDECREF(it.verdict); /* last: their finalizers may run any code, which may take the lock */
    Py_XDECREF(it.error);
    return done;
}

/* The time-out of a submit, given as its second argument or by name. */
static int read_submit_timeout(PyObject *const *args, Py_ssize_t count, PyObject *names, double *timeout) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count < 1 || count + named > 2 || (named && PyTuple_GET_ITEM(names, 0) != name.timeout))
        return 0;
    return read_seconds(count + named == 2 ? args[1] : Py_None, timeout);
}

PyObject *port_submit(PyObject *port, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    struct port *self = usable_port(port);
    double timeout;
    if (self && read_submit_timeout(args, count, names, &timeout)) {
        int skipped = 0, done = submit_fast(self, args[0], timeout, &skipped);
        if (done < 0)
            return NULL;
        if (done)
            return PyBool_FromLong(skipped);
    }
    PyErr_Clear();
    return call_slow(port, slow.submit, args, count, names);
}
