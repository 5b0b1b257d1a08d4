/* Which of the threads that wait on a unio._core.QueueState may do what: the run slots, the leadership, and the runner, whom
 * the others leave what comes for as long as its time lasts. Nobody sleeps or is woken here (parking.c).
 */
#include "queue_locked.h"

#define TURNS_PER_LOOK 5 /* of the runner's; they take less than run_seconds, and are odd: receives and sends may take turns */

int queue_gives_way(struct queue *self, struct waiter *waiter) {
    if (!PEEK(self->runner))
        return 0;
    mutex_lock(&self->mutex);
    int gives = gives_way_locked(self, waiter);
    mutex_unlock(&self->mutex);
    return gives;
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
