"""What all backends use: locks, deadlines, threads for files, the program's own objects, and what there is of C.

Nothing here knows how a kernel does an operation. It may use what a program imports, and nothing of the other rooms.
"""
