/* unio._core.QueueState: see completion_queue.h, and engine/completion_queue.py, whose twin in Python says what each method promises.
 *
 * All of it is guarded by the queue's own mutex, the last in the order of locks: nothing is called with it held but what
 * counts a reference. So who shows itself and looks does that in one step, and no wake-up can be lost. A signal handler of
 * the program's, which may post in the middle of any other method, runs between the steps of Python, and never here.
 */
#include "completion_queue.h"
#include "completion.h"
#include "fields.h"

#include <math.h>
#include <time.h>

#define RING_MIN 64 /* packets; a power of two, like all sizes of the ring */
#define ROW_MIN 4   /* waiters */
#define TURNS_PER_LOOK 5 /* of the runner's; they take less than run_seconds, and are odd: receives and sends may take turns */
#define LOOKS_PER_TIME 100 /* at a gate, until the clock is looked at */
#define HAND_OVER_SECONDS 1.0 /* how long a thread whose time is over waits for the one that is just waking it */

_Thread_local struct waiter *current INITIAL_EXEC;

double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)((long long)now.tv_sec * 1000000000 + now.tv_nsec) / 1e9; /* rounded as time.monotonic() is */
}

/* Packets */

static int grow(struct queue *self) {
    size_t room = self->ring ? 2 * (self->mask + 1) : RING_MIN;
    PyObject **ring = PyMem_RawMalloc(room * sizeof *ring);
    if (!ring)
        ring = PyMem_RawMalloc(room * sizeof *ring); /* a completion has nowhere else to go, and there may be some memory by now */
    if (!ring)
        return -1;
    for (size_t i = 0; i < self->count; i++)
        ring[i] = self->ring[(self->head + i) & self->mask];
    PyMem_RawFree(self->ring);
    self->ring = ring;
    self->mask = room - 1;
    self->head = 0;
    return 0;
}

static int has_room(struct queue *self) {
    return (self->ring && self->count <= self->mask) || grow(self) == 0;
}

static int result_of(int done) {
    if (!done)
        PyErr_NoMemory();
    return done ? 0 : -1;
}

int queue_append(struct queue *self, PyObject *packet) {
    mutex_lock(&self->mutex);
    int done = has_room(self);
    if (done) {
        self->ring[(self->head + self->count) & self->mask] = Py_NewRef(packet);
        POKE(self->count, self->count + 1);
    }
    mutex_unlock(&self->mutex);
    return result_of(done);
}

int queue_append_left(struct queue *self, PyObject *packet) {
    mutex_lock(&self->mutex);
    int done = has_room(self);
    if (done) {
        self->head = (self->head - 1) & self->mask;
        self->ring[self->head] = Py_NewRef(packet);
        POKE(self->count, self->count + 1);
    }
    mutex_unlock(&self->mutex);
    return result_of(done);
}

static PyObject *pop_locked(struct queue *self) {
    if (!self->count)
        return NULL;
    PyObject *packet = self->ring[self->head];
    self->head = (self->head + 1) & self->mask;
    POKE(self->count, self->count - 1);
    if (!self->count && self->mask >= RING_MIN) { /* what a rush has taken is given back */
        PyMem_RawFree(self->ring);
        self->ring = NULL;
    }
    return packet;
}

PyObject *queue_pop_left(struct queue *self) {
    mutex_lock(&self->mutex);
    PyObject *packet = pop_locked(self);
    mutex_unlock(&self->mutex);
    return packet;
}

/* Of the first packets, how many there are up to a limit, and how many of them are operations. */
static Py_ssize_t count_first(struct queue *self, Py_ssize_t limit, Py_ssize_t *operations) {
    *operations = 0;
    mutex_lock(&self->mutex);
    Py_ssize_t count = (Py_ssize_t)self->count < limit ? (Py_ssize_t)self->count : limit;
    for (Py_ssize_t i = 0; i < count; i++)
        *operations += !is_completion(self->ring[(self->head + (size_t)i) & self->mask]);
    mutex_unlock(&self->mutex);
    return count;
}

/* Makes a list with room for so many completions, the last of which are new and empty. They are made before a packet is
 * taken, which has to stay where there is no memory. */
static PyObject *new_batch(Py_ssize_t count, Py_ssize_t empty) {
    PyObject *batch = PyList_New(count);
    for (Py_ssize_t i = count - empty; batch && i < count; i++) {
        PyObject *completion = new_completion();
        if (completion)
            PyList_SET_ITEM(batch, i, completion);
        else
            Py_CLEAR(batch);
    }
    return batch;
}

