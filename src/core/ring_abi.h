/* What the kernel and a program tell each other through an io_uring, as far as it is used here: io_uring_setup(2),
 * io_uring_enter(2) and io_uring_register(2) describe it.
 *
 * It is written down here, and not taken from <linux/io_uring.h>: the headers of the system on which unio is compiled are
 * often older than the kernel on which it runs, those of the images for wheels are on purpose, and then a ring would be
 * missing that the kernel has. What the kernel lacks it says itself, when a ring is made. None of this ever changes.
 */
#ifndef UNIO_RING_ABI_H
#define UNIO_RING_ABI_H

#include <stdint.h>
#include <sys/syscall.h>

/* Nearly every kind of processor has the numbers of the calls in common. Where the C library doesn't say those of the others,
 * there is no such call. */
#ifndef __NR_io_uring_setup
#if defined(__alpha__) || defined(__mips__) || (defined(__x86_64__) && defined(__ILP32__))
#define __NR_io_uring_setup (-1)
#define __NR_io_uring_enter (-1)
#define __NR_io_uring_register (-1)
#else
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif
#endif

enum {
    IORING_OP_NOP = 0,
    IORING_OP_READV = 1,
    IORING_OP_WRITEV = 2,
    IORING_OP_FSYNC = 3,
    IORING_OP_POLL_ADD = 6,
    IORING_OP_SENDMSG = 9,
    IORING_OP_RECVMSG = 10,
    IORING_OP_ACCEPT = 13,
    IORING_OP_ASYNC_CANCEL = 14,
    IORING_OP_CONNECT = 16,
    IORING_OP_READ = 22,
    IORING_OP_WRITE = 23,
    IORING_OP_SEND = 26,
    IORING_OP_RECV = 27,
};

/* An entry: a request. Where a union has several names, each is the one of certain opcodes. */
struct io_uring_sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    union {
        uint64_t off, addr2;
    };
    uint64_t addr;
    uint32_t len;
    union {
        uint32_t msg_flags, accept_flags, cancel_flags, poll32_events;
    };
    uint64_t user_data;
    uint64_t unused[3];
};

#define IORING_RECVSEND_POLL_FIRST (1U << 0) /* in ioprio */
#define IORING_POLL_ADD_MULTI (1U << 0)      /* in len */
#define IORING_ASYNC_CANCEL_ALL (1U << 0)    /* in cancel_flags */
#define IORING_ASYNC_CANCEL_ANY (1U << 2)

/* A result. */
struct io_uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

#define IORING_CQE_F_MORE (1U << 1)
#define IORING_CQE_F_SOCK_NONEMPTY (1U << 2)

/* Where in the memory of the queues their parts are. */
struct io_sqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, unused;
    uint64_t address;
};

struct io_cqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, unused;
    uint64_t address;
};

/* What io_uring_setup is asked for, and what it answers. */
struct io_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, unused[3];
    struct io_sqring_offsets sq_off;
    struct io_cqring_offsets cq_off;
};

#define IORING_SETUP_CQSIZE (1U << 3) /* in flags */
#define IORING_SETUP_CLAMP (1U << 4)
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)

#define IORING_SQ_CQ_OVERFLOW (1U << 1) /* in what the offset of the entries' flags leads to */
#define IORING_SQ_TASKRUN (1U << 2)

#define IORING_FEAT_SINGLE_MMAP (1U << 0) /* in features */
#define IORING_FEAT_NODROP (1U << 1)
#define IORING_FEAT_RW_CUR_POS (1U << 3)
#define IORING_FEAT_FAST_POLL (1U << 5)
#define IORING_FEAT_EXT_ARG (1U << 8)

#define IORING_OFF_SQ_RING 0ULL /* of the mappings */
#define IORING_OFF_SQES 0x10000000ULL

#define IORING_ENTER_GETEVENTS (1U << 0) /* flags of io_uring_enter */
#define IORING_ENTER_EXT_ARG (1U << 3)

/* With the latter, its argument. */
struct io_uring_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz, unused;
    uint64_t ts; /* the address of a ring_timespec, or 0 */
};

struct ring_timespec {
    int64_t tv_sec;
    long long tv_nsec;
};

/* Which opcodes there are, asked of io_uring_register. */
#define IORING_REGISTER_PROBE 8
#define IO_URING_OP_SUPPORTED (1U << 0) /* in flags */

struct io_uring_probe_op {
    uint8_t op, unused;
    uint16_t flags;
    uint32_t unused_too;
};

struct io_uring_probe {
    uint8_t last_op, ops_len;
    uint16_t unused;
    uint32_t unused_too[3];
    struct io_uring_probe_op ops[];
};

#endif
