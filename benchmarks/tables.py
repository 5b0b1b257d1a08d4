"""The figures of a row as ratios, and the Markdown tables made of them."""

from __future__ import annotations

from statistics import geometric_mean, median, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Figure = Callable[[dict[str, Any]], float]

TIE = 0.08
"""A difference smaller than this is not one: runs of the same program differ by as much."""

REFERENCES = ("uvloop Protocol", "C epoll")
"""The contestants that all are compared with."""


PERCENTILES = {"p50": "p50_ns", "p99": "p99_ns", "p99.9": "p999_ns"}


class Spread(NamedTuple):
    """Quartiles."""

    low: float
    middle: float
    high: float


def rate(one: dict[str, Any]) -> float:
    return float(one["rate"])


def figure(key: str) -> Figure:
    return lambda one: float(one[key])


def per_exchange(key: str) -> Figure:
    return lambda one: float(one[key]) / max(1, one["exchanges"])


def processor_time(one: dict[str, Any]) -> float:
    return per_exchange("user_seconds")(one) + per_exchange("system_seconds")(one)


class RowFigures:
    """What was measured of a row."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.name, self.title, self.absent = measured["name"], measured["title"], measured["absent"]
        self.entries: dict[str, dict[str, Any]] = {entry["label"]: entry for entry in measured["entries"]}
        self.baseline = measured["baseline"] if measured["baseline"] in self.entries else next(iter(self.entries))

    def label(self, contestant: str, *, idle: bool = False) -> str | None:
        """The entry of a contestant, beside idle connections or not; None if there is none."""
        for label, entry in self.entries.items():
            if entry["contestant"] == contestant and bool(entry["idle"]) == idle:
                return label
        return None

    def ratio(self, label: str, other: str, of: Figure = rate) -> Spread | None:
        """The ratios within those passes in which neither was disturbed; None if there is no such pass."""
        pairs = zip(self.entries[label]["rounds"], self.entries[other]["rounds"], strict=True)
        ratios = [
            of(one) / of(base) for one, base in pairs if not one["disturbed"] and not base["disturbed"] and of(base) > 0
        ]
        if not ratios:
            return None
        low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return Spread(low, median(ratios), high)

    def mean(self, label: str, of: Figure) -> float:
        """The mean over the rounds: for processor time, which the kernel counts in ticks that one round has few of."""
        values = [of(each) for each in self.entries[label]["rounds"] if not each["disturbed"]]
        return sum(values) / len(values) if values else 0.0

    def sorted_labels(self) -> list[str]:
        """The fastest first."""
        return sorted(self.entries, key=lambda label: -(self.ratio(label, self.baseline) or Spread(0, 0, 0)).middle)

    def disturbances(self) -> str:
        """What disturbed rounds there were, in words."""
        rounds = [each for entry in self.entries.values() for each in entry["rounds"]]
        repeated = sum(each["repeated"] for each in rounds)
        left_out = sum(each["disturbed"] for each in rounds)
        return f"Of {len(rounds)} rounds, {repeated} were repeated for a disturbance and {left_out} were left out."


def text(value: float | Spread | None) -> str:
    """A ratio for a cell; a blank where there is none."""
    if isinstance(value, Spread):
        value = value.middle
    return f"{value:.2f}" if value else ""


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, whose first column is words and all others figures."""
    rows = [head, ["---"] + ["--:"] * (len(head) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def marked(name: str) -> str:
    return f"**{name}**" if name.startswith("unio") else name


def of_contestants(rows: list[RowFigures], reference: str) -> str:
    """Rates of the contestants in the rows that the reference runs in, as ratios to it; the fastest first."""
    places = [(row, base) for row in rows if (base := row.label(reference)) and row.name != "idle"]
    cells: dict[str, list[Spread | None]] = {}
    for number, (row, base) in enumerate(places):
        for label, entry in row.entries.items():
            cells.setdefault(entry["contestant"], [None] * len(places))[number] = row.ratio(label, base)
    mean = {name: geometric_mean([each.middle for each in found if each] or [1e-9]) for name, found in cells.items()}
    lines = [[marked(name), *map(text, cells[name])] for name in sorted(cells, key=lambda name: -mean[name])]
    return table([f"x {reference}", *(row.name.removeprefix("echo-") for row, _ in places)], lines)


def of_memory(row: RowFigures) -> str:
    """What idle connections cost."""
    lines = []
    for entry in sorted(row.entries.values(), key=lambda entry: entry["bytes_per_connection"] or 0):
        if entry["idle"]:
            label, without = entry["label"], row.label(entry["contestant"])
            kept = text(row.ratio(label, without)) if without else ""
            lines.append([marked(entry["contestant"]), f"{entry['bytes_per_connection']:,.0f}", kept])
    return table(["", "bytes of a connection", "rate, x that without idle connections"], lines)


def of_row(row: RowFigures) -> str:
    """The row in full, as a section of a page."""
    limit = row.label(REFERENCES[1])
    loaded = any(each["load_busy"] for entry in row.entries.values() for each in entry["rounds"])
    head = ["", "rate", "quartiles"]
    head += [f"x {limit}"] if limit else []
    head += list(PERCENTILES) if loaded else []
    head += ["user time", "kernel time"]
    head += ["load busy"] if loaded else []
    lines = [_cells(row, label, limit, loaded=loaded) for label in row.sorted_labels()]
    notes = [f"Ratios to {row.baseline}. {row.disturbances()}"]
    notes += [
        f"Stopped but for its own rounds, since it uses its processor while it has nothing to do: {label}."
        for label, entry in row.entries.items()
        if entry.get("restless")
    ]
    notes += [f"Not run: {label}: {reason}." for label, reason in row.absent.items()]
    return f"## {row.title}\n\n{table(head, lines)}\n" + "\n".join(notes) + "\n"


def _cells(row: RowFigures, label: str, limit: str | None, *, loaded: bool) -> list[str]:
    spread = row.ratio(label, row.baseline)
    cells = [marked(label), text(spread), f"{spread.low:.2f} to {spread.high:.2f}" if spread else ""]
    cells += [text(row.ratio(label, limit))] if limit else []
    if loaded:
        cells += [text(row.ratio(label, row.baseline, figure(key))) for key in PERCENTILES.values()]
    # Both as parts of the baseline's whole, so that one sees which of them counts.
    base = row.mean(row.baseline, processor_time)
    for key in ("user_seconds", "system_seconds"):
        cells.append(text(row.mean(label, per_exchange(key)) / base if base else None))
    cells += [f"{row.mean(label, figure('load_busy')):.0%}"] if loaded else []
    return cells
