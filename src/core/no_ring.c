/* What stands in the place of ring*.c elsewhere than on Linux: no port has a ring there, so nobody calls this. */
#include "core.h"

void ring_make_room(PyObject *Py_UNUSED(ring), unsigned Py_UNUSED(attempts)) {}

void ring_submit_gathered(PyObject *Py_UNUSED(ring)) {}

unsigned ring_wait_ms(PyObject *Py_UNUSED(ring), int Py_UNUSED(timeout_ms), struct spin *Py_UNUSED(spin)) { return 0; }

unsigned long long ring_attempt(
    PyObject *Py_UNUSED(ring), const struct attempt *Py_UNUSED(attempt), int Py_UNUSED(poll_first)) {
    return 0;
}

int ring_take_attempts(PyObject *Py_UNUSED(ring), struct attempt *Py_UNUSED(attempts), int Py_UNUSED(most)) { return 0; }

int ring_has_results(PyObject *Py_UNUSED(ring)) { return 0; }

unsigned ring_take_some(PyObject *Py_UNUSED(ring)) { return 0; }

PyType_Spec ring_spec = {.name = NULL}; /* there is no such type */
