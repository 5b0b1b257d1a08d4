/*
 * A double of kqueue(2) for Linux, so that the kqueue backend can be run where there is no BSD. Tests use it; the
 * wheel does not have it.
 *
 * It is FreeBSD's kqueue(2) as the manual page has it, and as sys/kern/kern_event.c, sys_pipe.c and uipc_socket.c have
 * it where the page is silent. What a real kqueue has and this one doesn't is refused (EINVAL), never ignored. The
 * layout of struct kevent and the numbers are those that libkqueue has on Linux, so that one table serves both.
 *
 * How it is made:
 * - The kqueue's descriptor is an epoll instance. Each watched descriptor is in it once, edge-triggered. An edge does
 *   what a wake-up does inside BSD: it runs the filters of that descriptor's knotes, and those that are true go to the
 *   queue. A call takes knotes off the queue, and a level-triggered one goes back to its end, until its filter is
 *   false. An edge does not say its direction: where one descriptor has both knotes, it can repeat an EV_CLEAR event.
 * - A timer, a process and a file that may grow have a descriptor of their own, their *source*: a timerfd, a pidfd, an
 *   inotify instance.
 * - The bell is one eventfd for all kqueues, which can always be read. Setting its mask anew is an edge. It makes the
 *   kqueue readable, and so wakes whoever sleeps in kevent(), for as long as the queue is not empty.
 * - A knote ends with its descriptor *number*, but epoll knows open files, and close() isn't told to us. Adding what is
 *   there already fails with EEXIST, and only then the number still stands for the same file: that is asked before a
 *   knote is used. It misses a number that was closed and then given to a duplicate of the same open file.
 * - A kqueue that was closed is noticed when its number is used, or at the next kqueue(); its sources stay open till
 *   then.
 * - One lock guards everything, and is not held while a thread sleeps.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    intptr_t data;
    void *udata;
};

enum { EVFILT_READ = -1, EVFILT_WRITE = -2, EVFILT_PROC = -5, EVFILT_TIMER = -7, EVFILT_USER = -11 };
enum {
    EV_ADD = 0x1,
    EV_DELETE = 0x2,
    EV_ENABLE = 0x4,
    EV_DISABLE = 0x8,
    EV_ONESHOT = 0x10,
    EV_CLEAR = 0x20,
    EV_RECEIPT = 0x40,
    EV_DISPATCH = 0x80,
    EV_SYSFLAGS = 0xf000, /* set by the system alone; a change that has them is taken without */
    EV_ERROR = 0x4000,
    EV_EOF = 0x8000,
};
#define EV_KNOWN 0xffu /* the first eight */
#define NOTE_LOWAT 0x1u
#define NOTE_EXIT 0x80000000u
#define NOTE_SECONDS 0x1u
#define NOTE_USECONDS 0x2u
#define NOTE_NSECONDS 0x4u
#define NOTE_TRIGGER 0x01000000u
#define NOTE_FFAND 0x40000000u
#define NOTE_FFOR 0x80000000u
#define NOTE_FFCOPY 0xc0000000u
#define NOTE_FFCTRLMASK 0xc0000000u
#define NOTE_FFLAGSMASK 0x00ffffffu

/* The states of a connection; <netinet/tcp.h>, which names them, doesn't go together with <linux/tcp.h>. */
enum { TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_SYN_RECV = 3, TCP_CLOSE = 7, TCP_CLOSE_WAIT = 8, TCP_LISTEN = 10 };

struct knote {
    LIST_ENTRY(knote) in_bucket;
    TAILQ_ENTRY(knote) in_queue;
    struct kqueue *kq;
    const struct filter *filter;
    struct kevent report; /* what will be returned; its flags are those of the first EV_ADD, and EV_EOF */
    unsigned int asked_fflags;
    intptr_t asked_data;
    mode_t type;      /* of the descriptor */
    dev_t device;     /* with the inode, tells whether a number is still that file's, which epoll doesn't take */
    ino_t inode;
    int source;       /* or -1 */
    int socket_error; /* that was taken from the socket, see end_of_socket() */
    bool triggered;   /* of a user event */
    bool active;      /* the filter was true */
    bool queued;
    bool disabled;
};

#define BUCKETS 512

