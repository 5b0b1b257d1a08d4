/* unio.Completion: what a wait returns. completion.py has the same in Python, as a NamedTuple.
 *
 * A port makes one for each operation, and programs drop them at once. So the memory of those with which nothing else goes,
 * so that no code of anybody's runs meanwhile, is kept for the next: that saves one in nine of the instructions of a post
 * and the wait for it, and one in forty of those of an echo. Without Python's lock, each thread would have to have a store of
 * its own, and completions go from the thread that waits to others; there, nothing is kept.
 */
#include "completion.h"
#include "operation.h"

#include <structmember.h> /* T_OBJECT_EX, until Python 3.12 */

#define FIELDS 4 /* of each: what could make one of another size, tuple.__new__, is refused, as this class has its own */

static const char *const names[FIELDS] = {"key", "operation", "transferred", "error"};

PyTypeObject *completion_type;

/* Making and dropping */

static void dealloc(PyObject *completion);

#ifndef Py_GIL_DISABLED

#define KEPT_MAX 256 /* no wait of a usual server returns more at a time */

static PyObject *kept[KEPT_MAX];
static int kept_count;

/* Whether an item lives on without the completion, which may have it more than once, or is but a number. */
static int is_kept_by_others(PyObject *completion, PyObject *item) {
    Py_ssize_t times = 0;
    if (!item || PyLong_CheckExact(item))
        return item != NULL;
    if (Py_REFCNT(item) > FIELDS) /* as most have: it can't be the completion alone */
        return 1;
    for (int i = 0; i < FIELDS; i++)
        times += PyTuple_GET_ITEM(completion, i) == item;
    return Py_REFCNT(item) > times;
}

static int drops_nothing(PyObject *completion) {
    for (int i = 0; i < FIELDS; i++)
        if (!is_kept_by_others(completion, PyTuple_GET_ITEM(completion, i)))
            return 0;
    return 1;
}

/* Whether a completion is one of this class itself, and its memory is to be kept. */
static int is_to_keep(PyObject *completion) {
    return kept_count < KEPT_MAX && Py_TYPE(completion)->tp_dealloc == dealloc && drops_nothing(completion);
}

static void keep(PyObject *completion) { kept[kept_count++] = completion; }

static PyObject *kept_completion(void) {
    if (!kept_count)
        return NULL;
    PyObject *completion = kept[--kept_count];
    PyObject_InitVar((PyVarObject *)completion, completion_type, FIELDS);
    PyObject_GC_Track(completion);
    return completion;
}

#else

static int is_to_keep(PyObject *completion) {
    (void)completion;
    return 0;
}

static void keep(PyObject *completion) { (void)completion; }

static PyObject *kept_completion(void) { return NULL; }

#endif

static void drop_items(PyObject *completion) {
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        PyObject *item = PyTuple_GET_ITEM(completion, i);
        PyTuple_SET_ITEM(completion, i, NULL);
        Py_XDECREF(item);
    }
}

/* The type may be a subclass, whose own deallocator has called this. */
static void dealloc(PyObject *completion) {
    PyTypeObject *type = Py_TYPE(completion);
    PyObject_GC_UnTrack(completion);
    if (is_to_keep(completion)) {
        drop_items(completion);
        keep(completion);
        Py_DECREF(type); /* whose instance it is no longer */
        return;
    }
    Py_TRASHCAN_BEGIN(completion, dealloc) /* the key may be a completion, and its key one, and so on */
    drop_items(completion);
    type->tp_free(completion);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static int traverse(PyObject *completion, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(completion));
    for (Py_ssize_t i = 0; i < FIELDS; i++)
        Py_VISIT(PyTuple_GET_ITEM(completion, i));
    return 0;
}

static PyObject *made(PyTypeObject *type) {
    PyObject *completion = type->tp_alloc(type, FIELDS);
#if PY_VERSION_HEX >= 0x030E0000
    if (completion)
        ((PyTupleObject *)completion)->ob_hash = -1; /* it is not known yet */
#endif
    return completion;
}

