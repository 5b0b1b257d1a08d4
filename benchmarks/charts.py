"""The charts of a run, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "unio"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and can be searched
mpl.rcParams["font.size"] = 8
import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws
from matplotlib.patches import Patch  # noqa: E402
from tables import REFERENCES, RowFigures, Spread, figure, per_exchange, processor_time  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

OURS, OTHERS, LIMITS = "#c8553d", "#8a9ba8", "#d9c9a3"
COLOURS = {"unio": OURS, "peer": OTHERS, "limit": LIMITS}
LEGEND = {"unio": "unio", "peer": "a peer", "limit": "a limit: a program with nothing around it"}
NOTHING = Spread(0.0, 0.0, 0.0)


def save(figure_: Any, path: Path) -> None:
    figure_.savefig(path, metadata={"Date": None})
    plt.close(figure_)


def of_rates(rows: list[RowFigures], path: Path) -> None:
    """Bars of the rates, with quartiles: a panel for each row, the contestants in the same order in all."""
    names = {entry["contestant"]: entry["kind"] for row in rows for entry in row.entries.values()}
    order = sorted(names, key=lambda name: -sum(_rate(row, name).middle for row in rows))
    across = min(4, len(rows))
    down = -(-len(rows) // across)
    size = (max(7.0, 2.2 + 2.2 * across), down * (0.9 + 0.19 * len(order)))
    picture, axes = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for row, panel in zip(rows, axes.flat, strict=False):
        spreads = [_rate(row, name) for name in order]
        middles = [each.middle for each in spreads]
        errors = [[each.middle - each.low for each in spreads], [each.high - each.middle for each in spreads]]
        panel.barh(order, middles, xerr=errors, color=[COLOURS[names[name]] for name in order], error_kw={"lw": 0.8})
        panel.axvline(1, color="black", lw=0.8)
        panel.set_title(row.title.replace(" connections", ""), fontsize=8)
    for panel in axes.flat[len(rows) :]:
        panel.set_visible(False)
    axes.flat[0].invert_yaxis()
    picture.legend(
        handles=[Patch(color=colour, label=LEGEND[kind]) for kind, colour in COLOURS.items()],
        loc="outside upper right",
        ncols=3,
    )
    picture.supxlabel(f"rate, x {rows[0].baseline}")
    save(picture, path)


def _rate(row: RowFigures, contestant: str) -> Spread:
    label = row.label(contestant)
    return (row.ratio(label, row.baseline) if label else None) or NOTHING


def of_latency(row: RowFigures, path: Path) -> None:
    """Percentiles of the time that an exchange takes."""
    labels = row.sorted_labels()
    picture, panel = plt.subplots(figsize=(7, 0.9 + 0.2 * len(labels)), layout="constrained")
    for key, mark, colour in (("p50", "o", OURS), ("p99", "s", OTHERS), ("p999", "D", "#333333")):
        ratios = [row.ratio(label, row.baseline, figure(f"{key}_ns")) for label in labels]
        found = [(each.middle, label) for each, label in zip(ratios, labels, strict=True) if each]
        times, names = [middle for middle, _ in found], [label for _, label in found]
        part = {"p50": "half", "p99": "99 %", "p999": "99.9 %"}[key]
        panel.plot(times, names, mark, color=colour, label=f"{part} take at most", ms=4)
    panel.set_xscale("log", base=2)
    panel.set_xlim(0.25, 16)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.axvline(1, color="black", lw=0.8)
    panel.invert_yaxis()
    panel.grid(axis="y", lw=0.3)
    panel.set_xlabel(f"time of an exchange, x that of {row.baseline} at the same percentile")
    panel.set_title(row.title)
    panel.legend()
    save(picture, path)


def of_processor_time(row: RowFigures, path: Path) -> None:
    """Processor time of the server for an exchange, in the program and in the kernel."""
    labels = sorted(row.entries, key=lambda label: row.mean(label, processor_time))
    base = row.mean(row.baseline, processor_time) or 1.0
    picture, panel = plt.subplots(figsize=(7, 0.9 + 0.2 * len(labels)), layout="constrained")
    left = [0.0] * len(labels)
    for name, colour in (("system", OTHERS), ("user", OURS)):
        width = [row.mean(label, per_exchange(f"{name}_seconds")) / base for label in labels]
        where = "the kernel" if name == "system" else "the program"
        panel.barh(labels, width, left=left, color=colour, label=f"in {where}")
        left = [a + b for a, b in zip(left, width, strict=True)]
    panel.axvline(1, color="black", lw=0.8)
    panel.invert_yaxis()
    panel.set_xlabel(f"processor time for an exchange, x all that {row.baseline} takes")
    panel.set_title(row.title)
    panel.legend()
    save(picture, path)


def of_memory(row: RowFigures, path: Path) -> None:
    """What an idle connection takes."""
    entries = [entry for entry in row.entries.values() if entry["idle"]]
    entries.sort(key=lambda entry: entry["bytes_per_connection"])
    picture, panel = plt.subplots(figsize=(7, 0.9 + 0.2 * len(entries)), layout="constrained")
    panel.barh(
        [entry["contestant"] for entry in entries],
        [entry["bytes_per_connection"] for entry in entries],
        color=[COLOURS[entry["kind"]] for entry in entries],
    )
    panel.invert_yaxis()
    panel.set_xlabel("bytes of the process for an idle connection, the buffer of its receive excluded")
    save(picture, path)


def draw(rows: dict[str, RowFigures], folder: Path) -> list[str]:
    """Draw all that this run has figures for; return the names of the charts."""
    drawn = []
    echoes = [row for row in rows.values() if row.name != "idle" and row.baseline == REFERENCES[0]]
    if echoes:
        of_rates(echoes, folder / "rates.svg")
        of_latency(echoes[0], folder / "latency.svg")
        of_processor_time(echoes[0], folder / "processor-time.svg")
        drawn += ["rates", "latency", "processor-time"]
    if "idle" in rows:
        of_memory(rows["idle"], folder / "memory.svg")
        drawn.append("memory")
    for name in ("posts", "files", "sendfile"):
        if name in rows:
            of_rates([rows[name]], folder / f"{name}.svg")
            drawn.append(name)
    return drawn
