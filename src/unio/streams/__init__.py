"""Buffered streams over a handle, for protocol code, and TLS over the same.

What has no port in it comes first: :mod:`~unio.streams.receive_buffer` and :mod:`~unio.streams.write_queue` keep bytes,
:mod:`~unio.streams.tls` turns them into records and back. :mod:`~unio.streams.stream` moves them with operations.
"""
