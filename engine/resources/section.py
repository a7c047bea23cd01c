"""One mapping of a resource, read field by field, with a finding for whatever is not as it should be."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from engine.resources.problems import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from enum import StrEnum

    from engine.resources.source import Document, Findings, KeyPath, Plain

    Choice = TypeVar("Choice", bound=StrEnum)
    Wanted = TypeVar("Wanted", str, bool, int, list["Plain"], dict[str, "Plain"])

_KINDS: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping at a path of a document; `title` is how messages call it, such as `pipeline "p" step "s"`.

    Every reader gives a value of the promised type: where the field is absent or `null` an empty one, and
    where it is wrong the same together with a finding. So one pass finds all faults.
    """

    document: Document
    path: KeyPath
    data: Mapping[str, Plain]
    title: str
    findings: Findings

    def titled(self, title: str) -> Section:
        """The same section under another title, once its name is known."""
        return replace(self, title=title)

    def only(self, known: Collection[str]) -> None:
        """Refuse every key that is not known, with the nearest one that is."""
        for key in self.data:
            if key not in known:
                self.refuse_key(key, f"{self.title} has an unknown field {quoted(key)}", did_you_mean(key, known))

    def has(self, key: str) -> bool:
        """Whether the field is written and not null."""
        return self.data.get(key) is not None

    def text(self, key: str) -> str:
        """A text; empty when absent."""
        return self._value(key, str) or ""

    def required(self, key: str) -> str:
        """A text that must be there and must not be blank."""
        text = self.text(key)
        if not text.strip() and isinstance(self.data.get(key) or "", str):
            self.refuse(f"{self.title} needs {quoted(key)}", at=key)
        return text

    def flag(self, key: str) -> bool:
        """True or false; false when absent."""
        return self._value(key, bool) or False

    def number(self, key: str, least: int = 0, most: int = (1 << 31) - 1) -> int | None:
        """A whole number between two bounds, both included; None when absent."""
        value = self._value(key, int)
        if value is None or least <= value <= most:
            return value
        bounds = f"at least {least}" if value < least else f"at most {most}"
        self.refuse(f"{self.title}: {quoted(key)} must be {bounds}, not {value}", at=key)
        return None

    def choice(self, key: str, choices: type[Choice], default: Choice) -> Choice:
        """One of an enumeration's values; the default when absent."""
        text = self.text(key)
        values = [str(choice) for choice in choices]
        if text in values:
            return choices(text)
        if self.has(key) and isinstance(self.data[key], str):
            allowed = f"{', '.join(values[:-1])} or {values[-1]}"
            self.refuse(
                f"{self.title}: {quoted(key)} must be {allowed}, not {quoted(text)}",
                did_you_mean(text, values),
                at=key,
            )
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty when absent."""
        found = []
        for index, item in enumerate(self._value(key, list) or ()):
            if isinstance(item, str):
                found.append(item)
            else:
                self._mistyped((key, index), f"every entry of {quoted(key)}", str, item)
        return tuple(found)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A mapping from text to text, sorted, for its order means nothing; empty when absent."""
        found = []
        for name, value in (self._value(key, dict) or {}).items():
            if isinstance(value, str):
                found.append((name, value))
            else:
                self._mistyped((key, name), f"{quoted(name)} in {quoted(key)}", str, value)
        return tuple(sorted(found))

    def section(self, key: str) -> Section | None:
        """A mapping within this one, under this one's title; None when absent."""
        value = self._value(key, dict)
        return None if value is None else replace(self, path=(*self.path, key), data=value)

    def sections(self, key: str) -> tuple[Section, ...]:
        """A list of mappings, each under this one's title; empty when absent."""
        found = []
        for index, item in enumerate(self._value(key, list) or ()):
            if isinstance(item, dict):
                found.append(replace(self, path=(*self.path, key, index), data=item))
            else:
                self._mistyped((key, index), f"every entry of {quoted(key)}", dict, item)
        return tuple(found)

    def refuse(self, message: str, hint: str = "", *, at: str | KeyPath = ()) -> None:
        """Find fault with the value at a key of this section, or with the section when that is absent."""
        steps = at if isinstance(at, tuple) else (at,)
        if steps and steps[0] in self.data:
            self.findings.add(self.document.problem((*self.path, *steps), message, hint))
        else:
            self.findings.add(self.document.key_problem(self.path, message, hint))

    def refuse_key(self, key: str | KeyPath, message: str, hint: str = "") -> None:
        """Find fault with a key of this section, or of a mapping within it."""
        keys = key if isinstance(key, tuple) else (key,)
        self.findings.add(self.document.key_problem((*self.path, *keys), message, hint))

    def _value(self, key: str, wanted: type[Wanted]) -> Wanted | None:
        """The field's value; None when it is absent, null or, with a finding, of another type."""
        value = self.data.get(key)
        if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
            return value
        if value is not None:
            self._mistyped((key,), quoted(key), wanted, value)
        return None

    def _mistyped(self, at: tuple[str | int, ...], what: str, wanted: type, value: Plain) -> None:
        found = "null" if value is None else _KINDS[type(value)]
        is_scalar = isinstance(value, bool | int | float)
        if is_scalar:
            found = json.dumps(value)
        hint = f'write it in quotes: "{found}"' if wanted is str and is_scalar else ""
        self.refuse(f"{self.title}: {what} must be {_KINDS[wanted]}, not {found}", hint, at=at)
