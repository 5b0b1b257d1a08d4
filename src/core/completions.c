/* The completions that a wait returns.
 *
 * A port makes one for each operation, and programs drop them at once. So their memory is kept for the next: the class
 * gets a deallocator that puts those aside with which nothing else goes, so that no code of anybody's runs meanwhile.
 */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

#define KEPT_MAX 256 /* no wait of a usual server returns more at a time */
#define FIELDS 4

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
    /* Of another size, from a tuple of anything, is what Completion._make() refuses. */
    if (Py_TYPE(completion) != completion_type || Py_SIZE(completion) != FIELDS)
        return 0;
    for (int i = 0; i < FIELDS; i++)
        if (!is_kept_by_others(completion, PyTuple_GET_ITEM(completion, i)))
            return 0;
    return 1;
}

static void drop_items(PyObject *completion) {
    for (Py_ssize_t i = 0; i < Py_SIZE(completion); i++) {
        PyObject *item = PyTuple_GET_ITEM(completion, i);
        PyTuple_SET_ITEM(completion, i, NULL);
        Py_XDECREF(item);
    }
}

/* What tp_dealloc of a subclass of tuple does; the class may be a subclass of this one in turn. */
static void dealloc(PyObject *completion) {
    PyTypeObject *type = Py_TYPE(completion);
    PyObject_GC_UnTrack(completion);
    if (kept_count < KEPT_MAX && drops_nothing(completion)) {
        drop_items(completion);
        kept[kept_count++] = completion;
        Py_DECREF(type); /* whose instance it is no longer */
        return;
    }
    Py_TRASHCAN_BEGIN(completion, dealloc) /* the key may be a completion, and its key one, and so on */
    drop_items(completion);
    type->tp_free(completion);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

void keep_completions(void) { completion_type->tp_dealloc = dealloc; }

static PyObject *new_completion(void) {
    PyObject *completion;
    if (kept_count) {
        completion = kept[--kept_count];
        PyObject_InitVar((PyVarObject *)completion, completion_type, FIELDS);
        PyObject_GC_Track(completion);
    } else if (!(completion = completion_type->tp_alloc(completion_type, FIELDS))) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)completion)->ob_hash = -1; /* it is not known yet */
#endif
    return completion;
}

/* What is in a public attribute of an operation: a program may have deleted it. */
static PyObject *or_none(PyObject *value) { return Py_NewRef(value ? value : Py_None); }

/* Fills in the completion of an operation, and takes over the reference to that. */
static void complete(PyObject *completion, PyObject *operation) {
    PyTuple_SET_ITEM(completion, 0, or_none(SLOT(operation, key)));
    PyTuple_SET_ITEM(completion, 1, operation);
    PyTuple_SET_ITEM(completion, 2, or_none(SLOT(operation, transferred)));
    PyTuple_SET_ITEM(completion, 3, or_none(SLOT(operation, error)));
    put_ref(&SLOT(operation, status), idle); /* last: from here on another thread may submit it again */
}

PyObject *posted_completion(PyObject *key, PyObject *operation, PyObject *transferred) {
    PyObject *completion = new_completion();
    if (!completion)
        return NULL;
    PyTuple_SET_ITEM(completion, 0, Py_NewRef(key));
    PyTuple_SET_ITEM(completion, 1, Py_NewRef(operation));
    PyTuple_SET_ITEM(completion, 2, Py_NewRef(transferred));
    PyTuple_SET_ITEM(completion, 3, Py_NewRef(Py_None));
    return completion;
}

PyObject *take(struct hot_path *self, Py_ssize_t limit) {
    Py_ssize_t count = packets_count(self->packets), taken = 0;
    PyObject *batch = PyList_New(count < limit ? count : limit), *packet;
    while (batch && taken < PyList_GET_SIZE(batch) && (packet = packets_first(self->packets))) {
        PyObject *completion = NULL;
        /* It is made before the packet is taken, which has to stay where there is no memory. Making it may run a
         * finalizer, which may take the packet. */
        if (Py_TYPE(packet) != completion_type && !(completion = new_completion()))
            break;
        if (!(packet = packets_popleft(self->packets))) {
            Py_XDECREF(completion);
            break;
        }
        if (Py_TYPE(packet) == completion_type) {
            Py_XDECREF(completion);
            completion = packet;
        } else if (completion) {
            complete(completion, packet);
        } else { /* the first was a completion, and is gone: look again */
            packets_appendleft(self->packets, packet);
            Py_DECREF(packet);
            continue;
        }
        PyList_SET_ITEM(batch, taken++, completion);
    }
    if (batch)
        Py_SET_SIZE(batch, taken); /* in the middle of this, a finalizer may have taken some */
    if (PyErr_Occurred() && taken)
        PyErr_Clear(); /* those that were taken come first, and the rest by the next wait */
    if (PyErr_Occurred())
        Py_CLEAR(batch);
    return batch;
}

void give_back(struct hot_path *self, PyObject *batch) {
    for (Py_ssize_t i = batch ? PyList_GET_SIZE(batch) : 0; i > 0; i--)
        packets_appendleft(self->packets, PyList_GET_ITEM(batch, i - 1));
}

#endif
