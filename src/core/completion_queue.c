/* unio._core.QueueState: see completion_queue.h, and engine/completion_queue.py, whose twin in Python says what each method
 * promises. Here are the types, the threads that join and part, and the methods; what those do is in packets.c, turns.c and
 * parking.c.
 */
#include "fields.h"
#include "queue_locked.h"

#define ROW_MIN 4 /* waiters */

_Thread_local struct waiter *current INITIAL_EXEC;

/* Threads that wait */

static int widen(struct row *row, size_t room) {
    struct waiter **waiters = PyMem_RawRealloc(row->waiters, room * sizeof *waiters);
    if (waiters)
        row->waiters = waiters;
    return waiters != NULL;
}

/* admit(waiter): has room for a thread that comes to wait. */
static PyObject *admit(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    struct gathering *gathering = PyMem_RawCalloc(1, sizeof *gathering);
    mutex_lock(&self->mutex);
    size_t room = self->waiters < self->room ? self->room : self->room ? 2 * self->room : ROW_MIN;
    int done = gathering && widen(&self->parked, room) && widen(&self->coming, room);
    if (done) {
        self->room = room;
        POKE(self->waiters, self->waiters + 1);
        waiter->pace = constant.quick_seconds * constant.pace_max;
        gathering->next = self->gatherings;
        self->gatherings = gathering;
    }
    mutex_unlock(&self->mutex);
    if (!done) {
        PyMem_RawFree(gathering);
        return PyErr_NoMemory();
    }
    waiter->gathering = gathering;
    waiter->belongs = self->serial;
    Py_RETURN_NONE;
}

/* dismiss(waiter): the thread has ended, or belongs to another port; what it had gathered has been started. */
static PyObject *dismiss(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    if (waiter->belongs != self->serial)
        Py_RETURN_NONE;
    waiter->belongs = 0;
    mutex_lock(&self->mutex);
    POKE(self->waiters, self->waiters - 1);
    stop_running_locked(self, waiter);
    struct gathering **place = &self->gatherings;
    while (*place != waiter->gathering)
        place = &(*place)->next;
    if (!waiter->gathering->count) { /* or else somebody has still to start it: it stays, until the queue goes */
        *place = waiter->gathering->next;
        PyMem_RawFree(waiter->gathering);
    }
    mutex_unlock(&self->mutex);
    waiter->gathering = NULL;
    Py_RETURN_NONE;
}

/* Methods */

static PyObject *none_or_error(int result) {
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *bool_or_error(int result) { return result < 0 ? NULL : PyBool_FromLong(result); }

static PyObject *append(struct queue *self, PyObject *packet) { return none_or_error(queue_append(self, packet)); }

static PyObject *append_left(struct queue *self, PyObject *packet) {
    return none_or_error(queue_append_left(self, packet));
}

static PyObject *pop_left(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *packet = queue_pop_left(self);
    if (!packet)
        PyErr_SetString(PyExc_IndexError, "there is no packet");
    return packet;
}

static PyObject *packets(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    for (;;) {
        size_t count = queue_count(self);
        PyObject *list = PyList_New((Py_ssize_t)count);
        if (!list)
            return NULL;
        mutex_lock(&self->mutex);
        int same = self->count == count; /* making it may have run a finalizer that has changed this */
        for (size_t i = 0; same && i < count; i++)
            PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(self->ring[(self->head + i) & self->mask]));
        mutex_unlock(&self->mutex);
        if (same)
            return list;
        Py_DECREF(list);
    }
}

static PyObject *take(struct queue *self, PyObject *limit) {
    Py_ssize_t most = PyNumber_AsSsize_t(limit, NULL);
    return most == -1 && PyErr_Occurred() ? NULL : queue_take(self, most);
}

static PyObject *should_ask(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(queue_should_ask(self));
}

static PyObject *gives_way(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_gives_way(self, (struct waiter *)waiter));
}

static PyObject *limit_for(struct queue *self, PyObject *args) {
    PyObject *waiter, *limit;
    if (!PyArg_ParseTuple(args, "OO", &waiter, &limit))
        return NULL;
    Py_ssize_t most = PyNumber_AsSsize_t(limit, NULL); /* a larger number than that is as good as it */
    return most == -1 && PyErr_Occurred() ? NULL : PyLong_FromSsize_t(queue_limit(self, (struct waiter *)waiter, most));
}

static PyObject *begin_turn(struct queue *self, PyObject *args) {
    PyObject *waiter;
    Py_ssize_t packets;
    if (!PyArg_ParseTuple(args, "On", &waiter, &packets))
        return NULL;
    if (queue_is_shared(self))
        queue_begin_turn(self, (struct waiter *)waiter, packets);
    Py_RETURN_NONE;
}

