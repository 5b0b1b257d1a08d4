/* One io_uring, by the system calls themselves: see io_uring_setup(2), io_uring_enter(2) and io_uring_register(2).
 *
 * The facts that shape it:
 *
 * - Both queues are memory shared with the kernel. Whoever writes an index publishes what lies before it (a release),
 *   and whoever reads one sees that (an acquire); nothing else orders the two sides.
 * - Any thread may enter, and takes along whatever the kernel was shown by then, so that a call may find fewer
 *   entries than it was told of. The kernel doesn't wait then, and the caller looks again.
 * - The kernel looks up the descriptor of an entry when it comes to that entry, within the call. Before, an entry may
 *   lie there for a while in which any code runs, and a descriptor that is closed gives its number to the next file. So
 *   each entry gets its number last, right before the call that hands it over; also one that a call has left, for want
 *   of memory say.
 * - How far it has come with the entries the kernel tells at the end of the call only, and results of theirs may be
 *   there before.
 * - What the queue of results can't hold, the kernel keeps (IORING_FEAT_NODROP); entering for results brings it out.
 * - IORING_SETUP_COOP_TASKRUN: what a request still has to do when its event comes is done by the thread that submitted
 *   it, and without this flag that thread is interrupted for it wherever it runs, which costs a quarter of the rate of
 *   small messages. With it, it is done when that thread next enters the kernel, for whatever reason, the timer's tick
 *   included. IORING_SETUP_TASKRUN_FLAG tells of it in memory, so that a look need not enter the kernel where there is nothing
 *   of the kind. Not IORING_SETUP_SINGLE_ISSUER, nor IORING_SETUP_DEFER_TASKRUN, which takes that: here any thread submits.
 */
#define _GNU_SOURCE /* syscall, MAP_POPULATE */
#include "ring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RESULTS_PER_ENTRY 4
#define PROBED 64 /* more opcodes than are asked for */
#define ROUND_NANOSECONDS 1000000000 /* what does nothing has ended long before */

static const struct {
    unsigned bit;
    const char *name;
} needed_features[] = {
    {IORING_FEAT_SINGLE_MMAP, "IORING_FEAT_SINGLE_MMAP is missing (Linux 5.4)"},
    {IORING_FEAT_NODROP, "IORING_FEAT_NODROP is missing (Linux 5.5)"},
    {IORING_FEAT_RW_CUR_POS, "IORING_FEAT_RW_CUR_POS is missing (Linux 5.6)"},
    {IORING_FEAT_FAST_POLL, "IORING_FEAT_FAST_POLL is missing (Linux 5.7)"},
    {IORING_FEAT_EXT_ARG, "IORING_FEAT_EXT_ARG is missing (Linux 5.11)"},
};

static const struct {
    unsigned char number;
    const char *name;
} needed_opcodes[] = {
    {IORING_OP_NOP, "the kernel lacks IORING_OP_NOP"},
    {IORING_OP_READV, "the kernel lacks IORING_OP_READV"},
    {IORING_OP_WRITEV, "the kernel lacks IORING_OP_WRITEV"},
    {IORING_OP_FSYNC, "the kernel lacks IORING_OP_FSYNC"},
    {IORING_OP_POLL_ADD, "the kernel lacks IORING_OP_POLL_ADD"},
    {IORING_OP_SENDMSG, "the kernel lacks IORING_OP_SENDMSG"},
    {IORING_OP_RECVMSG, "the kernel lacks IORING_OP_RECVMSG"},
    {IORING_OP_ACCEPT, "the kernel lacks IORING_OP_ACCEPT"},
    {IORING_OP_ASYNC_CANCEL, "the kernel lacks IORING_OP_ASYNC_CANCEL"},
    {IORING_OP_CONNECT, "the kernel lacks IORING_OP_CONNECT"},
    {IORING_OP_READ, "the kernel lacks IORING_OP_READ"},
    {IORING_OP_WRITE, "the kernel lacks IORING_OP_WRITE"},
    {IORING_OP_SEND, "the kernel lacks IORING_OP_SEND"},
    {IORING_OP_RECV, "the kernel lacks IORING_OP_RECV"},
};

