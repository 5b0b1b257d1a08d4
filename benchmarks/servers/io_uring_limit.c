/* The limit of completion: an echo server in C on one io_uring, single shot, with nothing around it.
 *
 *     io_uring_limit BUFFER [each | linked]
 *
 * The submissions of a turn and the wait for the next completions are one system call; with "each", every submission is
 * a call of its own and the wait another. With "linked", a send and the next receive are submitted together, and only the
 * receive completes. Each connection has a buffer of BUFFER bytes of its own, as a receive that is pending owns one.
 * Prints its port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 4096
#define SEND 1ull /* marks the completion of a send, beside the connection's address */

struct connection {
    int fd;
    unsigned filled, sent;
    char buffer[];
};

static int ring_fd;
static unsigned *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask, to_submit;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static unsigned buffer_size;
static int each, linked;

static int enter(unsigned wait_for) {
    int n = (int)syscall(__NR_io_uring_enter, ring_fd, to_submit, wait_for, IORING_ENTER_GETEVENTS, NULL, 0);
    if (n > 0)
        to_submit -= (unsigned)n;
    return n;
}

static struct io_uring_sqe *next_sqe(void) {
    while (to_submit == ENTRIES)
        enter(0);
    unsigned tail = *sq_tail;
    struct io_uring_sqe *sqe = &sqes[tail & *sq_mask];
    memset(sqe, 0, sizeof *sqe);
    __atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
    to_submit++;
    return sqe;
}

static void submit(struct connection *c, int opcode, char *data, unsigned size) {
    struct io_uring_sqe *sqe = next_sqe();
    sqe->opcode = (unsigned char)opcode;
    sqe->fd = c->fd;
    sqe->addr = (unsigned long)data;
    sqe->len = size;
    sqe->user_data = (unsigned long)c | (opcode == IORING_OP_SEND ? SEND : 0);
    if (opcode == IORING_OP_RECV) {
        sqe->ioprio = IORING_RECVSEND_POLL_FIRST; /* an echo's next message is never there yet */
    } else {
        sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
        if (linked)
            sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    }
    if (each)
        enter(0);
}

static void submit_accept(int listener) {
    struct io_uring_sqe *sqe = next_sqe();
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->fd = listener;
    sqe->accept_flags = SOCK_CLOEXEC;
}

static void completed(struct connection *c, int sending, int result) {
    if (sending && linked)
        return; /* it failed; the receive behind it, which is cancelled for that, ends the connection */
    if (result <= 0) {
        close(c->fd);
        free(c);
    } else if (sending && (c->sent += (unsigned)result) < c->filled) {
        submit(c, IORING_OP_SEND, c->buffer + c->sent, c->filled - c->sent);
    } else if (sending) {
        submit(c, IORING_OP_RECV, c->buffer, buffer_size);
    } else {
        c->filled = (unsigned)result;
        c->sent = 0;
        submit(c, IORING_OP_SEND, c->buffer, c->filled);
        if (linked)
            submit(c, IORING_OP_RECV, c->buffer, buffer_size);
    }
}

static void accepted(int listener, int fd) {
    submit_accept(listener);
    if (fd < 0)
        return;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *c = malloc(sizeof *c + buffer_size);
    if (!c)
        abort();
    c->fd = fd;
    submit(c, IORING_OP_RECV, c->buffer, buffer_size);
}

static int make_ring(void) {
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 4 * ENTRIES};
    ring_fd = (int)syscall(__NR_io_uring_setup, ENTRIES, &p);
    if (ring_fd < 0)
        return -1;
    size_t ring_size = p.cq_off.cqes + p.cq_entries * sizeof *cqes;
    size_t array_end = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    if (array_end > ring_size)
        ring_size = array_end;
    char *ring = mmap(NULL, ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd, IORING_OFF_SQ_RING);
    sqes = mmap(NULL, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd,
                IORING_OFF_SQES);
    if (ring == MAP_FAILED || (void *)sqes == MAP_FAILED)
        return -1;
    sq_tail = (unsigned *)(ring + p.sq_off.tail);
    sq_mask = (unsigned *)(ring + p.sq_off.ring_mask);
    cq_head = (unsigned *)(ring + p.cq_off.head);
    cq_tail = (unsigned *)(ring + p.cq_off.tail);
    cq_mask = (unsigned *)(ring + p.cq_off.ring_mask);
    cqes = (struct io_uring_cqe *)(ring + p.cq_off.cqes);
    for (unsigned i = 0; i < p.sq_entries; i++) /* each place of the queue names the entry of its own number, for good */
        ((unsigned *)(ring + p.sq_off.array))[i] = i;
    return 0;
}

int main(int argc, char **argv) {
    buffer_size = argc > 1 ? (unsigned)atoi(argv[1]) : 65536;
    each = argc > 2 && !strcmp(argv[2], "each");
    linked = argc > 2 && !strcmp(argv[2], "linked");
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (make_ring() < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0) {
        perror("io_uring");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    submit_accept(listener);
    for (;;) {
        if (enter(1) < 0 && errno != EINTR && errno != EBUSY) {
            perror("io_uring_enter");
            return 1;
        }
        unsigned head = *cq_head, tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            struct io_uring_cqe cqe = cqes[head & *cq_mask];
            if (cqe.user_data)
                completed((struct connection *)(cqe.user_data & ~SEND), cqe.user_data & SEND, cqe.res);
            else
                accepted(listener, cqe.res);
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
    }
}
