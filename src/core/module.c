/* unio._core: the part of unio that is C. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static struct PyModuleDef_Slot slots[] = {
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "unio._core", .m_slots = slots};
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
