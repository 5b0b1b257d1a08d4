/* The packets of unio._core.QueueState: operations that have ended, and completions that were posted. They wait in a ring
 * of ours, and are made a list of completions when a thread takes them. Which thread may is for turns.c.
 */
#include "completion.h"
#include "queue_locked.h"

#define RING_MIN 64 /* packets; a power of two, like all sizes of the ring */

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

PyObject *queue_pop_locked(struct queue *self) {
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
    PyObject *packet = queue_pop_locked(self);
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
    queue_pop_locked(self); /* its reference is the batch's, or its completion's, by now */
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
