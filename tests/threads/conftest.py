"""What the tests of threads are given."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support import until


@pytest.fixture
def threads_before() -> Iterator[set[threading.Thread]]:
    """The threads before the test; after it there are no others."""
    before = set(threading.enumerate())
    yield before
    until(lambda: set(threading.enumerate()) <= before)
