"""Makes the Markdown tables and the charts out of what was measured."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "unio"  # the same figures make the same file
import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws

if TYPE_CHECKING:
    from pathlib import Path

TIE = 0.08
"""A difference smaller than this is not one: runs of the same program differ by as much."""


class Table:
    """The figures of a group, each as a ratio to the baseline's in the same pass."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.measured = measured
        self.rounds = {entry["label"]: entry["rounds"] for entry in measured["entries"]}
        self.memory = {entry["label"]: entry["bytes_per_connection"] for entry in measured["entries"]}
        first = next(iter(self.rounds))
        self.baseline = measured["baseline"] if measured["baseline"] in self.rounds else first
        self.labels = sorted(self.rounds, key=lambda label: -self.ratio(label, _rate)[1])

    def ratio(self, label: str, figure: Any) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the ratios of those passes in which neither was disturbed."""
        pairs = zip(self.rounds[label], self.rounds[self.baseline], strict=True)
        ratios = [
            figure(one) / figure(other)
            for one, other in pairs
            if not one["disturbed"] and not other["disturbed"] and figure(other)
        ]
        if len(ratios) < 2:  # noqa: PLR2004 - fewer have no quartiles
            return (ratios * 3)[:3] if ratios else (0.0, 0.0, 0.0)  # type: ignore[return-value]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, median(ratios), high

    def total(self, label: str, figure: Any) -> float:
        """The ratio of two sums, for what a round is too short to tell."""
        own, base = (
            sum(figure(each) for each in rounds) / max(1, sum(each["exchanges"] for each in rounds))
            for rounds in (self.rounds[label], self.rounds[self.baseline])
        )
        return own / base if base else 0.0

    def markdown(self) -> str:
        """The group as a section of a page."""
        has_latency = any(each["p50_ns"] for rounds in self.rounds.values() for each in rounds)
        has_memory = any(self.memory.values())
        columns = ["", "rate", "quartiles"]
        columns += ["p50", "p99", "p99.9"] if has_latency else []
        columns += ["user time", "kernel time", "load busy"]
        columns += ["bytes a connection"] if has_memory else []
        lines = [f"## {self.measured['title']}", "", f"![]({self.measured['name']}.svg)", ""]
        lines += ["| " + " | ".join(columns) + " |", "| --- |" + " --: |" * (len(columns) - 1)]
        lines += ["| " + " | ".join(self._cells(label, has_latency, has_memory)) + " |" for label in self.labels]
        every = [each for rounds in self.rounds.values() for each in rounds]
        disturbed = sum(each["disturbed"] for each in every)
        lines += ["", f"Ratios to {self.baseline}; {disturbed} of {len(every)} rounds were disturbed and left out."]
        lines += [f"Not run: {label}: {reason}." for label, reason in self.measured["absent"].items()]
        return "\n".join(lines) + "\n"

    def _cells(self, label: str, has_latency: bool, has_memory: bool) -> list[str]:  # noqa: FBT001 - two columns
        low, middle, high = self.ratio(label, _rate)
        name = f"**{label}**" if label.startswith("unio") else label
        cells = [name, _text(middle), f"{_text(low)} to {_text(high)}"]
        if has_latency:
            cells += [_text(self.ratio(label, _figure(key))[1]) for key in ("p50_ns", "p99_ns", "p999_ns")]
        cells += [_text(self.total(label, _figure(key))) for key in ("user_seconds", "system_seconds")]
        cells.append(f"{median(each['load_busy'] for each in self.rounds[label]):.0%}")
        if has_memory:
            memory = self.memory[label]
            cells.append("" if memory is None else f"{memory:,.0f}")
        return cells

    def chart(self, path: Path) -> None:
        """Draw the rates as bars, with the quartiles."""
        ratios = [self.ratio(label, _rate) for label in self.labels]
        middles = [middle for _, middle, _ in ratios]
        errors = [[middle - low for low, middle, _ in ratios], [high - middle for _, middle, high in ratios]]
        colours = ["#c8553d" if label.startswith("unio") else "#8a9ba8" for label in self.labels]
        figure, axes = plt.subplots(figsize=(8, 0.7 + 0.3 * len(self.labels)))
        axes.barh(self.labels, middles, xerr=errors, color=colours, error_kw={"lw": 1})
        axes.axvline(1, color="black", lw=0.8)
        axes.invert_yaxis()
        axes.set_xlabel(f"rate, as a ratio to {self.baseline}")
        axes.set_title(self.measured["title"])
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _text(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio else "?"  # every round was disturbed, or too short to take the time of


def _rate(one: dict[str, Any]) -> float:
    return float(one["rate"])


def _figure(key: str) -> Any:
    return lambda one: float(one[key])


def write(results: dict[str, Any], folder: Path) -> Path:
    """Write the page and its charts into *folder*; return the page's path."""
    tables = [Table(measured) for measured in results["groups"] if measured["entries"]]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    head = (
        "# Results\n\n"
        f"{results['rounds']} rounds of {results['seconds']} s for each entry, in turns; medians of the ratios within"
        f" one pass. Differences under {TIE:.0%} are ties. Rates are better when larger, all else when smaller. Times"
        " are processor time of the server for each exchange; a load busy near 100 % limits what it measures.\n\n"
        f"{versions}.\n\n"
    )
    for table in tables:
        table.chart(folder / f"{table.measured['name']}.svg")
    page = folder / "results.md"
    page.write_text(head + "\n".join(table.markdown() for table in tables))
    return page
