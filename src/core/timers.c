/* unio._core.Deadlines: see timers.h, and common/timers.py, whose twin in Python says what each method promises.
 *
 * All of it is guarded by a mutex of its own, the last in the order of locks: nothing is called with it held but what
 * counts a reference, and what a deadline held that was taken back is dropped behind it.
 */
#include "timers.h"
#include "operation.h"

#include <math.h>

#define ROOM_MIN 64  /* entries */
#define STALE_MAX 64 /* how many spent entries may stay in the heap at least, before it is rebuilt without them */

PyTypeObject *deadline_type, *deadlines_type;

/* The heap */

static int comes_before(const struct entry *a, const struct entry *b) {
    return a->time < b->time || (a->time == b->time && a->number < b->number);
}

static void sift_up(struct deadlines *self, size_t place, struct entry entry) {
    for (size_t parent; place && (parent = (place - 1) / 2, comes_before(&entry, &self->heap[parent])); place = parent)
        self->heap[place] = self->heap[parent];
    self->heap[place] = entry;
}

static void sift_down(struct deadlines *self, size_t place, struct entry entry) {
    for (size_t child; (child = 2 * place + 1) < self->count; place = child) {
        if (child + 1 < self->count && comes_before(&self->heap[child + 1], &self->heap[child]))
            child++;
        if (!comes_before(&self->heap[child], &entry))
            break;
        self->heap[place] = self->heap[child];
    }
    self->heap[place] = entry;
}

static void note_earliest(struct deadlines *self) {
    POKE(self->earliest, self->count ? self->heap[0].time : (double)INFINITY);
}

static int resize(struct deadlines *self, size_t room) {
    struct entry *heap = PyMem_RawRealloc(self->heap, room * sizeof *heap);
    if (!heap)
        return -1;
    self->heap = heap;
    self->room = room;
    return 0;
}

/* Gives back what a rush has taken. */
static void shrink(struct deadlines *self) {
    if (self->room > ROOM_MIN && self->count < self->room / 4)
        resize(self, self->room / 2);
}

/* Makes an entry for what a deadline is set to. The one that it had, if any, is spent. */
static int push(struct deadlines *self, struct deadline *deadline, double due, Py_ssize_t number) {
    if (self->count == self->room && resize(self, self->room ? 2 * self->room : ROOM_MIN) < 0)
        return -1;
    struct entry entry = {due, number, (struct deadline *)Py_NewRef(deadline)};
    deadline->time = due;
    deadline->entry = number;
    sift_up(self, self->count++, entry);
    note_earliest(self);
    return 0;
}

static int is_spent(const struct entry *entry) {
    return entry->deadline->entry != entry->number || !entry->deadline->what;
}

/* Lets an entry that is spent go. Its deadline holds nothing, or has another entry. */
static void drop(struct entry *entry) {
    if (entry->deadline->entry == entry->number)
        entry->deadline->entry = 0;
    Py_DECREF(entry->deadline);
}

static void pop(struct deadlines *self) {
    struct entry first = self->heap[0];
    self->count--;
    if (self->count)
        sift_down(self, 0, self->heap[self->count]);
    drop(&first);
    shrink(self);
}

static void rebuild(struct deadlines *self) {
    size_t left = 0;
    for (size_t i = 0; i < self->count; i++) {
        if (is_spent(&self->heap[i]))
            drop(&self->heap[i]);
        else
            self->heap[left++] = self->heap[i];
    }
    self->count = left;
    self->spent = 0;
    for (size_t i = left / 2; i > 0; i--)
        sift_down(self, i - 1, self->heap[i - 1]);
    shrink(self);
    note_earliest(self);
}

/* The first entry if it is due by a time, and NULL if none is. Entries that have come up and are spent, or whose deadline
 * is later by now, are put right. */
static struct entry *first_due_locked(struct deadlines *self, double when) {
    while (self->count && self->heap[0].time <= when) {
        struct entry *first = &self->heap[0];
        struct deadline *deadline = first->deadline;
        if (is_spent(first)) {
            self->spent -= self->spent > 0; /* it may not be counted, where the garbage collector has taken things apart */
            pop(self);
        } else if (deadline->flight != first->number) {
            deadline->time = deadline->due;
            deadline->entry = deadline->flight;
            sift_down(self, 0, (struct entry){deadline->due, deadline->flight, deadline});
        } else {
            return first;
        }
        note_earliest(self);
    }
    return NULL;
}

/* Setting, and taking back */

static int set_locked(struct deadlines *self, struct deadline *deadline, double due, Py_ssize_t flight) {
    int is_new = !deadline->entry || due < deadline->time, was_set = deadline->what != NULL;
    if (is_new && push(self, deadline, due, flight) < 0)
        return -1;
    if (is_new && was_set)
        self->spent++;
    else if (!is_new && !was_set)
        self->spent--;
    deadline->due = due;
    deadline->flight = flight;
    return is_new && self->heap[0].number == flight;
}

