"""``python -m unio doctor``: which backend a port gets here, which ones it could have, and the limits it meets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import textwrap
from typing import Any

import unio
from unio.backends import Candidate
from unio.cli.output import complain, write

EXIT_NO_BACKEND = 1
"""The exit status when no port can be made."""

WIDTH = 100
"""How many characters a line has, of what may be long."""


def doctor(*, as_json: bool) -> int:
    """Print the findings and return the exit status. Raises Problem when they can't be printed."""
    findings = examine()
    write(json.dumps(findings, indent=2) + "\n" if as_json else report(findings))
    if findings["problem"] is None:
        return 0
    if as_json:  # the report begins with it
        complain(f"{wrapped(findings['problem'].splitlines()[0])}\n")
    return EXIT_NO_BACKEND


def examine() -> dict[str, Any]:
    """What ``doctor --json`` prints."""
    backend = problem = None
    try:
        backend = unio.backends.choose()
    except unio.BackendUnavailable as error:
        problem = str(error)
    return {
        "backend": backend,
        "problem": problem,
        "candidates": [candidate._asdict() for candidate in unio.backends.candidates()],
        "c_part": c_part(),
        "versions": {
            "unio": unio.__version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "kernel": f"{platform.system()} {platform.release()}",
            "h11": h11_version(),
        },
        "limits": {"open_files": open_files(), "processors": processors()},
    }


def c_part() -> str:
    """Whether the part of unio that is C is there, and does all that it could."""
    from unio.backends.common import accelerator  # noqa: PLC0415 - only this needs it

    if accelerator.no_fast_path is None:
        return "there"
    return f"{'absent' if accelerator.core is None else 'there, without the fast path'}: {accelerator.no_fast_path}"


def h11_version() -> str | None:
    try:
        return importlib.metadata.version("h11")
    except importlib.metadata.PackageNotFoundError:
        return None


def open_files() -> dict[str, int | None]:
    """How many descriptors the process may have open: now, and if it raises its limit; None is no limit."""
    try:
        import resource  # noqa: PLC0415 - Windows has neither the module nor the limit
    except ImportError:
        return {"soft": None, "hard": None}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (None if limit == resource.RLIM_INFINITY else limit for limit in limits)
    return {"soft": soft, "hard": hard}


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def report(findings: dict[str, Any]) -> str:
    """The findings for people."""
    if findings["problem"] is None:
        lines = [f"backend: {findings['backend']}"]
    else:
        lines = ["backend: none", wrapped(f"problem: {findings['problem'].splitlines()[0]}")]  # the rest are below
    lines += ["", "candidates, the preferred one first:"]
    lines += [f"  {describe(Candidate(**candidate))}" for candidate in findings["candidates"]]
    lines += ["", f"the part in C: {findings['c_part']}", "", "versions:"]
    lines += [f"  {name}: {version or 'not installed'}" for name, version in findings["versions"].items()]
    soft, hard = ("no limit" if limit is None else limit for limit in findings["limits"]["open_files"].values())
    lines += [
        "",
        "limits:",
        f"  open files: {soft} (can be raised to {hard}); each connection takes one, each download one more",
        f"  usable processors: {findings['limits']['processors']}",
    ]
    return "\n".join(lines) + "\n"


def describe(candidate: Candidate) -> str:
    return f"{candidate.name}: {'' if candidate.available else 'not available: '}{candidate.reason}"


def wrapped(text: str, indent: str = "") -> str:
    """The text in lines that people can read."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
