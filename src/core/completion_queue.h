/* unio._core.QueueState: the packets of a port, and the threads that wait for them; engine/completion_queue.py says
 * what each part is. The functions are in packets.c, turns.c and parking.c, the types and their methods in
 * completion_queue.c. */
#ifndef UNIO_COMPLETION_QUEUE_H
#define UNIO_COMPLETION_QUEUE_H

#include "clock.h"
#include "core.h"
#include "spin.h"

#define GATHERED_MAX 256 /* so many are started at once: the first should not wait for a long time */

struct gathered {
    PyObject *handle; /* strong references, both */
    struct direction *direction;
};

/* What one thread has submitted and is to be attempted at its next wait. The queue owns it, and not the thread, which
 * may keep nothing of the program's alive. The thread adds to it, and any thread may take everything out. */
struct gathering {
    struct gathering *next;
    mutex mutex;
    unsigned count;
    struct gathered directions[GATHERED_MAX];
};

/* A thread that waits on a port, or did so last. */
struct waiter {
    PyObject_HEAD
    PyObject *gate;              /* a lock, held while the thread sleeps */
    unsigned long long belongs;  /* the serial number of its queue */
    struct gathering *gathering; /* valid for as long as that queue lives */
    double woken;                /* when it was last woken for a packet, by the monotonic clock */
    double turn_began;           /* when it was last given packets, where others wait on the port as well */
    Py_ssize_t turn_packets;     /* how many; 0 where that turn is over */
    double pace;                 /* seconds for each packet of its turns; of late ones more than of early ones */
    unsigned turns;              /* it has had as the runner */
    struct spin spin;            /* of its sleeps */
    char is_woken;               /* whether its gate is open, or about to be */
    size_t came_at;              /* how often threads had parked when its wait began */
    char watches;                /* it is parked, and sleeps no longer than until the runner's time is over */
    char slot;                   /* whether it has one */
    char hears;                  /* whether it is the main thread, which has to be woken for signals */
    char heard;                  /* whether a signal wakes it just now */
    char beyond; /* it runs without one, since it came back from blocking when there was none */
};

/* Threads in the order in which they came. Room for all of them is there before one comes. */
struct row {
    struct waiter **waiters; /* strong references */
    size_t count;
};

struct queue {
    PyObject_HEAD
    PyObject *interrupt;       /* fetches the leader out of the kernel */
    unsigned long long serial; /* which no other queue has */
    char apart[64];            /* so that who only reads what is above does not wait for the processor that writes below */
    mutex mutex;               /* of all that follows */
    PyObject **ring;           /* the packets: from head on, round its end. NULL while it is empty, perhaps */
    size_t mask, head, count;
    PyObject *leader; /* what the leading thread has given; NULL if none leads */
    struct row parked, coming;
    size_t room;       /* of each row */
    size_t waiters;    /* that have joined and not parted */
    Py_ssize_t slots;  /* that may be taken */
    struct waiter *runner; /* whom the others leave what comes, for as long as its time lasts; NULL if that is nobody */
    double runner_until;   /* when that time is over, or was */
    size_t watchers;       /* of the parked, those that watch */
    const struct waiter *called; /* who is about to ask the kernel: it was woken for that, or has just done so */
    size_t parkings;       /* how often threads have parked */
    char takes_turns;      /* whether there is ever a runner */
    char is_looking;       /* whether a parked thread looks for its wake-up instead of sleeping */
    char keeps;            /* whether the leader takes what comes, as it is quick and has come last */
    struct gathering *gatherings;
    double first_take; /* when the first of takes was */
    unsigned takes;    /* packets taken since the kernel was asked */
    char closed, sleeping, watching;
    char roused; /* the main thread is not to park, as a signal has come */
};

/* Those that return an int say whether it was so, or -1 with an exception where that can be. */

int queue_append(struct queue *self, PyObject *packet);
int queue_append_left(struct queue *self, PyObject *packet);

/* NULL, without an exception, if there is none. */
PyObject *queue_pop_left(struct queue *self);

static inline size_t queue_count(struct queue *self) { return PEEK(self->count); }

int queue_enter(struct queue *self, struct waiter *waiter);
int queue_leave(struct queue *self, struct waiter *waiter);
int queue_lead(struct queue *self, PyObject *turn);
void queue_end_lead(struct queue *self, PyObject *turn, const struct waiter *waiter);
int queue_has_for(struct queue *self, struct waiter *waiter);
int queue_has_for_leader(struct queue *self, struct waiter *waiter);
int queue_should_ask(struct queue *self);
int queue_gives_way(struct queue *self, struct waiter *waiter);
/* How many packets a thread takes at a time, where a wait may return so many. */
Py_ssize_t queue_limit(struct queue *self, const struct waiter *waiter, Py_ssize_t limit);
void queue_begin_turn(struct queue *self, struct waiter *waiter, Py_ssize_t packets);
void queue_end_turn(struct queue *self, struct waiter *waiter);
int queue_park(struct queue *self, struct waiter *waiter, double timeout);
int queue_wake(struct queue *self);
int queue_wake_leader(struct queue *self);

/* Wakes the thread that has parked first, so that it leads. */
int queue_release_first(struct queue *self, int only_if_nobody_leads);

/* Wakes the main thread, if it is parked and a signal is to wake it; or has it not park, if it is just about to. */
int queue_rouse(struct queue *self);

/* Whether there are more packets than threads that were woken for one and have not come yet. */
int queue_has_more(struct queue *self);

/* Sees to it that somebody works on what a thread leaves, whose waiter this is; NULL is for any thread. */
int queue_pass_on(struct queue *self, const struct waiter *waiter);
void queue_arrive(struct queue *self, struct waiter *waiter);

/* Whether more than one thread belongs to the port; or else there is nothing to share. */
static inline int queue_is_shared(struct queue *self) { return PEEK(self->waiters) > 1; }

static inline int queue_is_led(struct queue *self) { return PEEK(self->leader) != NULL; }
static inline int queue_has_parked(struct queue *self) { return PEEK(self->parked.count) != 0; }

/* Takes up to so many packets out of the queue, as a list of completions. */
PyObject *queue_take(struct queue *self, Py_ssize_t limit);

/* Puts completions back to the head of the queue, as no wait can return them after all. */
int queue_give_back(struct queue *self, PyObject *batch);

/* The thread that runs, as one that has waited on a port; its module (engine/run_slots.py) owns it, and tells of each
 * change. */
extern _Thread_local struct waiter *current INITIAL_EXEC;

#endif
