"""Windows' own calls, constants and errors, as the IOCP backend uses them.

It knows numbers and objects of Python's own, such as sockets, and no port, handle or operation of unio's.

Names are Microsoft's, so that each can be looked up as it stands at learn.microsoft.com; the declarations are in
win32_cdef.h. An error code of Win32, Windows Sockets or the kernel becomes the errno that the other backends give.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import socket
import struct
import uuid
from typing import Any

from unio.arguments import file_number
from unio.backends.kernel.win32_api import ffi
from unio.errors import as_oserror

kernel32: Any = ffi.dlopen("kernel32.dll")
ws2_32: Any = ffi.dlopen("ws2_32.dll")
ntdll: Any = ffi.dlopen("ntdll.dll")
mswsock: Any = ffi.dlopen("mswsock.dll")
ucrtbase: Any = ffi.dlopen("ucrtbase.dll")  # the C runtime, which is Python's own as well

NULL: Any = ffi.NULL
INVALID_HANDLE_VALUE: Any = ffi.cast("HANDLE", -1)
INFINITE = 0xFFFFFFFF

# winerror.h
ERROR_ACCESS_DENIED = 5
ERROR_INVALID_HANDLE = 6
ERROR_NOT_ENOUGH_MEMORY = 8
ERROR_HANDLE_EOF = 38
ERROR_NETNAME_DELETED = 64
ERROR_INVALID_PARAMETER = 87
ERROR_BROKEN_PIPE = 109
ERROR_MAX_THRDS_REACHED = 164
ERROR_MORE_DATA = 234
ERROR_ABANDONED_WAIT_0 = 735
ERROR_OPERATION_ABORTED = 995
ERROR_IO_PENDING = 997
ERROR_NOT_FOUND = 1168
WSAEINVAL = 10022
WSAEMSGSIZE = 10040

DONE_HERE = -1
"""Not Microsoft's: a start returns it when it was done without an overlapped call, so that Windows queues nothing."""

SEE_LAST_ERROR = -2
"""Not Microsoft's: a start returns it when its call has failed, and GetLastError tells how."""

# ntstatus.h
STATUS_PENDING = 0x103

# ntifs.h
FILE_IO_COMPLETION_NOTIFICATION_INFORMATION = 41
FILE_REPLACE_COMPLETION_INFORMATION = 61

# winbase.h, winnt.h, fileapi.h
FILE_SKIP_COMPLETION_PORT_ON_SUCCESS = 1
FILE_SKIP_SET_EVENT_ON_HANDLE = 2
FILE_FLAG_OVERLAPPED = 0x40000000
FILE_FLAG_FIRST_PIPE_INSTANCE = 0x00080000
FILE_SHARE_READ = 1
FILE_SHARE_WRITE = 2
FILE_SHARE_DELETE = 4
FILE_APPEND_DATA = 4
GENERIC_READ = 0x80000000
GENERIC_WRITE = 0x40000000
SYNCHRONIZE = 0x00100000
PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
CREATE_NEW = 1
CREATE_ALWAYS = 2
OPEN_EXISTING = 3
OPEN_ALWAYS = 4
PIPE_ACCESS_INBOUND = 1
PIPE_REJECT_REMOTE_CLIENTS = 8
PIPE_BUFFER = 65536  # bytes; Linux' pipes have as much
FILE_TYPE_DISK = 1
FILE_TYPE_PIPE = 3
DUPLICATE_SAME_ACCESS = 2

# winsock2.h, mswsock.h
MSG_PEEK = 2
SO_UPDATE_ACCEPT_CONTEXT = 0x700B
SO_UPDATE_CONNECT_CONTEXT = 0x7010
SIO_GET_EXTENSION_FUNCTION_POINTER = 0xC8000006

SIO_BASE_HANDLE = 0x48000022
SIO_UDP_CONNRESET = 0x9800000C
WSAID_ACCEPTEX = "b5367df1-cbac-11cf-95ca-00805f48a192"
WSAID_CONNECTEX = "25a207b9-ddf3-4660-8ee9-76e58c74063e"
WSAID_DISCONNECTEX = "7fda2e11-8630-436f-a031-f536a6eec157"
WSAID_TRANSMITFILE = "b5367df0-cbac-11cf-95ca-00805f48a192"

