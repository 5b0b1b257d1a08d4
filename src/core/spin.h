/* Whether a wait looks for a while instead of sleeping.
 *
 * To sleep in the kernel, and to be woken, costs several microseconds of processor time, and more where a virtual
 * machine's processor has to be fetched out of its own sleep. Who answers sooner than that is better waited for awake:
 * it takes less time of both, and the answer is there at once. So once a row of waits was short, the next ones ask the
 * kernel again and again, for SPIN_NS at most, instead of sleeping. A program whose waits are longer never does, and where
 * it was in vain, as on a processor that the other side needs, the row has to be twice as long the next time.
 *
 * 50 us is what Linux advises for busy polling of a network device: net.core.busy_read in the kernel's
 * admin-guide/sysctl/net.rst.
 */
#ifndef UNIO_SPIN_H
#define UNIO_SPIN_H

#include <stdint.h>
#include <time.h>

#define SPIN_NS 50000
#define SHORT_ROW_MIN 8
#define SHORT_ROW_MAX 1024

struct spin {
    unsigned row;    /* how many waits in a row were short */
    unsigned beyond; /* how many more than SHORT_ROW_MIN they have to be */
};

static inline uint64_t spin_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int spin_is_due(const struct spin *spin) { return spin->row >= SHORT_ROW_MIN + spin->beyond; }

/* After a wait that slept. */
static inline void spin_slept(struct spin *spin, uint64_t ns) {
    if (ns > SPIN_NS)
        spin->row = 0;
    else if (spin->row < SHORT_ROW_MIN + SHORT_ROW_MAX)
        spin->row++;
}

/* After one that asked again and again, so many times. What the first time has found shows nothing: on one processor, the
 * other side has then run before the wait began. A fifth of those that look may do so in vain, and it still pays. */
static inline void spin_ended(struct spin *spin, unsigned times, int found) {
    if (!found) {
        spin->row = 0;
        spin->beyond = spin->beyond < SHORT_ROW_MAX / 2 ? 2 * spin->beyond + SHORT_ROW_MIN : SHORT_ROW_MAX;
    } else if (times > 1)
        spin->beyond -= (spin->beyond + 3) / 4;
}

#endif
