/* The results of unio._core.Ring: how they are taken out of the ring, given out one by one, and waited for.
 *
 * A result that was taken out of the ring stays with its request until an iteration gives it out. So nothing has to be
 * allocated to take it, and it is not lost with a signal handler's exception, which comes right behind the call that
 * waits. What a result means is Python's (engine/ring_requests.py).
 */
#include "ring_type.h"

#include <stdlib.h>

#include "address.h"
#include "operation.h"

#define TAKEN 64 /* results that are taken in one go */
#define NEVER UINT64_MAX

/* With the lock held, note a result. A poll that goes on can have several before the first is given out. */
static void note(Ring *self, const struct io_uring_cqe *result)
{
    struct request *request = request_of(result->user_data);
    bool more = request->is_noted && request->result >= 0;
    if (!more)
        request->result = result->res;
    else if (result->res >= 0)
        request->result |= result->res;
    request->flags = result->flags;
    if (!(result->flags & IORING_CQE_F_MORE))
        request->in_kernel = false;
    if (request->is_noted)
        return;
    request->is_noted = true;
    request->next = NULL;
    *self->noted_end = request;
    self->noted_end = &request->next;
}

/* Take out the results that are there, those before the first with this user_data. Returns how many there were. */
static unsigned take(Ring *self, uint64_t until)
{
    unsigned count = TAKEN, all = 0;
    while (count == TAKEN) {
        struct io_uring_cqe taken[TAKEN];
        bool cancelling = false;
        pthread_mutex_lock(&self->ring.lock);
        count = self->open ? ring_take(&self->ring, taken, TAKEN, until) : 0;
        for (unsigned i = 0; i < count; i++) {
            uint64_t name = taken[i].user_data;
            if (name == UNHEARD || name == WAKES)
                continue;
            if (name & CANCELS) {
                /* The kernel doesn't find a request that is just about to be tried once more: ask again, until it has
                 * ended. */
                const struct request *request = request_of(name);
                bool there = request->in_kernel && request->generation == name >> GENERATION_SHIFT;
                if (there && taken[i].res == -ENOENT)
                    cancelling = ring_add_locked(self, IORING_OP_ASYNC_CANCEL, name & ~(uint64_t)CANCELS, 0, name);
                continue;
            }
            note(self, &taken[i]);
            all++;
        }
        pthread_mutex_unlock(&self->ring.lock);
        if (cancelling)
            ring_cross(self, false, 0, NULL);
    }
    return all;
}

static bool has_message(const struct request *request)
{
    return request->opcode == IORING_OP_RECVMSG || request->opcode == IORING_OP_SENDMSG;
}

static PyObject *sender_and_flags(const struct message *message)
{
    PyObject *address = address_to(&message->address, message->header.msg_namelen);
    return address ? Py_BuildValue("(Ni)", address, message->header.msg_flags) : NULL;
}

static PyObject *more_of_attempt(const struct request *request, int32_t result)
{
    if (request->opcode == IORING_OP_POLL_ADD)
        return Py_NewRef(request->operation);
    if (request->opcode == IORING_OP_ACCEPT && result >= 0)
        return address_to(&request->peer->address, request->peer->size);
    if (request->opcode == IORING_OP_RECVMSG && result >= 0 && request->told->header.msg_name)
        return sender_and_flags(request->told);
    return Py_NewRef(Py_None);
}

/* What else there is to a result, whose request is this thread's: it has ended, or its result is a number alone. */
static PyObject *detail(const struct request *request, int32_t result, uint32_t flags)
{
    if (request->is_attempt) {
        PyObject *more = more_of_attempt(request, result);
        return more ? Py_BuildValue("(OON)", request->handle, request->direction, more) : NULL;
    }
    struct message *message = request->message;
    if (result < 0)
        Py_RETURN_NONE;
    switch (request->opcode) {
    case IORING_OP_ACCEPT:
        return address_to(&message->address, message->address_size);
    case IORING_OP_POLL_ADD:
        return PyBool_FromLong(flags & IORING_CQE_F_MORE);
    case IORING_OP_RECV:
        return PyBool_FromLong(flags & IORING_CQE_F_SOCK_NONEMPTY);
    case IORING_OP_RECVMSG: {
        if (!message->header.msg_name)
            return PyBool_FromLong(flags & IORING_CQE_F_SOCK_NONEMPTY);
        return sender_and_flags(message);
    }
    default:
        Py_RETURN_NONE;
    }
}

static void release(struct request *request)
{
    Py_CLEAR(request->memory);
    if (request->is_attempt) {
        Py_CLEAR(request->handle);
        Py_CLEAR(request->direction);
        Py_CLEAR(request->operation);
        if (request->opcode == IORING_OP_ACCEPT)
            PyMem_Free(request->peer);
        else if (has_message(request))
            PyMem_Free(request->told);
    } else {
        Py_CLEAR(request->owner);
        Py_CLEAR(request->socket);
        free(request->message);
        request->message = NULL;
    }
}

/* With the lock held, keep a request for the next use. */
static void give_back(Ring *self, struct request *request)
{
    request->next = self->free;
    self->free = request;
    self->in_flight--;
    self->of_files -= request->is_of_file;
}

/* A result that was taken out. Where its request goes on, that may get another result as soon as the lock is free, and
 * another thread may take that one and be done with the request: so all that is needed of it is here. */
