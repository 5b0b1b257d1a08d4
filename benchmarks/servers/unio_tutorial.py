"""The echo server of the tutorial: ``unio_tutorial.py BUFFER``; UNIO_BACKEND chooses the backend.

Its blocks of code are taken from docs/tutorial.md and run, word for word, so that what is measured is always what a
reader of the tutorial writes. BUFFER is for the other servers: here each receive has a buffer of its own.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import unio

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def server() -> dict[str, Any]:
    """What the section on the echo server defines: among others the coroutine ``serve(port, listening)``."""
    section = TUTORIAL.read_text().partition("\n## An echo server\n")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^```\{testcode\}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    defined: dict[str, Any] = {"unio": unio}
    exec(compile(code, TUTORIAL, "exec"), defined)  # noqa: S102 - it is this project's own text
    return defined


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, unio.Port() as port:
        print(listening.getsockname()[1], flush=True)
        port.start(server()["serve"](port, listening))
        port.run()
