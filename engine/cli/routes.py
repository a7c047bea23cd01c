"""Which way answers took: counted over many calls, and kept so that the next call takes it again."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.cli import configs

if TYPE_CHECKING:
    from pathlib import Path

    from engine.cli.doors import Pairs, Reply

ROUTE = "x-seldon-route"


def routes(reply: Reply) -> list[str]:
    """The routes that an answer says it took."""
    return [value for name, value in (*reply.headers, *reply.trailers) if name.lower() == ROUTE]


@dataclass(slots=True)
class Counts:
    """How many calls were answered and how many failed, by each of those that their routes name."""

    success: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    failed: int = 0

    def count(self, reply: Reply) -> None:
        """Count one call."""
        found = routes(reply) or [""]
        self.failed += bool(reply.code)
        for route in found:
            if reply.code:
                self.errors[route][reply.code] += 1
            else:
                self.success[route] += 1

    def lines(self) -> list[str]:
        """As Go prints maps: keys in order."""
        lines = [f"Success: {_map(self.success)}"]
        if self.errors:
            lines.append(f"Errors: {_map({route: _map(codes) for route, codes in self.errors.items()})}")
        return lines


class Session:
    """The session file: the routes of the last answer, resent so that the next call takes the same."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def headers(self) -> Pairs:
        """A header for each route; none before the first answer."""
        if not self._path.is_file():
            return []
        return [(ROUTE, route) for route in self._path.read_text(encoding="utf-8").strip().split(",") if route]

    def keep(self, reply: Reply) -> None:
        """Write the routes of an answer, when it names any."""
        if found := routes(reply):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(",".join(found), encoding="utf-8")


def session() -> Session:
    """The user's, where the reference keeps it: beside the configs."""
    return Session(configs.folder() / "session")


def _map(counts: Any) -> str:
    return f"map[{' '.join(f'{key}:{counts[key]}' for key in sorted(counts))}]"
