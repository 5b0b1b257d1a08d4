/* unio._core.TurnsState: the turns of a loop of asyncio's. turns_state.py has the same in Python, on the queues of asyncio's
 * own base class, and says what a turn is.
 *
 * What it gains: a callback is made, kept and run without a step of Python's, a timer has its time beside it, and
 * a completion's handler is called straight from the wait.
 */
#include "asyncio_loop.h"
#include "clock.h"
#include "operation.h"

#include <string.h>
#include <structmember.h> /* T_OBJECT and its like, until Python 3.12 */

#define ROOM_MIN 64
#define SPENT_MIN 100 /* so many timers that were cancelled may stay in the heap, before it is made anew */
#define WAIT_SECONDS_MAX 86400.0
#define SKIPS_MAX 8           /* so many turns that have something to run go by before the port is asked, if they are short */
#define SKIP_SECONDS 10e-6    /* and no more time than this */
#define RESOLUTION 1e-9 /* of the clock: what is due within that, is due */

PyTypeObject *turns_type;

static struct {
    PyObject *mark, *callback_failed, *handler_failed, *run_timed, *check_closed, *context, *name, *nothing;
    PyTypeObject *recv, *send; /* the classes of most operations */
    PyObject *slow_create_task, *task, *only_loop; /* BaseEventLoop.create_task, asyncio.Task and ("loop",) */
} known;

/* Lines */

static int line_grow(struct line *line) {
    size_t room = line->room ? 2 * line->room : ROOM_MIN;
    PyObject **ring = PyMem_RawMalloc(room * sizeof *ring);
    if (!ring)
        return -1;
    for (size_t i = 0; i < line->count; i++)
        ring[i] = line->ring[(line->head + i) & (line->room - 1)];
    PyMem_RawFree(line->ring);
    line->ring = ring;
    line->room = room;
    line->head = 0;
    return 0;
}

/* Takes over the reference, unless it fails. */
static int line_append(struct line *line, PyObject *object) {
    if (line->count == line->room && line_grow(line) < 0)
        return -1;
    line->ring[(line->head + line->count) & (line->room - 1)] = object;
    POKE(line->count, line->count + 1);
    return 0;
}

static PyObject *line_pop(struct line *line) {
    if (!line->count)
        return NULL;
    PyObject *first = line->ring[line->head];
    line->head = (line->head + 1) & (line->room - 1);
    POKE(line->count, line->count - 1);
    return first;
}

static int line_traverse(const struct line *line, visitproc visit, void *arg) {
    for (size_t i = 0; i < line->count; i++)
        Py_VISIT(line->ring[(line->head + i) & (line->room - 1)]);
    return 0;
}

static void line_clear(struct line *line) {
    PyObject *first;
    while ((first = line_pop(line)))
        Py_DECREF(first);
}

/* Scheduling */

static PyObject *pop_ready(struct turns *self) {
    mutex_lock(&self->mutex);
    PyObject *first = line_pop(&self->ready);
    mutex_unlock(&self->mutex);
    return first;
}

/* Appends a callback to what is ready. Takes over the reference. */
static int append_ready(struct turns *self, PyObject *callback) {
    mutex_lock(&self->mutex);
    int failed = line_append(&self->ready, callback) < 0;
    mutex_unlock(&self->mutex);
    if (failed) {
        Py_DECREF(callback);
        PyErr_NoMemory();
    }
    return failed ? -1 : 0;
}

/* In debug mode: checks the call, and notes where it was made. */
static int mark(struct turns *self, PyObject *callback, const char *method) {
    if (!self->debug)
        return 0;
    PyObject *called = PyUnicode_FromString(method);
    PyObject *marked = called ? PyObject_CallMethodObjArgs((PyObject *)self, known.mark, callback, called, NULL) : NULL;
    Py_XDECREF(called);
    Py_XDECREF(marked);
    return marked ? 0 : -1;
}

/* What was given to a method that schedules: its own arguments, the callback and its arguments, and perhaps a context. */
struct given {
    PyObject *function, *const *args, *context;
    Py_ssize_t count;
};

