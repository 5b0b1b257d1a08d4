"""Timers."""

from __future__ import annotations

import time

from machine.subject import Subject, Submission, check

import unio


class Timers(Subject):
    """Timers, which have no handle."""

    def start(self, delay: float, timeout: float | None = None) -> None:
        with self.lock:
            operation = self.again(unio.Timer)
            if operation is None:
                operation = unio.Timer(delay, key=self)
            else:
                operation.delay = delay
            self.submit(operation, timeout)

    def completed(self, submission: Submission) -> None:
        check(submission.transferred == 0, "a timer transferred something:", submission)
        if submission.error is None:
            check(time.monotonic() >= submission.at + submission.operation.delay, "a timer was early:", submission)

    def owes(self) -> list[Submission]:
        with self.lock:
            short = [each for each in self.pending if each.operation.delay < 1]
            return super().owes() + short

    def close(self) -> None:
        """Cancel each: there is no handle to close."""
        with self.lock:
            for index in range(len(self.pending)):
                self.cancel(index)

    def retire(self) -> None:
        self.idle.clear()