static void note_taken(struct queue *self, Py_ssize_t taken) {
    if (!PEEK(self->takes) && taken)
        POKE(self->first_take, monotonic());
    POKE(self->takes, PEEK(self->takes) + (unsigned)taken);
}

/* Takes the first packet into a place of a batch. Where it is an operation, the completion that is at *empty* becomes its.
 * Returns whether that could be: making the batch may have run a finalizer that has taken some, and others come then. -1
 * with an exception where there is no memory. */
static int take_one(struct queue *self, PyObject *batch, Py_ssize_t place, Py_ssize_t *empty) {
    PyObject *first = self->count ? self->ring[self->head] : NULL;
    if (!first || (is_completion(first) ? place == *empty : *empty == PyList_GET_SIZE(batch)))
        return 0;
    PyObject *completion = first;
    if (!is_completion(first)) {
        completion = PyList_GET_ITEM(batch, *empty);
        if (complete(completion, first) < 0)
            return -1;
        PyList_SET_ITEM(batch, *empty, NULL);
        ++*empty;
    }
    pop_locked(self); /* its reference is the batch's, or its completion's, by now */
    PyList_SET_ITEM(batch, place, completion);
    return 1;
}

PyObject *queue_take(struct queue *self, Py_ssize_t limit) {
    Py_ssize_t operations, count = count_first(self, limit, &operations), taken = 0, empty = count - operations;
    PyObject *batch = new_batch(count, operations);
    if (!batch)
        return NULL;
    int took = 1;
    mutex_lock(&self->mutex);
    while (taken < count && (took = take_one(self, batch, taken, &empty)) > 0)
        taken++;
    note_taken(self, taken);
    mutex_unlock(&self->mutex);
    for (; empty < count; empty++) /* those that were not needed */
        Py_CLEAR(((PyListObject *)batch)->ob_item[empty]);
    Py_SET_SIZE(batch, taken);
    if (took < 0 && taken) /* those that were taken come first, and the rest by the next wait */
        PyErr_Clear();
    if (took < 0 && !taken)
        Py_CLEAR(batch);
    return batch;
}

int queue_give_back(struct queue *self, PyObject *batch) {
    for (Py_ssize_t i = batch ? PyList_GET_SIZE(batch) : 0; i > 0; i--)
        if (queue_append_left(self, PyList_GET_ITEM(batch, i - 1)) < 0)
            return -1;
    return 0;
}

int queue_should_ask(struct queue *self) {
    unsigned takes = PEEK(self->takes);
    return takes && (takes >= constant.takes_max || monotonic() >= PEEK(self->first_take) + constant.ask_seconds);
}

/* Threads that wait */

static Py_ssize_t find_in(const struct row *row, const struct waiter *waiter) {
    for (size_t i = row->count; i > 0; i--)
        if (row->waiters[i - 1] == waiter)
            return (Py_ssize_t)i - 1;
    return -1;
}

static void add_to(struct row *row, struct waiter *waiter) {
    row->waiters[row->count] = (struct waiter *)Py_NewRef(waiter);
    POKE(row->count, row->count + 1);
}

/* Returns the reference to the one that is taken out. */
static struct waiter *take_out(struct row *row, size_t place) {
    struct waiter *waiter = row->waiters[place];
    POKE(row->count, row->count - 1);
    memmove(row->waiters + place, row->waiters + place + 1, (row->count - place) * sizeof *row->waiters);
    return waiter;
}

static struct waiter *take_out_if_there(struct row *row, const struct waiter *waiter) {
    Py_ssize_t place = find_in(row, waiter);
    return place < 0 ? NULL : take_out(row, (size_t)place);
}

static int widen(struct row *row, size_t room) {
    struct waiter **waiters = PyMem_RawRealloc(row->waiters, room * sizeof *waiters);
    if (waiters)
        row->waiters = waiters;
    return waiters != NULL;
}

/* admit(waiter): has room for a thread that comes to wait. */
static PyObject *admit(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    struct gathering *gathering = PyMem_RawCalloc(1, sizeof *gathering);
    mutex_lock(&self->mutex);
    size_t room = self->waiters < self->room ? self->room : self->room ? 2 * self->room : ROW_MIN;
    int done = gathering && widen(&self->parked, room) && widen(&self->coming, room);
    if (done) {
        self->room = room;
        POKE(self->waiters, self->waiters + 1);
        waiter->pace = constant.quick_seconds * constant.pace_max;
        gathering->next = self->gatherings;
        self->gatherings = gathering;
    }
    mutex_unlock(&self->mutex);
    if (!done) {
        PyMem_RawFree(gathering);
        return PyErr_NoMemory();
    }
    waiter->gathering = gathering;
    waiter->belongs = self->serial;
    Py_RETURN_NONE;
}

