"""What epoll, kqueue and io_uring stand on: a port with a queue of its own, its handles, and how operations are done.

Here is what knows ports, handles and operations, and is the same on more than one kernel. It may use ``common`` and
``kernel``, and what a program imports. It imports nothing of ``windows`` and no door (``epoll.py``, ``kqueue.py``,
``io_uring.py``): those derive from what is here, and add what only their kernel does.
"""