# Codes that Python's own table of Windows errors does not translate, or translates to something else than the same
# event has on the other backends. Sources: "System Error Codes" and "Windows Sockets Error Codes".
ERRNOS = {
    ERROR_ACCESS_DENIED: errno.EACCES,
    ERROR_INVALID_HANDLE: errno.EBADF,
    19: errno.EROFS,  # ERROR_WRITE_PROTECT
    23: errno.EIO,  # ERROR_CRC
    33: errno.EACCES,  # ERROR_LOCK_VIOLATION
    39: errno.ENOSPC,  # ERROR_HANDLE_DISK_FULL
    ERROR_NETNAME_DELETED: errno.ECONNRESET,
    ERROR_INVALID_PARAMETER: errno.EINVAL,
    ERROR_BROKEN_PIPE: errno.EPIPE,
    112: errno.ENOSPC,  # ERROR_DISK_FULL
    121: errno.ETIMEDOUT,  # ERROR_SEM_TIMEOUT
    ERROR_MAX_THRDS_REACHED: errno.EAGAIN,
    223: errno.EFBIG,  # ERROR_FILE_TOO_LARGE
    230: errno.EPIPE,  # ERROR_BAD_PIPE
    232: errno.EPIPE,  # ERROR_NO_DATA: the pipe is being closed
    233: errno.EPIPE,  # ERROR_PIPE_NOT_CONNECTED
    ERROR_MORE_DATA: errno.EMSGSIZE,
    ERROR_OPERATION_ABORTED: errno.ECANCELED,
    1117: errno.EIO,  # ERROR_IO_DEVICE
    1225: errno.ECONNREFUSED,  # ERROR_CONNECTION_REFUSED
    1227: errno.EADDRINUSE,  # ERROR_ADDRESS_ALREADY_ASSOCIATED
    1229: errno.ENOTCONN,  # ERROR_CONNECTION_INVALID
    1231: errno.ENETUNREACH,  # ERROR_NETWORK_UNREACHABLE
    1232: errno.EHOSTUNREACH,  # ERROR_HOST_UNREACHABLE
    1234: errno.ECONNREFUSED,  # ERROR_PORT_UNREACHABLE
    1236: errno.ECONNABORTED,  # ERROR_CONNECTION_ABORTED
    1450: errno.ENOBUFS,  # ERROR_NO_SYSTEM_RESOURCES
    1453: errno.ENOBUFS,  # ERROR_WORKING_SET_QUOTA
    1784: errno.EINVAL,  # ERROR_INVALID_USER_BUFFER
    10058: errno.EPIPE,  # WSAESHUTDOWN: the write side was ended here
}


def os_error(code: int) -> OSError:
    """The error of a completion for a Win32 or Windows Sockets error code; the code is kept as ``winerror``."""
    text = ffi.getwinerror(code)[1]
    number = ERRNOS.get(code) or OSError(0, "", None, code).errno or 0  # or Python's own table knows it
    if text.startswith("Windows Error 0x"):  # cffi's words for a code that this Windows has no message for
        text = errno.errorcode.get(number, text)
    error = OSError(number, text)
    error.winerror = code
    return error


def normal(raised: Exception) -> OSError:
    """An error that Python raised on the way, as the completions have it."""
    code = getattr(raised, "winerror", None)
    return os_error(code) if code in ERRNOS else as_oserror(raised)


def last_error() -> int:
    """GetLastError, or WSAGetLastError, as the last call through cffi in this thread left it."""
    code: int = ffi.getwinerror()[0]
    return code


def check(result: Any) -> Any:
    """Raise the last error as OSError if a call reports failure by a false value."""
    if not result:
        raise os_error(last_error())
    return result


def status_error(status: int) -> int:
    """The Win32 error code for the NTSTATUS that an OVERLAPPED ended with; 0 for success."""
    if status == 0:
        return 0
    signed = status - 0x100000000 if status & 0x80000000 else status
    code: int = ntdll.RtlNtStatusToDosError(signed)
    return code


# Extension functions of Windows Sockets


def extension(sock: socket.socket, function_id: str, kind: str) -> Any:
    """A function that the provider of a socket has beyond the standard ones (SIO_GET_EXTENSION_FUNCTION_POINTER)."""
    wanted = ffi.from_buffer(uuid.UUID(function_id).bytes_le)
    found = ffi.new("void **")
    returned = ffi.new("DWORD *")
    failed = ws2_32.WSAIoctl(
        sock.fileno(), SIO_GET_EXTENSION_FUNCTION_POINTER, wanted, 16, found, ffi.sizeof("void *"), returned, NULL, NULL
    )
    check(not failed)
    return ffi.cast(kind, found[0])