static void stop_running_locked(struct queue *self, const struct waiter *waiter);

/* dismiss(waiter): the thread has ended, or belongs to another port; what it had gathered has been started. */
static PyObject *dismiss(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    if (waiter->belongs != self->serial)
        Py_RETURN_NONE;
    waiter->belongs = 0;
    mutex_lock(&self->mutex);
    POKE(self->waiters, self->waiters - 1);
    stop_running_locked(self, waiter);
    struct gathering **place = &self->gatherings;
    while (*place != waiter->gathering)
        place = &(*place)->next;
    if (!waiter->gathering->count) { /* or else somebody has still to start it: it stays, until the queue goes */
        *place = waiter->gathering->next;
        PyMem_RawFree(waiter->gathering);
    }
    mutex_unlock(&self->mutex);
    waiter->gathering = NULL;
    Py_RETURN_NONE;
}

/* Turns */

static int is_quick(const struct waiter *waiter) { return waiter->pace < constant.quick_seconds; }

static int has_time(struct queue *self) { return monotonic() < self->runner_until; }

/* Whether a thread leaves what comes to the runner. */
static int gives_way_locked(struct queue *self, const struct waiter *waiter) {
    return self->runner && self->runner != waiter && has_time(self);
}

int queue_gives_way(struct queue *self, struct waiter *waiter) {
    if (!PEEK(self->runner))
        return 0;
    mutex_lock(&self->mutex);
    int gives = gives_way_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return gives;
}

/* The same for those that wait. The runner itself needs no clock where one of them watches it, and looks at that. */
static int is_left_locked(struct queue *self) {
    return self->runner && ((self->runner == current && self->watchers) || has_time(self));
}

static void stop_running_locked(struct queue *self, const struct waiter *waiter) {
    if (self->runner == waiter)
        POKE(self->runner, NULL);
}

Py_ssize_t queue_limit(struct queue *self, const struct waiter *waiter, Py_ssize_t limit) {
    return queue_is_shared(self) && !is_quick(waiter) && limit > constant.slow_limit ? constant.slow_limit : limit;
}

/* A thread has been given packets. */
void queue_begin_turn(struct queue *self, struct waiter *waiter, Py_ssize_t packets) {
    if (PEEK(self->runner) == waiter && waiter->turns++ % TURNS_PER_LOOK)
        return; /* the clock would cost more than the turn, and those before it were quick */
    double now = monotonic();
    mutex_lock(&self->mutex);
    waiter->turn_began = now;
    waiter->turn_packets = packets;
    if (!is_quick(waiter))
        stop_running_locked(self, waiter);
    else if (self->takes_turns && waiter->slot && !gives_way_locked(self, waiter)) {
        POKE(self->runner, waiter);
        self->runner_until = now + constant.run_seconds;
    }
    mutex_unlock(&self->mutex);
}

/* It is back. */
void queue_end_turn(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    if (waiter->turn_packets) {
        double spent = (monotonic() - waiter->turn_began) / (double)waiter->turn_packets;
        double most = constant.quick_seconds * constant.pace_max; /* one turn alone makes no quick thread slow */
        waiter->pace += ((spent < most ? spent : most) - waiter->pace) * constant.pace_weight;
        waiter->turn_packets = 0;
    }
    mutex_unlock(&self->mutex);
}

static int enter_locked(struct queue *self, struct waiter *waiter) {
    if (!waiter->slot && self->slots > 0) {
        POKE(self->slots, self->slots - 1);
        POKE(waiter->slot, 1);
        POKE(waiter->beyond, 0);
    }
    return waiter->slot;
}

int queue_enter(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    int entered = enter_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return entered;
}

int queue_leave(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    int left = waiter->slot;
    POKE(waiter->beyond, 0);
    stop_running_locked(self, waiter);
    if (left) {
        POKE(waiter->slot, 0);
        POKE(self->slots, self->slots + 1);
    }
    mutex_unlock(&self->mutex);
    return left;
}

int queue_lead(struct queue *self, PyObject *turn) {
    mutex_lock(&self->mutex);
    int leads = !self->leader;
    if (leads) {
        __atomic_store_n(&self->leader, Py_NewRef(turn), __ATOMIC_RELAXED);
        self->called = NULL;
    }
    mutex_unlock(&self->mutex);
    return leads;
}

