/* unio._core.TaskState: what drives a coroutine, as far as it does what is plain: it awaits an operation, which is submitted.
 * task_state.py has the same in Python; all else is left to the methods of Task. And what awaits an operation.
 *
 * In C, since it is done for each operation that is awaited: it takes a sixth of what it takes in Python.
 */
#include "operation.h"

#include <structmember.h> /* T_OBJECT_EX and its like, until Python 3.12 */

struct task {
    PyObject_HEAD
    PyObject *coroutine, *context; /* NULL until _begin */
    PyObject *submit;              /* the method of the port */
    PyObject *awaited;             /* what it waits for; NULL while a thread is at work on it, and when it is done */
    char cancelled;
};

static inline struct task *TASK(PyObject *task) { return (struct task *)task; }

/* The task that the calling thread is at work on. Only looked at to see whether there is one. */
static _Thread_local INITIAL_EXEC PyObject *current;

/* Makes the task the thread's, and its context the current one; the thread's former task, for leave. */
static int enter(PyObject *self, PyObject **former) {
    if (PyContext_Enter(TASK(self)->context) < 0)
        return -1;
    *former = current;
    current = self;
    return 0;
}

static int leave(PyObject *self, PyObject *former) {
    current = former;
    return PyContext_Exit(TASK(self)->context);
}

/* _step(function, value): calls it as a part of the task. */
static PyObject *step(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    PyObject *former;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "_step takes a function and a value");
    if (enter(self, &former) < 0)
        return NULL;
    PyObject *result = PyObject_CallOneArg(args[0], args[1]);
    if (leave(self, former) < 0)
        Py_CLEAR(result);
    return result;
}

PyObject *take_raised(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static int field_is_set(PyObject **field) { return __atomic_load_n(field, __ATOMIC_ACQUIRE) != NULL; }

static int is_cancelled(PyObject *self) { return PEEK(TASK(self)->cancelled); }

/* Sees to it that a task which is still this thread's is not forgotten where a call that was to see to it has found no
 * memory. Takes the call's result, which it returns if there is one. */
static PyObject *not_forgotten(PyObject *self, PyObject *result) {
    if (result || !PyErr_ExceptionMatches(PyExc_MemoryError) || field_is_set(&TASK(self)->awaited))
        return result;
    PyErr_Clear();
    return PyObject_CallMethod(self, "_go_on_without_memory", NULL);
}

/* The same where the task may have been given away for something that does not come. */
static PyObject *taken_back(PyObject *self) {
    if (!PyErr_ExceptionMatches(PyExc_MemoryError))
        return NULL;
    PyObject *awaited = exchange_field(self, &TASK(self)->awaited, NULL);
    Py_XDECREF(awaited);
    return not_forgotten(self, NULL);
}

/* Submits what the coroutine awaits. After that another thread may be at work on the task: only what says how the submit
 * ended is left to be seen to. */
static PyObject *submit(PyObject *self, PyObject *operation) {
    PyObject *former = exchange_field(operation, &OP(operation)->state, Py_NewRef(self));
    Py_XDECREF(exchange_field(self, &TASK(self)->awaited, Py_NewRef(operation)));
    PyObject *at_once = PyObject_CallOneArg(TASK(self)->submit, operation), *result;
    if (!at_once) {
        PyObject *error = take_raised();
        result = PyObject_CallMethod(self, "_refused", "OOO", operation, former ? former : Py_None, error);
        Py_XDECREF(error);
        if (!result && operation_is_idle(operation)) /* it was not called, or has made the task this thread's */
            result = taken_back(self);
    } else if (at_once == Py_False && !is_cancelled(self)) {
        result = Py_NewRef(Py_None);
    } else {
        result = PyObject_CallMethod(self, "_submitted", "O", at_once);
        if (!result && at_once == Py_True)
            result = taken_back(self);
    }
    Py_XDECREF(at_once);
    Py_XDECREF(former);
    return result;
}

/* What a thread that dispatches completions calls: goes on with the coroutine. */
static PyObject *task_call(PyObject *self, PyObject *args, PyObject *keywords) {
    PyObject *completion, *former, *request = NULL, *result;
    if (!PyArg_ParseTuple(args, "O:Task", &completion) || (keywords && PyDict_GET_SIZE(keywords)))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "a task takes a completion");
    PyObject *awaited = exchange_field(self, &TASK(self)->awaited, NULL);
    if (!awaited) /* the port was closed, and the task with it */
        Py_RETURN_NONE;
    if (is_cancelled(self)) {
        result = PyObject_CallMethod(self, "_go_on_cancelled", "OO", completion, awaited);
        Py_DECREF(awaited);
        return result;
    }
    Py_DECREF(awaited);
    PySendResult sent = PYGEN_ERROR;
    if (enter(self, &former) == 0) {
        sent = PyIter_Send(TASK(self)->coroutine, Py_None, &request);
        if (leave(self, former) < 0) {
            Py_CLEAR(request);
            sent = PYGEN_ERROR;
        }
    }
    if (sent == PYGEN_RETURN) {
        result = PyObject_CallMethod(self, "_end", "OO", request, Py_None);
        if (!result && PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear();
            result = PyObject_CallMethod(self, "_end", "OO", request, Py_None);
        }
    } else if (sent == PYGEN_ERROR) {
        request = take_raised();
        result = PyObject_CallMethod(self, "_end", "OO", Py_None, request);
        if (!result && PyErr_ExceptionMatches(PyExc_MemoryError)) { /* once more: what has been done is not done again */
            PyErr_Clear();
            result = PyObject_CallMethod(self, "_end", "OO", Py_None, request);
        }
    } else if (operation_type && PyObject_TypeCheck(request, operation_type) && operation_is_idle(request)) {
        result = submit(self, request);
    } else {
        result = not_forgotten(self, PyObject_CallMethod(self, "_asked", "(O)", request));
    }
    Py_XDECREF(request);
    return result;
}

