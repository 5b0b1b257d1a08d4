"""What the tests of one backend share."""

from __future__ import annotations

import contextlib

import pytest
from children import Child


@pytest.fixture
def child(resources: contextlib.ExitStack) -> Child:
    return resources.enter_context(Child())