static PyObject *made_of(PyTypeObject *type, PyObject *const items[FIELDS]) {
    PyObject *completion = made(type);
    for (Py_ssize_t i = 0; completion && i < FIELDS; i++)
        PyTuple_SET_ITEM(completion, i, Py_NewRef(items[i]));
    return completion;
}

/* For the rest of unio._core */

PyObject *new_completion(void) {
    PyObject *completion = kept_completion();
#if PY_VERSION_HEX >= 0x030E0000
    if (completion)
        ((PyTupleObject *)completion)->ob_hash = -1;
#endif
    return completion ? completion : made(completion_type);
}

/* What is in a public attribute of an operation: its class may not have called __init__. */
static PyObject *or_none(PyObject *value) { return value ? value : Py_NewRef(Py_None); }

int complete(PyObject *completion, PyObject *operation) {
    PyObject *transferred = PyLong_FromLongLong(transferred_of(operation));
    if (!transferred)
        return -1;
    PyObject *key = or_none(field_of(operation, &OP(operation)->key));
    PyObject *error = or_none(field_of(operation, &OP(operation)->error));
    PyTuple_SET_ITEM(completion, 0, key); /* from here on nothing waits: the collector never sees half of this */
    PyTuple_SET_ITEM(completion, 1, operation);
    PyTuple_SET_ITEM(completion, 2, transferred);
    PyTuple_SET_ITEM(completion, 3, error);
    set_status(operation, IDLE); /* last: from here on another thread may submit it again */
    return 0;
}

PyObject *posted_completion(PyObject *key, PyObject *operation, PyObject *transferred) {
    PyObject *const items[FIELDS] = {key, operation, transferred, Py_None};
    PyObject *completion = new_completion();
    for (Py_ssize_t i = 0; completion && i < FIELDS; i++)
        PyTuple_SET_ITEM(completion, i, Py_NewRef(items[i]));
    return completion;
}

/* For programs: what a NamedTuple has */

static PyObject *completion_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *keyword_names[] = {"key", "operation", "transferred", "error", NULL};
    PyObject *items[FIELDS];
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOO:Completion", keyword_names, &items[0], &items[1], &items[2],
                                     &items[3]))
        return NULL;
    return made_of(type, items);
}

static PyObject *make(PyObject *type, PyObject *iterable) {
    PyObject *items = PySequence_Tuple(iterable), *completion = NULL;
    if (items && PyTuple_GET_SIZE(items) == FIELDS)
        completion = made_of((PyTypeObject *)type, &PyTuple_GET_ITEM(items, 0));
    else if (items)
        PyErr_Format(PyExc_TypeError, "Expected %d arguments, got %zd", FIELDS, PyTuple_GET_SIZE(items));
    Py_XDECREF(items);
    return completion;
}

static PyObject *as_dict(PyObject *self, PyObject *ignored) {
    (void)ignored;
    PyObject *dict = PyDict_New();
    for (Py_ssize_t i = 0; dict && i < FIELDS; i++)
        if (PyDict_SetItemString(dict, names[i], PyTuple_GET_ITEM(self, i)) < 0)
            Py_CLEAR(dict);
    return dict;
}

/* Raises what a NamedTuple does for keywords that are no fields, which are left in a dict. */
static PyObject *unexpected(PyObject *left) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *error = PyExc_TypeError;
#else
    PyObject *error = PyExc_ValueError;
#endif
    PyObject *unknown = PyDict_Keys(left);
    if (unknown)
        PyErr_Format(error, "Got unexpected field names: %R", unknown);
    Py_XDECREF(unknown);
    return NULL;
}

