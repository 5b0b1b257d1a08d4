/* What unio calls of Windows, in cffi's C. Names and types are Microsoft's; each block names its page at
   learn.microsoft.com (Win32 unless it says otherwise). LONG and DWORD are 32 bits on every Windows. */

typedef void *HANDLE;
typedef uintptr_t SOCKET;
typedef uint32_t DWORD;
typedef uintptr_t ULONG_PTR;
typedef int BOOL;

/* minwinbase.h: OVERLAPPED, OVERLAPPED_ENTRY. The union of Offset and Pointer is written as its first member. */
typedef struct _OVERLAPPED {
    ULONG_PTR Internal;       /* the NTSTATUS of the operation */
    ULONG_PTR InternalHigh;   /* the number of bytes transferred */
    DWORD Offset;
    DWORD OffsetHigh;
    HANDLE hEvent;
} OVERLAPPED;

typedef struct _OVERLAPPED_ENTRY {
    ULONG_PTR lpCompletionKey;
    OVERLAPPED *lpOverlapped;
    ULONG_PTR Internal;
    DWORD dwNumberOfBytesTransferred;
} OVERLAPPED_ENTRY;

/* ioapiset.h: the port */
HANDLE CreateIoCompletionPort(HANDLE FileHandle, HANDLE ExistingCompletionPort, ULONG_PTR CompletionKey,
                              DWORD NumberOfConcurrentThreads);
BOOL GetQueuedCompletionStatusEx(HANDLE CompletionPort, OVERLAPPED_ENTRY *lpCompletionPortEntries, DWORD ulCount,
                                 DWORD *ulNumEntriesRemoved, DWORD dwMilliseconds, BOOL fAlertable);
BOOL PostQueuedCompletionStatus(HANDLE CompletionPort, DWORD dwNumberOfBytesTransferred, ULONG_PTR dwCompletionKey,
                                OVERLAPPED *lpOverlapped);
BOOL CancelIoEx(HANDLE hFile, OVERLAPPED *lpOverlapped);

/* winbase.h: SetFileCompletionNotificationModes */
BOOL SetFileCompletionNotificationModes(HANDLE FileHandle, uint8_t Flags);

/* fileapi.h, handleapi.h, namedpipeapi.h: files and pipes */
HANDLE CreateFileW(const wchar_t *lpFileName, DWORD dwDesiredAccess, DWORD dwShareMode, void *lpSecurityAttributes,
                   DWORD dwCreationDisposition, DWORD dwFlagsAndAttributes, HANDLE hTemplateFile);
HANDLE CreateNamedPipeW(const wchar_t *lpName, DWORD dwOpenMode, DWORD dwPipeMode, DWORD nMaxInstances,
                        DWORD nOutBufferSize, DWORD nInBufferSize, DWORD nDefaultTimeOut, void *lpSecurityAttributes);
BOOL ReadFile(HANDLE hFile, void *lpBuffer, DWORD nNumberOfBytesToRead, DWORD *lpNumberOfBytesRead,
              OVERLAPPED *lpOverlapped);
BOOL WriteFile(HANDLE hFile, const void *lpBuffer, DWORD nNumberOfBytesToWrite, DWORD *lpNumberOfBytesWritten,
               OVERLAPPED *lpOverlapped);
BOOL FlushFileBuffers(HANDLE hFile);
BOOL GetFileSizeEx(HANDLE hFile, int64_t *lpFileSize);
DWORD GetFileType(HANDLE hFile);
BOOL CloseHandle(HANDLE hObject);
BOOL DuplicateHandle(HANDLE hSourceProcessHandle, HANDLE hSourceHandle, HANDLE hTargetProcessHandle,
                     HANDLE *lpTargetHandle, DWORD dwDesiredAccess, BOOL bInheritHandle, DWORD dwOptions);
HANDLE GetCurrentProcess(void);

/* processthreadsapi.h: processes */
HANDLE OpenProcess(DWORD dwDesiredAccess, BOOL bInheritHandle, DWORD dwProcessId);
BOOL GetExitCodeProcess(HANDLE hProcess, DWORD *lpExitCode);

/* winternl.h: the NTSTATUS of an OVERLAPPED as a Win32 error; and what the device of Windows Sockets is opened and asked
   with (NtCreateFile and NtDeviceIoControlFile) */
DWORD RtlNtStatusToDosError(int32_t Status);

typedef struct _UNICODE_STRING {
    uint16_t Length;
    uint16_t MaximumLength;
    wchar_t *Buffer;
} UNICODE_STRING;

typedef struct _OBJECT_ATTRIBUTES {
    uint32_t Length;
    HANDLE RootDirectory;
    UNICODE_STRING *ObjectName;
    uint32_t Attributes;
    void *SecurityDescriptor;
    void *SecurityQualityOfService;
} OBJECT_ATTRIBUTES;

typedef struct _IO_STATUS_BLOCK {
    ULONG_PTR Status;
    ULONG_PTR Information;
} IO_STATUS_BLOCK;

int32_t NtCreateFile(HANDLE *FileHandle, DWORD DesiredAccess, OBJECT_ATTRIBUTES *ObjectAttributes,
                     IO_STATUS_BLOCK *IoStatusBlock, void *AllocationSize, DWORD FileAttributes, DWORD ShareAccess,
                     DWORD CreateDisposition, DWORD CreateOptions, void *EaBuffer, DWORD EaLength);