static int probe(int fd, const char **what)
{
    union {
        struct io_uring_probe probe;
        char room[sizeof(struct io_uring_probe) + PROBED * sizeof(struct io_uring_probe_op)];
    } asked;
    memset(&asked, 0, sizeof asked);
    *what = "io_uring_register(IORING_REGISTER_PROBE) fails";
    if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_PROBE, &asked, PROBED) < 0)
        return -errno;
    for (size_t i = 0; i < sizeof needed_opcodes / sizeof *needed_opcodes; i++) {
        unsigned char number = needed_opcodes[i].number;
        *what = needed_opcodes[i].name;
        if (number >= asked.probe.ops_len || !(asked.probe.ops[number].flags & IO_URING_OP_SUPPORTED))
            return -EOPNOTSUPP;
    }
    return 0;
}

static int map(struct ring *ring, const struct io_uring_params *made)
{
    size_t end = made->cq_off.cqes + made->cq_entries * sizeof(struct io_uring_cqe);
    size_t array_end = made->sq_off.array + made->sq_entries * sizeof(unsigned);
    ring->queues_size = end > array_end ? end : array_end;
    ring->entries_size = made->sq_entries * sizeof(struct io_uring_sqe);
    /* A forked child inherits the mappings and never looks at them. Not MADV_DONTFORK: the child would not have them, and
     * giving back its copy would then unmap whatever had come to lie there. */
    char *queues = mmap(NULL, ring->queues_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
                        IORING_OFF_SQ_RING);
    if (queues == MAP_FAILED)
        return -errno;
    ring->queues = queues;
    void *entries = mmap(NULL, ring->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
                         IORING_OFF_SQES);
    if (entries == MAP_FAILED)
        return -errno;
    ring->entries = entries;
    ring->entries_head = (unsigned *)(queues + made->sq_off.head);
    ring->entries_tail = (unsigned *)(queues + made->sq_off.tail);
    ring->flags = (unsigned *)(queues + made->sq_off.flags);
    ring->results_head = (unsigned *)(queues + made->cq_off.head);
    ring->results_tail = (unsigned *)(queues + made->cq_off.tail);
    ring->results = (struct io_uring_cqe *)(queues + made->cq_off.cqes);
    ring->entries_count = made->sq_entries;
    ring->entries_mask = made->sq_entries - 1;
    ring->results_mask = made->cq_entries - 1;
    unsigned *array = (unsigned *)(queues + made->sq_off.array);
    for (unsigned i = 0; i < made->sq_entries; i++) /* each place of the queue names the entry of its number, for good */
        array[i] = i;
    return 0;
}

static int enter(struct ring *ring, int64_t nanoseconds);

/* Have an entry that does nothing go round: a filter of system calls may allow one of them and forbid the other. */
static int go_round(struct ring *ring, const char **what)
{
    *what = "io_uring_enter fails";
    ring_next(ring)->opcode = IORING_OP_NOP;
    ring_advance(ring);
    for (;;) {
        struct io_uring_cqe result;
        int failed = enter(ring, ROUND_NANOSECONDS);
        if (failed && failed != -EINTR)
            return failed;
        if (ring_take(ring, &result, 1, UINT64_MAX))
            return result.res;
    }
}

int ring_open(struct ring *ring, unsigned entries, void (*bind)(struct io_uring_sqe *entry), const char **what)
{
    struct io_uring_params made = {
        .flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP |
                 IORING_SETUP_CQSIZE,
        .cq_entries = RESULTS_PER_ENTRY * entries,
    };
    memset(ring, 0, sizeof *ring);
    ring->bind = bind;
    ring->fd = (int)syscall(__NR_io_uring_setup, entries, &made); /* it is close-on-exec by itself */
    int result = ring->fd < 0 ? -errno : 0;
    *what = result == -EINVAL ? "io_uring_setup refuses IORING_SETUP_COOP_TASKRUN (Linux 5.19)" : "io_uring_setup fails";
    if (result < 0)
        return result;
    for (size_t i = 0; !result && i < sizeof needed_features / sizeof *needed_features; i++) {
        *what = needed_features[i].name;
        result = made.features & needed_features[i].bit ? 0 : -EOPNOTSUPP;
    }
    if (!result)
        result = probe(ring->fd, what);
    if (!result) {
        *what = "mmap of the io_uring fails";
        result = map(ring, &made);
    }
    if (!result)
        result = -pthread_mutex_init(&ring->lock, NULL);
    if (!result)
        result = go_round(ring, what);
    if (result)
        ring_close(ring);
    return result;
}

