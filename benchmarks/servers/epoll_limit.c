/* The limit of readiness: an echo server in C on one epoll, with nothing around it.
 *
 *     epoll_limit [batched]
 *
 * Level-triggered. What was received is sent at once or, batched, when all that is ready has been received. What the
 * socket doesn't take waits in a buffer of the connection's own, and the connection is not read meanwhile. Prints its
 * port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define EVENTS 256

struct connection {
    int fd;
    char *rest; /* what could not be sent yet */
    size_t rest_size;
};

struct message {
    struct connection *c;
    size_t size;
};

static char buffers[EVENTS][CHUNK]; /* of which only what is used is there */
static int epoll_fd;

static void watch(struct connection *c, int change, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, change, c->fd, &event);
}

static void end(struct connection *c) {
    close(c->fd);
    free(c->rest);
    free(c);
}

/* Receives a message; returns its size, or 0 if there is none. */
static size_t receive(struct connection *c, char *buffer) {
    ssize_t got = recv(c->fd, buffer, CHUNK, 0);
    if (got > 0)
        return (size_t)got;
    if (got == 0 || errno != EAGAIN)
        end(c);
    return 0;
}

static void give(struct connection *c, const char *buffer, size_t size) {
    ssize_t sent = send(c->fd, buffer, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(c);
        return;
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    if (done < size) {
        c->rest_size = size - done;
        c->rest = malloc(c->rest_size);
        if (!c->rest)
            abort();
        memcpy(c->rest, buffer + done, c->rest_size);
        watch(c, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

static void send_rest(struct connection *c) {
    ssize_t sent = send(c->fd, c->rest, c->rest_size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN)
        return;
    if (sent < 0) {
        end(c);
        return;
    }
    c->rest_size -= (size_t)sent;
    memmove(c->rest, c->rest + sent, c->rest_size);
    if (!c->rest_size) {
        free(c->rest);
        c->rest = NULL;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void serve(struct connection *listening, int batched) {
    struct epoll_event events[EVENTS];
    struct message messages[EVENTS];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1), waiting = 0;
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            size_t size;
            if (c == listening)
                accept_all(c->fd);
            else if (c->rest)
                send_rest(c);
            else if ((size = receive(c, buffers[waiting])) && batched)
                messages[waiting++] = (struct message){c, size};
            else if (size)
                give(c, buffers[0], size);
        }
        for (int i = 0; i < waiting; i++)
            give(messages[i].c, buffers[i], messages[i].size);
    }
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct connection listening = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (bind(listening.fd, (struct sockaddr *)&address, size) < 0 || listen(listening.fd, 1024) < 0 ||
        getsockname(listening.fd, (struct sockaddr *)&address, &size) < 0 || epoll_fd < 0) {
        perror("epoll");
        return 1;
    }
    watch(&listening, EPOLL_CTL_ADD, EPOLLIN);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    serve(&listening, argc > 1 && !strcmp(argv[1], "batched"));
}
