/*
 * kqueue(2) as the systems that have it declare it in <sys/event.h>, on 64 bits. udata is a number here, which a void *
 * has room for.
 *
 * After a change: python -m unio.backends.kernel.cffi_build
 */

/* macOS, DragonFly and OpenBSD, and the libraries that bring kqueue to Linux */
struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    intptr_t data;
    uintptr_t udata;
};

/* FreeBSD, since 12 */
struct kevent_freebsd {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    int64_t data;
    uintptr_t udata;
    uint64_t ext[4];
};

/* NetBSD, as __kevent50 has it; the one of __kevent100, since 11, has ext[4] as well, and the old one is still there */
struct kevent_netbsd {
    uintptr_t ident;
    uint32_t filter;
    uint32_t flags;
    uint32_t fflags;
    int64_t data;
    uintptr_t udata;
};

struct timespec {
    int64_t tv_sec;
    long tv_nsec;
};

int kqueue(void);
int kevent(int kq, const void *changelist, int nchanges, void *eventlist, int nevents, const struct timespec *timeout);
int __kevent50(int kq, const void *changelist, size_t nchanges, void *eventlist, size_t nevents, const struct timespec *timeout);