int32_t NtDeviceIoControlFile(HANDLE FileHandle, HANDLE Event, void *ApcRoutine, void *ApcContext,
                              void *IoStatusBlock, DWORD IoControlCode, void *InputBuffer,
                              DWORD InputBufferLength, void *OutputBuffer, DWORD OutputBufferLength);

/* ntifs.h: how a handle leaves its port (NtSetInformationFile with FileReplaceCompletionInformation), and which modes of
   SetFileCompletionNotificationModes it has (NtQueryInformationFile with FileIoCompletionNotificationInformation) */
typedef struct _FILE_COMPLETION_INFORMATION {
    HANDLE Port;
    void *Key;
} FILE_COMPLETION_INFORMATION;

int32_t NtSetInformationFile(HANDLE FileHandle, IO_STATUS_BLOCK *IoStatusBlock, void *FileInformation, DWORD Length,
                             int FileInformationClass);
int32_t NtQueryInformationFile(HANDLE FileHandle, IO_STATUS_BLOCK *IoStatusBlock, void *FileInformation, DWORD Length,
                               int FileInformationClass);

/* The question to the device: not documented by Microsoft. wepoll and libuv have used it since Windows Vista. */
typedef struct _AFD_POLL_HANDLE_INFO {
    HANDLE Handle;
    uint32_t Events;
    int32_t Status;
} AFD_POLL_HANDLE_INFO;

typedef struct _AFD_POLL_INFO {
    int64_t Timeout;
    uint32_t NumberOfHandles;
    uint32_t Exclusive;
    AFD_POLL_HANDLE_INFO Handles[1];
} AFD_POLL_INFO;

/* winsock2.h */
typedef struct _WSABUF {
    uint32_t len;
    char *buf;
} WSABUF;

typedef struct _WSAMSG {
    void *name;
    int namelen;
    WSABUF *lpBuffers;
    uint32_t dwBufferCount;
    WSABUF Control;
    uint32_t dwFlags;
} WSAMSG;

int WSARecv(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount, DWORD *lpNumberOfBytesRecvd, DWORD *lpFlags,
            OVERLAPPED *lpOverlapped, void *lpCompletionRoutine);
int WSARecvFrom(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount, DWORD *lpNumberOfBytesRecvd, DWORD *lpFlags,
                void *lpFrom, int *lpFromlen, OVERLAPPED *lpOverlapped, void *lpCompletionRoutine);
int WSASend(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount, DWORD *lpNumberOfBytesSent, DWORD dwFlags,
            OVERLAPPED *lpOverlapped, void *lpCompletionRoutine);
int WSASendTo(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount, DWORD *lpNumberOfBytesSent, DWORD dwFlags,
              const void *lpTo, int iTolen, OVERLAPPED *lpOverlapped, void *lpCompletionRoutine);
int WSAIoctl(SOCKET s, DWORD dwIoControlCode, void *lpvInBuffer, DWORD cbInBuffer, void *lpvOutBuffer,
             DWORD cbOutBuffer, DWORD *lpcbBytesReturned, OVERLAPPED *lpOverlapped, void *lpCompletionRoutine);
int getsockopt(SOCKET s, int level, int optname, char *optval, int *optlen);
int setsockopt(SOCKET s, int level, int optname, const char *optval, int optlen);

/* mswsock.h */
void GetAcceptExSockaddrs(void *lpOutputBuffer, DWORD dwReceiveDataLength, DWORD dwLocalAddressLength,
                          DWORD dwRemoteAddressLength, void **LocalSockaddr, int *LocalSockaddrLength,
                          void **RemoteSockaddr, int *RemoteSockaddrLength);

/* mswsock.h: reached through WSAIoctl with SIO_GET_EXTENSION_FUNCTION_POINTER */
typedef BOOL (*LPFN_ACCEPTEX)(SOCKET sListenSocket, SOCKET sAcceptSocket, void *lpOutputBuffer,
                              DWORD dwReceiveDataLength, DWORD dwLocalAddressLength, DWORD dwRemoteAddressLength,
                              DWORD *lpdwBytesReceived, OVERLAPPED *lpOverlapped);
typedef BOOL (*LPFN_CONNECTEX)(SOCKET s, const void *name, int namelen, void *lpSendBuffer, DWORD dwSendDataLength,
                               DWORD *lpdwBytesSent, OVERLAPPED *lpOverlapped);
typedef BOOL (*LPFN_DISCONNECTEX)(SOCKET s, OVERLAPPED *lpOverlapped, DWORD dwFlags, DWORD dwReserved);
typedef BOOL (*LPFN_TRANSMITFILE)(SOCKET hSocket, HANDLE hFile, DWORD nNumberOfBytesToWrite,
                                  DWORD nNumberOfBytesPerSend, OVERLAPPED *lpOverlapped, void *lpTransmitBuffers,
                                  DWORD dwReserved);

/* signal.h of the C runtime: signal */
typedef void (*SIGNAL_HANDLER)(int);
SIGNAL_HANDLER signal(int sig, SIGNAL_HANDLER func);
