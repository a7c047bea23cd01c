"""Tables and bars as data: both print-outs are made of them, so that they cannot differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Table(NamedTuple):
    """A table as text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Bar(NamedTuple):
    """What is wanted of a measure: at least `wanted`, or at most where `most` is set."""

    measure: str
    found: float
    wanted: float
    most: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.found <= self.wanted if self.most else self.found >= self.wanted

    def row(self) -> tuple[str, ...]:
        """As a row of the table of bars."""
        asked = f"{'at most' if self.most else 'at least'} {self.wanted:g}{self.unit}"
        return (self.measure, f"{self.found:.2f}{self.unit}", asked, "yes" if self.met else "no")


def bars_table(bars: Sequence[Bar]) -> Table:
    return Table(
        "Bars", ("ratios of medians within this run", "measured", "wanted", "met"), [bar.row() for bar in bars]
    )


def spread(values: Sequence[float]) -> str:
    """The least and the most, where there are several."""
    return f"{min(values):,.0f}-{max(values):,.0f}" if len(values) > 1 else ""
