/* The load: connections that each send a request, take its response, and send the next.
 *
 *     load PORT CONNECTIONS REQUEST RESPONSE IDLE [connect]
 *
 * REQUEST and RESPONSE are bytes. IDLE further connections are opened and left alone. With "connect", each exchange has
 * a connection of its own: connect, send, receive, close. Everything goes to 127.0.0.1.
 *
 * It says "ready" when the connections stand. Then, for each line on its input:
 *
 *     run SECONDS     exchanges for so long; answers with one line of JSON
 *     probe CPU       takes the time of a fixed piece of work on that processor; answers with its nanoseconds
 *
 * What is in flight when a round ends is waited for, so that the server rests between two rounds. The probe tells
 * whether the machine was disturbed: the work is always the same, so its time tells of the machine alone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define EVENTS 256
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
static int per_exchange, epoll_fd;
static char outgoing[CHUNK], incoming[CHUNK];
static uint64_t latencies[BUCKETS], exchanges, in_flight;
static int running;

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
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
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("connect"); /* blocking: on loopback it ends as soon as there is room in the listener's queue */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    return fd;
}

static void open_connection(struct connection *c) {
    c->fd = connected_socket();
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll_ctl");
}

static void send_more(struct connection *c) {
    while (c->sent < request_size) {
        size_t left = request_size - c->sent;
        ssize_t n = send(c->fd, outgoing, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            fail("send");
        c->sent += (size_t)n;
    }
}

static void start_exchange(struct connection *c) {
    c->started_ns = now_ns(CLOCK_MONOTONIC);
    if (per_exchange)
        open_connection(c);
    c->sent = c->received = 0;
    in_flight++;
    send_more(c);
}

static void end_exchange(struct connection *c) {
    latencies[bucket_of(now_ns(CLOCK_MONOTONIC) - c->started_ns)]++;
    exchanges++;
    in_flight--;
    if (per_exchange)
        close(c->fd);
    if (running)
        start_exchange(c);
}

static void receive_more(struct connection *c) {
    while (c->received < response_size) {
        ssize_t n = recv(c->fd, incoming, CHUNK, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fprintf(stderr, "the server has closed a connection: %s\n", n ? strerror(errno) : "end of stream");
            exit(1);
        }
        c->received += (size_t)n;
        if (c->received < response_size && n < CHUNK)
            return; /* the socket is empty now; edge-triggered, more of it is another event */
    }
    end_exchange(c);
}

static void run_round(struct connection *connections, int count, double seconds) {
    struct epoll_event events[EVENTS];
    memset(latencies, 0, sizeof latencies);
    exchanges = 0;
    running = 1;
    uint64_t cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID), start_ns = now_ns(CLOCK_MONOTONIC);
    uint64_t end_ns = start_ns + (uint64_t)(seconds * 1e9), elapsed_ns = 0, counted = 0;
    for (int i = 0; i < count; i++)
        start_exchange(&connections[i]);
    while (in_flight) {
        int n = epoll_wait(epoll_fd, events, EVENTS, 20000);
        if (n == 0) {
            fprintf(stderr, "the server owes %llu responses for 20 s\n", (unsigned long long)in_flight);
            exit(1);
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_more(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive_more(c);
        }
        if (running && now_ns(CLOCK_MONOTONIC) >= end_ns) {
            running = 0;
            elapsed_ns = now_ns(CLOCK_MONOTONIC) - start_ns;
            counted = exchanges;
            cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
        }
    }
    printf("{\"rate\": %.1f, \"exchanges\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, "
           "\"load_busy\": %.3f}\n",
           (double)counted * 1e9 / (double)elapsed_ns, (unsigned long long)exchanges,
           (unsigned long long)percentile_ns(0.5), (unsigned long long)percentile_ns(0.99),
           (unsigned long long)percentile_ns(0.999), (double)cpu_ns / (double)elapsed_ns);
}

static void probe(int cpu) {
    cpu_set_t before, only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    sched_getaffinity(0, sizeof before, &before);
    if (sched_setaffinity(0, sizeof only, &only) < 0)
        fail("sched_setaffinity");
    uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
    volatile uint64_t sum = 1;
    for (int i = 0; i < 3000000; i++)
        sum = sum * 6364136223846793005u + 1442695040888963407u;
    printf("%llu\n", (unsigned long long)(now_ns(CLOCK_MONOTONIC) - start_ns));
    sched_setaffinity(0, sizeof before, &before);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: load PORT CONNECTIONS REQUEST RESPONSE IDLE [connect]\n");
        return 2;
    }
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int count = atoi(argv[2]), idle = atoi(argv[5]);
    request_size = strtoull(argv[3], NULL, 10);
    response_size = strtoull(argv[4], NULL, 10);
    per_exchange = argc > 6;
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
    if (!connections)
        fail("calloc");
    for (int i = 0; i < idle; i++)
        connected_socket();
    for (int i = 0; i < count && !per_exchange; i++)
        open_connection(&connections[i]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        double seconds;
        int cpu;
        if (sscanf(line, "run %lf", &seconds) == 1)
            run_round(connections, count, seconds);
        else if (sscanf(line, "probe %d", &cpu) == 1)
            probe(cpu);
        else
            return 2;
    }
    return 0;
}
