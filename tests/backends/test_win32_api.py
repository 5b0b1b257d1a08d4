"""The generated declarations of Windows' calls are those of the readable ones."""

from pathlib import Path

from unio.backends import win32_build

BACKENDS = Path(win32_build.__file__).parent


def test_the_committed_declarations_are_what_the_build_makes(tmp_path: Path) -> None:
    made = tmp_path / "win32_api.py"
    win32_build.generate(made)
    assert made.read_text() == (BACKENDS / "win32_api.py").read_text(), "run python -m unio.backends.win32_build"
