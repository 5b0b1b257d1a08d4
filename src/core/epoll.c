/* epoll(7), as the fast path uses it; epoll.py says what that means. */
#include "kernel.h"

#include <errno.h>

#define JOINS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET) /* epoll.py says the same, and why */

static int wait_for(const struct kernel *self, union events *events, int timeout_ms) {
    return epoll_wait(self->number, events->of_epoll, EVENTS_MAX, timeout_ms);
}

static struct readiness readiness(const union events *events, int index) {
    unsigned mask = events->of_epoll[index].events;
    return (struct readiness){
        .number = events->of_epoll[index].data.fd,
        .incoming = (mask & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
        .outgoing = (mask & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0,
        .ended = (mask & (EPOLLRDHUP | EPOLLPRI)) != 0,
    };
}

static PyObject *arguments(const union events *events, int index) {
    return Py_BuildValue("(iI)", events->of_epoll[index].data.fd, (unsigned)events->of_epoll[index].events);
}

/* A number that is in the set of numbers nobody has is forgotten there. */
static int forget_stale(struct kernel *self, int number) {
    if (!PySet_GET_SIZE(self->stale))
        return 0;
    PyObject *object = PyLong_FromLong(number);
    int result = object ? PySet_Discard(self->stale, object) : -1;
    Py_XDECREF(object);
    return result < 0 ? -1 : 0;
}

static int add(struct kernel *self, int number, Py_ssize_t Py_UNUSED(serial)) {
    struct epoll_event event = {.events = JOINS, .data.fd = number};
    if (forget_stale(self, number) < 0)
        return -1;
    int result = epoll_ctl(self->number, EPOLL_CTL_ADD, number, &event);
    if (result < 0 && errno == EEXIST) /* the set was rebuilt in between, with this handle in it */
        result = epoll_ctl(self->number, EPOLL_CTL_MOD, number, &event);
    return result;
}

static void remove_number(struct kernel *self, int number) { epoll_ctl(self->number, EPOLL_CTL_DEL, number, NULL); }

static const struct kernel_calls calls = {
    .wait = wait_for,
    .readiness = readiness,
    .arguments = arguments,
    .add = add,
    .remove = remove_number,
    .tells_urgent = 1,
};

int kernel_use_epoll(struct kernel *self, PyObject *args) {
    PyObject *stale;
    if (!PyArg_ParseTuple(args, "iO!", &self->number, &PySet_Type, &stale))
        return -1;
    self->calls = &calls;
    Py_XSETREF(self->stale, Py_NewRef(stale));
    return 0;
}