/* Calls nothing where the deadline was not set. */
static int set(struct deadlines *self, struct deadline *deadline, double due, Py_ssize_t flight, PyObject *what,
               PyObject *detail) {
    PyObject *former_what = NULL, *former_detail = NULL;
    mutex_lock(&self->mutex);
    int first = set_locked(self, deadline, due, flight);
    if (first >= 0) {
        former_what = deadline->what, former_detail = deadline->detail;
        deadline->what = Py_NewRef(what), deadline->detail = Py_NewRef(detail);
    }
    mutex_unlock(&self->mutex);
    Py_XDECREF(former_what);
    Py_XDECREF(former_detail);
    return first;
}

/* Takes a deadline back, if it is set; of one flight, or of any. */
static void unset(struct deadlines *self, struct deadline *deadline, Py_ssize_t flight) {
    PyObject *what = NULL, *detail = NULL;
    mutex_lock(&self->mutex);
    if (deadline->what && (!flight || deadline->flight == flight)) {
        what = deadline->what, detail = deadline->detail;
        deadline->what = deadline->detail = NULL;
        if (deadline->entry && ++self->spent > STALE_MAX && self->spent * 2 > self->count)
            rebuild(self);
    }
    mutex_unlock(&self->mutex);
    Py_XDECREF(what);
    Py_XDECREF(detail);
}

/* Of an operation's, if it is one of these. A new reference. */
static struct deadline *known_deadline(struct deadlines *self, PyObject *operation) {
    PyObject *known = field_of(operation, &OP(operation)->expiry);
    if (known && Py_TYPE(known) == deadline_type && ((struct deadline *)known)->belongs == self->serial)
        return (struct deadline *)known;
    Py_XDECREF(known);
    return NULL;
}

static struct deadline *new_deadline(struct deadlines *self) {
    struct deadline *made = (struct deadline *)deadline_type->tp_alloc(deadline_type, 0);
    if (made)
        made->belongs = self->serial;
    return made;
}

struct deadline *deadline_for(struct deadlines *self, PyObject *operation) {
    struct deadline *known = known_deadline(self, operation);
    return known ? known : new_deadline(self);
}

int deadline_set(struct deadlines *self, struct deadline *deadline, PyObject *operation, double due) {
    int first = set(self, deadline, due, OP(operation)->sequence, operation, Py_True);
    if (first >= 0 && PEEK(OP(operation)->expiry) != (PyObject *)deadline)
        set_field(operation, &OP(operation)->expiry, Py_NewRef(deadline)); /* the former one holds nothing */
    return first;
}

void deadline_discard(struct deadlines *self, PyObject *operation, Py_ssize_t flight) {
    if (PEEK(OP(operation)->expiry) == Py_None)
        return;
    struct deadline *deadline = known_deadline(self, operation);
    if (deadline)
        unset(self, deadline, flight);
    Py_XDECREF(deadline);
}

int deadlines_are_due(struct deadlines *self, double when) {
    mutex_lock(&self->mutex);
    int due = first_due_locked(self, when) != NULL;
    mutex_unlock(&self->mutex);
    return due;
}

/* Methods */

static PyObject *bool_or_no_memory(int result) { return result < 0 ? PyErr_NoMemory() : PyBool_FromLong(result); }

/* assign(operation, due, detail) */
static PyObject *assign(PyObject *object, PyObject *args) {
    struct deadlines *self = deadlines_of(object);
    PyObject *operation, *detail;
    double due;
    if (!PyArg_ParseTuple(args, "O!dO", operation_type, &operation, &due, &detail))
        return NULL;
    struct deadline *deadline = deadline_for(self, operation);
    if (!deadline)
        return NULL;
    int first = set(self, deadline, due, OP(operation)->sequence, operation, detail);
    if (first >= 0)
        set_field(operation, &OP(operation)->expiry, Py_NewRef(deadline));
    Py_DECREF(deadline);
    return bool_or_no_memory(first);
}

/* insert(due, number, what, detail) */
static PyObject *insert(PyObject *object, PyObject *args) {
    struct deadlines *self = deadlines_of(object);
    PyObject *what, *detail;
    Py_ssize_t number;
    double due;
    if (!PyArg_ParseTuple(args, "dnOO", &due, &number, &what, &detail))
        return NULL;
    struct deadline *deadline = new_deadline(self);
    if (!deadline)
        return NULL;
    int first = set(self, deadline, due, number, what, detail);
    Py_DECREF(deadline);
    return bool_or_no_memory(first);
}

/* discard(operation[, flight]) */
static PyObject *discard(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    if (count < 1 || count > 2 || !PyObject_TypeCheck(args[0], operation_type))
        return PyErr_Format(PyExc_TypeError, "an operation is needed here, and at most the number of a flight");
    Py_ssize_t flight = count == 2 ? PyLong_AsSsize_t(args[1]) : 0;
    if (flight == -1 && PyErr_Occurred())
        return NULL;
    deadline_discard(deadlines_of(object), args[0], flight);
    Py_RETURN_NONE;
}

