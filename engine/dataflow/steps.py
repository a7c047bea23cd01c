"""What a node takes from its sources: tensors selected, renamed and put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.protocol.columns import Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataflow.plan import Edge


def select(columns: Columns, edge: Edge) -> Columns | None:
    """The tensors that an edge wants of its source, renamed, in the order of the references.

    None when one of them is absent: all the rows lack it then, since columns agree in their tensors.
    """
    if not edge.tensors and not edge.renames:
        return columns
    present = {spec.name: index for index, spec in enumerate(columns.specs)}
    if any(name not in present for name in edge.tensors):
        return None
    picked = [present[name] for name in edge.tensors] if edge.tensors else list(range(len(columns.specs)))
    renames = dict(edge.renames)
    specs = (columns.specs[index] for index in picked)
    return Columns(
        columns.ids,
        tuple(spec._replace(name=renames.get(spec.name, spec.name)) for spec in specs),
        tuple(columns.cells[index] for index in picked),
        columns.parameters,
    )


def absent(columns: Columns, edge: Edge) -> tuple[str, ...]:
    """The wanted tensors that the source did not give."""
    return tuple(name for name in edge.tensors if name not in columns.names)


def merge(parts: Sequence[Columns]) -> Columns:
    """The tensors of several sources side by side, row by row: ids and parameters of the first, equal names stay."""
    first = parts[0]
    if len(parts) == 1:
        return first
    specs = tuple(spec for part in parts for spec in part.specs)
    cells = tuple(cells for part in parts for cells in part.cells)
    return Columns(first.ids, specs, cells, first.parameters)
