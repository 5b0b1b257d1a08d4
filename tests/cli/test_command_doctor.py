"""``python -m unio doctor`` says which backend a port gets, and fails where there is none."""

from __future__ import annotations

import importlib.machinery
import json
import platform
import shutil
import sys
from pathlib import Path

import pytest
from command import run

import unio
from unio.backends.common import accelerator
from unio.cli import main


def test_doctor_says_what_a_port_gets():
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"backend: {unio.backends.choose()}\n")
    for candidate in unio.backends.candidates():
        assert candidate.reason in done.stdout
    for version in (unio.__version__, platform.python_version(), platform.release()):
        assert version in done.stdout
    assert "open files" in done.stdout


def test_doctor_json_is_one_object():
    done = run("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["backend"] == unio.backends.choose()
    assert found["problem"] is None
    assert found["candidates"] == [candidate._asdict() for candidate in unio.backends.candidates()]
    assert found["c_part"].startswith("absent" if accelerator.core is None else "there")
    assert set(found["versions"]) == {"unio", "python", "kernel", "h11"}
    assert set(found["limits"]["open_files"]) == {"soft", "hard"}
    assert found["limits"]["processors"] >= 1


def test_doctor_on_a_wrong_name_fails_and_still_lists_the_candidates():
    done = run("doctor", UNIO_BACKEND="abacus")
    assert done.returncode == 1
    assert done.stdout.startswith("backend: none\nproblem: the backend 'abacus', named by UNIO_BACKEND, is unknown")
    for candidate in unio.backends.candidates():
        assert f"  {candidate.name}: " in done.stdout


def test_doctor_json_on_a_wrong_name_fails_and_still_lists_the_candidates():
    done = run("doctor", "--json", UNIO_BACKEND="abacus")
    assert done.returncode == 1
    assert "'abacus'" in done.stderr
    found = json.loads(done.stdout)
    assert found["backend"] is None
    assert "'abacus'" in found["problem"]
    assert found["candidates"]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_doctor_without_any_backend_fails_and_says_why(monkeypatch, capsys, options):
    monkeypatch.delenv("UNIO_BACKEND", raising=False)
    monkeypatch.setattr(unio.backends, "_SYSTEMS", {"epoll": ("another system",)})
    assert main(["doctor", *options]) == 1
    said = capsys.readouterr().out
    assert "no backend can run here" in said
    assert "it is for another system, and this is " in said


COMPILED = f"_core{importlib.machinery.EXTENSION_SUFFIXES[0]}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such part")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"_no_core.py": "WHY = 'there was no C compiler: cc is not found'"},
            "there was no C compiler: cc is not found",
        ),
        ({COMPILED: "no library"}, "it is there and can't be loaded: "),  # and then the words of the system's loader
        (
            {"_core.cpython-27.so": "", "_no_core.py": "WHY = ''"},
            "it was compiled for another Python: _core.cpython-27.so",
        ),
        ({"_core.pyi": ""}, "unio was not installed: installing it compiles this part, where there is a compiler"),
    ],
    ids=["not compiled", "refused", "of another Python", "never installed"],
)
def test_doctor_says_why_there_is_no_part_in_c(tmp_path, files, words):
    place = tmp_path / "unio"
    ignored = shutil.ignore_patterns("_core.*", "_no_core.py", "__pycache__")
    shutil.copytree(Path(unio.__file__).parent, place, ignore=ignored)
    for name, text in files.items():
        (place / name).write_text(text)
    done = run("doctor", "--json", UNIO_BACKEND="", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["c_part"].startswith("absent: " + words)
    assert COMPILED not in files or str(place / COMPILED) in found["c_part"]
    if sys.platform == "linux":
        [io_uring] = [each for each in found["candidates"] if each["name"] == "io_uring"]
        why = found["c_part"].removeprefix("absent: ")
        assert io_uring["reason"] == f"it needs unio._core, the part of unio that is C, which is absent: {why}"
