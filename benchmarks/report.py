"""Makes the tables and the charts out of what was measured.

``python benchmarks/report.py FOLDER`` does it anew from the ``results.json`` in that folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import charts
import tables
import targets

CHARTS = {
    "rates": "Rates of the contestants in the rows of echo",
    "latency": "Percentiles of the time of an exchange",
    "processor-time": "Processor time of an exchange, in the program and in the kernel",
    "memory": "Memory of an idle connection",
    "posts": "Rates of packets from one thread to another",
    "files": "Rates of reads from a file",
    "sendfile": "Rates of a file sent",
}


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pages and the charts into *folder*; return the pages."""
    rows = {each["name"]: tables.RowFigures(each) for each in results["rows"] if each["entries"]}
    drawn = charts.draw(rows, folder)
    summary = [_how(results), "## Targets\n", targets.of_targets(rows), targets.of_best_peers(rows), "## Rates\n"]
    summary += [tables.of_contestants(list(rows.values()), reference) for reference in tables.REFERENCES]
    if "idle" in rows:
        summary += ["## Memory\n", tables.of_memory(rows["idle"])]
    summary += ["## Charts\n", *(f"![{CHARTS[name]}]({name}.svg)\n" for name in drawn)]
    pages = {"summary.md": "\n".join(summary), "rows.md": "\n".join(tables.of_row(row) for row in rows.values())}
    for name, text in pages.items():
        (folder / name).write_text(text)
    return [folder / name for name in pages]


def _how(results: dict[str, Any]) -> str:
    versions = "; ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{results['rounds']} rounds of {results['seconds']} s for each entry, in turns. Figures are ratios within one"
        f" pass, and their medians. Differences under {tables.TIE:.0%} are ties. Rates are better when larger, all else"
        f" when smaller.\n\nMeasured with {versions}.\n"
    )


if __name__ == "__main__":
    chosen = Path(sys.argv[1])
    write(json.loads((chosen / "results.json").read_text()), chosen)
