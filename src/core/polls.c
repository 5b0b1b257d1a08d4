/* Polls on the fast path, and unio._core.PollState: what a poll keeps besides. operation_state.py has the latter in Python.
 *
 * The polls of a handle have a direction of their own, and no order: one call of poll(2) tells for all of them. So an attempt
 * of theirs is one of the direction and names no operation, and who makes it is not the only one that may take one out.
 *
 * A ring makes that call as well. Those that are not satisfied then wait in it, each as a request, and what comes of one of
 * these is what an event is elsewhere: it leads to the call.
 */
#include "port.h"

#include <poll.h>
#include <structmember.h> /* T_OBJECT_EX and its like, until Python 3.12 */

#define READABLE 1 /* of unio.Readiness */
#define WRITABLE 2
#define BOTH (READABLE | WRITABLE)

#ifdef POLLRDHUP
#define LASTING (POLLRDHUP | POLLERR | POLLHUP) /* as in io_uring.py */
#else
#define LASTING (POLLERR | POLLHUP)
#endif

/* As events_for in engine/attempts.py. */
static short events_for(int wanted) {
    return (short)((wanted & READABLE ? POLLIN : 0) | (wanted & WRITABLE ? POLLOUT : 0));
}

/* As readiness_of does there. */
static int readiness_of(long happened) {
    if (happened & (POLLHUP | POLLERR | POLLNVAL))
        return BOTH;
    return (happened & POLLIN ? READABLE : 0) | (happened & POLLOUT ? WRITABLE : 0);
}

static int is_poll(PyObject *operation) { return kind_in(operation) == POLL; }

static PyObject *next_of(PyObject *operation) {
    PyObject *next = OP(operation)->next;
    return next == Py_None ? NULL : next;
}

/* Whether nobody has a poll but its direction. */
static int is_waiting(PyObject *operation) {
    return is_poll(operation) && PEEK(OP(operation)->native) == Py_None && PEEK(OP(operation)->verdict) == Py_None;
}

int is_direction_of_polls(PyObject *handle, const struct direction *direction) {
    return (const PyObject *)direction == handle_of(handle)->readiness;
}

struct direction *direction_of_polls(PyObject *handle) {
    PyObject *polls = PEEK(handle_of(handle)->readiness);
    return polls && polls != Py_None ? direction_of(polls) : NULL;
}

int prepare_polls(struct attempt *attempt, PyObject *handle, struct direction *direction) {
    int wanted = 0, are_plain = is_open(handle) && number_in(handle_of(handle)->socket) >= 0;
    lock_acquire(handle_of(handle)->lock);
    POKE(direction->ready, 0); /* what was seen before is not to count as seen after */
    for (PyObject *each = direction->first; each; each = next_of(each)) {
        are_plain = are_plain && is_poll(each);
        wanted |= are_plain && is_waiting(each) ? POLLING(each)->wanted : 0;
    }
    lock_release(handle_of(handle)->lock);
    if (!are_plain || !wanted)
        return 0;
    *attempt = (struct attempt){
        .handle = Py_NewRef(handle),
        .direction = (struct direction *)Py_NewRef(direction),
        .number = number_at(handle_of(handle)->socket),
        .size = (size_t)wanted,
        .kind = POLL,
        .by_call = 1,
    };
    return 1;
}

int poll_once(int number, size_t wanted) {
    struct pollfd asked = {.fd = number, .events = events_for((int)wanted)};
    return poll(&asked, 1, 0) < 0 ? -1 : asked.revents;
}

/* Completes a poll that has found something, or is to end. The caller holds the lock. */
static int complete_locked(struct port *self, struct direction *direction, PyObject *poll) {
    Py_INCREF(poll); /* nobody else may have it than the direction, and then the queue */
    Py_ssize_t flight = OP(poll)->sequence;
    direction_remove(direction, poll); /* first: once it is queued, another thread may submit it to another handle */
    int failed = succeed(self, poll) < 0;
    if (failed)
        direction_restore(direction, poll);
    else /* last: to what is still in flight it may be all that ends it */
        deadline_discard(self->timers, poll, flight);
    Py_DECREF(poll);
    return failed ? -1 : 0;
}