/* _begin(coroutine, context, submit): it waits for its turn, which None stands for. */
static PyObject *begin(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "_begin takes a coroutine, a context and a method");
    Py_XSETREF(TASK(self)->coroutine, Py_NewRef(args[0]));
    Py_XSETREF(TASK(self)->context, Py_NewRef(args[1]));
    Py_XSETREF(TASK(self)->submit, Py_NewRef(args[2]));
    set_field(self, &TASK(self)->awaited, Py_NewRef(Py_None));
    Py_RETURN_NONE;
}

/* _take(): has the task for this thread alone. Returns False if another one has it. */
static PyObject *take(PyObject *self, PyObject *ignored) {
    (void)ignored;
    PyObject *awaited = exchange_field(self, &TASK(self)->awaited, NULL);
    Py_XDECREF(awaited);
    return PyBool_FromLong(awaited != NULL);
}

/* _put(awaited): gives it away, to the thread that has what it waits for. */
static PyObject *put_awaited(PyObject *self, PyObject *awaited) {
    set_field(self, &TASK(self)->awaited, Py_NewRef(awaited));
    Py_RETURN_NONE;
}

/* _awaits(): what it waits for, in a tuple; an empty one if it waits for nothing. */
static PyObject *awaits(PyObject *self, PyObject *ignored) {
    (void)ignored;
    PyObject *awaited = field_of(self, &TASK(self)->awaited);
    PyObject *found = awaited ? PyTuple_Pack(1, awaited) : PyTuple_New(0);
    Py_XDECREF(awaited);
    return found;
}

static int task_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(TASK(self)->coroutine);
    Py_VISIT(TASK(self)->context);
    Py_VISIT(TASK(self)->submit);
    Py_VISIT(TASK(self)->awaited);
    return 0;
}

static int task_clear(PyObject *self) {
    Py_CLEAR(TASK(self)->coroutine);
    Py_CLEAR(TASK(self)->context);
    Py_CLEAR(TASK(self)->submit);
    Py_CLEAR(TASK(self)->awaited);
    return 0;
}

