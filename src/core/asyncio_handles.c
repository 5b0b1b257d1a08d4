/* What a loop of asyncio's gives for a callback: asyncio.Handle and TimerHandle themselves, made and dropped in C.
 *
 * Those are classes of Python's with slots. Of the classes here, which derive from them, the instances are the same in all
 * that a program sees: only making, cancelling and dropping one is C's, a tenth of what it takes in Python. Where a Python
 * has their slots elsewhere, the loop goes without this.
 */
#include "asyncio_loop.h"

PyTypeObject *callback_type, *timer_type;

static PyObject *no_args;

/* Making and dropping */

#ifndef Py_GIL_DISABLED

/* A loop makes one for each callback, and drops it at once: so some are kept for the next. */
#define KEPT_MAX 256

static PyObject *kept[KEPT_MAX];
static int kept_count;

static PyObject *take_kept(PyTypeObject *type) {
    if (type != callback_type || !kept_count)
        return NULL;
    PyObject *made = kept[--kept_count];
    PyObject_Init(made, type);
    PyObject_GC_Track(made);
    return made;
}

static int keep(PyObject *self) {
    if (Py_TYPE(self) != callback_type || kept_count == KEPT_MAX)
        return 0;
    kept[kept_count++] = self;
    return 1;
}

#else

static PyObject *take_kept(PyTypeObject *type) {
    (void)type;
    return NULL;
}

static int keep(PyObject *self) {
    (void)self;
    return 0;
}

#endif

static PyObject *tuple_of(PyObject *const *args, Py_ssize_t count) {
    if (!count)
        return Py_NewRef(no_args);
    PyObject *made = PyTuple_New(count);
    for (Py_ssize_t i = 0; made && i < count; i++)
        PyTuple_SET_ITEM(made, i, Py_NewRef(args[i]));
    return made;
}

PyObject *callback_new(PyTypeObject *type, PyObject *loop, PyObject *function, PyObject *const *args, Py_ssize_t count,
                       PyObject *context) {
    PyObject *given = tuple_of(args, count);
    PyObject *within = context ? Py_NewRef(context) : PyContext_CopyCurrent();
    PyObject *made = given && within ? take_kept(type) : NULL;
    if (!made && given && within)
        made = type->tp_alloc(type, 0);
    if (!made) {
        Py_XDECREF(given);
        Py_XDECREF(within);
        return NULL;
    }
    struct callback *self = CALLBACK(made);
    self->args = given;
    self->context = within;
    self->callback = Py_NewRef(function);
    self->loop = Py_NewRef(loop);
    self->cancelled = Py_NewRef(Py_False);
    self->repr = Py_NewRef(Py_None);
    self->source_traceback = Py_NewRef(Py_None);
    return made;
}

static int callback_traverse(PyObject *object, visitproc visit, void *arg) {
    struct callback *self = CALLBACK(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->args);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->loop);
    Py_VISIT(self->source_traceback);
    return 0;
}

static int callback_clear(PyObject *object) {
    struct callback *self = CALLBACK(object);
    Py_CLEAR(self->args);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->source_traceback);
    Py_CLEAR(self->repr);
    Py_CLEAR(self->cancelled);
    return 0;
}

static void forget_weakly(PyObject *self) {
    if (*(PyObject **)((char *)self + Py_TYPE(self)->tp_weaklistoffset))
        PyObject_ClearWeakRefs(self);
}

static void callback_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    forget_weakly(self);
    if (type == timer_type) {
        Py_CLEAR(TIMER(self)->scheduled);
        Py_CLEAR(TIMER(self)->when);
    }
    callback_clear(self);
    if (!keep(self))
        type->tp_free(self);
    Py_DECREF(type);
}

/* cancel(), as in asyncio: it lets go of what was to be called. */
static PyObject *callback_cancel(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *former = exchange_field(self, &CALLBACK(self)->cancelled, Py_NewRef(Py_True));
    Py_XDECREF(former);
    if (former == Py_True)
        Py_RETURN_NONE;
    if (PEEK(TURNS(CALLBACK(self)->loop)->debug)) { /* it shows what it was */
        PyObject *shown = PyObject_Repr(self);
        if (!shown)
            return NULL;
        set_field(self, &CALLBACK(self)->repr, shown);
    }
    set_field(self, &CALLBACK(self)->callback, Py_NewRef(Py_None));
    set_field(self, &CALLBACK(self)->args, Py_NewRef(Py_None));
    Py_RETURN_NONE;
}