struct result {
    struct request *request;
    PyObject *owner; /* a reference */
    uint64_t name;
    int32_t number;
    uint32_t flags;
    bool ended;
};

/* Takes out the oldest result. Returns whether there was one. */
static bool take_oldest(Ring *self, struct result *result)
{
    pthread_mutex_lock(&self->ring.lock);
    struct request *request = self->noted;
    if (request) {
        if (!(self->noted = request->next))
            self->noted_end = &self->noted;
        request->is_noted = false;
        request->number_at = NULL; /* the kernel has it */
        PyObject *owner = request->is_attempt || !request->owner ? Py_None : request->owner;
        *result = (struct result){request,         Py_NewRef(owner), name_of(request),
                                  request->result, request->flags,   !request->in_kernel};
    }
    pthread_mutex_unlock(&self->ring.lock);
    return request;
}

/* Puts a result back for want of memory: it comes first the next time, unless another one of its request has come since. */
static void put_back(Ring *self, const struct result *result)
{
    struct request *request = result->request;
    pthread_mutex_lock(&self->ring.lock);
    bool goes_on = request->in_kernel && name_of(request) == result->name;
    if (!request->is_noted && (result->ended || goes_on)) {
        request->is_noted = true;
        request->next = self->noted;
        self->noted = request;
        if (!request->next)
            self->noted_end = &request->next;
    }
    pthread_mutex_unlock(&self->ring.lock);
}

static void end_request(Ring *self, struct request *request)
{
    release(request);
    pthread_mutex_lock(&self->ring.lock);
    give_back(self, request);
    pthread_mutex_unlock(&self->ring.lock);
}

/* The next result: the owner, what the request is cancelled by, the number, and the detail. */
PyObject *ring_next_result(Ring *self)
{
    struct result result;
    if (!take_oldest(self, &result))
        return NULL;
    PyObject *more = result.ended ? detail(result.request, result.number, result.flags)
                                  : PyBool_FromLong(result.flags & IORING_CQE_F_MORE); /* of a poll that goes on */
    PyObject *told = more ? Py_BuildValue("(OKiN)", result.owner, (unsigned long long)result.name, result.number, more)
                          : NULL;
    Py_DECREF(result.owner);
    if (!told)
        put_back(self, &result);
    else if (result.ended)
        end_request(self, result.request);
    return told;
}

PyObject *ring_self(PyObject *self) { return Py_NewRef(self); }

/* What wakes a thread is left to that thread, which may be about to go to sleep and would not hear of it otherwise. */
unsigned ring_take_some(PyObject *self) { return take((Ring *)self, WAKES); }

PyObject *ring_take_now(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(ring_take_some(self));
}

PyObject *ring_wait(Ring *self, PyObject *timeout)
{
    int64_t nanoseconds = -1;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        nanoseconds = seconds <= 0 ? 0 : seconds >= 1e9 ? INT64_C(1000000000000000000) : (int64_t)(seconds * 1e9) + 1;
    }
    pthread_mutex_lock(&self->ring.lock);
    if (self->noted)
        nanoseconds = 0; /* what an exception has left */
    pthread_mutex_unlock(&self->ring.lock);
    ring_cross(self, true, nanoseconds, NULL);
    return PyLong_FromUnsignedLong(take(self, NEVER));
}

/* For the fast path */

/* Takes an attempt back out of its request, whose references it takes over. */
static struct attempt attempt_of(struct request *request)
{
    struct attempt attempt = {
        .handle = request->handle,
        .operation = request->operation,
        .direction = request->direction,
        .memory = request->memory,
        .kind = (char)kind_in(request->operation),
        .result = request->result,
        .more = (request->flags & IORING_CQE_F_SOCK_NONEMPTY) != 0,
    };
    if (attempt.kind == ACCEPT) {
        attempt.peer = request->peer;
    } else if (has_message(request)) {
        attempt.message = request->told;
        attempt.done = request->told->done;
        attempt.size = request->told->size;
    } else {
        attempt.done = request->done;
        attempt.size = request->size;
    }
    request->memory = NULL;
    request->is_attempt = false;
    return attempt;
}

unsigned ring_wait_ms(PyObject *object, int timeout_ms, struct spin *spin)
{
    Ring *self = (Ring *)object;
    ring_cross(self, true, ring_has_results(object) ? 0 : timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000000, spin);
    return take(self, NEVER);
}

int ring_take_attempts(PyObject *object, struct attempt *attempts, int most)
{
    Ring *self = (Ring *)object;
    int count = 0;
    pthread_mutex_lock(&self->ring.lock);
    struct request **place = &self->noted, *request;
    while (count < most && (request = *place)) {
        if (!request->is_attempt) {
            place = &request->next;
            continue;
        }
        if (!(*place = request->next))
            self->noted_end = place;
        attempts[count++] = attempt_of(request);
        request->is_noted = false;
        give_back(self, request);
    }
    pthread_mutex_unlock(&self->ring.lock);
    return count;
}

int ring_has_results(PyObject *object)
{
    Ring *self = (Ring *)object;
    pthread_mutex_lock(&self->ring.lock);
    bool any = self->noted;
    pthread_mutex_unlock(&self->ring.lock);
    return any;
}
