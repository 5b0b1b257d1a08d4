"""What the benchmark's report says of figures that are known."""

from __future__ import annotations

from typing import Any

import pytest
import tables
import targets


def rounds(*rates: float, disturbed: tuple[int, ...] = (), user: float = 1.0) -> list[dict[str, Any]]:
    return [
        {
            "rate": rate,
            "exchanges": 1000,
            "user_seconds": user,
            "system_seconds": 2.0,
            "load_busy": 0.5,
            "p50_ns": 100,
            "p99_ns": 200,
            "p999_ns": 400,
            "disturbed": number in disturbed,
            "repeated": 1,
        }
        for number, rate in enumerate(rates)
    ]


def entry(name: str, kind: str, measured: list[dict[str, Any]], idle: int = 0, memory: float | None = None) -> Any:
    label = f"{name}, {idle:,} idle" if memory is not None else name
    return {
        "label": label,
        "contestant": name,
        "kind": kind,
        "idle": idle,
        "bytes_per_connection": memory,
        "rounds": measured,
    }


def row(*entries: Any, name: str = "echo-1k-64", baseline: str = "uvloop Protocol") -> tables.RowFigures:
    absent = {"unio other": "it is not there"}
    return tables.RowFigures(
        {"name": name, "title": "A row", "baseline": baseline, "absent": absent, "entries": list(entries)}
    )


def echo_row() -> tables.RowFigures:
    return row(
        entry("unio epoll", "unio", rounds(110, 240, 30, user=0.5)),
        entry("unio epoll, tutorial", "unio", rounds(88, 192, 30)),
        entry("uvloop Protocol", "peer", rounds(100, 200, 300, disturbed=(2,))),
        entry("blazio Protocol", "peer", rounds(120, 240, 300, disturbed=(2,))),
        entry("C epoll", "limit", rounds(220, 480, 300, disturbed=(2,))),
    )


def test_a_ratio_is_the_median_within_passes_that_were_not_disturbed():
    found = echo_row().ratio("unio epoll", "uvloop Protocol")
    assert found == pytest.approx((1.125, 1.15, 1.175))


def test_where_all_passes_were_disturbed_there_is_no_ratio():
    figures = row(
        entry("unio epoll", "unio", rounds(1, 2, disturbed=(0,))),
        entry("uvloop Protocol", "peer", rounds(1, 2, disturbed=(1,))),
    )
    assert figures.ratio("unio epoll", "uvloop Protocol") is None
    assert "| **unio epoll** |  |" in tables.of_row(figures)
    assert "Of 4 rounds, 4 were repeated for a disturbance and 2 were left out." in tables.of_row(figures)


def test_the_fastest_is_first_and_the_absent_are_named():
    lines = tables.of_row(echo_row()).splitlines()
    assert [line.split(" | ")[0].strip("|* ") for line in lines if line.startswith("| ")][2:] == [
        "C epoll",
        "blazio Protocol",
        "unio epoll",
        "uvloop Protocol",
        "unio epoll, tutorial",
    ]
    assert "Not run: unio other: it is not there." in lines


def test_losses_are_shown_like_wins():
    best = targets.of_best_peers({"echo-1k-64": echo_row()})
    assert "| A row | blazio Protocol |  | 0.96 |" in best


def outcomes(*rows: tables.RowFigures) -> dict[str, str]:
    found = targets.of_targets({each.name: each for each in rows})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()[2:]]
    assert all(other == "not measured" for _, other, _ in cells)
    return {title: outcome for title, _, outcome in cells}


def test_targets_are_met_or_missed_by_a_figure():
    found = outcomes(echo_row())
    assert found["echo 1 KiB x 64, x uvloop Protocol"] == "1.15 (≥ 1.15): met"
    assert found["the same, x C epoll"] == "0.50 (≥ 0.92): missed by 0.42"
    assert found["user time for a message, 1 KiB x 64, x uvloop Protocol"] == "0.50 (≤ 1.00): met"
    assert found["echo 1 KiB x 64 by the tutorial, x the fastest form"] == "0.80 (≥ 0.90): missed by 0.10"
    assert found["the row that is worst against its best peer"] == "0.96 (≥ 0.92): met"
    assert found["echo 1 KiB x 512, x uvloop Protocol"] == "not measured"


def test_targets_of_idle_connections():
    figures = row(
        entry("unio epoll", "unio", rounds(100, 100), 0, 9000.0),
        entry("unio epoll", "unio", rounds(90, 90), 5000, 1400.0),
        entry("uvloop Protocol", "peer", rounds(100, 100), 5000, 1274.0),
        name="idle",
        baseline="unio epoll, 0 idle",
    )
    found = outcomes(figures)
    assert found["rate with 5,000 idle connections, x that without"] == "0.90 (≥ 0.95): missed by 0.05"
    assert found["bytes of an idle connection, buffer excluded"] == "1,400 (≤ 1,300): missed by 100"
    assert tables.of_memory(figures).splitlines()[2:] == [
        "| uvloop Protocol | 1,274 |  |",
        "| **unio epoll** | 1,400 | 0.90 |",
    ]
