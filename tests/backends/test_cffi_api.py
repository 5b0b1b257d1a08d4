"""The generated declarations of the systems' calls are those of the readable ones."""

from pathlib import Path

import pytest

from unio.backends.kernel import cffi_build

BACKENDS = Path(cffi_build.__file__).parent


@pytest.mark.parametrize("name", cffi_build.NAMES)
def test_the_committed_declarations_are_what_the_build_makes(name: str, tmp_path: Path) -> None:
    made = tmp_path / f"{name}_api.py"
    cffi_build.generate(name, made)
    assert made.read_text() == (BACKENDS / made.name).read_text(), "run python -m unio.backends.kernel.cffi_build"
