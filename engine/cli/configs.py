"""`seldon config`: files that name brokers and gateways, and which of them holds."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import files, printing
from engine.errors import InvalidSettings, UnknownResource

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = {"config": "config", "path": "path", "active": "active"}


@dataclass(frozen=True, slots=True)
class Configs:
    """Which configs there are, by key, and the key of the active one; empty: none is."""

    paths: Mapping[str, str]
    active: str = ""

    def having(self, key: str) -> Configs:
        """These, if they have the key. Raises UnknownResource."""
        if key not in self.paths:
            raise UnknownResource(f"Config key {key} not found")
        return self


def folder() -> Path:
    """Where the reference's command line keeps what is the user's."""
    return Path.home() / ".config" / "seldon" / "cli"


def active() -> files.Config:
    """The active config; one that says nothing when none is. Raises InvalidSettings when it cannot be read."""
    configs = read()
    if not configs.active:
        return files.Config("", {}, {})
    try:
        return files.config(configs.paths[configs.active])
    except InvalidSettings as error:
        raise InvalidSettings(f"{error}; or do without it by `seldon config deactivate {configs.active}`") from None


def read() -> Configs:
    """The configs of the user. Raises InvalidSettings when the file that lists them is none of ours."""
    path = _path()
    try:
        document = json.loads(path.read_bytes())
        paths, key = dict(document["configs"]), document.get("active") or ""
    except FileNotFoundError:
        return Configs({})
    except OSError as error:
        raise InvalidSettings(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        paths, key = {"": None}, ""
    if not all(isinstance(value, str) for value in (*paths.values(), key)) or (key and key not in paths):
        raise InvalidSettings(f"{path}: it is no list of configs; repair it, or delete it")
    return Configs(paths, key)


def write(configs: Configs) -> None:
    """Keep configs; a command that is interrupted meanwhile leaves the file as it was. Raises InvalidSettings."""
    path, text = _path(), json.dumps({"configs": dict(configs.paths), "active": configs.active}, indent=4)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, made = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
            Path(made).replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(made).unlink()
    except PermissionError as error:
        raise InvalidSettings(f"{path}: {error.strerror}") from None


def _path() -> Path:
    return folder() / "configs.json"


@click.group()
def config() -> None:
    """Choose between files that name brokers and gateways.

    \b
    Example:
      seldon config add production ~/production.json
      seldon config activate production
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


@config.command()
@click.argument("key")
@click.argument("path", type=click.Path())
def add(key: str, path: str) -> None:
    """Add a config, or name another file for it.

    PATH is JSON: {"dataplane": {"inferHost"}, "kafka": {"bootstrap", "namespace", "topicPrefix"}}.

    \b
    Example:
      seldon config add production ~/production.json
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    files.config(path)
    configs = read()
    write(replace(configs, paths={**configs.paths, key: str(Path(path).absolute())}))


@config.command()
@click.argument("key")
def activate(key: str) -> None:
    """Have a config hold from now on.

    \b
    Example:
      seldon config activate production
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    configs = read().having(key)
    files.config(configs.paths[key])
    write(replace(configs, active=key))


@config.command()
@click.argument("key")
def deactivate(key: str) -> None:
    """Have a config hold no more.

    \b
    Example:
      seldon config deactivate production
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    configs = read().having(key)
    if configs.active == key:
        write(replace(configs, active=""))


@config.command()
@click.argument("key")
def remove(key: str) -> None:
    """Forget a config; its file stays.

    \b
    Example:
      seldon config remove production
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    configs = read().having(key)
    kept = {other: path for other, path in configs.paths.items() if other != key}
    write(Configs(kept, "" if configs.active == key else configs.active))


@config.command("list")
@click.argument("key", required=False)
@printing.form(printing.TABLE, "a table, with KEY indented JSON")
def list_(key: str | None, form: str | None) -> None:
    """List the configs; with KEY, show what that one says.

    \b
    Example:
      seldon config list
      seldon config list production
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    configs = read() if key is None else read().having(key)
    if key is not None and form != printing.TABLE:
        document = dict(files.config(configs.paths[key]).document)
        click.echo(printing.document(document, form) if form else json.dumps(document, indent=4))
        return
    found = [
        {"config": each, "path": path, "active": each == configs.active}
        for each, path in sorted(configs.paths.items())
        if key in (None, each)
    ]
    if form in (None, printing.TABLE):
        found = [{**row, "active": "*" if row["active"] else ""} for row in found]
    click.echo(printing.rows(found, _COLUMNS, form or printing.TABLE))