def base_socket(number: int) -> int:
    """The socket below any layered providers (SIO_BASE_HANDLE), which is what the device knows."""
    base = ffi.new("SOCKET *")
    returned = ffi.new("DWORD *")
    failed = ws2_32.WSAIoctl(number, SIO_BASE_HANDLE, NULL, 0, base, ffi.sizeof("SOCKET"), returned, NULL, NULL)
    return number if failed else int(base[0])


def is_socket(number: int) -> bool:
    """Whether a number is that of an open socket."""
    kind, length = ffi.new("int *"), ffi.new("int *", ffi.sizeof("int"))
    return not ws2_32.getsockopt(number, socket.SOL_SOCKET, socket.SO_TYPE, ffi.cast("char *", kind), length)


def is_handle(pointer: Any) -> bool:
    """Whether a HANDLE is that of an open file or pipe."""
    return bool(kernel32.GetFileType(pointer))


def leave_port(pointer: Any) -> None:
    """Take a handle off its completion port, which Windows can since 8.1; that never blocks."""
    status, nothing = ffi.new("IO_STATUS_BLOCK *"), ffi.new("FILE_COMPLETION_INFORMATION *")
    size = ffi.sizeof("FILE_COMPLETION_INFORMATION")
    if code := ntdll.NtSetInformationFile(pointer, status, nothing, size, FILE_REPLACE_COMPLETION_INFORMATION):
        said = f"NtSetInformationFile says {code & 0xFFFFFFFF:#x}"
        raise OSError(errno.ENOTSUP, f"this Windows can't take a handle off its completion port: {said}")


def skips_packets(pointer: Any) -> bool:
    """Whether a success at once queues no packet, as somebody has told a handle, which can't be taken back."""
    status, modes = ffi.new("IO_STATUS_BLOCK *"), ffi.new("DWORD *")
    size, which = ffi.sizeof("DWORD"), FILE_IO_COMPLETION_NOTIFICATION_INFORMATION
    failed = ntdll.NtQueryInformationFile(pointer, status, modes, size, which)
    return not failed and bool(modes[0] & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS)


def open_process(process: Any, pid: int) -> Any:
    """A handle of a process to wait on: of the very one that an object has a handle of, else of the number's."""
    own = getattr(process, "_handle", None)
    if own is None:
        return kernel32.OpenProcess(SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, 0, min(pid, 0xFFFFFFFF))
    return _duplicate(ffi.cast("HANDLE", int(own)))


def duplicate(pointer: Any) -> Any:
    """Another handle of the same, for its maker to close."""
    return check(_duplicate(pointer))


def _duplicate(pointer: Any) -> Any:
    here, copy = kernel32.GetCurrentProcess(), ffi.new("HANDLE *")
    return copy[0] if kernel32.DuplicateHandle(here, pointer, here, copy, 0, 0, DUPLICATE_SAME_ACCESS) else NULL


def open_afd() -> Any:
    """Open the device of Windows Sockets, to poll with."""
    name = ffi.new("wchar_t[]", r"\Device\Afd\unio")
    text = ffi.new("UNICODE_STRING *")
    text.Buffer = name
    text.Length = 2 * len(r"\Device\Afd\unio")
    text.MaximumLength = text.Length
    attributes = ffi.new("OBJECT_ATTRIBUTES *")
    attributes.Length = ffi.sizeof("OBJECT_ATTRIBUTES")
    attributes.ObjectName = text
    handle, status = ffi.new("HANDLE *"), ffi.new("IO_STATUS_BLOCK *")
    share = FILE_SHARE_READ | FILE_SHARE_WRITE
    result = ntdll.NtCreateFile(handle, SYNCHRONIZE, attributes, status, NULL, 0, share, 1, 0, NULL, 0)  # FILE_OPEN
    if result:
        raise os_error(status_error(result & 0xFFFFFFFF))
    return handle[0]


def report_unreachable(sock: socket.socket, *, report: bool) -> None:
    """Whether a datagram socket is to say that an earlier datagram met nobody (SIO_UDP_CONNRESET)."""
    wanted = ffi.new("DWORD *", report)
    returned = ffi.new("DWORD *")
    ws2_32.WSAIoctl(sock.fileno(), SIO_UDP_CONNRESET, wanted, 4, NULL, 0, returned, NULL, NULL)


def file_handle(file: Any) -> Any:
    """The HANDLE of a file object, or of a number that is one."""
    if isinstance(file, int):
        if not 0 <= file < 1 << 64:  # a cast would keep its last bits only
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return ffi.cast("HANDLE", file)
    import msvcrt  # noqa: PLC0415 - Windows only, as this module is

    return ffi.cast("HANDLE", msvcrt.get_osfhandle(file_number(file)))


