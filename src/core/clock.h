/* The time that deadlines and waits go by; its twin in Python is common/clock.py. It knows nothing of what is timed. */
#ifndef UNIO_CLOCK_H
#define UNIO_CLOCK_H

#include "core.h" /* first, as Python says which parts of the C library are there */

#include <time.h>

/* In seconds, rounded as time.monotonic() is. */
static inline double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)((long long)now.tv_sec * 1000000000 + now.tv_nsec) / 1e9;
}

#endif
