"""What the tests of the loop share."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import support
from patience import PATIENCE

import unio
import unio.asyncio

Result = TypeVar("Result")


@pytest.fixture
def run(
    backend: str, resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Coroutine[Any, Any, Result]], Result]:
    """Runs a coroutine on a loop over a port of this backend; one that does not end fails."""
    monkeypatch.setenv(unio.backends.VARIABLE, backend)

    def run(main: Coroutine[Any, Any, Result]) -> Result:
        async def bounded() -> Result:
            return await asyncio.wait_for(main, 2 * PATIENCE)

        return unio.asyncio.run(bounded())

    return run


@pytest.fixture
def pair(resources: contextlib.ExitStack) -> tuple:
    """Two connected sockets."""
    return tuple(map(resources.enter_context, support.tcp_pair()))


@pytest.fixture
def short_path() -> Iterator[Callable[[str], Path]]:
    """Makes paths that are short enough for a local socket, in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="unio-") as directory:
        yield lambda name: Path(directory) / name
