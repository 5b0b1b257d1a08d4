/* epoll(7), as the fast path uses it; epoll.py says what that means. */
#include "kernel.h"

#include <errno.h>

#define JOINS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET) /* epoll.py says the same, and why */

static int wait_once(int epoll, struct event *events, int timeout_ms) {
    _Static_assert(sizeof(struct event) == sizeof(struct epoll_event), "the kernel fills an array of these");
    return epoll_wait(epoll, (struct epoll_event *)events, EVENTS_MAX, timeout_ms);
}

/* Nothing found may be the end of a look that was in vain: had a signal come in the middle of it, no sleep may follow
 * before its handler has run. */
static int wait_or_spin(int epoll, struct event *events, int timeout_ms, struct spin *spin) {
    if (timeout_ms == 0 || !spin)
        return wait_once(epoll, events, timeout_ms);
    uint64_t began_ns = spin_now_ns();
    int found;
    if (!spin_is_due(spin)) {
        found = wait_once(epoll, events, timeout_ms);
        spin_slept(spin, spin_now_ns() - began_ns);
        return found;
    }
    unsigned times = 0;
    do {
        found = wait_once(epoll, events, 0);
        times++;
    } while (found == 0 && spin_now_ns() - began_ns < SPIN_NS);
    spin_ended(spin, times, found > 0);
    return found;
}

int kernel_wait(struct kernel *self, struct event *events, int timeout_ms, struct spin *spin) {
    int found, epoll = self->number;
    Py_BEGIN_ALLOW_THREADS
    found = wait_or_spin(epoll, events, timeout_ms, spin);
    if (found < 0)
        found = -errno;
    Py_END_ALLOW_THREADS
    return found;
}

struct readiness kernel_readiness(const struct event *event) {
    unsigned mask = event->of_kernel.events;
    return (struct readiness){
        .number = event->of_kernel.data.fd,
        .incoming = (mask & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
        .outgoing = (mask & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0,
        .ended = (mask & (EPOLLRDHUP | EPOLLPRI)) != 0,
    };
}

PyObject *kernel_arguments(const struct event *event) {
    return Py_BuildValue("(iI)", event->of_kernel.data.fd, (unsigned)event->of_kernel.events);
}

/* A number that is in the set of numbers nobody has is forgotten there. */
static int forget_stale(struct kernel *self, int number) {
    if (!self->stale || !PySet_GET_SIZE(self->stale))
        return 0;
    PyObject *object = PyLong_FromLong(number);
    int result = object ? PySet_Discard(self->stale, object) : -1;
    Py_XDECREF(object);
    return result < 0 ? -1 : 0;
}

int kernel_add(struct kernel *self, int number) {
    struct epoll_event event = {.events = JOINS, .data.fd = number};
    if (forget_stale(self, number) < 0)
        return -1;
    int result = epoll_ctl(self->number, EPOLL_CTL_ADD, number, &event);
    if (result < 0 && errno == EEXIST) /* the set was rebuilt in between, with this handle in it */
        result = epoll_ctl(self->number, EPOLL_CTL_MOD, number, &event);
    return result;
}

void kernel_remove(struct kernel *self, int number) { epoll_ctl(self->number, EPOLL_CTL_DEL, number, NULL); }