static int complete_all_locked(struct port *self, struct attempt *a) {
    int ready = readiness_of(a->result), done = 0;
    for (PyObject *each = a->direction->first, *next; each && done == 0; each = next) {
        next = next_of(each);
        int found = is_waiting(each) ? POLLING(each)->wanted & ready : 0;
        if (found) {
            POKE(POLLING(each)->told, (signed char)found);
            done = complete_locked(self, a->direction, each);
        }
    }
    return done;
}

/* What Python knows it by: nothing, or that C has a request for it. */
static void set_native(PyObject *poll, PyObject *native) { set_field(poll, &OP(poll)->native, Py_NewRef(native)); }

/* Has a ring wait for a poll. Returns 0 where it has no place, or with an exception. */
static int request_locked(struct port *self, struct attempt *a, PyObject *poll) {
    struct attempt waiting = {.handle = a->handle, .operation = poll, .direction = a->direction, .number = a->number,
                              .size = (size_t)(unsigned short)events_for(POLLING(poll)->wanted), .kind = POLL};
    unsigned long long name = ring_attempt(self->ring, &waiting, 0);
    if (!name)
        return 0;
    Py_INCREF(a->handle), Py_INCREF(poll), Py_INCREF(a->direction); /* which the request has now */
    POLLING(poll)->request = name;
    set_native(poll, Py_True);
    handle_of(a->handle)->running++;
    return 1;
}

/* Has it wait for all that are left. */
static int request_all_locked(struct port *self, struct attempt *a) {
    int done = 1;
    for (PyObject *each = a->direction->first; each && done; each = next_of(each))
        done = !is_waiting(each) || request_locked(self, a, each);
    return done;
}

/* What is left to do for a direction of polls: nothing; another call; to have the leader go on; room in the ring; or what
 * Python does. */
enum next { OVER, AGAIN, LATER, FULL, RUN };

static enum next settle_locked(struct port *self, struct attempt *a, int is_last, int *failed) {
    struct direction *direction = a->direction;
    if (a->result < 0 || (a->result & POLLNVAL))
        return RUN;
    if ((*failed = complete_all_locked(self, a) < 0))
        return RUN;
    int goes_on = has_first(direction) && PEEK(direction->ready) && is_open(a->handle);
    if (goes_on && !is_last)
        return AGAIN;
    if (self->ring && has_first(direction) && is_open(a->handle)) {
        if (PEEK(handle_of(a->handle)->ended)) /* what lasts is told once by a poll that goes on, which is Python's */
            return RUN;
        if (!request_all_locked(self, a))
            return PyErr_Occurred() ? RUN : FULL;
        goes_on = 0;
    }
    POKE(direction->active, 0);
    return goes_on ? LATER : OVER;
}

/* Drops an attempt whose direction is not this thread's any more, or has Python go on with it. */
static int end_attempt(struct port *self, struct attempt *a, enum next next) {
    int failed = 0;
    if (next == RUN)
        failed = call_port(self, name.run, a->handle, (PyObject *)a->direction, NULL);
    else if (!is_open(a->handle))
        failed = call(a->handle, name.release);
    drop_attempt(a);
    return failed;
}

/* Makes an attempt anew, of what there is now. */
static int prepare_again(struct attempt *a) {
    struct attempt made;
    int prepared = prepare_polls(&made, a->handle, a->direction);
    if (prepared) {
        drop_attempt(a);
        *a = made;
    }
    return prepared;
}

/* Acts on what poll(2) has told. */
static int settle_call(struct port *self, struct attempt *a, int is_last, PyObject **kept) {
    enum next next = FULL;
    while (next == FULL) {
        int failed = 0;
        lock_acquire(handle_of(a->handle)->lock);
        next = settle_locked(self, a, is_last, &failed);
        lock_release(handle_of(a->handle)->lock);
        if (failed || PyErr_Occurred())
            keep_first(kept);
        if (next == FULL)
            ring_make_room(self->ring, 1);
    }
    if (PEEK(self->closed) && call((PyObject *)self->queue, name.empty) < 0) /* as in attempts.c */
        keep_first(kept);
    if (next == LATER && !leave_to_leader(self, a, kept))
        next = AGAIN;
    if (next == AGAIN && prepare_again(a))
        return 1;
    if (end_attempt(self, a, next == AGAIN ? RUN : next) < 0)
        keep_first(kept);
    return 0;
}

/* What becomes of a poll that a ring has waited for. */
enum came { OWNED, BUSY, OVER_WITH };

