"""What one node has of one request while it waits for the rest: its data and its triggers, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from engine.resources import Join

if TYPE_CHECKING:
    from engine.protocol.columns import Columns

# One source's tensors for a request: a row of columns that it shares with others.
Part: TypeAlias = "tuple[Columns, int]"


@dataclass(slots=True)
class Group:
    """A node's data, or its triggers: what each source gave, or None where it gave nothing or is out.

    What comes after the verdict is ignored, so that a node runs once and with what it was decided on.

    out      how many sources are not decided yet
    verdict  True: it has what it needs; False: it never will; None: it waits on
    leads    in a later round of a cycle the places of which an outer join needs one
    lost     how many of the leads give nothing
    """

    parts: list[Part | None]
    out: int
    verdict: bool | None = None
    leads: frozenset[int] | None = None
    lost: int = 0


@dataclass(slots=True)
class Waiting:
    """What a node waits for of one request: True or False of each group decides it."""

    data: Group
    triggers: Group | None = None
    fired: bool = field(default=False, kw_only=True)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The data and, after them, the triggers."""
        return (self.data,) if self.triggers is None else (self.data, self.triggers)

    @property
    def verdict(self) -> bool | None:
        """True: the node runs; False: it never will; None: it waits on."""
        verdicts = (self.data.verdict, True if self.triggers is None else self.triggers.verdict)
        return False if False in verdicts else None if None in verdicts else True


def verdict(join: Join, group: Group) -> bool | None:
    """What a group comes to by what its sources gave."""
    given = sum(part is not None for part in group.parts)
    if join is Join.INNER:
        if given + group.out < len(group.parts):
            return False
        return None if group.out else True
    if group.leads is not None:
        if group.lost == len(group.leads):
            return False
        return None if group.out else True
    if given and (join is Join.ANY or not group.out):
        return True
    return None if group.out else False


def enough(group: Group) -> bool:
    """Whether an outer join whose window has passed may go on with what there is."""
    return any(group.parts) if group.leads is None else any(group.parts[place] for place in group.leads)
