/* What is the same for all kernels that tell readiness: how a wait begins, and who may use the kernel's number. */
#include "kernel.h"

#include <errno.h>
#include <sched.h>

/* Nothing found may be the end of a look that was in vain: had a signal come in the middle of it, no sleep may follow
 * before its handler has run. */
static int wait_or_spin(const struct kernel *self, union events *events, int timeout_ms, struct spin *spin) {
    if (timeout_ms == 0 || !spin)
        return self->calls->wait(self, events, timeout_ms);
    uint64_t began_ns = spin_now_ns();
    int found;
    if (!spin_is_due(spin)) {
        found = self->calls->wait(self, events, timeout_ms);
        spin_slept(spin, spin_now_ns() - began_ns);
        return found;
    }
    unsigned times = 0;
    do {
        found = self->calls->wait(self, events, 0);
        times++;
    } while (found == 0 && spin_now_ns() - began_ns < SPIN_NS);
    spin_ended(spin, times, found > 0);
    return found;
}

int kernel_wait(struct kernel *self, union events *events, int timeout_ms, struct spin *spin) {
    int found;
    Py_BEGIN_ALLOW_THREADS
    found = wait_or_spin(self, events, timeout_ms, spin);
    if (found < 0)
        found = -errno;
    Py_END_ALLOW_THREADS
    return found;
}

struct readiness kernel_readiness(const struct kernel *self, const union events *events, int index) {
    return self->calls->readiness(events, index);
}

PyObject *kernel_arguments(const struct kernel *self, const union events *events, int index) {
    return self->calls->arguments(events, index);
}

/* Who closes the port closes the number, which is then another's. So who is to use it shows itself first and then looks
 * whether it may, and who closes says so first and then waits for those inside: they are in a call that doesn't wait, and
 * where Python has a lock, they hold it. common/descriptor_guard.py has the same for Python. */

static int go_in(struct kernel *self) {
    __atomic_add_fetch(&self->inside, 1, __ATOMIC_SEQ_CST);
    return !__atomic_load_n(&self->ended, __ATOMIC_SEQ_CST);
}

static void go_out(struct kernel *self) { __atomic_sub_fetch(&self->inside, 1, __ATOMIC_SEQ_CST); }

int kernel_add(struct kernel *self, int number, Py_ssize_t serial) {
    int result = go_in(self) ? self->calls->add(self, number, serial) : -1;
    go_out(self);
    return result;
}

void kernel_remove(struct kernel *self, int number) {
    if (go_in(self))
        self->calls->remove(self, number);
    go_out(self);
}

void kernel_end(struct kernel *self) {
    __atomic_store_n(&self->ended, 1, __ATOMIC_SEQ_CST);
    Py_BEGIN_ALLOW_THREADS
    while (__atomic_load_n(&self->inside, __ATOMIC_SEQ_CST))
        sched_yield();
    Py_END_ALLOW_THREADS
}
