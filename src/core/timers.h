/* unio._core.Deadlines: what is to happen later, in the order of its time; common/timers.py has its twin in Python, which
 * says what each part is. */
#ifndef UNIO_TIMERS_H
#define UNIO_TIMERS_H

#include "core.h"

/* What is due at some time, or nothing while that is not set. An operation keeps its own from one flight to the next. */
struct deadline {
    PyObject_HEAD
    PyObject *what, *detail;   /* NULL unless it is set */
    double due;                /* and when, by monotonic() */
    Py_ssize_t flight;         /* the number of the flight that it was set for */
    Py_ssize_t entry;          /* the number of its entry in the heap; 0 if it has none */
    double time;               /* that entry's */
    unsigned long long belongs; /* the serial number of its structure; it never changes */
};

struct entry {
    double time;
    Py_ssize_t number;
    struct deadline *deadline; /* a strong reference */
};

struct deadlines {
    PyObject_HEAD
    unsigned long long serial; /* which no other has */
    mutex mutex;               /* of all that follows, and of the deadlines in it */
    struct entry *heap;
    size_t room, count, spent;
    double earliest; /* the time of the first entry: infinity where there is none */
};

static inline struct deadlines *deadlines_of(PyObject *object) { return (struct deadlines *)object; }

/* When one may be due, and none before that; infinity where none is. Any thread may ask. */
static inline double deadlines_next(struct deadlines *self) { return PEEK(self->earliest); }

/* Whether one is due by a time. Those that only seem so are put right. */
int deadlines_are_due(struct deadlines *self, double when);

/* What an operation's deadline is kept in: its own, or a new one that deadline_set gives it. A new reference. */
struct deadline *deadline_for(struct deadlines *self, PyObject *operation);

/* Sets the deadline of an operation whose flight has just begun; the caller holds its handle's lock, and this calls nothing.
 * Returns whether it comes before all others, so that who sleeps has to be told; -1, without an exception, where there is
 * no memory. */
int deadline_set(struct deadlines *self, struct deadline *deadline, PyObject *operation, double due);

/* Takes back the deadline of an operation, if it has one: of one flight, or of any where that is 0. Calls nothing. */
void deadline_discard(struct deadlines *self, PyObject *operation, Py_ssize_t flight);

extern PyTypeObject *deadline_type, *deadlines_type; /* of the copy of the package that C serves; see claim */

#endif