static PyObject *end_turn(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    waiter->came_at = PEEK(self->parkings);
    if (queue_is_shared(self))
        queue_end_turn(self, waiter);
    Py_RETURN_NONE;
}

static PyObject *asked(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    POKE(self->takes, 0);
    Py_RETURN_NONE;
}

static PyObject *enter(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_enter(self, (struct waiter *)waiter));
}

static PyObject *leave(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_leave(self, (struct waiter *)waiter));
}

static PyObject *lead(struct queue *self, PyObject *turn) { return PyBool_FromLong(queue_lead(self, turn)); }

static PyObject *end_lead(struct queue *self, PyObject *args) {
    PyObject *turn, *waiter;
    if (!PyArg_ParseTuple(args, "OO", &turn, &waiter))
        return NULL;
    queue_end_lead(self, turn, (struct waiter *)waiter);
    Py_RETURN_NONE;
}

static PyObject *has_for(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_has_for(self, (struct waiter *)waiter));
}

static PyObject *has_for_leader(struct queue *self, PyObject *waiter) {
    return bool_or_error(queue_has_for_leader(self, (struct waiter *)waiter));
}

static PyObject *is_coming(struct queue *self, PyObject *waiter) {
    mutex_lock(&self->mutex);
    int comes = find_in(&self->coming, (struct waiter *)waiter) >= 0;
    mutex_unlock(&self->mutex);
    return PyBool_FromLong(comes);
}

static PyObject *arrive(struct queue *self, PyObject *waiter) {
    queue_arrive(self, (struct waiter *)waiter);
    Py_RETURN_NONE;
}

static PyObject *park(struct queue *self, PyObject *args) {
    PyObject *waiter, *given;
    if (!PyArg_ParseTuple(args, "OO", &waiter, &given))
        return NULL;
    double timeout = given == Py_None ? -1 : PyFloat_AsDouble(given);
    if (timeout == -1 && PyErr_Occurred())
        return NULL;
    if (given != Py_None && timeout < 0)
        timeout = 0;
    return none_or_error(queue_park(self, (struct waiter *)waiter, timeout));
}

static PyObject *wake(struct queue *self, PyObject *Py_UNUSED(ignored)) { return bool_or_error(queue_wake(self)); }

static PyObject *wake_leader(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return none_or_error(queue_wake_leader(self));
}

static PyObject *pass_on(struct queue *self, PyObject *args) {
    PyObject *waiter = NULL;
    if (!PyArg_ParseTuple(args, "|O", &waiter))
        return NULL;
    return none_or_error(queue_pass_on(self, (struct waiter *)waiter));
}

static PyObject *rouse(struct queue *self, PyObject *Py_UNUSED(ignored)) { return none_or_error(queue_rouse(self)); }

static PyObject *wake_first(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return bool_or_error(queue_release_first(self, 0));
}

static PyObject *get_has_packets(struct queue *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(queue_count(self) > 0);
}

static PyObject *get_has_slots(struct queue *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(PEEK(self->slots) > 0);
}

/* The flags are set under the mutex as well: who looks at the queue next has it behind that. sleeping and watching are the
 * leader's to set. */
static int set_flag_locked(PyObject *object, PyObject *value, void *offset) {
    struct queue *self = (struct queue *)object;
    mutex_lock(&self->mutex);
    int result = set_flag(object, value, offset); /* a bool, as Python sets these */
    mutex_unlock(&self->mutex);
    return result;
}

/* QueueState(interrupt, concurrency, takes_turns) */
static int queue_init(struct queue *self, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    static unsigned long long serials;
    PyObject *called;
    Py_ssize_t concurrency;
    int takes_turns;
    if (!PyArg_ParseTuple(args, "Onp", &called, &concurrency, &takes_turns))
        return -1;
    Py_XSETREF(self->interrupt, Py_NewRef(called));
    self->slots = concurrency;
    self->takes_turns = (char)takes_turns;
    self->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
    return 0;
}

static int visit_row(const struct row *row, visitproc visit, void *arg) {
    for (size_t i = 0; i < row->count; i++)
        Py_VISIT(row->waiters[i]);
    return 0;
}

static int traverse(struct queue *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->interrupt);
    Py_VISIT(self->leader);
    for (size_t i = 0; i < self->count; i++)
        Py_VISIT(self->ring[(self->head + i) & self->mask]);
    for (const struct gathering *each = self->gatherings; each; each = each->next) {
        for (unsigned i = 0; i < each->count; i++) {
            Py_VISIT(each->directions[i].handle);
            Py_VISIT(each->directions[i].direction);
        }
    }
    int result = visit_row(&self->parked, visit, arg);
    return result ? result : visit_row(&self->coming, visit, arg);
}