static int read_given(struct turns *self, struct given *given, PyObject *const *args, Py_ssize_t count, PyObject *names,
                      Py_ssize_t own) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count <= own)
        return PyErr_SetString(PyExc_TypeError, "a callback is missing"), -1;
    if (named > 1 || (named && PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), known.context) != 0))
        return PyErr_SetString(PyExc_TypeError, "the only keyword is context"), -1;
    *given = (struct given){args[own], args + own + 1, named && args[count] != Py_None ? args[count] : NULL, count - own - 1};
    if (!PEEK(self->closed))
        return 0;
    PyObject *checked = PyObject_CallMethodNoArgs((PyObject *)self, known.check_closed);
    Py_XDECREF(checked);
    return checked ? 0 : -1;
}

/* call_soon(callback, *args, context=None) */
static PyObject *schedule(struct turns *self, PyObject *const *args, Py_ssize_t count, PyObject *names, const char *method) {
    struct given given;
    if (read_given(self, &given, args, count, names, 0) < 0)
        return NULL;
    PyObject *made = callback_new(callback_type, (PyObject *)self, given.function, given.args, given.count, given.context);
    if (!made)
        return NULL;
    if (mark(self, made, method) < 0 || append_ready(self, Py_NewRef(made)) < 0)
        Py_CLEAR(made);
    return made;
}

static PyObject *turns_call_soon(PyObject *turns, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return schedule(TURNS(turns), args, count, names, "call_soon");
}

/* _write_to_self(): wakes the loop out of its wait, from another thread or a signal handler. */
static int wake(struct turns *self) {
    if (__atomic_exchange_n(&self->called, 1, __ATOMIC_ACQ_REL))
        return 0;
    PyObject *posted = PyObject_CallOneArg(self->post, known.nothing);
    if (!posted)
        POKE(self->called, 0);
    Py_XDECREF(posted);
    return posted ? 0 : -1;
}