void queue_end_lead(struct queue *self, PyObject *turn, const struct waiter *waiter) {
    mutex_lock(&self->mutex);
    int led = self->leader == turn;
    if (led) {
        __atomic_store_n(&self->leader, NULL, __ATOMIC_RELAXED);
        POKE(self->sleeping, 0);
        POKE(self->watching, 0);
        self->keeps = 0;
        self->called = waiter;
    }
    mutex_unlock(&self->mutex);
    if (led)
        Py_DECREF(turn);
}

static int has_for_locked(struct queue *self, struct waiter *waiter) {
    return self->count && (waiter->slot || self->slots > 0);
}

int queue_has_for(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    int has = has_for_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return has;
}

/* Returns the reference to the one that is taken out of the parked. */
static struct waiter *unpark(struct queue *self, size_t place) {
    struct waiter *waiter = take_out(&self->parked, place);
    self->watchers -= waiter->watches != 0;
    waiter->watches = 0;
    return waiter;
}

/* Gives a slot to the thread that has parked last; NULL if there is none of either. The reference is the caller's, who
 * opens its gate. */
static struct waiter *release_last_locked(struct queue *self) {
    if (!self->parked.count || self->slots <= 0)
        return NULL;
    struct waiter *waiter = unpark(self, self->parked.count - 1);
    POKE(self->slots, self->slots - 1);
    POKE(waiter->slot, 1);
    POKE(waiter->woken, monotonic());
    add_to(&self->coming, waiter);
    return waiter;
}

