/* Addresses of sockets, between what Python has them as and what the kernel does.
 *
 * The forms are those that arguments.py has brought the caller's addresses into: a host is numeric and has no zone, and a
 * path is a str or bytes that fits.
 */
#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

static int from_ipv4(PyObject *given, struct sockaddr_in *address)
{
    const char *host;
    int port;
    if (!PyArg_ParseTuple(given, "si", &host, &port))
        return -1;
    if (inet_pton(AF_INET, host, &address->sin_addr) != 1) {
        PyErr_Format(PyExc_ValueError, "%s is no address of IPv4", host);
        return -1;
    }
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)port);
    return sizeof *address;
}

static int from_ipv6(PyObject *given, struct sockaddr_in6 *address)
{
    const char *host;
    int port;
    unsigned flow = 0, scope = 0;
    if (!PyArg_ParseTuple(given, "si|II", &host, &port, &flow, &scope))
        return -1;
    if (inet_pton(AF_INET6, host, &address->sin6_addr) != 1) {
        PyErr_Format(PyExc_ValueError, "%s is no address of IPv6", host);
        return -1;
    }
    address->sin6_family = AF_INET6;
    address->sin6_port = htons((uint16_t)port);
    address->sin6_flowinfo = htonl(flow);
    address->sin6_scope_id = scope;
    return sizeof *address;
}

static int from_path(PyObject *given, struct sockaddr_un *address)
{
    /* Surrogates in a str stand for bytes that are no text. */
    PyObject *path = PyBytes_Check(given) ? Py_NewRef(given) : PyUnicode_EncodeFSDefault(given);
    if (!path)
        return -1;
    Py_ssize_t size = PyBytes_GET_SIZE(path);
    const char *bytes = PyBytes_AS_STRING(path);
    int abstract = size == 0 || bytes[0] == 0; /* a name of Linux' own that is no file; else a zero byte ends it */
    Py_ssize_t most = (Py_ssize_t)sizeof address->sun_path - !abstract;
    if (size > most) {
        PyErr_SetString(PyExc_ValueError, "the path is too long for AF_UNIX");
        Py_DECREF(path);
        return -1;
    }
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, bytes, (size_t)size);
    Py_DECREF(path);
    return (int)(offsetof(struct sockaddr_un, sun_path) + (size_t)size + !abstract);
}

int address_from(int family, PyObject *given, struct sockaddr_storage *address)
{
    switch (family) {
    case AF_INET:
        return from_ipv4(given, (struct sockaddr_in *)address);
    case AF_INET6:
        return from_ipv6(given, (struct sockaddr_in6 *)address);
    case AF_UNIX:
        return from_path(given, (struct sockaddr_un *)address);
    default:
        PyErr_Format(PyExc_ValueError, "addresses of the family %d are not known here", family);
        return -1;
    }
}

static PyObject *to_path(const struct sockaddr_un *address, socklen_t size)
{
    size_t length = size > offsetof(struct sockaddr_un, sun_path) ? size - offsetof(struct sockaddr_un, sun_path) : 0;
#ifdef __linux__ /* a name of its own that is no file */
    if (length && address->sun_path[0] == 0)
        return PyBytes_FromStringAndSize(address->sun_path, (Py_ssize_t)length);
#endif
    return PyUnicode_DecodeFSDefaultAndSize(address->sun_path, (Py_ssize_t)strnlen(address->sun_path, length));
}

/* What inet_ntop writes, in a tenth of the instructions: a server does this for each connection. */
static Py_ssize_t write_ipv4(char *text, const unsigned char *bytes)
{
    char *end = text;
    for (int i = 0; i < 4; i++) {
        if (bytes[i] >= 100)
            *end++ = (char)('0' + bytes[i] / 100);
        if (bytes[i] >= 10)
            *end++ = (char)('0' + bytes[i] / 10 % 10);
        *end++ = (char)('0' + bytes[i] % 10);
        *end++ = '.';
    }
    return end - 1 - text;
}

static PyObject *to_ipv4(const struct sockaddr_in *ipv4)
{
    char text[INET_ADDRSTRLEN];
    Py_ssize_t size = write_ipv4(text, (const unsigned char *)&ipv4->sin_addr);
    PyObject *host = PyUnicode_FromStringAndSize(text, size), *port = PyLong_FromLong(ntohs(ipv4->sin_port));
    PyObject *address = host && port ? PyTuple_Pack(2, host, port) : NULL;
    Py_XDECREF(host);
    Py_XDECREF(port);
    return address;
}

PyObject *address_to(const struct sockaddr_storage *address, socklen_t size)
{
    char host[INET6_ADDRSTRLEN];
    if (size < offsetof(struct sockaddr, sa_family) + sizeof address->ss_family) /* the BSDs have a length before it */
        Py_RETURN_NONE;
    switch (address->ss_family) {
    case AF_INET:
        return to_ipv4((const struct sockaddr_in *)address);
    case AF_INET6: {
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &ipv6->sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(ipv6->sin6_port), ntohl(ipv6->sin6_flowinfo), ipv6->sin6_scope_id);
    }
    case AF_UNIX:
        return to_path((const struct sockaddr_un *)address, size);
    default:
        Py_RETURN_NONE;
    }
}