static PyObject *turns_wake(PyObject *turns, PyObject *Py_UNUSED(ignored)) {
    return wake(TURNS(turns)) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *turns_call_soon_threadsafe(PyObject *turns, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *made = schedule(TURNS(turns), args, count, names, "call_soon_threadsafe");
    if (made && wake(TURNS(turns)) < 0)
        Py_CLEAR(made);
    return made;
}

/* Timers: a heap by their times */

static int comes_before(const struct scheduled *a, const struct scheduled *b) {
    return a->when < b->when || (a->when == b->when && a->order < b->order);
}

static void sift_up(struct turns *self, size_t place) {
    struct scheduled moved = self->heap[place];
    while (place && comes_before(&moved, &self->heap[(place - 1) / 2])) {
        self->heap[place] = self->heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    self->heap[place] = moved;
}

static void sift_down(struct turns *self, size_t place) {
    struct scheduled moved = self->heap[place];
    for (size_t child; (child = 2 * place + 1) < self->scheduled; place = child) {
        if (child + 1 < self->scheduled && comes_before(&self->heap[child + 1], &self->heap[child]))
            child++;
        if (!comes_before(&self->heap[child], &moved))
            break;
        self->heap[place] = self->heap[child];
    }
    self->heap[place] = moved;
}

/* Takes over the reference, unless it fails. */
static int heap_push(struct turns *self, double when, PyObject *timer) {
    if (self->scheduled == self->room) {
        size_t room = self->room ? 2 * self->room : ROOM_MIN;
        struct scheduled *heap = PyMem_RawRealloc(self->heap, room * sizeof *heap);
        if (!heap)
            return PyErr_NoMemory(), -1;
        self->heap = heap;
        self->room = room;
    }
    self->heap[self->scheduled] = (struct scheduled){when, ++self->made, timer};
    sift_up(self, self->scheduled++);
    return 0;
}

static void set_scheduled(PyObject *timer, int is) {
    set_field(timer, &TIMER(timer)->scheduled, PyBool_FromLong(is));
}

/* Takes the first out; the reference is the caller's. */
static PyObject *heap_pop(struct turns *self) {
    PyObject *first = self->heap[0].timer;
    self->heap[0] = self->heap[--self->scheduled];
    if (self->scheduled)
        sift_down(self, 0);
    set_scheduled(first, 0);
    return first;
}

/* Makes the heap anew of those that were not cancelled. What is dropped may run any code, so that is done behind it. */
static void rebuild_heap(struct turns *self) {
    size_t left = 0, all = self->scheduled, gone = 0;
    PyObject **dropped = PyMem_RawMalloc((self->spent + 1) * sizeof *dropped);
    if (!dropped)
        return;
    for (size_t i = 0; i < all; i++) {
        if (is_cancelled(self->heap[i].timer) && gone < self->spent)
            dropped[gone++] = self->heap[i].timer;
        else
            self->heap[left++] = self->heap[i];
    }
    self->scheduled = left;
    self->spent -= gone;
    for (size_t i = left / 2; i-- > 0;)
        sift_down(self, i);
    for (size_t i = 0; i < gone; i++) {
        set_scheduled(dropped[i], 0);
        Py_DECREF(dropped[i]);
    }
    PyMem_RawFree(dropped);
}

/* Lets timers that were cancelled go: those that come first, and all of them where they are the most. */
static void drop_spent(struct turns *self) {
    if (self->spent > SPENT_MIN && self->spent * 2 > self->scheduled)
        rebuild_heap(self);
    while (self->scheduled && is_cancelled(self->heap[0].timer)) {
        if (self->spent)
            self->spent--;
        Py_DECREF(heap_pop(self));
    }
}

static PyObject *schedule_at(struct turns *self, double when, const struct given *given, const char *method) {
    PyObject *made = callback_new(timer_type, (PyObject *)self, given->function, given->args, given->count, given->context);
    if (!made)
        return NULL;
    TIMER(made)->scheduled = Py_NewRef(Py_False);
    TIMER(made)->when = PyFloat_FromDouble(when);
    if (!TIMER(made)->when || mark(self, made, method) < 0 || heap_push(self, when, made) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    set_scheduled(made, 1);
    return Py_NewRef(made);
}

static PyObject *schedule_timer(struct turns *self, PyObject *const *args, Py_ssize_t count, PyObject *names, double from,
                                const char *method) {
    struct given given;
    if (read_given(self, &given, args, count, names, 1) < 0)
        return NULL;
    if (args[0] == Py_None)
        return PyErr_SetString(PyExc_TypeError, from ? "delay must not be None" : "when cannot be None"), NULL;
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1 && PyErr_Occurred())
        return NULL;
    return schedule_at(self, from + when, &given, method);
}

/* call_later(delay, callback, *args, context=None) */
static PyObject *turns_call_later(PyObject *turns, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return schedule_timer(TURNS(turns), args, count, names, monotonic(), "call_later");
}

/* call_at(when, callback, *args, context=None) */
static PyObject *turns_call_at(PyObject *turns, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    return schedule_timer(TURNS(turns), args, count, names, 0, "call_at");
}

/* Has the timers that are due run in this turn. Returns how many, or -1. */
static Py_ssize_t move_due(struct turns *self) {
    Py_ssize_t due = 0;
    double until = self->scheduled ? monotonic() + RESOLUTION : 0;
    while (self->scheduled && self->heap[0].when < until) {
        if (append_ready(self, Py_NewRef(self->heap[0].timer)) < 0)
            return -1;
        if (is_cancelled(self->heap[0].timer) && self->spent)
            self->spent--;
        Py_DECREF(heap_pop(self));
        due++;
    }
    return due;
}

/* Tasks */

/* Whether a task is of the plain kind: asyncio's own class, with no more than a name, which is None. */
static int is_plain_task(struct turns *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    return count == 1 && !self->debug && !PEEK(self->closed) && (!self->task_factory || self->task_factory == Py_None) &&
           (!named || (named == 1 && args[1] == Py_None && PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), known.name) == 0));
}

/* create_task(coro, *, name=None, ...) */
static PyObject *turns_create_task(PyObject *turns, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (is_plain_task(TURNS(turns), args, count, names)) {
        PyObject *given[] = {args[0], turns};
        return PyObject_Vectorcall(known.task, given, 1, known.only_loop);
    }
    Py_ssize_t all = count + (names ? PyTuple_GET_SIZE(names) : 0);
    PyObject **given = PyMem_Malloc((size_t)(all + 1) * sizeof *given);
    if (!given)
        return PyErr_NoMemory();
    given[0] = turns;
    memcpy(given + 1, args, (size_t)all * sizeof *args);
    PyObject *made = PyObject_Vectorcall(known.slow_create_task, given, (size_t)count + 1, names);
    PyMem_Free(given);
    return made;
}

/* Running */

