"""What the IOCP backend consists of, but for its port: handles, the kernel's queue, and how each operation is done.

Here is what knows handles and operations, and calls Windows. It may use ``common`` and ``kernel``, and what a program
imports, and nothing of ``engine`` nor of its door, ``iocp.py``: what it needs of the port it is given.

The way of an operation leads through the files from the port down: ``submissions`` (or ``detached``) decides when it is
started and ended, ``in_flight`` says who has it, ``operations`` how Windows is asked (in ``sockets``, ``files`` and
``polls``), and ``overlapped`` is what Windows is given. ``kernel_queue`` and ``delivery`` bring it back.
"""