static void clear_row(struct row *row) {
    while (row->count)
        Py_DECREF(row->waiters[--row->count]);
}

/* Nobody else has the queue any more. In a forked child the mutex may be held for ever, by a thread of the parent's. */
static int clear(struct queue *self) {
    for (PyObject *packet; (packet = queue_pop_locked(self));)
        Py_DECREF(packet);
    for (struct gathering *each = self->gatherings; each; each = each->next) {
        while (each->count) {
            struct gathered last = each->directions[--each->count];
            Py_DECREF(last.handle);
            Py_DECREF(last.direction);
        }
    }
    clear_row(&self->parked);
    clear_row(&self->coming);
    Py_CLEAR(self->leader);
    Py_CLEAR(self->interrupt);
    return 0;
}

static void dealloc(struct queue *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    for (struct gathering *each = self->gatherings, *next; each; each = next) {
        next = each->next;
        PyMem_RawFree(each);
    }
    PyMem_RawFree(self->parked.waiters);
    PyMem_RawFree(self->coming.waiters);
    PyMem_RawFree(self->ring);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define METHOD(name, function, kind) {name, (PyCFunction)(void (*)(void))(function), kind, NULL}

static PyMethodDef methods[] = {
    METHOD("admit", admit, METH_O),
    METHOD("append", append, METH_O),
    METHOD("append_left", append_left, METH_O),
    METHOD("arrive", arrive, METH_O),
    METHOD("asked", asked, METH_NOARGS),
    METHOD("begin_turn", begin_turn, METH_VARARGS),
    METHOD("dismiss", dismiss, METH_O),
    METHOD("end_lead", end_lead, METH_VARARGS),
    METHOD("end_turn", end_turn, METH_O),
    METHOD("enter", enter, METH_O),
    METHOD("gives_way", gives_way, METH_O),
    METHOD("has_for", has_for, METH_O),
    METHOD("has_for_leader", has_for_leader, METH_O),
    METHOD("is_coming", is_coming, METH_O),
    METHOD("lead", lead, METH_O),
    METHOD("leave", leave, METH_O),
    METHOD("limit_for", limit_for, METH_VARARGS),
    METHOD("packets", packets, METH_NOARGS),
    METHOD("park", park, METH_VARARGS),
    METHOD("pass_on", pass_on, METH_VARARGS),
    METHOD("pop_left", pop_left, METH_NOARGS),
    METHOD("rouse", rouse, METH_NOARGS),
    METHOD("should_ask", should_ask, METH_NOARGS),
    METHOD("take", take, METH_O),
    METHOD("wake", wake, METH_NOARGS),
    METHOD("wake_first", wake_first, METH_NOARGS),
    METHOD("wake_leader", wake_leader, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

#define FLAG(name) {#name, get_flag, set_flag_locked, NULL, (void *)offsetof(struct queue, name)}

static PyGetSetDef attributes[] = {
    FLAG(closed),
    FLAG(sleeping),
    FLAG(watching),
    {"has_packets", (getter)get_has_packets, NULL, NULL, NULL},
    {"has_slots", (getter)get_has_slots, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, queue_init},  {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},   {Py_tp_methods, methods}, {Py_tp_getset, attributes}, {0, NULL},
};

PyType_Spec queue_spec = {.name = "unio._core.QueueState",
                          .basicsize = sizeof(struct queue),
                          .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                          .slots = slots};

/* unio._core.WaiterState */

static int waiter_traverse(struct waiter *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->gate);
    return 0;
}

static int waiter_clear(struct waiter *self) {
    Py_CLEAR(self->gate);
    return 0;
}

static void waiter_dealloc(struct waiter *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    waiter_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *get_woken(struct waiter *self, void *Py_UNUSED(closure)) {
    return PyFloat_FromDouble(PEEK(self->woken));
}

static PyGetSetDef waiter_attributes[] = {
    {"beyond", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, beyond)},
    {"gate", get_object, set_object, NULL, (void *)offsetof(struct waiter, gate)},
    {"heard", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, heard)},
    {"hears", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, hears)},
    {"slot", get_flag, NULL, NULL, (void *)offsetof(struct waiter, slot)},
    {"woken", (getter)get_woken, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_dealloc, waiter_dealloc}, {Py_tp_traverse, waiter_traverse},
    {Py_tp_clear, waiter_clear},    {Py_tp_getset, waiter_attributes}, {0, NULL},
};

PyType_Spec waiter_spec = {.name = "unio._core.WaiterState",
                           .basicsize = sizeof(struct waiter),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           .slots = waiter_slots};