static void task_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    task_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))function

static PyMethodDef task_methods[] = {
    {"_begin", FAST(begin), METH_FASTCALL, "Begin to wait for its turn."},
    {"_step", FAST(step), METH_FASTCALL, "Call a function with a value, in the task's context."},
    {"_take", take, METH_NOARGS, "Have the task for this thread alone. Returns False if another one has it already."},
    {"_put", put_awaited, METH_O, "Say what it waits for: another thread may go on with it from now on."},
    {"_awaits", awaits, METH_NOARGS, "What it waits for, in a tuple; an empty one for nothing."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_accessors[] = {
    {"_cancelled", get_flag, set_flag, NULL, (void *)offsetof(struct task, cancelled)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef task_members[] = {
    {"_coroutine", T_OBJECT_EX, offsetof(struct task, coroutine), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot task_slots[] = {
    {Py_tp_doc, "What drives a coroutine."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_call, task_call},
    {Py_tp_dealloc, task_dealloc},
    {Py_tp_traverse, task_traverse},
    {Py_tp_clear, task_clear},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_accessors},
    {Py_tp_members, task_members},
    {0, NULL},
};

PyType_Spec task_spec = {.name = "unio._core.TaskState",
                         .basicsize = sizeof(struct task),
                         .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                         .slots = task_slots};

/* in_task(): whether the calling thread is at work on a task. */
static PyObject *in_task(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    return PyBool_FromLong(current != NULL);
}

PyMethodDef task_functions[] = {
    {"in_task", in_task, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* What awaits an operation: an iterator that gives the operation to the task, and ends with it when it has completed. */

struct awaiting {
    PyObject_HEAD
    PyObject *operation, *state;
    char asked;
};

static PyTypeObject *awaiting_type;

PyObject *operation_await(PyObject *operation) {
    if (!current || !awaiting_type)
        return PyObject_CallMethod(operation, "_await", NULL);
    struct awaiting *made = PyObject_GC_New(struct awaiting, awaiting_type);
    if (!made)
        return NULL;
    made->operation = Py_NewRef(operation);
    made->state = NULL;
    made->asked = 0;
    PyObject_GC_Track(made);
    return (PyObject *)made;
}

static PyObject *awaiting_next(PyObject *self) {
    struct awaiting *awaiting = (struct awaiting *)self;
    PyObject *operation = awaiting->operation;
    if (!operation)
        return NULL;
    if (!awaiting->asked) {
        awaiting->asked = 1;
        awaiting->state = field_of(operation, &OP(operation)->state);
        return Py_NewRef(operation);
    }
    awaiting->operation = NULL;
    PyObject *state = awaiting->state;
    awaiting->state = NULL;
    Py_XDECREF(exchange_field(operation, &OP(operation)->state, state));
    PyObject *error = field_of(operation, &OP(operation)->error);
    if (!error || error == Py_None)
        PyErr_SetObject(PyExc_StopIteration, operation);
    else
        Py_XDECREF(PyObject_CallMethod(operation, "_raise_error", NULL));
    Py_XDECREF(error);
    Py_DECREF(operation);
    return NULL;
}

static int awaiting_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct awaiting *)self)->operation);
    Py_VISIT(((struct awaiting *)self)->state);
    return 0;
}

static void awaiting_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((struct awaiting *)self)->operation);
    Py_CLEAR(((struct awaiting *)self)->state);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot awaiting_slots[] = {
    {Py_tp_dealloc, awaiting_dealloc},
    {Py_tp_traverse, awaiting_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, awaiting_next},
    {0, NULL},
};

static PyType_Spec awaiting_spec = {.name = "unio._core.Awaiting",
                                    .basicsize = sizeof(struct awaiting),
                                    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                    .slots = awaiting_slots};

int know_awaiting(void) {
    if (!awaiting_type)
        awaiting_type = (PyTypeObject *)PyType_FromSpec(&awaiting_spec);
    return awaiting_type ? 0 : -1;
}