static PyObject *next_time(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct deadlines *self = deadlines_of(object);
    mutex_lock(&self->mutex);
    int has = self->count > 0;
    double time = has ? self->heap[0].time : 0;
    mutex_unlock(&self->mutex);
    return has ? PyFloat_FromDouble(time) : Py_NewRef(Py_None);
}

/* first_due(when): (deadline, what, detail, flight), or None */
static PyObject *first_due(PyObject *object, PyObject *given) {
    struct deadlines *self = deadlines_of(object);
    double when = PyFloat_AsDouble(given);
    if (when == -1 && PyErr_Occurred())
        return NULL;
    PyObject *deadline = NULL, *what = NULL, *detail = NULL;
    Py_ssize_t flight = 0;
    mutex_lock(&self->mutex);
    struct entry *first = first_due_locked(self, when);
    if (first) {
        deadline = Py_NewRef(first->deadline);
        what = Py_NewRef(first->deadline->what), detail = Py_NewRef(first->deadline->detail);
        flight = first->number;
    }
    mutex_unlock(&self->mutex);
    return deadline ? Py_BuildValue("(NNNn)", deadline, what, detail, flight) : Py_NewRef(Py_None);
}

/* spend(deadline, flight) */
static PyObject *spend(PyObject *object, PyObject *args) {
    PyObject *deadline;
    Py_ssize_t flight;
    if (!PyArg_ParseTuple(args, "O!n", deadline_type, &deadline, &flight))
        return NULL;
    unset(deadlines_of(object), (struct deadline *)deadline, flight);
    Py_RETURN_NONE;
}

/* Takes all entries out. Returns them, each of them the caller's. */
static struct entry *take_all(struct deadlines *self, size_t *count) {
    mutex_lock(&self->mutex);
    struct entry *heap = self->heap;
    *count = self->count;
    for (size_t i = 0; i < self->count; i++)
        heap[i].deadline->entry = 0;
    self->heap = NULL;
    self->room = self->count = self->spent = 0;
    note_earliest(self);
    mutex_unlock(&self->mutex);
    return heap;
}

static PyObject *clear(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct deadlines *self = deadlines_of(object);
    size_t count;
    struct entry *heap = take_all(self, &count);
    for (size_t i = 0; i < count; i++) {
        unset(self, heap[i].deadline, heap[i].deadline->flight);
        Py_DECREF(heap[i].deadline);
    }
    PyMem_RawFree(heap);
    Py_RETURN_NONE;
}

/* The types */

static PyObject *deadlines_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    static unsigned long long serials;
    PyObject *made = type->tp_alloc(type, 0);
    if (made) {
        deadlines_of(made)->earliest = (double)INFINITY;
        deadlines_of(made)->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
    }
    return made;
}

static int deadlines_traverse(PyObject *object, visitproc visit, void *arg) {
    struct deadlines *self = deadlines_of(object);
    Py_VISIT(Py_TYPE(object));
    for (size_t i = 0; i < self->count; i++)
        Py_VISIT(self->heap[i].deadline);
    return 0;
}

static int deadlines_clear(PyObject *object) {
    size_t count;
    struct entry *heap = take_all(deadlines_of(object), &count);
    while (count)
        Py_DECREF(heap[--count].deadline);
    PyMem_RawFree(heap);
    return 0;
}

static void deadlines_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    deadlines_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"assign", assign, METH_VARARGS, NULL},
    {"clear", clear, METH_NOARGS, NULL},
    {"discard", (PyCFunction)(void (*)(void))discard, METH_FASTCALL, NULL},
    {"first_due", first_due, METH_O, NULL},
    {"insert", insert, METH_VARARGS, NULL},
    {"next_time", next_time, METH_NOARGS, NULL},
    {"spend", spend, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, deadlines_new},     {Py_tp_dealloc, deadlines_dealloc}, {Py_tp_traverse, deadlines_traverse},
    {Py_tp_clear, deadlines_clear}, {Py_tp_methods, methods},           {0, NULL},
};

PyType_Spec deadlines_spec = {.name = "unio._core.Deadlines",
                              .basicsize = sizeof(struct deadlines),
                              .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                              .slots = slots};

static int deadline_traverse(PyObject *object, visitproc visit, void *arg) {
    struct deadline *self = (struct deadline *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->what);
    Py_VISIT(self->detail);
    return 0;
}

static int deadline_clear(PyObject *object) {
    struct deadline *self = (struct deadline *)object;
    Py_CLEAR(self->what);
    Py_CLEAR(self->detail);
    return 0;
}

static void deadline_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    deadline_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot deadline_slots[] = {
    {Py_tp_dealloc, deadline_dealloc}, {Py_tp_traverse, deadline_traverse}, {Py_tp_clear, deadline_clear}, {0, NULL},
};

PyType_Spec deadline_spec = {.name = "unio._core.Deadline",
                             .basicsize = sizeof(struct deadline),
                             .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                             .slots = deadline_slots};
