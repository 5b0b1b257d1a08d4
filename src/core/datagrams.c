/* unio._core.RecvFromState and SendToState: what the operations of datagrams keep besides. operation_state.py has the same in
 * Python.
 *
 * An address is kept as the kernel has it, besides. So whom a datagram has come from is made into Python's form when somebody
 * asks, and where one goes is read when that is set, and not at each submit.
 */
#include "port.h"

#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <structmember.h> /* T_OBJECT_EX and its like, until Python 3.12 */

/* Receiving: the sender */

static PyObject *exchange_address(PyObject *self, const struct message *message, PyObject *address) {
    PyObject *former;
    socklen_t size = message ? message->header.msg_namelen : 0, most = sizeof message->address;
    BEGIN_SECTION(self);
    former = RECEIVING(self)->address;
    RECEIVING(self)->address = address;
    RECEIVING(self)->is_told = message != NULL;
    RECEIVING(self)->sender.size = size = size < most ? size : most;
    if (size)
        memcpy(&RECEIVING(self)->sender.address, &message->address, size);
    END_SECTION();
    return former;
}

PyObject *exchange_sender(PyObject *operation, const struct message *message) {
    return exchange_address(operation, message, NULL);
}

static PyObject *get_sender(PyObject *self, void *Py_UNUSED(ignored)) {
    struct peer sender;
    PyObject *address;
    int is_told;
    BEGIN_SECTION(self);
    address = Py_XNewRef(RECEIVING(self)->address);
    if ((is_told = RECEIVING(self)->is_told))
        sender = RECEIVING(self)->sender;
    END_SECTION();
    if (is_told)
        return address_to(&sender.address, sender.size);
    if (!address)
        PyErr_SetString(PyExc_AttributeError, "address");
    return address;
}

static int set_sender(PyObject *self, PyObject *address, void *Py_UNUSED(ignored)) {
    Py_XDECREF(exchange_address(self, NULL, Py_XNewRef(address)));
    return 0;
}

/* Sending: the receiver */

/* Reads a number of an address; -1 where it is none of Python's own, or too large. */
static long long number_from(PyObject *given, long long most) {
    long long number = PyLong_CheckExact(given) ? PyLong_AsLongLong(given) : -1;
    if (number == -1)
        PyErr_Clear();
    return number <= most ? number : -1;
}

/* Reads a numeric host, without a zone. */
static int read_host(int family, PyObject *given, void *host) {
    if (!PyUnicode_CheckExact(given) || !PyUnicode_IS_ASCII(given) ||
        (size_t)PyUnicode_GET_LENGTH(given) != strlen((const char *)PyUnicode_1BYTE_DATA(given)))
        return 0;
    return inet_pton(family, (const char *)PyUnicode_1BYTE_DATA(given), host) == 1;
}

static socklen_t read_ipv4(PyObject *given, struct sockaddr_in *to) {
    long long port = PyTuple_GET_SIZE(given) == 2 ? number_from(PyTuple_GET_ITEM(given, 1), 65535) : -1;
    if (port < 0 || !read_host(AF_INET, PyTuple_GET_ITEM(given, 0), &to->sin_addr))
        return 0;
    to->sin_family = AF_INET;
    to->sin_port = htons((uint16_t)port);
    return sizeof *to;
}

static socklen_t read_ipv6(PyObject *given, struct sockaddr_in6 *to) {
    Py_ssize_t count = PyTuple_GET_SIZE(given);
    if (count < 2 || count > 4)
        return 0;
    long long port = number_from(PyTuple_GET_ITEM(given, 1), 65535);
    long long flow = count > 2 ? number_from(PyTuple_GET_ITEM(given, 2), (1 << 20) - 1) : 0;
    long long scope = count > 3 ? number_from(PyTuple_GET_ITEM(given, 3), UINT32_MAX) : 0;
    if (port < 0 || flow < 0 || scope < 0 || !read_host(AF_INET6, PyTuple_GET_ITEM(given, 0), &to->sin6_addr))
        return 0;
    to->sin6_family = AF_INET6;
    to->sin6_port = htons((uint16_t)port);
    to->sin6_flowinfo = htonl((uint32_t)flow);
    to->sin6_scope_id = (uint32_t)scope;
    return sizeof *to;
}

/* Reads an address in its usual form, for a socket of IPv4 or IPv6. Its size is 0 where it is for Python to read or refuse. */
static void read_usual(int family, PyObject *given, struct peer *to) {
    memset(to, 0, sizeof *to);
    if (PyTuple_CheckExact(given) && family == AF_INET)
        to->size = read_ipv4(given, (struct sockaddr_in *)&to->address);
    else if (PyTuple_CheckExact(given) && family == AF_INET6)
        to->size = read_ipv6(given, (struct sockaddr_in6 *)&to->address);
}

/* Reads one that Python has checked: a path, perhaps. */
static void read_checked(int family, PyObject *given, struct peer *to) {
    read_usual(family, given, to);
    if (to->size || (family != AF_INET && family != AF_INET6 && family != AF_UNIX))
        return;
    int size = address_from(family, given, &to->address);
    PyErr_Clear();
    to->size = size > 0 ? (socklen_t)size : 0;
}

/* The family of the socket that an operation works on; -1 where that is not one that C looks into. */
static int family_of(PyObject *self) {
    PyObject *handle = field_of(self, &OP(self)->handle), *socket = NULL;
    if (handle && Py_TYPE(handle) == handle_type)
        socket = field_of(handle, &handle_of(handle)->socket);
    int family = socket && is_socket(socket) ? int_in(socket, at.family) : -1;
    Py_XDECREF(socket);
    Py_XDECREF(handle);
    return family;
}

