/* What the files of unio._core.Ring share. */
#ifndef UNIO_RING_TYPE_H
#define UNIO_RING_TYPE_H

#include "handle.h"

#include <stdbool.h>
#include <sys/socket.h>

#include "ring.h"

#define TRANSFER_MAX 0x7ffff000 /* the bytes of one call, of any system call of Linux */
#define GENERATION_SHIFT 48     /* the addresses of a process have fewer bits, unless it asks for more */
#define ADDRESS_MASK ((UINT64_C(1) << GENERATION_SHIFT) - 1)

#define UNHEARD 0 /* the user_data of an entry whose result nobody waits for */
#define WAKES 2   /* of one that fetches a thread out of the kernel */
#define CANCELS 1 /* a bit in that of one that cancels a request, beside the request's own */

/* What a request names: a socket object, whose descriptor is the one that it has when the kernel is given the request; or
 * a number, with which the kernel is to be given it before that can be another's. */
struct target {
    PyObject *socket;     /* NULL for a number */
    const int *number_at; /* where the socket object keeps its descriptor, which is -1 once it is closed; or NULL */
    int number;
};

/* A server may have as many of these as connections, so they are small, and are allocated many at a time. */
struct request {
    union {
        struct request *next; /* of those that are free, or have a result */
        const int *number_at; /* of one that the kernel may not have taken yet: its target's */
    };
    union {
        struct {
            PyObject *owner, *socket;
            struct message *message;
        };
        struct { /* of an attempt of the fast path */
            PyObject *handle, *operation;
            struct direction *direction;
        };
    };
    PyObject *memory;
    union {
        struct { /* of an attempt to receive or to send */
            uint32_t done, size;
        };
        struct message *told; /* of one with more than one buffer, or of a datagram */
        struct peer *peer;    /* of an attempt to accept */
    };
    int32_t result;
    uint32_t flags; /* of the result */
    uint16_t generation;
    uint8_t opcode;
    bool in_kernel, is_noted, is_attempt, is_of_file;
};

#define BLOCK 64 /* requests */

struct block {
    struct block *next;
    struct request requests[BLOCK];
};

typedef struct {
    PyObject_HEAD
    struct ring ring;
    struct block *blocks; /* this and what follows is guarded by the ring's lock */
    struct request *free;
    struct request *noted, **noted_end; /* those with a result, the oldest first */
    Py_ssize_t in_flight, of_files; /* requests, and those of them that nothing ends early */
    unsigned entered; /* threads that are in the kernel */
    bool open;
    pid_t process;
} Ring;

/* The events that a poll waits for, as an entry has them. */
static inline uint32_t poll_events(uint32_t events)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return events << 16 | events >> 16; /* what was 16 bits wide once is still where these were */
#else
    return events;
#endif
}

static inline uint64_t name_of(const struct request *request)
{
    return (uint64_t)(uintptr_t)request | (uint64_t)request->generation << GENERATION_SHIFT;
}

static inline struct request *request_of(uint64_t user_data)
{
    return (struct request *)(uintptr_t)(user_data & ADDRESS_MASK & ~(uint64_t)CANCELS);
}

/* Raise OSError; returns NULL. */
PyObject *ring_error(int number, const char *what);

/* Enter the kernel, without the interpreter's lock. Returns false where it lacked memory, for which this has paused;
 * entries may be left then. Nothing on a closed ring. */
bool ring_cross(Ring *ring, bool for_results, int64_t nanoseconds, struct spin *spin);

/* Add an entry that is no request, with the lock held. Returns false if the queue is full. */
bool ring_add_locked(Ring *ring, int opcode, uint64_t address, uint32_t flags, uint64_t user_data);

/* A request and a free entry for it, with the lock held; NULL without the lock, with an exception but where no entry is free. */
struct request *ring_try_begin(Ring *ring, int opcode, const struct target *target, struct io_uring_sqe **entry);

/* A request and a free entry for it, for which this enters the kernel as long as there is none. */
struct request *ring_begin(Ring *ring, int opcode, const struct target *target, struct io_uring_sqe **entry);

/* The entry is prepared; let the lock go. Returns what the request is cancelled by. */
PyObject *ring_commit(Ring *ring, struct request *request, PyObject *owner, const struct target *target, PyObject *views,
                     struct message *message, uint64_t name);

/* The methods that prepare requests, each with a tuple of arguments (ring_requests.c). */
PyObject *ring_recv(Ring *ring, PyObject *arguments);
PyObject *ring_send(Ring *ring, PyObject *arguments);
PyObject *ring_read(Ring *ring, PyObject *arguments);
PyObject *ring_write(Ring *ring, PyObject *arguments);
PyObject *ring_recv_message(Ring *ring, PyObject *arguments);
PyObject *ring_send_message(Ring *ring, PyObject *arguments);
PyObject *ring_accept(Ring *ring, PyObject *arguments);
PyObject *ring_connect(Ring *ring, PyObject *arguments);
PyObject *ring_poll(Ring *ring, PyObject *arguments);
PyObject *ring_sync(Ring *ring, PyObject *arguments);

/* The methods by which results are waited for, taken out of the ring, and given out (ring_results.c). */
PyObject *ring_wait(Ring *ring, PyObject *timeout);
PyObject *ring_take_now(PyObject *ring, PyObject *ignored);
PyObject *ring_self(PyObject *ring);
PyObject *ring_next_result(Ring *ring);

#endif
