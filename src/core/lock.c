/* A lock whose taking and giving back cost C a few instructions, and Python no more than threading.Lock's.
 *
 * The lock of a handle is taken twice for each operation by the hot path; a call of Python's own lock would cost more
 * there than all the rest. A thread that has to wait gives Python's lock up meanwhile.
 */
#include "core.h"

int lock_acquire(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    if (pthread_mutex_trylock(&lock->mutex) != 0) {
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(&lock->mutex);
        Py_END_ALLOW_THREADS
    }
    lock->held = 1;
    return 0;
}

void lock_release(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    lock->held = 0;
    pthread_mutex_unlock(&lock->mutex);
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords;
    struct lock *lock = (struct lock *)type->tp_alloc(type, 0);
    if (lock)
        pthread_mutex_init(&lock->mutex, NULL);
    return (PyObject *)lock;
}

static void lock_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    pthread_mutex_destroy(&((struct lock *)self)->mutex);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lock_enter(PyObject *self, PyObject *ignored) {
    (void)ignored;
    lock_acquire(self);
    Py_RETURN_TRUE;
}

static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    lock_release(self);
    Py_RETURN_NONE;
}

static PyObject *lock_locked(PyObject *self, PyObject *ignored) {
    (void)ignored;
    return PyBool_FromLong(((struct lock *)self)->held);
}

static PyMethodDef lock_methods[] = {
    {"__enter__", lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {"locked", lock_locked, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, lock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

PyType_Spec lock_spec = {
    .name = "unio._core.Lock", .basicsize = sizeof(struct lock), .flags = Py_TPFLAGS_DEFAULT, .slots = lock_slots};
