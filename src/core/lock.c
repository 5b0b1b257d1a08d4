/* A lock whose taking and giving back cost C a few instructions, and Python no more than threading.Lock's.
 *
 * The lock of a handle is taken twice for each operation by the hot path. With Python's own lock held, as it is wherever
 * this one is taken or given back, a flag is enough; only who finds it set has to sleep, which it does without Python's
 * lock. That is so rare that all locks share what it takes to wake somebody.
 */
#include "core.h"

#ifndef Py_GIL_DISABLED

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t given_back = PTHREAD_COND_INITIALIZER;

static void sleep_until_free(struct lock *lock) {
    lock->sleepers++;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&mutex);
    while (__atomic_load_n(&lock->held, __ATOMIC_RELAXED))
        pthread_cond_wait(&given_back, &mutex);
    pthread_mutex_unlock(&mutex);
    Py_END_ALLOW_THREADS
    lock->sleepers--;
}

void lock_acquire(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    while (lock->held)
        sleep_until_free(lock);
    lock->held = 1;
}

void lock_release(PyObject *object) {
    struct lock *lock = (struct lock *)object;
    __atomic_store_n(&lock->held, 0, __ATOMIC_RELAXED);
    if (lock->sleepers) {
        pthread_mutex_lock(&mutex); /* a sleeper has either seen that it is free or waits for the signal */
        pthread_cond_broadcast(&given_back);
        pthread_mutex_unlock(&mutex);
    }
}

void lock_forked(void) { /* a thread that only the parent has may have had it */
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    given_back = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

#else

void lock_acquire(PyObject *object) { PyMutex_Lock(&((struct lock *)object)->mutex); }

void lock_release(PyObject *object) { PyMutex_Unlock(&((struct lock *)object)->mutex); }

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

static PyObject *lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    lock_release(self);
    Py_RETURN_NONE;
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