struct kqueue {
    LIST_ENTRY(kqueue) in_list;
    int number;
    unsigned long serial; /* no two kqueues of a process have the same, whatever their numbers and addresses */
    TAILQ_HEAD(knotes, knote) queue;
    LIST_HEAD(, knote) buckets[BUCKETS];
};

struct filter {
    bool is_descriptor;
    int (*attach)(struct knote *); /* returns an errno */
    int (*touch)(struct knote *, const struct kevent *); /* a change of a knote that exists; returns an errno */
    bool (*is_true)(struct knote *);
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, kqueue) kqueues = LIST_HEAD_INITIALIZER(kqueues);
static unsigned long serials;
static int bell;

/* Knotes */

/* Whether an epoll instance has this number for the file that it stands for now. */
static bool holds(int epoll, int number)
{
    struct epoll_event none = {0};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, number, &none) == 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, number, NULL);
        return false;
    }
    return errno == EEXIST;
}

static struct knote *find_knote(struct kqueue *kq, uintptr_t ident, short filter)
{
    struct knote *knote;
    LIST_FOREACH(knote, &kq->buckets[ident % BUCKETS], in_bucket) {
        if (knote->report.ident == ident && knote->report.filter == filter)
            return knote;
    }
    return NULL;
}

static struct knote *sibling(const struct knote *knote)
{
    return find_knote(knote->kq, knote->report.ident, knote->report.filter == EVFILT_READ ? EVFILT_WRITE : EVFILT_READ);
}

static void enqueue(struct knote *knote)
{
    if (!knote->queued)
        TAILQ_INSERT_TAIL(&knote->kq->queue, knote, in_queue);
    knote->queued = true;
}

static void dequeue(struct knote *knote)
{
    if (knote->queued)
        TAILQ_REMOVE(&knote->kq->queue, knote, in_queue);
    knote->queued = false;
}

static void drop(struct knote *knote)
{
    dequeue(knote);
    LIST_REMOVE(knote, in_bucket);
    if (knote->source >= 0) {
        /* A child may still have it, and then close() alone would leave its entry, which points to this knote. */
        epoll_ctl(knote->kq->number, EPOLL_CTL_DEL, knote->source, NULL);
        close(knote->source);
    } else if (knote->filter->is_descriptor && sibling(knote) == NULL) {
        epoll_ctl(knote->kq->number, EPOLL_CTL_DEL, (int)knote->report.ident, NULL);
    }
    free(knote);
}

/* Whether the descriptor of a knote was not closed since. */
static bool is_current(const struct knote *knote)
{
    if (!knote->filter->is_descriptor)
        return true;
    if (knote->source < 0)
        return holds(knote->kq->number, (int)knote->report.ident);
    struct stat now;
    return fstat((int)knote->report.ident, &now) == 0 && now.st_dev == knote->device && now.st_ino == knote->inode;
}

/* Both knotes of a number go before a new one comes, or the one that is left would pass as the new file's. */
static void drop_stale(struct knote *knote)
{
    if (knote != NULL && !is_current(knote))
        drop(knote);
}

/* Whether a knote of a descriptor or a process can be asked for this. */
static bool takes_fflags(const struct knote *knote, unsigned int fflags)
{
    if (knote->report.filter == EVFILT_PROC)
        return fflags == NOTE_EXIT;
    return fflags == 0 || (fflags == NOTE_LOWAT && knote->report.filter == EVFILT_READ && S_ISSOCK(knote->type));
}

/* Run the filter, as BSD does when something happened to what the knote is about. */
static void wake(struct knote *knote)
{
    if (knote->filter->is_true(knote))
        knote->active = true;
    if (knote->active && !knote->disabled)
        enqueue(knote);
}

/*
 * What epoll tells comes as a knote, for a source, or as a number: of a descriptor, epoll can hold an entry longer than
 * its knote lives. The lowest bit tells them apart.
 */
static int watch_source(struct knote *knote)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = (uintptr_t)knote};
    return epoll_ctl(knote->kq->number, EPOLL_CTL_ADD, knote->source, &event) == 0 ? 0 : errno;
}