static int open_gate(struct waiter *waiter) {
    POKE(waiter->is_woken, 1);
    PyObject *result = PyObject_CallMethodNoArgs(waiter->gate, name.release);
    Py_DECREF(waiter);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int queue_has_for_leader(struct queue *self, struct waiter *waiter) {
    struct waiter *released = NULL;
    mutex_lock(&self->mutex);
    self->keeps = self->takes_turns && is_quick(waiter) && waiter->came_at == self->parkings;
    int has = has_for_locked(self, waiter);
    if (has && !waiter->slot && !self->keeps)
        has = !self->coming.count && !(released = release_last_locked(self));
    mutex_unlock(&self->mutex);
    return released && open_gate(released) < 0 ? -1 : has;
}

/* Whether the leader is to be interrupted; then that has to be done. One interruption is enough, however many packets
 * follow. */
static int call_off_sleep(struct queue *self) {
    int sleeps = PEEK(self->sleeping);
    POKE(self->sleeping, 0);
    return sleeps;
}

static int interrupt(struct queue *self) {
    PyObject *result = PyObject_CallNoArgs(self->interrupt);
    Py_XDECREF(result);
    if (!result)
        POKE(self->sleeping, 1); /* a signal handler's exception, which may have come before the interruption */
    return result ? 0 : -1;
}

int queue_wake_leader(struct queue *self) {
    mutex_lock(&self->mutex);
    int sleeps = call_off_sleep(self);
    mutex_unlock(&self->mutex);
    return sleeps ? interrupt(self) : 0;
}

int queue_wake(struct queue *self) {
    mutex_lock(&self->mutex);
    int is_left = is_left_locked(self); /* to the runner, or to the leader, which looks when it is awake */
    struct waiter *released = is_left || self->keeps ? NULL : release_last_locked(self);
    /* Where no slot is free, somebody has to see it when those that run are blocked. */
    int sleeps = !released && !is_left && (self->slots > 0 || !self->watching) && call_off_sleep(self);
    mutex_unlock(&self->mutex);
    if (released)
        return open_gate(released) < 0 ? -1 : 1;
    return sleeps ? interrupt(self) : 0;
}

static int release_first(struct queue *self, int only_if_nobody_leads) {
    mutex_lock(&self->mutex);
    int is_seen_to = self->leader || self->called || (self->watchers && is_left_locked(self));
    int due = self->parked.count && !(only_if_nobody_leads && is_seen_to);
    struct waiter *waiter = due ? unpark(self, 0) : NULL;
    if (waiter)
        self->called = waiter;
    mutex_unlock(&self->mutex);
    return !waiter ? 0 : open_gate(waiter) < 0 ? -1 : 1;
}

/* Wakes the main thread, if it is parked and a signal is to wake it; or has it not park, if it is just about to. */
static int rouse(struct queue *self) {
    struct waiter *waiter = NULL;
    mutex_lock(&self->mutex);
    for (size_t i = 0; i < self->parked.count && !waiter; i++) {
        if (PEEK(self->parked.waiters[i]->heard))
            waiter = unpark(self, i);
    }
    self->roused = !waiter;
    mutex_unlock(&self->mutex);
    return waiter ? open_gate(waiter) : 0;
}

/* It comes no more, or has come for something else. */
static void call_off_locked(struct queue *self, const struct waiter *waiter) {
    if (!waiter || self->called == waiter)
        self->called = NULL;
}

int queue_has_more(struct queue *self) {
    mutex_lock(&self->mutex);
    int more = self->count > self->coming.count;
    mutex_unlock(&self->mutex);
    return more;
}

int queue_pass_on(struct queue *self, const struct waiter *waiter) {
    mutex_lock(&self->mutex);
    call_off_locked(self, waiter);
    int more = self->count > self->coming.count; /* which wake leaves to the runner, if there is one */
    mutex_unlock(&self->mutex);
    int woken = more ? queue_wake(self) : 0;
    if (woken)
        return woken < 0 ? -1 : 0; /* that one passes on the rest */
    return release_first(self, 1) < 0 ? -1 : 0;
}

void queue_arrive(struct queue *self, struct waiter *waiter) {
    mutex_lock(&self->mutex);
    struct waiter *arrived = take_out_if_there(&self->coming, waiter);
    mutex_unlock(&self->mutex);
    Py_XDECREF(arrived);
}

static int may_sleep_locked(struct queue *self, struct waiter *waiter) {
    return !self->closed && (gives_way_locked(self, waiter) || (!has_for_locked(self, waiter) && self->leader));
}

/* Until when a parked thread sleeps: it watches the runner while that has time, or has just had. */
static double watch_locked(struct queue *self, struct waiter *waiter) {
    int watches = has_time(self);
    self->watchers += (size_t)(watches - waiter->watches);
    waiter->watches = (char)watches;
    return watches ? self->runner_until : INFINITY;
}

/* Shows that a thread is about to sleep, unless there is something to see to. Says until when, where it watches. */
static int show(struct queue *self, struct waiter *waiter, double *until) {
    mutex_lock(&self->mutex);
    call_off_locked(self, waiter);
    int roused = PEEK(waiter->heard) && self->roused;
    if (roused)
        self->roused = 0;
    int sleeps = !roused && may_sleep_locked(self, waiter);
    if (sleeps) {
        add_to(&self->parked, waiter);
        POKE(waiter->is_woken, 0);
        POKE(self->parkings, self->parkings + 1);
        self->keeps = 0;
        *until = watch_locked(self, waiter);
    }
    mutex_unlock(&self->mutex);
    return sleeps;
}

/* Whether a thread sleeps on that has slept until a time: it keeps its place in the row then. */
static int sleep_on(struct queue *self, struct waiter *waiter, double *until) {
    mutex_lock(&self->mutex);
    int sleeps = find_in(&self->parked, waiter) >= 0 && may_sleep_locked(self, waiter);
    if (sleeps)
        *until = watch_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return sleeps;
}

static int pass_gate(struct waiter *waiter, double timeout) {
    PyObject *result = PyObject_CallMethod(waiter->gate, "acquire", "Od", Py_True, timeout < 0 ? -1.0 : timeout);
    int passed = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return passed;
}

#ifdef Py_GIL_DISABLED
/* Looks for a while whether the gate opens, as spin.h has it. */
static void look_at_gate(struct waiter *waiter) {
    uint64_t until_ns = spin_now_ns() + SPIN_NS;
    unsigned times = 0;
    int opens;
    Py_BEGIN_ALLOW_THREADS
    do {
        for (int i = 0; i < LOOKS_PER_TIME && !(opens = PEEK(waiter->is_woken)); i++)
            RELAX();
        times++;
    } while (!opens && spin_now_ns() < until_ns);
    Py_END_ALLOW_THREADS
    spin_ended(&waiter->spin, times + 1, opens);
}

/* Sleeps until the gate opens, unless it does so soon; one thread at a time looks for that. */
static int pass_gate_soon(struct queue *self, struct waiter *waiter, double timeout) {
    uint64_t began_ns = spin_now_ns();
    int looks = timeout != 0 && PEEK(self->slots) > 0 && spin_is_due(&waiter->spin) &&
                !__atomic_exchange_n(&self->is_looking, 1, __ATOMIC_RELAXED);
    if (looks) {
        look_at_gate(waiter);
        POKE(self->is_looking, 0);
    }
    int passed = pass_gate(waiter, timeout);
    if (!looks)
        spin_slept(&waiter->spin, spin_now_ns() - began_ns);
    return passed;
}
#else
#define pass_gate_soon(self, waiter, timeout) pass_gate(waiter, timeout) /* who waits for Python's lock would wait longer */
#endif

/* The seconds up to a time; negative for ever. */
static double seconds_to(double time) {
    double left = time - monotonic();
    return time == INFINITY ? -1 : left > 0 ? left : 0;
}

int queue_park(struct queue *self, struct waiter *waiter, double timeout) {
    if (timeout > constant.lock_seconds_max)
        timeout = constant.lock_seconds_max;
    double end = timeout < 0 ? INFINITY : monotonic() + timeout, until;
    if (!show(self, waiter, &until))
        return 0;
    int passed;
    do
        passed = pass_gate_soon(self, waiter, seconds_to(end < until ? end : until));
    while (passed == 0 && until < end && sleep_on(self, waiter, &until));
    if (passed > 0)
        return 0;
    mutex_lock(&self->mutex);
    Py_ssize_t place = find_in(&self->parked, waiter);
    struct waiter *shown = place < 0 ? NULL : unpark(self, (size_t)place);
    mutex_unlock(&self->mutex);
    Py_XDECREF(shown);
    if (!shown) { /* another thread is about to wake this one, and what it hands over must not be lost */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (pass_gate(waiter, HAND_OVER_SECONDS) < 0) {
            Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(traceback);
            return -1;
        }
        PyErr_Restore(type, value, traceback);
    }
    return passed;
}

/* Methods */

static PyObject *none_or_error(int result) {
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *bool_or_error(int result) { return result < 0 ? NULL : PyBool_FromLong(result); }

static PyObject *append(struct queue *self, PyObject *packet) { return none_or_error(queue_append(self, packet)); }

static PyObject *append_left(struct queue *self, PyObject *packet) {
    return none_or_error(queue_append_left(self, packet));
}

static PyObject *pop_left(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *packet = queue_pop_left(self);
    if (!packet)
        PyErr_SetString(PyExc_IndexError, "there is no packet");
    return packet;
}

static PyObject *packets(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    for (;;) {
        size_t count = queue_count(self);
        PyObject *list = PyList_New((Py_ssize_t)count);
        if (!list)
            return NULL;
        mutex_lock(&self->mutex);
        int same = self->count == count; /* making it may have run a finalizer that has changed this */
        for (size_t i = 0; same && i < count; i++)
            PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(self->ring[(self->head + i) & self->mask]));
        mutex_unlock(&self->mutex);
        if (same)
            return list;
        Py_DECREF(list);
    }
}

static PyObject *take(struct queue *self, PyObject *limit) {
    Py_ssize_t most = PyNumber_AsSsize_t(limit, NULL);
    return most == -1 && PyErr_Occurred() ? NULL : queue_take(self, most);
}

static PyObject *should_ask(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(queue_should_ask(self));
}

static PyObject *gives_way(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_gives_way(self, (struct waiter *)waiter));
}

