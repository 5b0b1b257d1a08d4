/* Socket objects, in which C finds the descriptor, and that there is none any more. */
#include "completion.h"
#include "handle.h"
#include "operation.h"

PyTypeObject *socket_type;

/* keeps_number(socket, number): whether the descriptor of a socket object is where number_at looks for it. */
static PyObject *keeps_number(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *socket;
    int number;
    if (!PyArg_ParseTuple(args, "Oi", &socket, &number))
        return NULL;
    return PyBool_FromLong(*number_at(socket) == number);
}

/* claim(socket.socket): whether what looks into objects is the caller's, as it is the first that asks in the main
 * interpreter. The classes are kept once for the process: another copy of the package has classes of its own, and other
 * interpreters come and go. */
static PyObject *claim(PyObject *module, PyObject *class) {
    if (socket_type || PyInterpreterState_Get() != PyInterpreterState_Main())
        Py_RETURN_FALSE;
    operation_type = (PyTypeObject *)PyObject_GetAttrString(module, "OperationState");
    completion_type = (PyTypeObject *)PyObject_GetAttrString(module, "Completion");
    lane_type = (PyTypeObject *)PyObject_GetAttrString(module, "Lane");
    lock_type = (PyTypeObject *)PyObject_GetAttrString(module, "Lock");
    if (!operation_type || !completion_type || !lane_type || !lock_type)
        return NULL;
    socket_type = (PyTypeObject *)Py_NewRef(class);
    Py_RETURN_TRUE;
}

PyMethodDef socket_functions[] = {
    {"claim", claim, METH_O, NULL},
    {"keeps_number", keeps_number, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
