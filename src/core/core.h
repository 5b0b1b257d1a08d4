/* What the files of unio._core share. */
#ifndef UNIO_CORE_H
#define UNIO_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>

struct lock {
    PyObject_HEAD
    pthread_mutex_t mutex;
    int held;
};

/* A thread that has to wait gives Python's lock up meanwhile. */
int lock_acquire(PyObject *lock);
void lock_release(PyObject *lock);

extern PyType_Spec lock_spec, hot_path_spec, ring_spec;
extern PyMethodDef hot_path_functions[];

#endif
