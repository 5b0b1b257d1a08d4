/* The load: connections that each send a request, take its response, and send the next.
 *
 *     load PORT CONNECTIONS REQUEST RESPONSE IDLE [connect|datagrams]
 *
 * REQUEST and RESPONSE are bytes. IDLE further connections are opened and left alone. With "connect", each exchange has
 * a connection of its own: connect, send, receive, close. With "datagrams", a connection is a socket of UDP, and a request
 * one datagram. Everything goes to 127.0.0.1.
 *
 * It says "ready" when the connections stand. Then, for each line on its input:
 *
 *     run SECONDS     exchanges for so long; answers with one line of JSON
 *     check SECONDS   the same, and ends with an error unless each response is its request
 *
 * What is in flight when a round ends is waited for, so that the server rests between two rounds.
 *
 * The load never sleeps in a round. On one machine a send wakes who receives, at the cost of the one that sends: in a virtual
 * machine it has to fetch the other processor out of its sleep. How often that happens is chance, and it would be most of
 * what a server pays that the load is much faster than. A peer behind a network costs a server nothing of the kind.
 *
 * The load must cost less than the server that it drives, and a server in C does little. So responses are only counted,
 * except in a check: with MSG_TRUNC, TCP drops the bytes and copies nothing. And the requests of a turn are sent
 * together, after all that came has been received.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 512
#define PATIENCE_NS 20000000000u
#define TOGETHER 64 /* connections that are opened at once: no queue of a server is shorter, and all can be accepted in one turn */
/* Latencies are counted in buckets of about 3 %: 32 between a power of two and the next. */
#define FINE 32
#define BUCKETS (64 * FINE)

struct connection {
    int fd;
    size_t sent, received;
    uint64_t started_ns;
};

static struct sockaddr_in server;
static size_t request_size, response_size;
static int per_exchange, of_datagrams, checking, running, epoll_fd;
static char *outgoing, *incoming;
static uint64_t latencies[BUCKETS], exchanges, in_flight, idle_ns;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static unsigned bucket_of(uint64_t ns) {
    if (ns < FINE)
        return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns); /* at least 5 */
    return (power - 4) * FINE + (unsigned)((ns >> (power - 5)) & (FINE - 1));
}

static uint64_t bucket_start_ns(unsigned bucket) {
    if (bucket < FINE)
        return bucket;
    unsigned power = bucket / FINE + 4;
    return (1ull << power) + ((uint64_t)(bucket % FINE) << (power - 5));
}

static uint64_t percentile_ns(double share) {
    uint64_t total = 0, seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        total += latencies[i];
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((seen += latencies[i]) > (uint64_t)(share * (double)total))
            return bucket_start_ns(i);
    return 0;
}

