"""What the IOCP backend consists of, but for its port: handles, the kernel's queue, and how each operation is done.

Here is what knows handles and operations, and calls Windows. It may use ``common`` and ``kernel``, and what a program
imports; of its door, ``iocp.py``, it imports the port's class, for the sake of the types alone. It imports nothing of
``engine``.
"""