void ring_close(struct ring *ring)
{
    if (ring->entries)
        munmap(ring->entries, ring->entries_size);
    if (ring->queues)
        munmap(ring->queues, ring->queues_size);
    if (ring->fd >= 0)
        close(ring->fd);
    ring->entries = NULL;
    ring->queues = NULL;
    ring->fd = -1;
}

unsigned ring_gathered(const struct ring *ring)
{
    return ring->tail - __atomic_load_n(ring->entries_head, __ATOMIC_ACQUIRE);
}

struct io_uring_sqe *ring_next(struct ring *ring)
{
    if (ring_gathered(ring) >= ring->entries_count)
        return NULL;
    return memset(&ring->entries[ring->tail & ring->entries_mask], 0, sizeof(struct io_uring_sqe));
}

void ring_advance(struct ring *ring)
{
    ring->tail++;
}

/* Show the kernel what is prepared. Returns how many entries it has not taken yet. */
static unsigned show(struct ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    unsigned gathered = ring_gathered(ring);
    for (unsigned i = ring->tail - gathered; i != ring->tail; i++)
        ring->bind(&ring->entries[i & ring->entries_mask]);
    __atomic_store_n(ring->entries_tail, ring->tail, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&ring->lock);
    return gathered;
}

static unsigned ready(const struct ring *ring)
{
    return __atomic_load_n(ring->results_tail, __ATOMIC_ACQUIRE) - __atomic_load_n(ring->results_head, __ATOMIC_RELAXED);
}

static int enter(struct ring *ring, int64_t nanoseconds)
{
    struct ring_timespec limit = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    struct io_uring_getevents_arg argument = {.ts = nanoseconds > 0 ? (uint64_t)(uintptr_t)&limit : 0};
    for (;;) {
        unsigned submitting = show(ring);
        unsigned wanted = nanoseconds != 0 && !ready(ring);
        long submitted = syscall(__NR_io_uring_enter, ring->fd, submitting, wanted,
                                 IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof argument);
        if (submitted < 0)
            return errno == ETIME ? 0 : -errno;
        if ((unsigned)submitted == submitting || !wanted || ready(ring))
            return 0;
        /* another thread has taken some of the entries along, and the kernel didn't wait */
    }
}

bool ring_is_quiet(const struct ring *ring)
{
    unsigned flags = __atomic_load_n(ring->flags, __ATOMIC_RELAXED);
    return !ring_gathered(ring) && !(flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) && !ready(ring);
}

int ring_enter(struct ring *ring, int64_t nanoseconds, struct spin *spin)
{
    if (nanoseconds == 0 || !spin)
        return enter(ring, nanoseconds);
    uint64_t began_ns = spin_now_ns();
    int failed;
    if (!spin_is_due(spin)) {
        failed = enter(ring, nanoseconds);
        spin_slept(spin, spin_now_ns() - began_ns);
        return failed;
    }
    unsigned times = 0;
    do {
        failed = enter(ring, 0);
        times++;
    } while (!failed && !ready(ring) && spin_now_ns() - began_ns < SPIN_NS);
    spin_ended(spin, times, ready(ring) > 0);
    return failed;
}

int ring_submit(struct ring *ring)
{
    for (unsigned submitting; (submitting = show(ring));) {
        long submitted = syscall(__NR_io_uring_enter, ring->fd, submitting, 0, 0, NULL, 0);
        if (submitted < 0 && errno != EINTR)
            return -errno;
    }
    return 0;
}

unsigned ring_take(struct ring *ring, struct io_uring_cqe *taken, unsigned most, uint64_t until)
{
    unsigned head = *ring->results_head, available = ready(ring), count = 0;
    while (count < available && count < most) {
        taken[count] = ring->results[(head + count) & ring->results_mask];
        if (taken[count].user_data == until)
            break;
        count++;
    }
    __atomic_store_n(ring->results_head, head + count, __ATOMIC_RELEASE);
    return count;
}