# Addresses


def pack_address(family: int, address: Any) -> bytes:
    """An address as a sockaddr_in or sockaddr_in6 (ws2def.h, ws2ipdef.h)."""
    if family == socket.AF_INET:
        return struct.pack("<H", family) + struct.pack(">H", address[1]) + socket.inet_aton(address[0]) + bytes(8)
    if family != socket.AF_INET6:
        raise ValueError(f"addresses of family {family} can't be used with overlapped operations")
    host, port, flow, scope = (*address, 0, 0)[:4]
    packed = socket.inet_pton(family, host)
    return struct.pack("<H", family) + struct.pack(">HI", port, flow) + packed + struct.pack("<I", scope)


def accepted_address(output: Any, size: int) -> Any:
    """The peer's address in what AcceptEx has written; only Windows knows its layout (GetAcceptExSockaddrs)."""
    local, remote = ffi.new("void **"), ffi.new("void **")
    local_length, remote_length = ffi.new("int *"), ffi.new("int *")
    mswsock.GetAcceptExSockaddrs(output, 0, size, size, local, local_length, remote, remote_length)
    return unpack_address(bytes(ffi.buffer(remote[0], remote_length[0]))) if remote_length[0] else None


def unpack_address(raw: bytes) -> Any:
    """The address in a sockaddr_in or sockaddr_in6, as the socket module has it."""
    (family,) = struct.unpack_from("<H", raw)
    if family == socket.AF_INET:
        return socket.inet_ntoa(raw[4:8]), struct.unpack_from(">H", raw, 2)[0]
    if family == socket.AF_INET6:
        port, flow = struct.unpack_from(">HI", raw, 2)
        (scope,) = struct.unpack_from("<I", raw, 24)
        return socket.inet_ntop(family, raw[8:24]), port, flow, scope
    return None


# Opening for overlapped work

_pipe_numbers = itertools.count()


def open_file(path: str, mode: str) -> io.FileIO:
    """Open a file with FILE_FLAG_OVERLAPPED, and give it a descriptor of the C runtime's."""
    plus = "+" in mode
    access, disposition = {
        "r": (GENERIC_READ, OPEN_EXISTING),
        "w": (GENERIC_WRITE, CREATE_ALWAYS),
        "x": (GENERIC_WRITE, CREATE_NEW),
        "a": (FILE_APPEND_DATA | SYNCHRONIZE, OPEN_ALWAYS),
    }[mode[0]]
    if plus:
        access |= GENERIC_READ if mode[0] != "r" else GENERIC_WRITE
    share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE
    if "\0" in path:
        raise ValueError("embedded null character in the path")
    handle = kernel32.CreateFileW(path, access, share, NULL, disposition, FILE_FLAG_OVERLAPPED, NULL)
    if handle == INVALID_HANDLE_VALUE:
        error = os_error(last_error())
        error.filename = path
        raise error
    return _as_file(handle, mode, path)


def make_pipe() -> tuple[io.FileIO, io.FileIO]:
    """Make a named pipe whose name nobody knows and open both ends of it for overlapped work."""
    name = rf"\\.\pipe\unio-{os.getpid()}-{next(_pipe_numbers)}-{os.urandom(8).hex()}"
    mode = PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE
    reader = kernel32.CreateNamedPipeW(name, mode, PIPE_REJECT_REMOTE_CLIENTS, 1, PIPE_BUFFER, PIPE_BUFFER, 0, NULL)
    if reader == INVALID_HANDLE_VALUE:
        raise os_error(last_error())
    writer = kernel32.CreateFileW(name, GENERIC_WRITE, 0, NULL, OPEN_EXISTING, FILE_FLAG_OVERLAPPED, NULL)
    if writer == INVALID_HANDLE_VALUE:
        code = last_error()
        kernel32.CloseHandle(reader)
        raise os_error(code)
    return _as_file(reader, "rb"), _as_file(writer, "wb")


def _as_file(handle: Any, mode: str, path: str | None = None) -> io.FileIO:
    import msvcrt  # noqa: PLC0415 - Windows only, as this module is

    flags = os.O_RDONLY if mode == "rb" else os.O_WRONLY if "+" not in mode else os.O_RDWR
    flags |= os.O_BINARY | os.O_NOINHERIT
    number = msvcrt.open_osfhandle(int(ffi.cast("intptr_t", handle)), flags)
    if path is None:
        return io.FileIO(number, mode)
    return io.FileIO(path, mode, opener=lambda _path, _flags: number)  # its name is the path, as everywhere