/* Has Python report what a callback has raised. */
static int report(struct turns *self, PyObject *method, PyObject *what) {
    PyObject *error = take_reportable();
    PyObject *reported = error ? PyObject_CallMethodObjArgs((PyObject *)self, method, what, error, NULL) : NULL;
    Py_XDECREF(error);
    Py_XDECREF(reported);
    return reported ? 0 : -1;
}

static int run_foreign(struct turns *self, PyObject *callback) {
    PyObject *run = PyObject_CallMethodOneArg((PyObject *)self, known.run_timed, callback);
    Py_XDECREF(run);
    return run ? 0 : -1;
}

static int run_one(struct turns *self, PyObject *callback) {
    if (self->debug || (Py_TYPE(callback) != callback_type && Py_TYPE(callback) != timer_type))
        return run_foreign(self, callback);
    PyObject *function = field_of(callback, &CALLBACK(callback)->callback), *args = field_of(callback, &CALLBACK(callback)->args);
    int done = 0;
    if (!is_cancelled(callback)) {
        PyObject *result = call_within(CALLBACK(callback)->context, function, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args));
        Py_XDECREF(result);
        done = result ? 0 : report(self, known.callback_failed, callback);
    }
    Py_XDECREF(function);
    Py_XDECREF(args);
    return done;
}

static int run_ready(struct turns *self, size_t count) {
    for (; count; count--) {
        PyObject *first = pop_ready(self);
        int failed = first ? run_one(self, first) < 0 : 0;
        Py_XDECREF(first);
        if (failed)
            return -1;
    }
    return 0;
}

static int is_operation(PyObject *object) {
    return Py_TYPE(object) == known.recv || Py_TYPE(object) == known.send || PyObject_TypeCheck(object, operation_type);
}

/* What is called with a completion. */
static PyObject *handler_of(PyObject *completion) {
    PyObject *operation = PyTuple_GET_ITEM(completion, 1);
    if (operation == Py_None)
        return Py_NewRef(PyTuple_GET_ITEM(completion, 0));
    return is_operation(operation) ? field_of(operation, &OP(operation)->state) : PyObject_GetAttrString(operation, "state");
}

/* Calls a handler. That of a stream's receives and sends is called as what it is. */
static PyObject *call_handler(PyObject *handler, PyObject *completion) {
    if (PyCFunction_CheckExact(handler)) {
        PyCFunction function = PyCFunction_GET_FUNCTION(handler);
        if (function == stream_received || function == stream_sent)
            return function(PyCFunction_GET_SELF(handler), completion);
    }
    return PyObject_CallOneArg(handler, completion);
}

static int deliver_one(struct turns *self, PyObject *completion) {
    PyObject *handler = handler_of(completion), *result = handler ? call_handler(handler, completion) : NULL;
    Py_XDECREF(handler);
    Py_XDECREF(result);
    return result ? 0 : report(self, known.handler_failed, PyTuple_GET_ITEM(completion, 1));
}

static int deliver(struct turns *self) {
    while (self->batch && self->delivered < PyList_GET_SIZE(self->batch)) {
        PyObject *completion = Py_NewRef(PyList_GET_ITEM(self->batch, self->delivered++));
        int done = deliver_one(self, completion);
        Py_DECREF(completion);
        if (done < 0)
            return -1;
    }
    Py_CLEAR(self->batch);
    return 0;
}

/* Does what was to be done at the end of the turn; that may want more of it. */
static int end_turn(struct turns *self) {
    PyObject *work;
    while ((work = line_pop(&self->at_end))) {
        int done;
        if (stream_type && (Py_TYPE(work)->tp_base == stream_type || PyObject_TypeCheck(work, stream_type))) {
            done = stream_flush(work);
        } else {
            PyObject *result = PyObject_CallNoArgs(work);
            done = result ? 0 : -1;
            Py_XDECREF(result);
        }
        Py_DECREF(work);
        if (done < 0)
            return -1;
    }
    return 0;
}

/* How long the port is to be waited on: a number of seconds, or None. */
static PyObject *time_to_wait(struct turns *self) {
    drop_spent(self);
    if (self->stopping || PEEK(self->ready.count))
        return PyLong_FromLong(0);
    if (!self->scheduled)
        return Py_NewRef(Py_None);
    double left = self->heap[0].when - monotonic();
    return PyFloat_FromDouble(left < 0 ? 0 : left > WAIT_SECONDS_MAX ? WAIT_SECONDS_MAX : left);
}

