"""Figures from samples: median and 95th percentile, and the table that shows them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """
    One line of the table.

    Attributes:
        name: what was measured.
        unit: of all values.
        median: of ours.
        p95: of ours.
        raw: median of the raw thing in the same run; None where there is none.
        raw_p95: its 95th percentile.
        target: what the ratio, difference or value must keep, in words.
        score: the ratio, difference or value that the target speaks of.
        met: whether it does.
        samples: how many of ours.
    """

    name: str
    unit: str
    median: float
    p95: float
    raw: float | None
    raw_p95: float | None
    target: str
    score: float
    met: bool
    samples: int


def median(samples: Sequence[float]) -> float:
    """Return the middle of the samples."""
    return statistics.median(samples)


def p95(samples: Sequence[float]) -> float:
    """Return the value that 95 of 100 samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table(title="Atoll beside the raw thing, same machine, same run")
    for column in ("what", "median", "p95", "raw median", "raw p95", "unit", "score", "target", ""):
        table.add_column(column, justify="left" if column in {"what", "unit", "target", ""} else "right")
    for figure in figures:
        table.add_row(
            figure.name, number(figure.median), number(figure.p95), number(figure.raw),
            number(figure.raw_p95), figure.unit, number(figure.score), figure.target,
            "met" if figure.met else "missed",
        )  # fmt: skip
    Console(width=160).print(table)


def number(value: float | None) -> str:
    """Show three digits that matter."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(figures: Sequence[Figure], path: Path) -> None:
    """Write the figures as JSON."""
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