static enum came take_back_locked(struct port *self, struct attempt *a) {
    struct handle *handle = handle_of(a->handle);
    PyObject *verdict = PEEK(OP(a->operation)->verdict);
    set_native(a->operation, Py_None);
    handle->running--;
    if (a->result > 0 && (a->result & LASTING))
        POKE(handle->ended, 1);
    if (verdict != Py_None) {
        set_field(a->operation, &OP(a->operation)->error, Py_NewRef(verdict)); /* there was none in this flight */
        return complete_locked(self, a->direction, a->operation) < 0 ? BUSY : OVER_WITH;
    }
    if (own_locked(a->handle, a->direction))
        return OWNED;
    return is_open(a->handle) ? BUSY : OVER_WITH;
}

/* Acts on what a ring has told: that is but a hint, and another receive may have taken what there was. */
static int settle_result(struct port *self, struct attempt *a, PyObject **kept) {
    lock_acquire(handle_of(a->handle)->lock);
    enum came came = take_back_locked(self, a);
    lock_release(handle_of(a->handle)->lock);
    if (PyErr_Occurred()) /* there was no memory to queue it */
        keep_first(kept);
    if (came == BUSY && !leave_to_leader(self, a, kept)) /* who is at the direction may not look at this one any more */
        came = OWNED;
    if (came == OWNED && prepare_again(a))
        return 1;
    if (PEEK(self->closed) && call((PyObject *)self->queue, name.empty) < 0) /* as in attempts.c */
        keep_first(kept);
    if (end_attempt(self, a, came == OWNED ? RUN : OVER) < 0)
        keep_first(kept);
    return 0;
}

int settle_polls(struct port *self, struct attempt *a, int is_last, PyObject **kept) {
    return a->operation ? settle_result(self, a, kept) : settle_call(self, a, is_last, kept);
}

/* unio._core.PollState */

static PyObject *take_readiness(PyObject *self, PyObject **field, PyObject *value, signed char *number, signed char is) {
    PyObject *former;
    BEGIN_SECTION(self);
    former = *field;
    *field = Py_XNewRef(value);
    POKE(*number, is);
    END_SECTION();
    return former;
}

static PyObject *get_found(PyObject *self, void *Py_UNUSED(ignored)) {
    int told = PEEK(POLLING(self)->told);
    return told < 0 ? field_or_error(self, &POLLING(self)->found, "found") : Py_NewRef(PyTuple_GET_ITEM(readiness, told));
}

static int set_found(PyObject *self, PyObject *value, void *Py_UNUSED(ignored)) {
    Py_XDECREF(take_readiness(self, &POLLING(self)->found, value, &POLLING(self)->told, -1));
    return 0;
}

static PyObject *get_wanted(PyObject *self, void *Py_UNUSED(ignored)) {
    return field_or_error(self, &POLLING(self)->readiness, "_readiness");
}

/* What operations.py has checked: a unio.Readiness, which is an int. */
static int set_wanted(PyObject *self, PyObject *value, void *Py_UNUSED(ignored)) {
    long wanted = value ? PyLong_AsLong(value) : 0;
    if (PyErr_Occurred())
        return -1;
    Py_XDECREF(take_readiness(self, &POLLING(self)->readiness, value, &POLLING(self)->wanted, (signed char)(wanted & BOTH)));
    return 0;
}

static PyObject *poll_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    PyObject *self = state_new(type, POLL);
    if (self)
        POLLING(self)->told = -1;
    return self;
}

static int traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(POLLING(self)->readiness);
    Py_VISIT(POLLING(self)->found);
    return state_traverse(self, visit, arg);
}

static int clear(PyObject *self) {
    Py_CLEAR(POLLING(self)->readiness);
    Py_CLEAR(POLLING(self)->found);
    return state_clear(self);
}

static void dealloc(PyObject *self) { state_dealloc(self, clear); }

static PyGetSetDef accessors[] = {
    {"found", get_found, set_found, "What was ready at the last completion.", NULL},
    {"_readiness", get_wanted, set_wanted, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"_request", T_ULONGLONG, offsetof(struct poll, request), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What a poll keeps besides."},
    {Py_tp_new, poll_new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_getset, accessors},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec poll_spec = {.name = "unio._core.PollState",
                         .basicsize = sizeof(struct poll),
                         .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                         .slots = slots};