/* Whether the port was asked just now, and there is something to run: to ask takes longer than a short callback. */
static int is_asked_already(struct turns *self) {
    if (!PEEK(self->ready.count) || self->stopping || ++self->skips > SKIPS_MAX)
        return self->skips = 0;
    double now = monotonic();
    if (now - self->asked < SKIP_SECONDS)
        return 1;
    self->asked = now;
    return self->skips = 0;
}

static int take_batch(struct turns *self) {
    PyObject *seconds = time_to_wait(self), *batch = seconds ? call_builtin(self->wait, seconds) : NULL;
    Py_XDECREF(seconds);
    if (batch && !PyList_Check(batch)) {
        Py_CLEAR(batch);
        PyErr_SetString(PyExc_TypeError, "a wait returns a list");
    }
    self->batch = batch;
    self->delivered = 0;
    return batch ? 0 : -1;
}

/* A turn. */
static int turn(struct turns *self) {
    /* Where there is a batch, an exception has come in the middle of the last turn. */
    if (deliver(self) < 0 || run_ready(self, PEEK(self->ready.count)) < 0)
        return -1;
    int has_work = PEEK(self->at_end.count) != 0;
    if (end_turn(self) < 0 || ((has_work || !is_asked_already(self)) && take_batch(self) < 0))
        return -1;
    __atomic_store_n(&self->called, 0, __ATOMIC_SEQ_CST); /* who scheduled something before this is seen in the next turn */
    /* asyncio runs the timers that are due before what the completions will schedule. */
    return move_due(self) < 0 || deliver(self) < 0 ? -1 : 0;
}

/* _run_once(): what asyncio's base class calls again and again, until the loop is stopping. So this need not return before. */
static PyObject *turns_run_once(PyObject *turns, PyObject *Py_UNUSED(ignored)) {
    if (move_due(TURNS(turns)) < 0)
        return NULL;
    do {
        if (turn(TURNS(turns)) < 0)
            return NULL;
    } while (!TURNS(turns)->stopping);
    Py_RETURN_NONE;
}

int turns_before_wait(PyObject *turns, PyObject *work) {
    if (line_append(&TURNS(turns)->at_end, Py_NewRef(work)) == 0)
        return 0;
    Py_DECREF(work);
    PyErr_NoMemory();
    return -1;
}

/* before_wait(work): have something done once at the end of this turn, right before the port is waited on. */
static PyObject *before_wait(PyObject *turns, PyObject *work) {
    return turns_before_wait(turns, work) < 0 ? NULL : Py_NewRef(Py_None);
}

/* _begin_turns(port): from now on it waits on that. */
static PyObject *begin(PyObject *turns, PyObject *port) {
    struct turns *self = TURNS(turns);
    Py_XSETREF(self->wait, PyObject_GetAttrString(port, "wait"));
    Py_XSETREF(self->post, PyObject_GetAttrString(port, "post"));
    Py_XSETREF(self->submit, PyObject_GetAttrString(port, "submit"));
    return self->wait && self->post && self->submit ? Py_NewRef(Py_None) : NULL;
}

/* _end_turns(): nothing runs any more. */
static PyObject *end(PyObject *turns, PyObject *Py_UNUSED(ignored)) {
    struct turns *self = TURNS(turns);
    PyObject *first;
    POKE(self->closed, 1);
    while ((first = pop_ready(self)))
        Py_DECREF(first);
    line_clear(&self->at_end);
    while (self->scheduled)
        Py_DECREF(heap_pop(self));
    self->spent = 0;
    Py_CLEAR(self->batch);
    Py_RETURN_NONE;
}

/* _undelivered(): the operations whose completions were taken and not delivered yet. */
static PyObject *undelivered(PyObject *turns, PyObject *Py_UNUSED(ignored)) {
    struct turns *self = TURNS(turns);
    return self->batch ? PyList_GetSlice(self->batch, self->delivered, PyList_GET_SIZE(self->batch)) : PyList_New(0);
}

static PyObject *timer_cancelled(PyObject *turns, PyObject *Py_UNUSED(timer)) {
    TURNS(turns)->spent++;
    Py_RETURN_NONE;
}

/* The type */

