/* kqueue(2), as the fast path uses it; kqueue.py says what that means. */
#include "kernel.h"

#include <errno.h>

#ifdef __linux__ /* the numbers of the libraries that bring it there, as kernel/kevent.py has them */
#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EV_ADD 0x1
#define EV_DELETE 0x2
#define EV_CLEAR 0x20
#define EV_RECEIPT 0x40
#define EV_EOF 0x8000
#endif

static int call(
    const struct kernel *self, const struct kevent *changes, int count, struct kevent *events, int most,
    const struct timespec *timeout) {
#ifdef __linux__
    return self->kevent(self->number, changes, count, events, most, timeout);
#else
    return kevent(self->number, changes, count, events, most, timeout);
#endif
}

static int wait_for(const struct kernel *self, union events *events, int timeout_ms) {
    struct timespec time = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L};
    return call(self, NULL, 0, events->of_kqueue, EVENTS_MAX, timeout_ms < 0 ? NULL : &time);
}

static struct readiness readiness(const union events *events, int index) {
    const struct kevent *event = &events->of_kqueue[index];
    int incoming = event->filter == EVFILT_READ, outgoing = event->filter == EVFILT_WRITE;
    return (struct readiness){
        .number = incoming || outgoing ? (int)event->ident : -1,
        .serial = (Py_ssize_t)event->udata,
        .failure = event->flags & EV_EOF ? (int)event->fflags : 0,
        .incoming = (char)incoming,
        .outgoing = (char)outgoing,
    };
}

static PyObject *arguments(const union events *events, int index) {
    const struct kevent *event = &events->of_kqueue[index];
    return Py_BuildValue("(KiIILK)", (unsigned long long)event->ident, (int)event->filter, (unsigned)event->flags,
                         (unsigned)event->fflags, (long long)event->data, (unsigned long long)(uintptr_t)event->udata);
}

/* Makes a change of each direction of a descriptor. The answers, one for each, take its place: an errno or 0 in data. They
 * fill the room for events, so that none comes with them. */
static int change_both(const struct kernel *self, struct kevent *changes, int number, unsigned flags, Py_ssize_t serial) {
    const struct timespec at_once = {0, 0};
    for (int i = 0; i < 2; i++) {
        changes[i] = (struct kevent){.ident = (uintptr_t)number};
        changes[i].filter = i ? EVFILT_WRITE : EVFILT_READ;
        changes[i].flags = (__typeof__(changes[i].flags))(flags | EV_RECEIPT);
        changes[i].udata = (__typeof__(changes[i].udata))serial;
    }
    return call(self, changes, 2, changes, 2, &at_once);
}

static void remove_number(struct kernel *self, int number) {
    struct kevent changes[2];
    change_both(self, changes, number, EV_DELETE, 0); /* what doesn't succeed has been done */
}

static int add(struct kernel *self, int number, Py_ssize_t serial) {
    struct kevent changes[2];
    if (change_both(self, changes, number, EV_ADD | EV_CLEAR, serial) < 0)
        return -1;
    int error = (int)changes[0].data, of_write = (int)changes[1].data;
    if (!error && (of_write == EPIPE || of_write == EBADF)) /* what nobody reads any more; the write finds it out */
        of_write = 0;
    if (!error && !of_write)
        return 0;
    remove_number(self, number);
    return -1;
}

static const struct kernel_calls calls = {
    .wait = wait_for, .readiness = readiness, .arguments = arguments, .add = add, .remove = remove_number};

int kernel_use_kqueue(struct kernel *self, PyObject *args) {
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "iK", &self->number, &address))
        return -1;
#ifdef __linux__
    self->kevent = (__typeof__(self->kevent))(uintptr_t)address;
#endif
    self->calls = &calls;
    return 0;
}
