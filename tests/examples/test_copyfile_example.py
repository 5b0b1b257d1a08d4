"""examples/copyfile.py"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 11 * 1024 * 1024 + 13])
def test_the_copy_is_identical(run: Run, tmp_path: Path, size: int) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(random.Random(size).randbytes(size))
    assert run("copyfile", source, destination).end() == (0, f"{size} bytes\n", "")
    assert destination.read_bytes() == source.read_bytes()


def test_a_missing_source_is_named_and_makes_no_destination(run: Run, tmp_path: Path) -> None:
    status, output, errors = run("copyfile", tmp_path / "missing", tmp_path / "destination").end()
    assert (status, output) == (1, "")
    assert errors.startswith("copyfile: ")
    assert "missing" in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_can_not_be_copied(run: Run, tmp_path: Path) -> None:
    status, output, errors = run("copyfile", tmp_path, tmp_path / "destination").end()
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_destination_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    status, _, errors = run("copyfile", file, file).end()
    assert (status, len(errors.splitlines())) == (1, 1)
    assert file.read_bytes() == b"precious"