static int watch_descriptor(struct knote *knote)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.u64 = knote->report.ident << 1 | 1,
    };
    int number = (int)knote->report.ident;
    /* It may be there: for the other direction, or left by a number that was closed and is back on the same file. */
    return epoll_ctl(knote->kq->number, EPOLL_CTL_ADD, number, &event) == 0 || errno == EEXIST ? 0 : errno;
}

/* Descriptors: EVFILT_READ and EVFILT_WRITE */

static short ready(const struct knote *knote)
{
    struct pollfd state = {.fd = (int)knote->report.ident, .events = POLLIN | POLLOUT | POLLRDHUP};
    return poll(&state, 1, 0) == 1 ? state.revents : 0;
}

static int int_option(const struct knote *knote, int option)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt((int)knote->report.ident, SOL_SOCKET, option, &value, &size) == 0 ? value : 0;
}

/* Returns whether it is a TCP socket. */
static bool tcp_info(const struct knote *knote, struct tcp_info *info)
{
    socklen_t size = sizeof *info;
    *info = (struct tcp_info){0};
    return int_option(knote, SO_PROTOCOL) == IPPROTO_TCP &&
        getsockopt((int)knote->report.ident, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

static intptr_t unread(const struct knote *knote)
{
    int count = 0;
    return ioctl((int)knote->report.ident, FIONREAD, &count) == 0 ? count : 0;
}

static void set_eof(struct knote *knote, bool ended)
{
    knote->report.flags = (unsigned short)(ended ? knote->report.flags | EV_EOF : knote->report.flags & ~EV_EOF);
}

/*
 * A socket that has ended says why in fflags. BSD leaves the error in the socket. On Linux nobody can see it without
 * taking it. That of a connection that never came about is taken, because fflags is where a program should look. That
 * of an established one is left for the call that will fail with it, and is given as what it nearly always is.
 */
static void end_of_socket(struct knote *knote, short state)
{
    struct tcp_info info;
    struct knote *other = sibling(knote);
    set_eof(knote, true);
    if (state & POLLERR) {
        bool never_was = tcp_info(knote, &info) && info.tcpi_delivered == 0;
        knote->socket_error = never_was ? int_option(knote, SO_ERROR) : ECONNRESET;
        if (other != NULL)
            other->socket_error = knote->socket_error;
    }
    knote->report.fflags = (unsigned int)knote->socket_error;
}

static bool socket_is_readable(struct knote *knote)
{
    short state = ready(knote);
    if (int_option(knote, SO_ACCEPTCONN)) {
        struct tcp_info info;
        knote->report.data = tcp_info(knote, &info) ? info.tcpi_unacked : 1; /* a local socket doesn't tell */
        return state & POLLIN;
    }
    knote->report.data = unread(knote);
    if (state & POLLRDHUP) {
        end_of_socket(knote, state);
        return true;
    }
    if (state & POLLERR) /* of a datagram that couldn't be delivered: no end */
        return true;
    if (knote->asked_fflags & NOTE_LOWAT)
        return knote->report.data >= knote->asked_data;
    return state & POLLIN;
}

static bool is_readable(struct knote *knote)
{
    if (S_ISSOCK(knote->type))
        return socket_is_readable(knote);
    if (S_ISREG(knote->type)) { /* true before the end and after it, as the manual page says */
        struct stat now;
        char note[sizeof(struct inotify_event) + NAME_MAX + 1];
        while (read(knote->source, note, sizeof note) > 0)
            continue;
        off_t position = lseek((int)knote->report.ident, 0, SEEK_CUR);
        if (position < 0 || fstat((int)knote->report.ident, &now) < 0)
            return false;
        knote->report.data = now.st_size - position;
        return knote->report.data != 0;
    }
    short state = ready(knote);
    knote->report.data = unread(knote);
    set_eof(knote, state & POLLHUP); /* the last writer is gone, or the other side of the terminal */
    return state & (POLLIN | POLLHUP);
}

/* Whether the program can write, has shut that down, or is not connected: poll() says of all three that it can. */
enum sending { SENDING, NOT_YET, SHUT_DOWN };

static enum sending socket_sending(const struct knote *knote, short state)
{
    struct tcp_info info;
    if (tcp_info(knote, &info)) {
        switch (info.tcpi_state) {
        case TCP_ESTABLISHED:
        case TCP_CLOSE_WAIT:
            return SENDING;
        case TCP_SYN_SENT:
        case TCP_SYN_RECV:
        case TCP_LISTEN:
            return NOT_YET;
        case TCP_CLOSE: /* before a connection, or after one */
            return state & POLLRDHUP ? SHUT_DOWN : NOT_YET;
        default:
            return SHUT_DOWN;
        }
    }
    if (int_option(knote, SO_ACCEPTCONN))
        return NOT_YET;
    if (int_option(knote, SO_DOMAIN) == AF_UNIX && int_option(knote, SO_TYPE) == SOCK_STREAM &&
        send((int)knote->report.ident, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) /* no byte: it only asks */
        return errno == EPIPE ? SHUT_DOWN : NOT_YET;
    return SENDING;
}

static intptr_t space(const struct knote *knote)
{
    int used = 0;
    int room;
    if (S_ISSOCK(knote->type)) {
        ioctl((int)knote->report.ident, SIOCOUTQ, &used);
        room = int_option(knote, SO_SNDBUF);
    } else {
        ioctl((int)knote->report.ident, FIONREAD, &used);
        room = fcntl((int)knote->report.ident, F_GETPIPE_SZ);
    }
    return room > used ? room - used : 1; /* Linux counts more than bytes; where it can be written to, there is room */
}

static bool is_writable(struct knote *knote)
{
    short state = ready(knote);
    knote->report.data = space(knote);
    if (S_ISSOCK(knote->type)) {
        enum sending sending = socket_sending(knote, state);
        if (sending == NOT_YET)
            return false;
        if (sending == SHUT_DOWN) {
            end_of_socket(knote, state);
            return true;
        }
        return state & (POLLOUT | POLLERR);
    }
    short gone = S_ISFIFO(knote->type) ? POLLERR : POLLHUP; /* the readers of a pipe; the other side of a terminal */
    set_eof(knote, state & gone);
    return state & (POLLOUT | gone);
}

static int attach_file(struct knote *knote)
{
    char path[64];
    if (knote->report.filter != EVFILT_READ)
        return EINVAL; /* "this filter is not supported for vnodes" */
    knote->source = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", (int)knote->report.ident);
    if (knote->source < 0 || inotify_add_watch(knote->source, path, IN_MODIFY) < 0)
        return errno;
    return watch_source(knote);
}

static int attach_descriptor(struct knote *knote)
{
    int number = (int)knote->report.ident;
    struct stat found;
    struct statfs where;
    if (fstat(number, &found) < 0)
        return EBADF;
    knote->type = found.st_mode;
    knote->device = found.st_dev;
    knote->inode = found.st_ino;
    if (!takes_fflags(knote, knote->asked_fflags))
        return EINVAL;
    if (S_ISREG(knote->type))
        return attach_file(knote);
    if (!S_ISSOCK(knote->type) && !S_ISFIFO(knote->type) && !S_ISCHR(knote->type))
        return EINVAL; /* directories, disks, and what only Linux has: eventfd, epoll and so on */
    /* A pipe, not a FIFO, that nobody reads any more can't be asked about at all. */
    if (knote->report.filter == EVFILT_WRITE && S_ISFIFO(knote->type) && fstatfs(number, &where) == 0 &&
        where.f_type == PIPEFS_MAGIC && (ready(knote) & POLLERR))
        return EPIPE;
    int error = watch_descriptor(knote);
    return error == EPERM ? ENODEV : error; /* a device that can't be polled */
}

/* EVFILT_TIMER */

static int start_timer(struct knote *knote)
{
    intptr_t period = knote->asked_data;
    intptr_t second;
    switch (knote->asked_fflags) {
    case 0: second = 1000; break;
    case NOTE_SECONDS: second = 1; break;
    case NOTE_USECONDS: second = 1000000; break;
    case NOTE_NSECONDS: second = 1000000000; break;
    default: return EINVAL;
    }
    bool once = knote->report.flags & EV_ONESHOT;
    if (period == 0 && !once)
        period = 1; /* as FreeBSD */
    struct timespec time = {.tv_sec = period / second, .tv_nsec = period % second * (1000000000 / second)};
    struct itimerspec setting = {.it_value = time, .it_interval = once ? (struct timespec){0} : time};
    if (period == 0)
        setting.it_value.tv_nsec = 1; /* 0 would stop it */
    return timerfd_settime(knote->source, 0, &setting, NULL) == 0 ? 0 : errno;
}

static int attach_timer(struct knote *knote)
{
    knote->report.flags |= EV_CLEAR;
    knote->source = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (knote->source < 0)
        return errno;
    int error = start_timer(knote);
    return error ? error : watch_source(knote);
}

/* "The existing timer will be effectively canceled (throwing away any undelivered record ...) and re-started". */
static int touch_timer(struct knote *knote, const struct kevent *change)
{
    if (!(change->flags & EV_ADD))
        return 0;
    knote->active = false;
    knote->report.data = 0;
    knote->asked_fflags = change->fflags;
    knote->asked_data = change->data;
    return start_timer(knote); /* it also empties the timerfd */
}

static bool has_expired(struct knote *knote)
{
    uint64_t count;
    if (read(knote->source, &count, sizeof count) == sizeof count)
        knote->report.data += (intptr_t)count;
    return knote->report.data != 0;
}

/* EVFILT_PROC */

static int attach_process(struct knote *knote)
{
    if (!takes_fflags(knote, knote->asked_fflags))
        return EINVAL;
    knote->report.flags |= EV_CLEAR;
    if (knote->report.ident == 0 || knote->report.ident > INT_MAX)
        return ESRCH;
    knote->source = (int)syscall(SYS_pidfd_open, (pid_t)knote->report.ident, 0);
    if (knote->source < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? errno : ESRCH;
    /* Linux tells a process's status to its parent alone. That is refused now, rather than at the end. */
    siginfo_t info;
    if (waitid(P_PIDFD, (id_t)knote->source, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        return errno;
    return watch_source(knote);
}

static bool has_exited(struct knote *knote)
{
    siginfo_t info = {0};
    if (knote->report.fflags)
        return true; /* it was told already */
    if (waitid(P_PIDFD, (id_t)knote->source, &info, WEXITED | WNOHANG | WNOWAIT) < 0) {
        /* Somebody has waited for it already, and Linux doesn't tell its status a second time as BSD would. */
        knote->report.flags |= EV_ERROR;
        knote->report.data = errno;
    } else if (info.si_pid == 0) {
        return false;
    } else if (info.si_code == CLD_EXITED) {
        knote->report.data = W_EXITCODE(info.si_status, 0);
    } else {
        knote->report.data = info.si_status | (info.si_code == CLD_DUMPED ? WCOREFLAG : 0);
    }
    knote->report.fflags = NOTE_EXIT;
    knote->report.flags |= EV_EOF | EV_ONESHOT;
    return true;
}

/* EVFILT_USER */

/* As in FreeBSD, NOTE_TRIGGER together with the first EV_ADD triggers nothing. */
static int attach_user(struct knote *knote)
{
    knote->asked_fflags &= NOTE_FFLAGSMASK;
    return 0;
}

static int touch_user(struct knote *knote, const struct kevent *change)
{
    unsigned int fflags = change->fflags & NOTE_FFLAGSMASK;
    if (change->fflags & NOTE_TRIGGER)
        knote->triggered = true;
    switch (change->fflags & NOTE_FFCTRLMASK) {
    case NOTE_FFAND: knote->asked_fflags &= fflags; break;
    case NOTE_FFOR: knote->asked_fflags |= fflags; break;
    case NOTE_FFCOPY: knote->asked_fflags = fflags; break;
    }
    knote->asked_data = change->data;
    if (change->flags & EV_CLEAR) /* as in FreeBSD, a trigger that comes with it is lost */
        knote->triggered = false;
    return 0;
}

static bool is_triggered(struct knote *knote)
{
    return knote->triggered;
}

static const struct filter *find_filter(short number)
{
    static const struct filter reading = {true, attach_descriptor, NULL, is_readable};
    static const struct filter writing = {true, attach_descriptor, NULL, is_writable};
    static const struct filter process = {false, attach_process, NULL, has_exited};
    static const struct filter timer = {false, attach_timer, touch_timer, has_expired};
    static const struct filter user = {false, attach_user, touch_user, is_triggered};
    switch (number) {
    case EVFILT_READ: return &reading;
    case EVFILT_WRITE: return &writing;
    case EVFILT_PROC: return &process;
    case EVFILT_TIMER: return &timer;
    case EVFILT_USER: return &user;
    default: return NULL;
    }
}

/* Changes */

static int add(struct kqueue *kq, struct kevent *change, const struct filter *filter)
{
    struct knote *knote = calloc(1, sizeof *knote);
    if (knote == NULL)
        return ENOMEM;
    knote->kq = kq;
    knote->filter = filter;
    knote->source = -1;
    knote->asked_fflags = change->fflags;
    knote->asked_data = change->data;
    knote->disabled = change->flags & EV_DISABLE;
    change->fflags = 0; /* so has a receipt of FreeBSD's */
    change->data = 0;
    knote->report = *change;
    knote->report.flags &= (unsigned short)~(EV_ADD | EV_DELETE | EV_ENABLE | EV_DISABLE);
    LIST_INSERT_HEAD(&kq->buckets[change->ident % BUCKETS], knote, in_bucket);
    if (filter->is_descriptor && sibling(knote) != NULL)
        knote->socket_error = sibling(knote)->socket_error;
    int error = filter->attach(knote);
    if (error)
        drop(knote);
    else if (!knote->disabled)
        wake(knote);
    return error;
}

/* As in FreeBSD, the flags of the first EV_ADD stay, and only EV_ENABLE enables. */
static int modify(struct knote *knote, const struct kevent *change)
{
    if (knote->filter->touch == NULL && !takes_fflags(knote, change->fflags))
        return EINVAL;
    if (change->flags & EV_ENABLE)
        knote->disabled = false;
    else if (change->flags & EV_DISABLE)
        knote->disabled = true;
    knote->report.udata = change->udata;
    if (knote->filter->touch) {
        int error = knote->filter->touch(knote, change);
        if (!knote->active)
            dequeue(knote);
        if (error)
            return error;
    } else {
        knote->asked_fflags = change->fflags;
        knote->asked_data = change->data;
    }
    if (!knote->disabled)
        wake(knote);
    return 0;
}

static int apply(struct kqueue *kq, struct kevent *change)
{
    const struct filter *filter = find_filter(change->filter);
    if (filter == NULL || change->flags & ~EV_KNOWN)
        return EINVAL;
    if ((change->flags & EV_ENABLE) && (change->flags & EV_DISABLE))
        return EINVAL;
    if (filter->is_descriptor && (change->ident > INT_MAX || fcntl((int)change->ident, F_GETFD) < 0))
        return EBADF;
    if (filter->is_descriptor) {
        drop_stale(find_knote(kq, change->ident, EVFILT_READ));
        drop_stale(find_knote(kq, change->ident, EVFILT_WRITE));
    }
    struct knote *knote = find_knote(kq, change->ident, change->filter);
    if (knote == NULL)
        return change->flags & EV_ADD ? add(kq, change, filter) : ENOENT;
    if (change->flags & EV_DELETE) {
        drop(knote);
        return 0;
    }
    return modify(knote, change);
}

/* Returns how many receipts and errors there are, or -1 with errno. Without room for a receipt the rest is not done. */
static int apply_all(struct kqueue *kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents)
{
    int told = 0;
    for (int i = 0; i < nchanges; i++) {
        struct kevent change = changes[i]; /* a copy: the same array may be used for the events */
        if (change.filter == 0)
            continue;
        change.flags &= (unsigned short)~EV_SYSFLAGS;
        int error = apply(kq, &change);
        if (error == 0 && !(change.flags & EV_RECEIPT))
            continue;
        if (told == nevents) {
            errno = error;
            return error ? -1 : told;
        }
        change.flags = EV_ERROR;
        change.data = error;
        events[told++] = change;
    }
    return told;
}

/* Events */

static void ring(struct kqueue *kq)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    epoll_ctl(kq->number, EPOLL_CTL_MOD, bell, &event);
}

/*
 * Build the epoll instance anew, under the same number. The old one has an entry of a file that lives on in a
 * duplicate, while the number that it was watched by is closed: BSD watches it no more, and epoll can't be told to stop.
 * What is ready is an edge of the new one, so nothing that happens meanwhile is lost; an EV_CLEAR event may come again.
 */
static void renew(struct kqueue *kq)
{
    struct epoll_event none = {0};
    struct knote *knote, *next;
    int fresh = epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0)
        return; /* the next edge tries again */
    epoll_ctl(fresh, EPOLL_CTL_ADD, bell, &none);
    for (int i = 0; i < BUCKETS; i++) {
        for (knote = LIST_FIRST(&kq->buckets[i]); knote != NULL; knote = next) {
            next = LIST_NEXT(knote, in_bucket);
            drop_stale(knote);
        }
    }
    ring(kq); /* who sleeps on the old one is to come back to the new one */
    dup3(fresh, kq->number, O_CLOEXEC);
    close(fresh);
    for (int i = 0; i < BUCKETS; i++) {
        LIST_FOREACH(knote, &kq->buckets[i], in_bucket) {
            if (knote->source >= 0)
                watch_source(knote);
            else if (knote->filter->is_descriptor)
                watch_descriptor(knote);
        }
    }
}

/* Pass on that something happened to a descriptor. Returns whether it is watched by that number still. */
static bool wake_number(struct kqueue *kq, uintptr_t number)
{
    bool watched = false;
    for (short filter = EVFILT_READ; filter >= EVFILT_WRITE; filter--) {
        struct knote *knote = find_knote(kq, number, filter);
        if (knote != NULL && is_current(knote)) {
            watched = true;
            wake(knote);
        }
    }
    return watched;
}

/* Pass on what epoll has to tell. */
static void collect(struct kqueue *kq)
{
    struct epoll_event found[64];
    bool stray = false;
    int count;
    do {
        count = epoll_wait(kq->number, found, 64, 0);
        for (int i = 0; i < count; i++) {
            uint64_t what = found[i].data.u64;
            if (what & 1)
                stray |= !wake_number(kq, what >> 1);
            else if (what != 0)
                wake((struct knote *)(uintptr_t)what);
        }
    } while (count == 64);
    if (stray)
        renew(kq);
}

/* Take one knote off the queue. Returns whether there is an event to return. */
static bool take(struct knote *knote, struct kevent *event)
{
    dequeue(knote);
    if (knote->disabled)
        return false;
    if (!is_current(knote)) {
        drop(knote);
        return false;
    }
    if (knote->report.flags & EV_ONESHOT) { /* as FreeBSD, without asking the filter again */
        *event = knote->report;
        drop(knote);
        return true;
    }
    knote->active = knote->filter->is_true(knote);
    if (!knote->active)
        return false;
    *event = knote->report;
    if (knote->report.filter == EVFILT_USER) {
        event->fflags = knote->asked_fflags;
        event->data = knote->asked_data;
    }
    if (knote->report.flags & EV_CLEAR) {
        knote->triggered = false;
        knote->report.data = 0;
        knote->report.fflags = 0;
    }
    if (knote->report.flags & EV_DISPATCH)
        knote->disabled = true;
    if (knote->report.flags & (EV_CLEAR | EV_DISPATCH))
        knote->active = false;
    else
        enqueue(knote);
    return true;
}

static int scan(struct kqueue *kq, struct kevent *events, int nevents)
{
    int count = 0;
    struct knote *last = TAILQ_LAST(&kq->queue, knotes); /* what comes behind it has been taken already */
    bool more = last != NULL;
    while (more && count < nevents) {
        struct knote *knote = TAILQ_FIRST(&kq->queue);
        more = knote != last;
        count += take(knote, &events[count]);
    }
    return count;
}

/* Kqueues */

static void destroy(struct kqueue *kq)
{
    kq->number = -1; /* it may be another's already */
    for (int i = 0; i < BUCKETS; i++) {
        while (!LIST_EMPTY(&kq->buckets[i]))
            drop(LIST_FIRST(&kq->buckets[i]));
    }
    LIST_REMOVE(kq, in_list);
    free(kq);
}

/* The kqueue of a number, if it has one still: every kqueue holds the bell. */
static struct kqueue *find_kqueue(int number)
{
    struct kqueue *kq;
    LIST_FOREACH(kq, &kqueues, in_list) {
        if (kq->number == number && holds(number, bell))
            return kq;
    }
    errno = EBADF;
    return NULL;
}

static struct timespec monotonic(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

/* What is left until a deadline; nothing, once it has passed. */
static struct timespec left_until(struct timespec deadline)
{
    struct timespec time = monotonic();
    time.tv_sec = deadline.tv_sec - time.tv_sec;
    time.tv_nsec = deadline.tv_nsec - time.tv_nsec;
    if (time.tv_nsec < 0) {
        time.tv_nsec += 1000000000;
        time.tv_sec--;
    }
    return time.tv_sec < 0 ? (struct timespec){0} : time;
}

/* Sleep until the kqueue can be read, without the lock. Returns as ppoll(), or -1 where the kqueue was closed. */
static int sleep_on(const struct kqueue *kq, const struct timespec *time)
{
    int number = kq->number;
    unsigned long serial = kq->serial;
    struct pollfd state = {.fd = number, .events = POLLIN};
    pthread_mutex_unlock(&lock);
    int result = ppoll(&state, 1, time, NULL);
    int error = errno;
    pthread_mutex_lock(&lock);
    kq = find_kqueue(number);
    if (kq == NULL || kq->serial != serial) {
        errno = EBADF;
        return -1;
    }
    errno = error;
    return result;
}

static int wait_for_events(struct kqueue *kq, struct kevent *events, int nevents, const struct timespec *timeout)
{
    struct timespec deadline = {0};
    if (timeout != NULL) {
        if (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000) {
            errno = EINVAL;
            return -1;
        }
        deadline = monotonic();
        deadline.tv_nsec += timeout->tv_nsec;
        deadline.tv_sec += timeout->tv_sec + deadline.tv_nsec / 1000000000;
        deadline.tv_nsec %= 1000000000;
    }
    for (bool expired = false;;) {
        collect(kq);
        int count = scan(kq, events, nevents);
        if (count > 0 || expired)
            return count;
        struct timespec left = timeout != NULL ? left_until(deadline) : (struct timespec){0};
        int slept = sleep_on(kq, timeout != NULL ? &left : NULL);
        if (slept < 0)
            return -1;
        expired = slept == 0;
    }
}

__attribute__((visibility("default"))) int kevent(
    int number, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
    const struct timespec *timeout)
{
    int result = -1;
    int previous = errno;
    if (nchanges < 0 || nevents < 0) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_lock(&lock);
    struct kqueue *kq = find_kqueue(number);
    if (kq != NULL) {
        result = apply_all(kq, changes, nchanges, events, nevents);
        if (result == 0 && nevents > 0)
            result = wait_for_events(kq, events, nevents, timeout);
        int error = errno;
        kq = find_kqueue(number);
        if (kq != NULL && !TAILQ_EMPTY(&kq->queue))
            ring(kq); /* for the next to wait, or who waits already */
        errno = result < 0 ? error : previous; /* as a system call, which leaves it alone when it succeeds */
    }
    pthread_mutex_unlock(&lock);
    return result;
}

__attribute__((visibility("default"))) int kqueue(void)
{
    struct epoll_event event = {0};
    struct kqueue *kq = calloc(1, sizeof *kq);
    if (kq == NULL)
        return -1;
    pthread_mutex_lock(&lock);
    kq->number = epoll_create1(EPOLL_CLOEXEC);
    if (kq->number < 0 || epoll_ctl(kq->number, EPOLL_CTL_ADD, bell, &event) < 0) {
        int error = errno;
        if (kq->number >= 0)
            close(kq->number);
        free(kq);
        pthread_mutex_unlock(&lock);
        errno = error;
        return -1;
    }
    kq->serial = ++serials;
    TAILQ_INIT(&kq->queue);
    int number = kq->number;
    for (struct kqueue *old = LIST_FIRST(&kqueues), *next; old != NULL; old = next) {
        next = LIST_NEXT(old, in_list);
        if (old->number == number || !holds(old->number, bell))
            destroy(old);
    }
    LIST_INSERT_HEAD(&kqueues, kq, in_list);
    pthread_mutex_unlock(&lock);
    return number;
}

/* "The queue is not inherited by a child created with fork(2)": there its number is free. */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    while (!LIST_EMPTY(&kqueues)) {
        struct kqueue *kq = LIST_FIRST(&kqueues);
        if (holds(kq->number, bell))
            close(kq->number);
        destroy(kq);
    }
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void prepare(void)
{
    bell = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    if (bell < 0 || pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
        abort();
}
