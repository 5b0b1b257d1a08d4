/* One io_uring: its two queues and the system calls, without Python.
 *
 * Nothing here allocates. Entries are prepared and results taken with the ring's lock held, for a few instructions;
 * ring_enter and ring_submit are called without it. The kernel sees what is prepared when one of these two shows it,
 * right before a system call, whichever thread that is in; until then it has no descriptor.
 */
#ifndef UNIO_RING_H
#define UNIO_RING_H

#include "ring_abi.h"
#include "spin.h"

#include <pthread.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

struct ring {
    int fd;
    pthread_mutex_t lock; /* guards the program's ends of both queues: the tails of entries and the head of results */
    void (*bind)(struct io_uring_sqe *entry); /* has an entry name what it is for now; called with the lock held */
    struct io_uring_sqe *entries;
    struct io_uring_cqe *results;
    unsigned *entries_head, *entries_tail; /* in memory that the kernel shares */
    unsigned *results_head, *results_tail;
    const unsigned *flags; /* what the kernel has to say besides */
    unsigned entries_count, entries_mask, results_mask;
    unsigned tail; /* of the entries that are prepared; the kernel sees those before entries_tail */
    void *queues; /* both queues are one mapping */
    size_t queues_size, entries_size;
};

/* Make a ring with this many entries, and four times as many results. Returns 0, or a negative errno, with what failed
 * or is lacking in *what. */
int ring_open(struct ring *ring, unsigned entries, void (*bind)(struct io_uring_sqe *entry), const char **what);

/* Give it back. No thread may be in another of these functions. */
void ring_close(struct ring *ring);

/* The next free entry, zeroed, or NULL if all are in use: then enter. The caller holds the lock, also until it calls
 * ring_advance, with which the entry is prepared. */
struct io_uring_sqe *ring_next(struct ring *ring);
void ring_advance(struct ring *ring);

/* How many entries are prepared that the kernel has not taken yet, as far as it has told; the caller holds the lock. */
unsigned ring_gathered(const struct ring *ring);

/* Whether nothing is prepared, nothing has come, and nothing would if a thread entered without waiting; the caller holds the
 * lock. */
bool ring_is_quiet(const struct ring *ring);

/* Hand over the entries that are prepared, and wait until there is a result: for up to that many nanoseconds, for ever
 * if they are negative, not at all if they are 0. A signal ends the wait, and so does looking in vain, where spin is not
 * NULL. Returns 0 or a negative errno, of which none needs more than a later call. */
int ring_enter(struct ring *ring, int64_t nanoseconds, struct spin *spin);

/* Hand over the entries that are prepared, without a wait and without looking for results. After 0 the kernel has all
 * that was prepared before. */
int ring_submit(struct ring *ring);

/* Take out up to *most* results, those before the first with this user_data; the caller holds the lock. */
unsigned ring_take(struct ring *ring, struct io_uring_cqe *taken, unsigned most, uint64_t until);

#endif
