/* What a wait takes out of the queue. */
#include "hot_path.h"

#ifndef Py_GIL_DISABLED

PyObject *take(struct hot_path *self, Py_ssize_t limit) {
    Py_ssize_t count = packets_count(self->packets), taken = 0;
    PyObject *batch = PyList_New(count < limit ? count : limit), *packet;
    while (batch && taken < PyList_GET_SIZE(batch) && (packet = packets_first(self->packets))) {
        PyObject *completion = NULL;
        /* It is made before the packet is taken, which has to stay where there is no memory. Making it may run a
         * finalizer, which may take the packet. */
        if (!is_completion(packet) && !(completion = new_completion()))
            break;
        if (!(packet = packets_popleft(self->packets))) {
            Py_XDECREF(completion);
            break;
        }
        if (is_completion(packet)) {
            Py_XDECREF(completion);
            completion = packet;
        } else if (!completion || complete(completion, packet) < 0) {
            Py_XDECREF(completion);
            packets_appendleft(self->packets, packet);
            Py_DECREF(packet);
            if (PyErr_Occurred())
                break;
            continue; /* the first was a completion, and is gone: look again */
        }
        PyList_SET_ITEM(batch, taken++, completion);
    }
    if (batch)
        Py_SET_SIZE(batch, taken); /* in the middle of this, a finalizer may have taken some */
    if (PyErr_Occurred() && taken)
        PyErr_Clear(); /* those that were taken come first, and the rest by the next wait */
    if (PyErr_Occurred())
        Py_CLEAR(batch);
    return batch;
}

void give_back(struct hot_path *self, PyObject *batch) {
    for (Py_ssize_t i = batch ? PyList_GET_SIZE(batch) : 0; i > 0; i--)
        packets_appendleft(self->packets, PyList_GET_ITEM(batch, i - 1));
}

#endif
