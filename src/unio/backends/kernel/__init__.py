"""The systems' own calls: their layouts, their numbers, and what makes them easy to call.

Nothing here knows a port, a handle or an operation: numbers, buffers and errors come in and go out. It may use the
standard library, cffi's declarations, the checks and errors of unio, and, of ``common``, the guard of descriptors. What
unio's environment variables name (``unio.backends``) it may read.
"""
