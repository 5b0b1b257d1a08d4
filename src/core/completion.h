/* unio.Completion, as the rest of unio._core makes it (completion.c). */
#ifndef UNIO_COMPLETION_H
#define UNIO_COMPLETION_H

#include "core.h"

extern PyTypeObject *completion_type; /* of the copy of the package that C serves; see claim */

static inline int is_completion(const PyObject *packet) { return Py_TYPE(packet) == completion_type; }

/* An empty one. Making it may run the garbage collector. */
PyObject *new_completion(void);

/* Fills in the completion of an operation, takes over the reference to that, and ends its flight. Returns -1 where there
 * is no memory, and has done nothing then. It calls nothing. */
int complete(PyObject *completion, PyObject *operation);

/* Gives the type what a NamedTuple has beside its methods. */
int fill_completion_type(PyObject *type);

/* The completion of a packet of the caller's own. */
PyObject *posted_completion(PyObject *key, PyObject *operation, PyObject *transferred);

#endif