static PyObject *limit_for(struct queue *self, PyObject *args) {
    PyObject *waiter, *limit;
    if (!PyArg_ParseTuple(args, "OO", &waiter, &limit))
        return NULL;
    Py_ssize_t most = PyNumber_AsSsize_t(limit, NULL); /* a larger number than that is as good as it */
    return most == -1 && PyErr_Occurred() ? NULL : PyLong_FromSsize_t(queue_limit(self, (struct waiter *)waiter, most));
}

static PyObject *begin_turn(struct queue *self, PyObject *args) {
    PyObject *waiter;
    Py_ssize_t packets;
    if (!PyArg_ParseTuple(args, "On", &waiter, &packets))
        return NULL;
    if (queue_is_shared(self))
        queue_begin_turn(self, (struct waiter *)waiter, packets);
    Py_RETURN_NONE;
}

static PyObject *end_turn(struct queue *self, PyObject *object) {
    struct waiter *waiter = (struct waiter *)object;
    waiter->came_at = PEEK(self->parkings);
    if (queue_is_shared(self))
        queue_end_turn(self, waiter);
    Py_RETURN_NONE;
}

static PyObject *asked(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    POKE(self->takes, 0);
    Py_RETURN_NONE;
}

static PyObject *enter(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_enter(self, (struct waiter *)waiter));
}

static PyObject *leave(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_leave(self, (struct waiter *)waiter));
}

