"""One scenario, told step by step, that gives the same trace of completions on every backend.

``PYTHONPATH=tests python tests/differential/scenario.py --backend NAME`` prints the trace. Each step brings about
one event after the other and waits for what it leads to, so that nothing depends on time: what is submitted pends or
does not, and then the one thing happens that ends it. A line has the step, the handle's key, the operation, the number
transferred, and the error as its class and the name of its errno; what an operation found beyond that follows.
Completions of one handle stand in the order in which they came; where two handles complete in one step, no order
between them is promised, and the lines are sorted by handle.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import contextlib

import other_steps
import stream_steps
from scene import Scene

STEPS = {**stream_steps.STEPS, **other_steps.STEPS}


def play(backend: str | None = None, names: list[str] | None = None) -> list[str]:
    """Play the scenario, or some steps of it, and return its trace."""
    trace: list[str] = []
    for name in names or STEPS:
        with contextlib.ExitStack() as resources:
            scene = Scene(backend, name, resources)
            STEPS[name](scene)
            trace += scene.trace
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    parser.add_argument("step", nargs="*", help="the steps to play (default: all)")
    options = parser.parse_args()
    for line in play(options.backend, options.step):
        print(line, flush=True)


if __name__ == "__main__":
    main()