/* Calling */

PyObject *call_within(PyObject *context, PyObject *function, PyObject *const *args, Py_ssize_t count) {
    if (PyContext_Enter(context) < 0)
        return NULL;
    PyObject *result = PyObject_Vectorcall(function, args, (size_t)count, NULL);
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(result);
    return result;
}

PyObject *take_reportable(void) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return NULL;
    return take_raised();
}

/* The types */

static PyMethodDef methods[] = {
    {"cancel", callback_cancel, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot callback_slots[] = {
    {Py_tp_dealloc, callback_dealloc}, {Py_tp_traverse, callback_traverse}, {Py_tp_clear, callback_clear},
    {Py_tp_methods, methods},          {0, NULL},
};

static PyMethodDef timer_methods[];

static PyType_Slot timer_slots[] = {
    {Py_tp_dealloc, callback_dealloc}, {Py_tp_traverse, callback_traverse}, {Py_tp_clear, callback_clear},
    {Py_tp_methods, timer_methods},    {0, NULL},
};

#define FLAGS Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC

static PyType_Spec callback_spec = {
    .name = "asyncio.Handle", .basicsize = sizeof(struct callback), .flags = FLAGS, .slots = callback_slots};
static PyType_Spec timer_spec = {
    .name = "asyncio.TimerHandle", .basicsize = sizeof(struct timer), .flags = FLAGS, .slots = timer_slots};

/* cancel() of a timer: its loop counts those in its heap that are. */
static PyObject *timer_cancel(PyObject *self, PyObject *ignored) {
    if (!is_cancelled(self) && PEEK(TIMER(self)->scheduled) == Py_True)
        TURNS(CALLBACK(self)->loop)->spent++;
    return callback_cancel(self, ignored);
}

static PyMethodDef timer_methods[] = {
    {"cancel", timer_cancel, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int has_slots_at(PyObject *class, const struct place *places, size_t size) {
    for (; places->name; places++) {
        Py_ssize_t offset;
        if (offset_of(class, places->name, &offset) < 0)
            return PyErr_Clear(), 0;
        if ((size_t)offset != places->offset)
            return 0;
    }
    return (size_t)((PyTypeObject *)class)->tp_basicsize == size;
}

static const struct place places_of_callback[] = {
    {"_args", offsetof(struct callback, args)},
    {"_callback", offsetof(struct callback, callback)},
    {"_cancelled", offsetof(struct callback, cancelled)},
    {"_context", offsetof(struct callback, context)},
    {"_loop", offsetof(struct callback, loop)},
    {"_repr", offsetof(struct callback, repr)},
    {"_source_traceback", offsetof(struct callback, source_traceback)},
    {NULL, 0},
};

static const struct place places_of_timer[] = {
    {"_scheduled", offsetof(struct timer, scheduled)},
    {"_when", offsetof(struct timer, when)},
    {NULL, 0},
};

/* know_handles(asyncio.Handle, asyncio.TimerHandle): whether their instances can be made here. */
static PyObject *know_handles(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *handle, *timer;
    if (!PyArg_ParseTuple(args, "OO", &handle, &timer))
        return NULL;
    if (callback_type || !has_slots_at(handle, places_of_callback, sizeof(struct callback)) ||
        !has_slots_at(timer, places_of_timer, sizeof(struct timer)))
        return PyBool_FromLong(callback_type != NULL);
    no_args = PyTuple_New(0);
    timer_type = (PyTypeObject *)PyType_FromSpecWithBases(&timer_spec, timer);
    callback_type = timer_type ? (PyTypeObject *)PyType_FromSpecWithBases(&callback_spec, handle) : NULL;
    if (!callback_type || !no_args)
        return NULL;
    Py_RETURN_TRUE;
}

PyMethodDef handle_functions[] = {
    {"know_handles", know_handles, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
