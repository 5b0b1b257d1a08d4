/* Addresses of sockets, between what Python has them as and what the kernel does. */
#ifndef UNIO_ADDRESS_H
#define UNIO_ADDRESS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/socket.h>

/* Fill in an address of AF_INET, AF_INET6 or AF_UNIX; returns its size, or -1 and an exception. */
int address_from(int family, PyObject *given, struct sockaddr_storage *address);

/* An address of the kernel's, as the socket module has it; None for no address and for other families. */
PyObject *address_to(const struct sockaddr_storage *address, socklen_t size);

#endif