static PyObject *lead(struct queue *self, PyObject *turn) { return PyBool_FromLong(queue_lead(self, turn)); }

static PyObject *end_lead(struct queue *self, PyObject *args) {
    PyObject *turn, *waiter;
    if (!PyArg_ParseTuple(args, "OO", &turn, &waiter))
        return NULL;
    queue_end_lead(self, turn, (struct waiter *)waiter);
    Py_RETURN_NONE;
}

static PyObject *has_for(struct queue *self, PyObject *waiter) {
    return PyBool_FromLong(queue_has_for(self, (struct waiter *)waiter));
}

static PyObject *has_for_leader(struct queue *self, PyObject *waiter) {
    return bool_or_error(queue_has_for_leader(self, (struct waiter *)waiter));
}

static PyObject *is_coming(struct queue *self, PyObject *waiter) {
    mutex_lock(&self->mutex);
    int comes = find_in(&self->coming, (struct waiter *)waiter) >= 0;
    mutex_unlock(&self->mutex);
    return PyBool_FromLong(comes);
}

static PyObject *arrive(struct queue *self, PyObject *waiter) {
    queue_arrive(self, (struct waiter *)waiter);
    Py_RETURN_NONE;
}

static PyObject *park(struct queue *self, PyObject *args) {
    PyObject *waiter, *given;
    if (!PyArg_ParseTuple(args, "OO", &waiter, &given))
        return NULL;
    double timeout = given == Py_None ? -1 : PyFloat_AsDouble(given);
    if (timeout == -1 && PyErr_Occurred())
        return NULL;
    if (given != Py_None && timeout < 0)
        timeout = 0;
    return none_or_error(queue_park(self, (struct waiter *)waiter, timeout));
}

static PyObject *wake(struct queue *self, PyObject *Py_UNUSED(ignored)) { return bool_or_error(queue_wake(self)); }

static PyObject *wake_leader(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return none_or_error(queue_wake_leader(self));
}

static PyObject *pass_on(struct queue *self, PyObject *args) {
    PyObject *waiter = NULL;
    if (!PyArg_ParseTuple(args, "|O", &waiter))
        return NULL;
    return none_or_error(queue_pass_on(self, (struct waiter *)waiter));
}

static PyObject *rouse_main(struct queue *self, PyObject *Py_UNUSED(ignored)) { return none_or_error(rouse(self)); }

static PyObject *wake_first(struct queue *self, PyObject *Py_UNUSED(ignored)) {
    return bool_or_error(release_first(self, 0));
}

static PyObject *get_has_packets(struct queue *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(queue_count(self) > 0);
}

static PyObject *get_has_slots(struct queue *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(PEEK(self->slots) > 0);
}

/* The flags are set under the mutex as well: who looks at the queue next has it behind that. sleeping and watching are the
 * leader's to set. */
static int set_flag_locked(PyObject *object, PyObject *value, void *offset) {
    struct queue *self = (struct queue *)object;
    mutex_lock(&self->mutex);
    int result = set_flag(object, value, offset); /* a bool, as Python sets these */
    mutex_unlock(&self->mutex);
    return result;
}

/* QueueState(interrupt, concurrency, takes_turns) */
static int queue_init(struct queue *self, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    static unsigned long long serials;
    PyObject *called;
    Py_ssize_t concurrency;
    int takes_turns;
    if (!PyArg_ParseTuple(args, "Onp", &called, &concurrency, &takes_turns))
        return -1;
    Py_XSETREF(self->interrupt, Py_NewRef(called));
    self->slots = concurrency;
    self->takes_turns = (char)takes_turns;
    self->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
    return 0;
}

static int visit_row(const struct row *row, visitproc visit, void *arg) {
    for (size_t i = 0; i < row->count; i++)
        Py_VISIT(row->waiters[i]);
    return 0;
}

static int traverse(struct queue *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->interrupt);
    Py_VISIT(self->leader);
    for (size_t i = 0; i < self->count; i++)
        Py_VISIT(self->ring[(self->head + i) & self->mask]);
    for (const struct gathering *each = self->gatherings; each; each = each->next) {
        for (unsigned i = 0; i < each->count; i++) {
            Py_VISIT(each->directions[i].handle);
            Py_VISIT(each->directions[i].direction);
        }
    }
    int result = visit_row(&self->parked, visit, arg);
    return result ? result : visit_row(&self->coming, visit, arg);
}

static void clear_row(struct row *row) {
    while (row->count)
        Py_DECREF(row->waiters[--row->count]);
}

