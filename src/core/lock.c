/* A lock whose taking and giving back cost C a few instructions, and Python no more than threading.Lock's.
 *
 * The lock of a handle is taken twice for each operation by the fast path. With Python's own lock held, as it is wherever
 * this one is taken or given back, a few fields are enough; only who finds it taken has to sleep, which it does without
 * Python's lock. That is so rare that all locks share what it takes to wake somebody.
 *
 * common/locks.py says what the program's own code may do while its thread holds one of these, and why the thread may
 * take it again. No C does anything under a lock that runs such code; only Python does, so only Python's way of giving
 * a lock back does what was put off.
 */
#include "core.h"

static _Thread_local int held_here INITIAL_EXEC; /* how many of these locks the thread holds */
static _Thread_local PyObject *put_off_here;     /* a list of what it is to do when it holds none any more, or NULL */
static _Thread_local int doing_here;             /* whether it is at that: what comes meanwhile is done behind the rest */

int holds_lock(void) { return held_here > 0; }

#ifndef Py_GIL_DISABLED

static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t given_back = PTHREAD_COND_INITIALIZER;

static void sleep_until_free(struct lock *lock) {
    lock->sleepers++;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&sleeping);
    while (__atomic_load_n(&lock->held, __ATOMIC_RELAXED))
        pthread_cond_wait(&given_back, &sleeping);
    pthread_mutex_unlock(&sleeping);
    Py_END_ALLOW_THREADS
    lock->sleepers--;
}

void lock_acquire(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    while (lock->held && !(held_here && lock->owner == &held_here))
        sleep_until_free(lock);
    lock->owner = &held_here;
    lock->held++;
    held_here++;
}

void lock_release(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    held_here--;
    __atomic_store_n(&lock->held, lock->held - 1, __ATOMIC_RELAXED);
    if (lock->sleepers && !lock->held) {
        pthread_mutex_lock(&sleeping); /* a sleeper has either seen that it is free or waits for the signal */
        pthread_cond_broadcast(&given_back);
        pthread_mutex_unlock(&sleeping);
    }
}

void lock_forked(void) { /* a thread that only the parent has may have had it */
    sleeping = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    given_back = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

#else

void lock_acquire(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    if (__atomic_load_n(&lock->owner, __ATOMIC_RELAXED) != &held_here) /* which only this thread ever makes it */
        PyMutex_Lock(&lock->mutex);
    __atomic_store_n(&lock->owner, &held_here, __ATOMIC_RELAXED);
    lock->held++;
    held_here++;
}

void lock_release(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    held_here--;
    if (--lock->held)
        return;
    __atomic_store_n(&lock->owner, NULL, __ATOMIC_RELAXED);
    PyMutex_Unlock(&lock->mutex);
}

void lock_forked(void) { /* what the parent has is not used here any more */
}

#endif

static void lock_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lock_enter(PyObject *self, PyObject *ignored) {
    (void)ignored;
    lock_acquire(self);
    Py_RETURN_TRUE;
}

/* Does what was put off, each of it whatever becomes of the others; see common/locks.py for what becomes of
 * exceptions. */
static PyObject *do_put_off(void) {
    PyObject *type = NULL, *value = NULL, *traceback = NULL, *works;
    doing_here = 1;
    while ((works = put_off_here)) {
        put_off_here = NULL;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(works); i++) {
            PyObject *work = PyList_GET_ITEM(works, i), *result = PyObject_CallNoArgs(work);
            Py_XDECREF(result);
            if (result)
                continue;
            if (type || PyErr_ExceptionMatches(PyExc_Exception))
                PyErr_WriteUnraisable(work);
            else
                PyErr_Fetch(&type, &value, &traceback);
        }
        Py_DECREF(works);
    }
    doing_here = 0;
    if (!type)
        Py_RETURN_NONE;
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    lock_release(self);
    if (held_here || doing_here || !put_off_here)
        Py_RETURN_NONE;
    return do_put_off();
}

static PyMethodDef lock_methods[] = {
    {"__enter__", lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

PyType_Spec lock_spec = {
    .name = "unio._core.Lock", .basicsize = sizeof(struct lock), .flags = Py_TPFLAGS_DEFAULT, .slots = lock_slots};

/* holds_lock(): whether the calling thread holds one of these locks, so that it must not wait for another. */
static PyObject *holds_lock_now(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    return PyBool_FromLong(holds_lock());
}

/* put_off(work): has it done as soon as the calling thread has given its locks back; it holds one. */
static PyObject *put_off(PyObject *module, PyObject *work) {
    (void)module;
    if (!put_off_here && !(put_off_here = PyList_New(0)))
        return NULL;
    if (PyList_Append(put_off_here, work) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyMethodDef lock_functions[] = {
    {"holds_lock", holds_lock_now, METH_NOARGS, NULL},
    {"put_off", put_off, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
