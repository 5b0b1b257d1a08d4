"""A program that ends with ports open, threads in their waits and packets on their way ends without a word."""

from __future__ import annotations

import channels
import pytest

BEGINNING = """
import socket, sys, threading, warnings
import unio
warnings.simplefilter("ignore", ResourceWarning)  # of the sockets
near, far = socket.socketpair()
port = unio.Port(backend=sys.argv[1])
def kept():
    return port, handle, near, far
"""

IDLE = "handle = port.associate(near)"

WAITING = """
handle = port.associate(near)
for _ in range(3):
    threading.Thread(target=port.wait, daemon=True).start()
"""

PASSING_ON = """
handle = port.associate(near)
def pass_on():
    while True:
        for packet in port.wait():
            port.post(packet.key)
for number in range(3):
    threading.Thread(target=pass_on, daemon=True).start()
    port.post(number)
"""

HAS_WAITED = """
handle = port.associate(near)
port.post("key")
port.wait()
threading.Thread(target=port.wait, args=(0,)).start()
"""


@pytest.mark.clause("P11")
@pytest.mark.parametrize("program", [IDLE, WAITING, PASSING_ON, HAS_WAITED])
def test_a_program_ends_without_a_word(backend: str, program: str) -> None:
    for _ in range(5):
        assert channels.run_script(BEGINNING + program, backend) == ""
