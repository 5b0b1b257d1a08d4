/* unio._core: the part of unio that is C. */
#include "core.h"

static int fill(PyObject *module) {
    struct {
        const char *name;
        PyType_Spec *spec;
    } types[] = {
        {"Lock", &lock_spec},
        {"Ring", &ring_spec},
#ifndef Py_GIL_DISABLED
        {"FastPort", &fast_port_spec},
        {"HotPath", &hot_path_spec},
        {"LaneState", &lane_spec},
        {"Packets", &packets_spec},
#endif
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *type = PyType_FromSpec(types[i].spec);
        int failed = !type || PyModule_AddObjectRef(module, types[i].name, type) < 0;
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    if (PyModule_AddFunctions(module, lock_functions) < 0 || PyModule_AddFunctions(module, socket_functions) < 0)
        return -1;
#ifndef Py_GIL_DISABLED
    if (PyModule_AddFunctions(module, class_functions) < 0 || PyModule_AddFunctions(module, association_functions) < 0)
        return -1;
#endif
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