static PyObject *replace(PyObject *self, PyObject *args, PyObject *keywords) {
    if (!PyArg_ParseTuple(args, ":_replace"))
        return NULL;
    PyObject *items[FIELDS], *left = keywords ? PyDict_Copy(keywords) : PyDict_New(), *completion = NULL;
    int failed = !left;
    for (Py_ssize_t i = 0; !failed && i < FIELDS; i++) {
        PyObject *given = PyDict_GetItemString(left, names[i]);
        items[i] = given ? PyDict_GetItemString(keywords, names[i]) : PyTuple_GET_ITEM(self, i);
        failed = given && PyDict_DelItemString(left, names[i]) < 0;
    }
    if (!failed)
        completion = PyDict_GET_SIZE(left) ? unexpected(left) : made_of(Py_TYPE(self), items);
    Py_XDECREF(left);
    return completion;
}

static PyObject *get_new_args(PyObject *self, PyObject *ignored) {
    (void)ignored;
    return PyTuple_GetSlice(self, 0, FIELDS);
}

/* Protocols before 2 would call tuple.__new__, which a class that is C has refused. */
static PyObject *reduce(PyObject *self, PyObject *protocol) {
    long number = PyLong_AsLong(protocol);
    if (PyErr_Occurred())
        return NULL;
    return PyObject_CallMethod((PyObject *)&PyBaseObject_Type, "__reduce_ex__", "Ol", self, number < 2 ? 2 : number);
}

static PyObject *represent(PyObject *self) {
    PyObject *name = PyType_GetName(Py_TYPE(self)), *text = NULL;
    if (name)
        text = PyUnicode_FromFormat("%U(key=%R, operation=%R, transferred=%R, error=%R)", name,
                                    PyTuple_GET_ITEM(self, 0), PyTuple_GET_ITEM(self, 1), PyTuple_GET_ITEM(self, 2),
                                    PyTuple_GET_ITEM(self, 3));
    Py_XDECREF(name);
    return text;
}

int fill_completion_type(PyObject *type) {
    PyObject *fields = Py_BuildValue("(ssss)", names[0], names[1], names[2], names[3]), *defaults = PyDict_New();
    int failed = !fields || !defaults || PyObject_SetAttrString(type, "_fields", fields) < 0 ||
                 PyObject_SetAttrString(type, "__match_args__", fields) < 0 ||
                 PyObject_SetAttrString(type, "_field_defaults", defaults) < 0;
    Py_XDECREF(fields);
    Py_XDECREF(defaults);
    return failed ? -1 : 0;
}

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef methods[] = {
    {"_make", make, METH_O | METH_CLASS, "Make a new Completion object from a sequence or iterable"},
    {"_asdict", as_dict, METH_NOARGS, "Return a new dict which maps field names to their values."},
    {"_replace", WITH_KEYWORDS(replace), METH_VARARGS | METH_KEYWORDS,
     "Return a new Completion object replacing specified fields with new values"},
#if PY_VERSION_HEX >= 0x030D0000
    {"__replace__", WITH_KEYWORDS(replace), METH_VARARGS | METH_KEYWORDS,
     "Return a new Completion object replacing specified fields with new values"},
#endif
    {"__getnewargs__", get_new_args, METH_NOARGS, "Return self as a plain tuple.  Used by copy and pickle."},
    {"__reduce_ex__", reduce, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define ITEM(name, place, doc)                                                                                         \
    {name, T_OBJECT_EX, offsetof(PyTupleObject, ob_item) + (place) * sizeof(PyObject *), READONLY, doc}

static PyMemberDef members[] = {
    ITEM("key", 0, "The key of the operation's handle, or the one that was posted: the same object."),
    ITEM("operation", 1, "The operation that completed, or what was posted in its place."),
    ITEM("transferred", 2,
         "The number of bytes transferred, also where there is an error; or the number that was posted."),
    ITEM("error", 3, "Why the operation failed, or None if it succeeded."),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Completion(key, operation, transferred, error)\n--\n\n"
                "What a wait returns: one packet of the port's queue."},
    {Py_tp_new, completion_new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_repr, represent},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

/* A tuple: its sizes are those of its base. It is pickled by the name of the module that gives it to programs. */
PyType_Spec completion_spec = {.name = "unio.port.Completion",
                               .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                               .slots = slots};
