"""What unio is to reach on Linux, and whether it does in a run of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tables import REFERENCES, TIE, RowFigures, marked, per_exchange, table

if TYPE_CHECKING:
    from collections.abc import Callable

BACKENDS = ("io_uring", "epoll")

UVLOOP, C_EPOLL = REFERENCES


@dataclass(frozen=True)
class Target:
    """A figure for each backend that is to be reached, and how it is computed."""

    title: str
    goals: tuple[float, float]
    """In the order of BACKENDS."""
    measure: Callable[[dict[str, RowFigures], str], float | None]
    """Of the rows by name, and a backend; None if this run can't tell."""
    at_most: bool = False
    unit: str = ""

    def outcome(self, rows: dict[str, RowFigures], backend: str) -> str:
        """The figure, and whether it is enough or what is missing."""
        goal, found = self.goals[BACKENDS.index(backend)], self.measure(rows, f"unio {backend}")
        if found is None:
            return "not measured"
        form = ",.0f" if self.unit else ".2f"
        missing = found - goal if self.at_most else goal - found
        verdict = f"missed by {missing:{form}}" if missing > 0 else "met"
        return f"{found:{form}} ({'≤' if self.at_most else '≥'} {goal:{form}}): {verdict}"


def against(reference: str, row: str) -> Callable[[dict[str, RowFigures], str], float | None]:
    """The rate in a row, compared with that of another contestant."""

    def measure(rows: dict[str, RowFigures], contestant: str) -> float | None:
        found = rows.get(row)
        if found is None or not (own := found.label(contestant)) or not (other := found.label(reference)):
            return None
        ratio = found.ratio(own, other)
        return ratio.middle if ratio else None

    return measure


def user_time(rows: dict[str, RowFigures], contestant: str) -> float | None:
    row = rows.get("echo-1k-64")
    if row is None or not (own := row.label(contestant)) or not (other := row.label(UVLOOP)):
        return None
    base = row.mean(other, per_exchange("user_seconds"))
    return row.mean(own, per_exchange("user_seconds")) / base if base else None


def tutorial(rows: dict[str, RowFigures], contestant: str) -> float | None:
    return against(contestant, "echo-1k-64")(rows, f"{contestant}, tutorial")


def with_time_outs(rows: dict[str, RowFigures], contestant: str) -> float | None:
    row = rows.get("time-outs")
    if row is None or not (without := row.label(contestant)) or not (limited := row.label(f"{contestant}, time-outs")):
        return None
    ratio = row.ratio(limited, without)
    return ratio.middle if ratio else None


def beside_idle(rows: dict[str, RowFigures], contestant: str) -> float | None:
    row = rows.get("idle")
    if row is None or not (without := row.label(contestant)) or not (beside := row.label(contestant, idle=True)):
        return None
    ratio = row.ratio(beside, without)
    return ratio.middle if ratio else None


def memory(rows: dict[str, RowFigures], contestant: str) -> float | None:
    row = rows.get("idle")
    label = row.label(contestant, idle=True) if row else None
    return float(row.entries[label]["bytes_per_connection"]) if row and label else None


def best_peer(row: RowFigures, contestant: str) -> tuple[str, float] | None:
    """The fastest living peer in a row, and the contestant's rate compared with it."""
    own = row.label(contestant)
    peers = [
        label
        for label in row.sorted_labels()
        if row.entries[label]["kind"] == "peer" and not row.entries[label]["idle"]
    ]
    ratio = row.ratio(own, peers[0]) if own and peers else None
    return (peers[0], ratio.middle) if ratio else None


def worst_row(rows: dict[str, RowFigures], contestant: str) -> float | None:
    """The smallest of the ratios to the best peer of a row."""
    found = [best[1] for row in rows.values() if (best := best_peer(row, contestant))]
    return min(found, default=None)


TARGETS = [
    Target("echo 1 KiB x 64, x uvloop Protocol", (1.25, 1.15), against(UVLOOP, "echo-1k-64")),
    Target("the same, x C epoll", (1.00, 0.92), against(C_EPOLL, "echo-1k-64")),
    Target("echo 1 KiB x 512, x uvloop Protocol", (1.20, 1.15), against(UVLOOP, "echo-1k-512")),
    Target("echo 100 KiB x 16, x uvloop Protocol", (1.25, 1.20), against(UVLOOP, "echo-100k-16")),
    Target("user time for a message, 1 KiB x 64, x uvloop Protocol", (0.9, 1.0), user_time, at_most=True),
    Target("the row that is worst against its best peer", (1.0, 1.0 - TIE), worst_row),
    Target("rate with 5,000 idle connections, x that without", (0.95, 0.95), beside_idle),
    Target("bytes of an idle connection, buffer excluded", (1300, 1300), memory, at_most=True, unit="bytes"),
    Target("datagrams of 512 bytes, 64 peers, x uvloop", (1.1, 1.1), against("uvloop datagrams", "datagrams")),
    Target("sends of two buffers, x uvloop's writelines", (1.1, 1.1), against("uvloop writelines", "two-buffers")),
    Target("polls, x uvloop's add_reader", (0.5, 0.5), against("uvloop add_reader", "polls")),
    Target("looks that find nothing, x select.epoll", (0.5, 0.5), against("select.epoll", "looks")),
    Target("echo 1 KiB x 64 with time-outs, x that without", (0.95, 0.95), with_time_outs),
    Target("echo 1 KiB x 64 by the tutorial, x the fastest form", (0.9, 0.9), tutorial),
]


def of_targets(rows: dict[str, RowFigures]) -> str:
    """The table of all targets."""
    lines = [[target.title, *(target.outcome(rows, backend) for backend in BACKENDS)] for target in TARGETS]
    return table(["", *BACKENDS], lines)


def of_best_peers(rows: dict[str, RowFigures]) -> str:
    """For each row, how unio stands to the best peer there."""
    lines = []
    for row in rows.values():
        found = {backend: best_peer(row, f"unio {backend}") for backend in BACKENDS}
        known = [best for best in found.values() if best]
        if known:
            cells = [f"{best[1]:.2f}" if best else "" for best in found.values()]
            lines.append([row.title, known[0][0], *cells])
    return table(["", "best living peer", *(marked(f"unio {backend}") for backend in BACKENDS)], lines)