static int connected_socket(void) {
    int fd = socket(AF_INET, (of_datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("connect");
    if (!of_datagrams)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Opens connections that stay idle. A listener's queue that overflows costs seconds, as TCP tries again. So every now
 * and then an exchange is made on the last one: accepted in order, all before it have been accepted by then. */
static void open_idle(int count) {
    for (int i = 1; i <= count; i++) {
        int fd = connected_socket();
        if (i % TOGETHER && i < count)
            continue;
        size_t received = 0;
        ssize_t n = send(fd, outgoing, request_size, MSG_NOSIGNAL);
        if (n < (ssize_t)request_size)
            fail("send");
        while (received < response_size) {
            if ((n = recv(fd, incoming, response_size - received, 0)) <= 0)
                fail("recv");
            received += (size_t)n;
        }
    }
}

static void open_connection(struct connection *c) {
    c->fd = connected_socket();
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll_ctl");
}

static void send_more(struct connection *c) {
    while (c->sent < request_size) {
        ssize_t n = send(c->fd, outgoing + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            fail("send");
        c->sent += (size_t)n;
    }
}

static void start_exchange(struct connection *c, uint64_t at_ns) {
    c->started_ns = at_ns;
    if (per_exchange)
        open_connection(c);
    c->sent = c->received = 0;
    in_flight++;
    send_more(c);
}

static void end_exchange(struct connection *c, uint64_t at_ns) {
    latencies[bucket_of(at_ns - c->started_ns)]++;
    exchanges++;
    in_flight--;
    if (per_exchange)
        close(c->fd);
}

/* Receives what there is; returns whether the response is complete. */
static int receive_more(struct connection *c) {
    ssize_t n = recv(c->fd, incoming, response_size - c->received, checking ? 0 : MSG_TRUNC);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0) {
        fprintf(stderr, "the server has closed a connection: %s\n", n ? strerror(errno) : "end of stream");
        exit(1);
    }
    if (checking && memcmp(incoming, outgoing + c->received, (size_t)n)) {
        fprintf(stderr, "the response is not the request\n");
        exit(1);
    }
    c->received += (size_t)n; /* less than was asked for: the socket is empty, and more of it is another event */
    return c->received == response_size;
}

/* Acts on the events of a turn; returns how many exchanges have ended, and puts their connections into ended. */
static int act_on(const struct epoll_event *events, int count, struct connection **ended) {
    int n = 0;
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            send_more(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive_more(c))
            ended[n++] = c;
    }
    return n;
}

/* Fetches events, asking for them until there are some; idle_ns grows by how long that took. */
static int next_events(struct epoll_event *events) {
    int n = epoll_wait(epoll_fd, events, EVENTS, 0);
    uint64_t since_ns = n ? 0 : now_ns(), waited_ns = 0;
    while (n == 0 && waited_ns < PATIENCE_NS) {
        n = epoll_wait(epoll_fd, events, EVENTS, 0);
        waited_ns = now_ns() - since_ns;
    }
    idle_ns += waited_ns;
    if (n == 0) {
        fprintf(stderr, "the server owes %llu responses for 20 s\n", (unsigned long long)in_flight);
        exit(1);
    }
    return n;
}

static void run_round(struct connection *connections, int count, double seconds) {
    struct epoll_event events[EVENTS];
    struct connection *ended[EVENTS];
    memset(latencies, 0, sizeof latencies);
    exchanges = idle_ns = 0;
    running = 1;
    uint64_t start_ns = now_ns(), end_ns = start_ns + (uint64_t)(seconds * 1e9);
    uint64_t elapsed_ns = 0, counted = 0, busy_ns = 0;
    for (int i = 0; i < count; i++)
        start_exchange(&connections[i], start_ns);
    while (in_flight) {
        int n = act_on(events, next_events(events), ended);
        uint64_t at_ns = now_ns();
        for (int i = 0; i < n; i++)
            end_exchange(ended[i], at_ns);
        if (running && at_ns >= end_ns) {
            running = 0;
            elapsed_ns = at_ns - start_ns;
            counted = exchanges;
            busy_ns = elapsed_ns - idle_ns;
        }
        for (int i = 0; i < n && running; i++)
            start_exchange(ended[i], at_ns);
    }
    printf("{\"rate\": %.1f, \"exchanges\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, "
           "\"load_busy\": %.3f}\n",
           (double)counted * 1e9 / (double)elapsed_ns, (unsigned long long)exchanges,
           (unsigned long long)percentile_ns(0.5), (unsigned long long)percentile_ns(0.99),
           (unsigned long long)percentile_ns(0.999), (double)busy_ns / (double)elapsed_ns);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: load PORT CONNECTIONS REQUEST RESPONSE IDLE [connect|datagrams]\n");
        return 2;
    }
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int count = atoi(argv[2]), idle = atoi(argv[5]);
    request_size = strtoull(argv[3], NULL, 10);
    response_size = strtoull(argv[4], NULL, 10);
    per_exchange = argc > 6 && !strcmp(argv[6], "connect");
    of_datagrams = argc > 6 && !strcmp(argv[6], "datagrams");
    if (count < 1 || !request_size || !response_size || idle < 0) {
        fprintf(stderr, "load: at least one connection, and one byte each way\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1");
    struct connection *connections = calloc((size_t)count, sizeof *connections);
    outgoing = malloc(request_size);
    incoming = malloc(response_size);
    if (!connections || !outgoing || !incoming)
        fail("malloc");
    for (size_t i = 0; i < request_size; i++)
        outgoing[i] = (char)(i * 2654435761u >> 24); /* no two parts of a message are alike */
    open_idle(idle);
    for (int i = 0; i < count && !per_exchange; i++)
        open_connection(&connections[i]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    char line[64], what[16];
    double seconds;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %lf", what, &seconds) != 2)
            return 2;
        checking = !strcmp(what, "check") && request_size == response_size;
        run_round(connections, count, seconds);
    }
    return 0;
}
