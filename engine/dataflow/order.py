"""The order in which steps can run: each after its sources, and around a cycle from where it can begin.

Steps are numbers here, in the order of the file. Every walk is a loop and takes time in proportion to the references,
since a pipeline may have ten thousand steps.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Need(NamedTuple):
    """Sources that a step waits for: every one of them, or at least one."""

    every: bool
    sources: frozenset[int]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where the steps stand.

    order   those that can run, in their order
    cycles  the number of the cycle of each step, from 1 on in the order of the plan; 0: none
    stuck   those that can never run, in the order of the file
    """

    order: list[int]
    cycles: list[int]
    stuck: list[int]


def arrange(needs: Sequence[Sequence[Need]]) -> Arrangement:
    """The order of steps by what each needs.

    Inside a cycle a step comes next when all its sources have come; when there is none such, the first of the file
    that can run with those that have: the rest of its sources gives to the round after.
    """
    sources = [frozenset().union(*(need.sources for need in groups)) for groups in needs]
    placing = _Placing(needs)
    cycles, number = [0] * len(needs), 0
    for members in _in_order(_components(sources), sources):
        if len(members) > 1 or members[0] in sources[members[0]]:
            number += 1
            for step in members:
                cycles[step] = number
        placing.place(members)
    return Arrangement(placing.order, cycles, [step for step in range(len(needs)) if not placing.placed[step]])


class _Placing:
    """Which steps have come, and what each of the others still lacks.

    left     for each step and need, how many of its sources have not come
    lacking  for each step, how many of its needs are not met
    """

    def __init__(self, needs: Sequence[Sequence[Need]]) -> None:
        self.order: list[int] = []
        self.placed = [False] * len(needs)
        self._needs = needs
        self._left = [[len(need.sources) for need in groups] for groups in needs]
        self._lacking = [len(groups) for groups in needs]
        self._readers: list[list[tuple[int, int]]] = [[] for _ in needs]
        for step, groups in enumerate(needs):
            for index, need in enumerate(groups):
                for source in need.sources:
                    self._readers[source].append((step, index))

    def place(self, members: Sequence[int]) -> None:
        """Put the steps of one component, whose sources outside it had their turn, behind those that have come."""
        # Those without a source out come first, then by the file; a step may stand in the heap once for each.
        ready = [(any(self._left[step]), step) for step in members if not self._lacking[step]]
        heapq.heapify(ready)
        here = frozenset(members)
        while ready:
            _, step = heapq.heappop(ready)
            if self.placed[step]:
                continue
            self.placed[step] = True
            self.order.append(step)
            for reader in self._tell(step):
                if reader in here and not self.placed[reader] and not self._lacking[reader]:
                    heapq.heappush(ready, (any(self._left[reader]), reader))

    def _tell(self, step: int) -> Iterator[int]:
        for reader, index in self._readers[step]:
            left, need = self._left[reader], self._needs[reader][index]
            left[index] -= 1
            if left[index] == (0 if need.every else len(need.sources) - 1):
                self._lacking[reader] -= 1
            yield reader


def _in_order(components: Sequence[list[int]], sources: Sequence[frozenset[int]]) -> Iterator[list[int]]:
    """The components so that each stands after those it reads; what waits for nothing keeps the order of the file."""
    home = {step: index for index, members in enumerate(components) for step in members}
    readers: list[list[int]] = [[] for _ in components]
    missing = []
    for index, members in enumerate(components):
        read = {home[source] for step in members for source in sources[step]} - {index}
        missing.append(len(read))
        for source in read:
            readers[source].append(index)
    order = [index for index, count in enumerate(missing) if not count]
    for index in order:  # it grows while it is read
        yield components[index]
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                order.append(reader)


def _components(sources: Sequence[frozenset[int]]) -> list[list[int]]:
    """The steps in groups, by the file: two are together when each waits, over whatever others, for the other."""
    # Gabow's algorithm: `path` has the steps of no component yet, `heads` the first of each that may be one.
    number, found = [0] * len(sources), [False] * len(sources)
    path: list[int] = []
    heads: list[int] = []
    components: list[list[int]] = []
    for root in range(len(sources)):
        walk = [] if number[root] else [(root, iter(sources[root]))]
        while walk:
            step, rest = walk[-1]
            if not number[step]:
                number[step] = len(path) + 1
                path.append(step)
                heads.append(step)
            source = next((source for source in rest if not found[source]), None)
            if source is None:
                walk.pop()
                if heads[-1] == step:
                    heads.pop()
                    components.append(_cut(path, step, found))
            elif number[source]:
                while number[heads[-1]] > number[source]:
                    heads.pop()
            else:
                walk.append((source, iter(sources[source])))
    return sorted(components)


def _cut(path: list[int], head: int, found: list[bool]) -> list[int]:
    """Take a component, the steps from its head on, off the end of the path."""
    members = []
    while not found[head]:
        members.append(path.pop())
        found[members[-1]] = True
    return sorted(members)
