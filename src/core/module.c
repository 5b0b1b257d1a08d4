/* unio._core: the part of unio that is C. */
#include "completion.h"
#include "handle.h"
#include "operation.h"

PyTypeObject *direction_type, *lock_type;

#ifdef Py_GIL_DISABLED
/* Counts an object no more: it stays for as long as the process. All threads use the methods of these classes at each step,
 * and where each of them counts that on one object, it waits for the others' processors. */
static void keep_for_ever(PyObject *object) {
    __atomic_store_n(&object->ob_tid, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&object->ob_ref_shared, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&object->ob_ref_local, UINT32_MAX, __ATOMIC_RELAXED);
}

static void keep_type(PyObject *type) {
    PyObject *dict = PyType_GetDict((PyTypeObject *)type), *name, *value;
    Py_ssize_t place = 0;
    while (dict && PyDict_Next(dict, &place, &name, &value))
        keep_for_ever(value);
    Py_XDECREF(dict);
    keep_for_ever(type);
}
#else
#define keep_type(type) ((void)(type))
#endif

/* Adds a type, whose reference it takes over; NULL, with an exception, fails. */
static int add(PyObject *module, const char *name, PyObject *type) {
    int failed = !type || PyModule_AddObjectRef(module, name, type) < 0;
    if (!failed)
        keep_type(type);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static int add_types(PyObject *module) {
    const struct {
        const char *name;
        PyType_Spec *spec;
        const char *base; /* one of these, before it; or NULL */
    } types[] = {
        {"Lock", &lock_spec, NULL},
        {"OperationState", &operation_spec, NULL},
        {"AcceptState", &accept_spec, "OperationState"},
        {"PollState", &poll_spec, "OperationState"},
        {"BufferedState", &buffered_spec, "OperationState"},
        {"RecvState", &recv_spec, "BufferedState"},
        {"SendState", &send_spec, "BufferedState"},
        {"RecvFromState", &recv_from_spec, "BufferedState"},
        {"SendToState", &send_to_spec, "BufferedState"},
        {"Deadline", &deadline_spec, NULL},
        {"Deadlines", &deadlines_spec, NULL},
        {"Direction", &direction_spec, NULL},
        {"HandleState", &handle_spec, NULL},
        {"QueueState", &queue_spec, NULL},
        {"WaiterState", &waiter_spec, NULL},
        {"FastPort", &port_spec, NULL},
        {"TaskState", &task_spec, NULL},
        {"Ring", &ring_spec, NULL},
        {"TurnsState", &turns_spec, NULL},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!types[i].spec->name) /* it could not be compiled here: see no_ring.c */
            continue;
        PyObject *base = types[i].base ? PyObject_GetAttrString(module, types[i].base) : NULL;
        PyObject *type = types[i].base && !base ? NULL : PyType_FromSpecWithBases(types[i].spec, base);
        Py_XDECREF(base);
        if (add(module, types[i].name, type) < 0)
            return -1;
    }
    PyObject *completion = PyType_FromSpecWithBases(&completion_spec, (PyObject *)&PyTuple_Type);
    if (completion && fill_completion_type(completion) < 0)
        Py_CLEAR(completion);
    return add(module, "Completion", completion);
}

static int fill(PyObject *module) {
    if (add_types(module) < 0 || PyModule_AddIntConstant(module, "IDLE", IDLE) < 0 ||
        PyModule_AddIntConstant(module, "PENDING", PENDING) < 0 || PyModule_AddIntConstant(module, "QUEUED", QUEUED) < 0)
        return -1;
    PyMethodDef *functions[] = {lock_functions,        socket_functions, class_functions,
                                association_functions, task_functions,   signal_functions,
                                handle_functions,      turns_functions,  stream_functions};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (PyModule_AddFunctions(module, functions[i]) < 0)
            return -1;
    }
    return 0;
}

static struct PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "unio._core", .m_slots = slots};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
