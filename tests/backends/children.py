"""A process to watch."""

from __future__ import annotations

import subprocess
import sys

QUITS = [sys.executable, "-S", "-E", "-c", "import sys; sys.exit(sys.stdin.read() and 7)"]


class Child(subprocess.Popen[str]):
    """A process that ends with 7 once it is told to."""

    def __init__(self) -> None:
        super().__init__(QUITS, stdin=subprocess.PIPE, text=True)

    def tell(self) -> None:
        assert self.stdin is not None
        self.stdin.write("go")
        self.stdin.close()