static void take_address(PyObject *self, PyObject *address, const struct peer *to) {
    PyObject *former;
    BEGIN_SECTION(self);
    former = SENDING(self)->address;
    SENDING(self)->address = Py_XNewRef(address);
    SENDING(self)->receiver = *to;
    END_SECTION();
    Py_XDECREF(former);
}

static PyObject *get_receiver(PyObject *self, void *Py_UNUSED(ignored)) {
    return field_or_error(self, &SENDING(self)->address, "_address");
}

static int set_receiver(PyObject *self, PyObject *address, void *Py_UNUSED(ignored)) {
    struct peer to = {.size = 0};
    if (address && operation_is_idle(self))
        read_usual(family_of(self), address, &to);
    if (!to.size)
        return set_in_python(self, "_set_address", address, "address");
    take_address(self, address, &to);
    return 0;
}

static int put_receiver(PyObject *self, PyObject *address, void *Py_UNUSED(ignored)) {
    struct peer to = {.size = 0};
    if (address)
        read_checked(family_of(self), address, &to);
    take_address(self, address, &to);
    return 0;
}

int read_receiver(PyObject *operation, PyObject *handle, struct message *message) {
    int family = int_in(handle_of(handle)->socket, at.family);
    socklen_t size;
    BEGIN_SECTION(operation);
    size = SENDING(operation)->receiver.size;
    if (size)
        memcpy(&message->address, &SENDING(operation)->receiver.address, size);
    END_SECTION();
    message->header.msg_name = &message->address;
    message->header.msg_namelen = size;
    return size && message->address.ss_family == family;
}

/* Making one */

static char *recv_from_names[] = {"handle", "buffer", "state", NULL};
static char *send_to_names[] = {"handle", "buffer", "address", "state", NULL};

static int recv_from_init(PyObject *self, PyObject *args, PyObject *keywords) {
    PyObject *handle, *buffer, *state = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|$O:RecvFrom", recv_from_names, &handle, &buffer, &state))
        return -1;
    int made = buffered_make_usual(self, handle, buffer, state);
    if (made > 0)
        set_sender(self, Py_None, NULL);
    if (made)
        return made < 0 ? -1 : 0;
    PyObject *result = PyObject_CallMethod(self, "_make", "OOO", handle, buffer, state);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int send_to_init(PyObject *self, PyObject *args, PyObject *keywords) {
    PyObject *handle, *buffer, *address, *state = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOO|$O:SendTo", send_to_names, &handle, &buffer, &address, &state))
        return -1;
    int made = buffered_make_usual(self, handle, buffer, state);
    if (made)
        return made < 0 ? -1 : PyObject_SetAttr(self, name.address, address);
    PyObject *result = PyObject_CallMethod(self, "_make", "OOOO", handle, buffer, address, state);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* The types */

static PyObject *recv_from_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    return buffered_made(type, RECV_FROM);
}

static PyObject *send_to_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords)) {
    return buffered_made(type, SEND_TO);
}

static int recv_from_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(RECEIVING(self)->address);
    return buffered_traverse(self, visit, arg);
}

static int recv_from_clear(PyObject *self) {
    Py_CLEAR(RECEIVING(self)->address);
    return buffered_clear(self);
}

static void recv_from_dealloc(PyObject *self) { state_dealloc(self, recv_from_clear); }

static int send_to_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(SENDING(self)->address);
    return buffered_traverse(self, visit, arg);
}

static int send_to_clear(PyObject *self) {
    Py_CLEAR(SENDING(self)->address);
    return buffered_clear(self);
}

static void send_to_dealloc(PyObject *self) { state_dealloc(self, send_to_clear); }

static PyGetSetDef recv_from_accessors[] = {
    {"address", get_sender, set_sender, "The sender of the datagram that was received last.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef send_to_accessors[] = {
    {"address", get_receiver, set_receiver, "Where the datagram goes.", NULL},
    {"_address", get_receiver, put_receiver, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot recv_from_slots[] = {
    {Py_tp_doc, "RecvFromState(handle, buffer, *, state=None)\n--\n\nWhat a receive of datagrams keeps besides."},
    {Py_tp_new, recv_from_new},
    {Py_tp_init, recv_from_init},
    {Py_tp_dealloc, recv_from_dealloc},
    {Py_tp_traverse, recv_from_traverse},
    {Py_tp_clear, recv_from_clear},
    {Py_tp_getset, recv_from_accessors},
    {0, NULL},
};

static PyType_Slot send_to_slots[] = {
    {Py_tp_doc, "SendToState(handle, buffer, address, *, state=None)\n--\n\nWhat a send of datagrams keeps besides."},
    {Py_tp_new, send_to_new},
    {Py_tp_init, send_to_init},
    {Py_tp_dealloc, send_to_dealloc},
    {Py_tp_traverse, send_to_traverse},
    {Py_tp_clear, send_to_clear},
    {Py_tp_getset, send_to_accessors},
    {0, NULL},
};

#define STATE(spec_name, size, slots_of_it)                                                                            \
    {.name = "unio._core." spec_name,                                                                                  \
     .basicsize = (int)(size),                                                                                         \
     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,                                            \
     .slots = slots_of_it}

PyType_Spec recv_from_spec = STATE("RecvFromState", sizeof(struct recv_from), recv_from_slots);
PyType_Spec send_to_spec = STATE("SendToState", sizeof(struct send_to), send_to_slots);