static int turns_traverse(PyObject *turns, visitproc visit, void *arg) {
    struct turns *self = TURNS(turns);
    Py_VISIT(Py_TYPE(turns));
    Py_VISIT(self->task_factory);
    Py_VISIT(self->wait);
    Py_VISIT(self->post);
    Py_VISIT(self->submit);
    Py_VISIT(self->batch);
    for (size_t i = 0; i < self->scheduled; i++)
        Py_VISIT(self->heap[i].timer);
    return line_traverse(&self->ready, visit, arg) ? -1 : line_traverse(&self->at_end, visit, arg);
}

static int turns_clear(PyObject *turns) {
    struct turns *self = TURNS(turns);
    line_clear(&self->ready);
    line_clear(&self->at_end);
    while (self->scheduled)
        Py_DECREF(heap_pop(self));
    Py_CLEAR(self->batch);
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->wait);
    Py_CLEAR(self->post);
    Py_CLEAR(self->submit);
    return 0;
}

static void turns_dealloc(PyObject *turns) {
    PyTypeObject *type = Py_TYPE(turns);
    PyObject_GC_UnTrack(turns);
    turns_clear(turns);
    PyMem_RawFree(TURNS(turns)->ready.ring);
    PyMem_RawFree(TURNS(turns)->at_end.ring);
    PyMem_RawFree(TURNS(turns)->heap);
    type->tp_free(turns);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))function

static PyMethodDef methods[] = {
    {"call_soon", FAST(turns_call_soon), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"call_soon_threadsafe", FAST(turns_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"call_later", FAST(turns_call_later), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"call_at", FAST(turns_call_at), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"create_task", FAST(turns_create_task), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"before_wait", before_wait, METH_O, "Have something done once at the end of this turn, right before the port is waited on."},
    {"_run_once", turns_run_once, METH_NOARGS, NULL},
    {"_write_to_self", turns_wake, METH_NOARGS, "Wake the loop out of its wait: from another thread, or a signal handler."},
    {"_begin_turns", begin, METH_O, NULL},
    {"_end_turns", end, METH_NOARGS, NULL},
    {"_undelivered", undelivered, METH_NOARGS, NULL},
    {"_timer_handle_cancelled", timer_cancelled, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"_debug", get_flag, set_flag, NULL, (void *)offsetof(struct turns, debug)},
    {"_stopping", get_flag, set_flag, NULL, (void *)offsetof(struct turns, stopping)},
    {"_task_factory", get_object, set_object, NULL, (void *)offsetof(struct turns, task_factory)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The turns of a loop: callbacks, timers, and the completions of its port."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, turns_dealloc},
    {Py_tp_traverse, turns_traverse},
    {Py_tp_clear, turns_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

PyType_Spec turns_spec = {.name = "unio._core.TurnsState",
                          .basicsize = sizeof(struct turns),
                          .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                          .slots = slots};

/* know_turns(nothing, BaseEventLoop.create_task, asyncio.Task, Recv, Send): what is posted to end a wait, what makes tasks,
 * and the classes of most operations; and the names of what is called. */
static PyObject *know_turns(PyObject *module, PyObject *args) {
    PyObject *nothing, *slow_create_task, *task, *recv, *send;
    if (!PyArg_ParseTuple(args, "OOOOO", &nothing, &slow_create_task, &task, &recv, &send))
        return NULL;
    known.recv = (PyTypeObject *)Py_NewRef(recv);
    known.send = (PyTypeObject *)Py_NewRef(send);
    const struct {
        PyObject **at;
        const char *spelled;
    } wanted[] = {
        {&known.mark, "_mark"},
        {&known.callback_failed, "_callback_failed"},
        {&known.handler_failed, "_handler_failed"},
        {&known.run_timed, "_run_timed"},
        {&known.check_closed, "_check_closed"},
        {&known.context, "context"},
        {&known.name, "name"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!*wanted[i].at && !(*wanted[i].at = PyUnicode_InternFromString(wanted[i].spelled)))
            return NULL;
    }
    Py_XSETREF(known.nothing, Py_NewRef(nothing));
    Py_XSETREF(known.slow_create_task, Py_NewRef(slow_create_task));
    Py_XSETREF(known.task, Py_NewRef(task));
    if (!known.only_loop && !(known.only_loop = Py_BuildValue("(s)", "loop")))
        return NULL;
    turns_type = (PyTypeObject *)PyObject_GetAttrString(module, "TurnsState");
    return turns_type ? Py_NewRef(Py_None) : NULL;
}

PyMethodDef turns_functions[] = {
    {"know_turns", know_turns, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