/* Nobody else has the queue any more. In a forked child the mutex may be held for ever, by a thread of the parent's. */
static int clear(struct queue *self) {
    for (PyObject *packet; (packet = pop_locked(self));)
        Py_DECREF(packet);
    for (struct gathering *each = self->gatherings; each; each = each->next) {
        while (each->count) {
            struct gathered last = each->directions[--each->count];
            Py_DECREF(last.handle);
            Py_DECREF(last.direction);
        }
    }
    clear_row(&self->parked);
    clear_row(&self->coming);
    Py_CLEAR(self->leader);
    Py_CLEAR(self->interrupt);
    return 0;
}

static void dealloc(struct queue *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    for (struct gathering *each = self->gatherings, *next; each; each = next) {
        next = each->next;
        PyMem_RawFree(each);
    }
    PyMem_RawFree(self->parked.waiters);
    PyMem_RawFree(self->coming.waiters);
    PyMem_RawFree(self->ring);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define METHOD(name, function, kind) {name, (PyCFunction)(void (*)(void))(function), kind, NULL}

static PyMethodDef methods[] = {
    METHOD("admit", admit, METH_O),
    METHOD("append", append, METH_O),
    METHOD("append_left", append_left, METH_O),
    METHOD("arrive", arrive, METH_O),
    METHOD("asked", asked, METH_NOARGS),
    METHOD("begin_turn", begin_turn, METH_VARARGS),
    METHOD("dismiss", dismiss, METH_O),
    METHOD("end_lead", end_lead, METH_VARARGS),
    METHOD("end_turn", end_turn, METH_O),
    METHOD("enter", enter, METH_O),
    METHOD("gives_way", gives_way, METH_O),
    METHOD("has_for", has_for, METH_O),
    METHOD("has_for_leader", has_for_leader, METH_O),
    METHOD("is_coming", is_coming, METH_O),
    METHOD("lead", lead, METH_O),
    METHOD("leave", leave, METH_O),
    METHOD("limit_for", limit_for, METH_VARARGS),
    METHOD("packets", packets, METH_NOARGS),
    METHOD("park", park, METH_VARARGS),
    METHOD("pass_on", pass_on, METH_VARARGS),
    METHOD("pop_left", pop_left, METH_NOARGS),
    METHOD("rouse", rouse_main, METH_NOARGS),
    METHOD("should_ask", should_ask, METH_NOARGS),
    METHOD("take", take, METH_O),
    METHOD("wake", wake, METH_NOARGS),
    METHOD("wake_first", wake_first, METH_NOARGS),
    METHOD("wake_leader", wake_leader, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

#define FLAG(name) {#name, get_flag, set_flag_locked, NULL, (void *)offsetof(struct queue, name)}

static PyGetSetDef attributes[] = {
    FLAG(closed),
    FLAG(sleeping),
    FLAG(watching),
    {"has_packets", (getter)get_has_packets, NULL, NULL, NULL},
    {"has_slots", (getter)get_has_slots, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, queue_init},  {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},   {Py_tp_methods, methods}, {Py_tp_getset, attributes}, {0, NULL},
};

PyType_Spec queue_spec = {.name = "unio._core.QueueState",
                          .basicsize = sizeof(struct queue),
                          .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                          .slots = slots};

/* unio._core.WaiterState */

static int waiter_traverse(struct waiter *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->gate);
    return 0;
}

static int waiter_clear(struct waiter *self) {
    Py_CLEAR(self->gate);
    return 0;
}

static void waiter_dealloc(struct waiter *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    waiter_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *get_woken(struct waiter *self, void *Py_UNUSED(closure)) {
    return PyFloat_FromDouble(PEEK(self->woken));
}

static PyGetSetDef waiter_attributes[] = {
    {"beyond", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, beyond)},
    {"gate", get_object, set_object, NULL, (void *)offsetof(struct waiter, gate)},
    {"heard", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, heard)},
    {"hears", get_flag, set_flag, NULL, (void *)offsetof(struct waiter, hears)},
    {"slot", get_flag, NULL, NULL, (void *)offsetof(struct waiter, slot)},
    {"woken", (getter)get_woken, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_dealloc, waiter_dealloc}, {Py_tp_traverse, waiter_traverse},
    {Py_tp_clear, waiter_clear},    {Py_tp_getset, waiter_attributes}, {0, NULL},
};

PyType_Spec waiter_spec = {.name = "unio._core.WaiterState",
                           .basicsize = sizeof(struct waiter),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           .slots = waiter_slots};
