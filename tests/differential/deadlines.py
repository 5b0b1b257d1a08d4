"""Random steps on the structure of deadlines, and what it says: the same from its form in C and from that in Python.

A plain model beside it says what is right.
"""

from __future__ import annotations

import math
import random
from typing import Any

import unio
from unio.backends.common import timers

STEPS = 4000
OPERATIONS = 12


class Model:
    """What is due when, in the order of submission."""

    def __init__(self) -> None:
        self.due: dict[int, tuple[float, Any, Any]] = {}

    def first_due(self, when: float) -> tuple[Any, Any, int] | None:
        found = min(((due, number) for number, (due, _, _) in self.due.items() if due <= when), default=None)
        if found is None:
            return None
        _, what, detail = self.due[found[1]]
        return what, detail, found[1]

    def earliest(self) -> float:
        return min((due for due, _, _ in self.due.values()), default=math.inf)


class Game:
    """The structure, its model, and operations that use it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.deadlines = timers.Timers()
        self.model = Model()
        self.now = 0.0
        self.number = 0
        self.operations: list[Any] = [unio.Timer(0, number) for number in range(OPERATIONS)]
        self.trace: list[str] = []

    def name(self, what: Any) -> Any:
        return what.key if isinstance(what, unio.Timer) else what

    def assign(self) -> str:
        operation = self.random.choice(self.operations)
        self.deadlines.discard(operation)
        self.model.due.pop(operation._sequence, None)
        self.number += 1
        operation._sequence = self.number
        due = self.now + self.random.choice([0, 1, 2, 5, 50, 1000, math.inf])
        before = self.deadlines.next_time()
        urgent = self.deadlines.assign(operation, due, self.number)
        assert urgent or (before is not None and before <= due), "who sleeps until what was the first is to be told"
        self.model.due[self.number] = (due, operation.key, self.number)
        return f"assign {operation.key} {due} {urgent}"

    def insert(self) -> str:
        self.number += 1
        due = self.now + self.random.choice([0, 3, 7])
        urgent = self.deadlines.insert(due, self.number, f"rest {self.number}", None)
        self.model.due[self.number] = (due, f"rest {self.number}", None)
        return f"insert {due} {urgent}"

    def discard(self) -> str:
        operation = self.random.choice(self.operations)
        self.deadlines.discard(operation)
        self.model.due.pop(operation._sequence, None)
        return f"discard {operation.key}"

    def replace(self) -> str:
        """Another operation comes, and the former one goes with its deadline taken back."""
        place = self.random.randrange(OPERATIONS)
        self.deadlines.discard(self.operations[place])
        self.model.due.pop(self.operations[place]._sequence, None)
        self.operations[place] = unio.Timer(0, place)
        return f"replace {place}"

    def look(self) -> str:
        self.now += self.random.choice([0, 1, 3, 20])
        said = []
        while (found := self.deadlines.first_due(self.now)) is not None:
            deadline, what, detail, flight = found
            expected = self.model.first_due(self.now)
            assert (self.name(what), detail, flight) == expected
            said.append(f"{self.name(what)}:{flight}")
            if self.random.random() < 0.9:
                self.deadlines.spend(deadline, flight - 1)  # an earlier flight's, which changes nothing
                self.deadlines.spend(deadline, flight)
                del self.model.due[flight]
            else:
                break  # it is found again
        else:
            assert self.model.first_due(self.now) is None
        return f"look {self.now} {said}"

    def play(self) -> list[str]:
        """Play all steps. Returns what the structure has said."""
        steps = [self.assign, self.assign, self.assign, self.insert, self.discard, self.replace, self.look]
        for _ in range(STEPS):
            said = self.random.choice(steps)()
            first = self.deadlines.next_time()
            assert (math.inf if first is None else first) <= self.model.earliest(), said
            self.trace.append(f"{said} {first}")
        self.deadlines.clear()
        assert self.deadlines.next_time() is None
        assert self.deadlines.first_due(math.inf) is None
        return self.trace


def play(seeds: range) -> list[str]:
    return [line for seed in seeds for line in Game(seed).play()]
