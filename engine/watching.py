"""Follows the resource files that were named: what is edited, added or removed is taken up without a restart.

Files are looked at again and again: network file systems tell nobody what changes on them, and Kubernetes swaps a whole
ConfigMap by one link. What is being written is left until it has been still for a while. A file with a fault is told
of, and what it held before goes on; so does what others still need of a file that is gone.

Only what changes in the files is loaded, so that what others load in the meantime stays until the file of that resource
is edited; and only what these files loaded is unloaded when it is gone from them.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from engine import app
from engine.errors import EngineError, InvalidResources, RuntimeUnavailable
from engine.kafka.view import Loaded, View, key_of
from engine.resources import Model, Place, Problem, files, load
from engine.runtimes import sources
from engine.runtimes.stamps import size, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.kafka.registry import Registry
    from engine.kafka.supervisor import Supervisor
    from engine.kafka.view import Key
    from engine.resources import Resource, Resources
    from engine.runtimes.stamps import Stamp

# How often files are looked at; where looking takes long, no oftener than it may take this share of the time.
LOOK_SECONDS = 0.5
LOOK_SHARE = 0.05

# What looks like a fault or a removal, and a model's own files, must have been still for so long: a program may write
# in pieces, and an editor removes a file before it puts the new one there.
STILL_SECONDS = 2.0

Stamps: TypeAlias = "Mapping[str, Stamp]"


class Rest:
    """How long something has been as it is now, and whether that is how it was taken up last."""

    def __init__(self, taken: object) -> None:
        self._taken = self._seen = taken
        self._since = 0.0

    def look(self, seen: object, now: float) -> float:
        """For how many seconds it has been like this; 0.0 when it has changed just now, or is as it was taken up."""
        if seen != self._seen:
            self._seen, self._since = seen, now
        return 0.0 if seen == self._taken else now - self._since

    def take(self) -> None:
        """It is taken up as it was seen last."""
        self._taken = self._seen


@dataclass(frozen=True, slots=True)
class Change:
    """What files call for.

    resources   all that they hold now; where a file has a fault, what it held before
    loaded      those of them that are new or changed
    removed     those that are gone, and that nobody needs
    problems    what is wrong
    """

    resources: tuple[Resource, ...]
    loaded: tuple[Resource, ...] = ()
    removed: tuple[Resource, ...] = ()
    problems: tuple[Problem, ...] = ()


def compare(current: Iterable[Resource], found: Resources, problems: Sequence[Problem], view: View) -> Change:
    """What these files call for, where they held `current` before and nobody but them and `view` is to be heeded."""
    old = {key_of(each): each for each in current}
    told = [*problems, *app.check(found)]
    faulty = {problem.place.file for problem in told}
    sound: tuple[Resource, ...] = (*found.models, *found.pipelines, *found.experiments)
    new = {key_of(each): each for each in sound}
    # What stood against them before, when others were unloaded say, is no reason against an edit.
    known = _references(old, old, view)
    while True:
        kept = {key: each for key, each in old.items() if _is_below(each.document.file, faulty)}
        wanted = {key: each for key, each in new.items() if each.document.file not in faulty} | kept
        faults = [each for each in _references(old, wanted, view) if each not in known]
        told += [each for each in faults if each not in told]
        more = {problem.place.file for problem in faults} - faulty
        if not more:
            break
        faulty |= more
    if faults:
        # Those at fault are as they were before: they need what is gone, or can do nothing with what is new.
        wanted = old | wanted
        if any(each not in known for each in _references(old, wanted, view)):
            wanted = old
    loaded = [each for key, each in wanted.items() if key not in old or _differs(old[key], each)]
    removed = [each for key, each in old.items() if key not in wanted]
    return Change(tuple(wanted.values()), tuple(loaded), tuple(removed), tuple(told))


def _is_below(file: str, places: set[str]) -> bool:
    return file in places or any(str(parent) in places for parent in Path(file).parents)


def _differs(old: Resource, new: Resource) -> bool:
    return old != new or app.folder_of(old) != app.folder_of(new)


def _references(old: Mapping[Key, Resource], wanted: Mapping[Key, Resource], view: View) -> list[Problem]:
    """What these resources refer to and is not there, or would not be any more."""
    rest = _without(view, old.keys() - wanted.keys())
    edited = [each for key, each in wanted.items() if key not in old or _differs(old[key], each)]
    problems: list[Problem] = []
    try:
        app.check_references(named(wanted.values()), rest)
        # Once more beside the others, which it is told of as if they were there: it compares with those alone.
        app.check_references(named(edited), _with(rest, wanted.values()))
    except InvalidResources as error:
        problems += _problems(error)
    return problems


def _problems(error: InvalidResources) -> list[Problem]:
    return [each for each in error.problems if isinstance(each, Problem)]


def _without(view: View, gone: Iterable[Key]) -> View:
    left = set(gone)
    return View({key: loaded for key, loaded in view.resources.items() if key not in left})


def _with(view: View, resources: Iterable[Resource]) -> View:
    added = {key_of(each): Loaded(key_of(each), each, 0, app.folder_of(each)) for each in resources}
    return View(view.resources | added)


def named(resources: Iterable[Resource]) -> app.Named:
    """Resources with the folders of their files."""
    found = tuple(resources)
    return app.Named(found, {key_of(each): app.folder_of(each) for each in found})


@dataclass(frozen=True, slots=True)
class _Looked:
    """How files stand: those with resources, and those of each model; and how long looking took."""

    files: Stamps
    models: Mapping[Key, Stamps]
    seconds: float


class Watch:
    """The files and folders that a process was started with.

    Raises InvalidResources when they cannot be started with. Each process of it is told by `start`; what the files hold
    by then is in `named`.

    say   told in a line of all that is taken up, and of all that is not
    """

    def __init__(self, paths: Iterable[str], say: Callable[[str], None], *, alone: bool) -> None:
        self._paths, self._say = tuple(paths), say
        self._single = {path for path in self._paths if not Path(path).is_dir()}
        # Before it is read: what changes meanwhile is looked at again.
        self._files = Rest(_stamps(self._paths))
        self._current = app.read(self._paths, alone=alone).resources
        self._models: dict[Key, Rest] = {}
        self._told: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def named(self) -> app.Named:
        """What the files hold, as far as it was taken up."""
        return named(self._current)

    def start(self, registry: Registry, supervisor: Supervisor | None) -> None:
        """Follow the files, for a process that has loaded what they held."""
        self._models.clear()
        if self._paths:
            self._task = asyncio.create_task(self._follow(registry, supervisor))

    async def stop(self) -> None:
        """End; what has changed and was not taken up yet is so by the next that starts."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def ended(self) -> None:
        """Raise when it has failed."""
        await (asyncio.Event().wait() if self._task is None else asyncio.shield(self._task))

    async def _follow(self, registry: Registry, supervisor: Supervisor | None) -> None:
        pause = 0.0
        async with asyncio.TaskGroup() as loading:
            while True:
                await asyncio.sleep(pause)
                try:
                    looked = await asyncio.to_thread(self._look)
                    pause = max(LOOK_SECONDS, looked.seconds / LOOK_SHARE)
                    if supervisor is not None:
                        for name in self._changed_models(looked, registry):
                            loading.create_task(self._load_anew(name, supervisor))
                    await self._follow_files(looked, registry, supervisor)
                except OSError as error:
                    self._tell([f"the files cannot be looked at: {error}"])
                    pause = STILL_SECONDS

    def _look(self) -> _Looked:
        since = time.monotonic()
        found = _stamps(self._paths)
        models = {
            key_of(each): sources.of(each, Path(app.folder_of(each)))
            for each in self._current
            if isinstance(each, Model)
        }
        return _Looked(found, models, time.monotonic() - since)

    async def _follow_files(self, looked: _Looked, registry: Registry, supervisor: Supervisor | None) -> None:
        still = self._files.look(looked.files, time.monotonic())
        if not still:
            return
        change = await asyncio.to_thread(self._read, registry.view)
        if (change.problems or change.removed) and still < STILL_SECONDS:
            return
        if await asyncio.to_thread(_stamps, self._paths) != looked.files:
            return  # some of it may be half of what it is to be
        try:
            if supervisor is not None:
                supervisor.models.trust(map(app.folder_of, change.loaded))
            await self._take_up(change, registry)
        except InvalidResources as error:
            # Others have loaded something that stands against it; the next edit is looked at again.
            change = replace(change, problems=(*change.problems, *_problems(error)))
        except EngineError as error:
            self._tell([f"the files' changes wait: {error}"])
            return
        self._files.take()
        self._tell([f"{line}; what was loaded before goes on" for line in _lines(change.problems)])

    def _read(self, view: View) -> Change:
        # A file that was named and is gone holds nothing; a folder that is gone, or cannot be read, tells nothing.
        paths = [path for path in self._paths if path not in self._single or os.path.lexists(path)]
        found, problems = load(paths)
        return compare(self._current, found, [*problems, *_emptied(self._current)], view)

    async def _take_up(self, change: Change, registry: Registry) -> None:
        if change.loaded:
            before = dict(registry.view.resources)
            loaded = named(change.loaded)
            gone = {key_of(each) for each in change.removed}
            await registry.load(
                loaded.resources, loaded.folders, lambda view: app.check_references(loaded, _without(view, gone))
            )
            for each in change.loaded:
                self._say(self._loaded(each, before.get(key_of(each)), registry.view))
        self._current = (*change.resources, *change.removed)
        # Experiments before those whose calls they split.
        await self._unload(tuple(reversed(change.removed)), registry)
        self._current = change.resources

    def _loaded(self, resource: Resource, before: Loaded | None, view: View) -> str:
        key = key_of(resource)
        now = view.resources.get(key)
        told = f"loaded {_named(resource)}{f', version {now.version}' if now is not None else ''}"
        mine = next((each for each in self._current if key_of(each) == key), None)
        if before is None or _is(before, mine) or _is(before, resource):
            return told
        return f"{told}; it replaces version {before.version}, which was loaded from {before.folder} meanwhile"

    async def _unload(self, removed: Sequence[Resource], registry: Registry) -> None:
        mine = [each for each in removed if _is(registry.view.resources.get(key_of(each)), each)]
        if mine:
            await registry.unload(*map(key_of, mine))
        for each in removed:
            if each in mine:
                self._say(f"unloaded {_named(each)}, which is not there any more")
            elif key_of(each) in registry.view.resources:
                self._say(f"{_named(each)} is not there any more; what others have loaded under its name stays")

    def _changed_models(self, looked: _Looked, registry: Registry) -> list[str]:
        """The models whose own files have changed, and are whole; those that others have loaded are not ours."""
        found = []
        mine = {key_of(each): each for each in self._current}
        self._models = {key: rest for key, rest in self._models.items() if key in looked.models}
        for key, stamps in looked.models.items():
            rest = self._models.setdefault(key, Rest(stamps))
            if not stamps or rest.look(stamps, time.monotonic()) < STILL_SECONDS:
                continue
            rest.take()
            if _is(registry.view.resources.get(key), mine.get(key)):
                found.append(key[1])
        return found

    async def _load_anew(self, name: str, supervisor: Supervisor) -> None:
        try:
            await supervisor.reload(name)
        except RuntimeUnavailable as error:
            self._say(f"{error}; the one that was loaded before goes on")
        else:
            self._say(f'loaded model "{name}" anew: its files have changed')

    def _tell(self, lines: Sequence[str]) -> None:
        """Say what was not said the last time."""
        for line in lines:
            if line not in self._told:
                self._say(line)
        self._told = set(lines)


def _stamps(paths: Iterable[str]) -> Stamps:
    return {str(file): stamp(file) for file in files(paths)}


def _emptied(resources: Iterable[Resource]) -> list[Problem]:
    """Files that are there and hold nothing any more: whoever writes them has got no further, or the disk is full."""
    files_of = sorted({each.document.file for each in resources})
    hint = "remove it to unload what it held"
    return [Problem(Place(file, 1, 1), "the file is empty", hint) for file in files_of if size(stamp(file)) == 0]


def _is(loaded: Loaded | None, resource: Resource | None) -> bool:
    """Whether what is loaded is this resource of this file."""
    return (
        loaded is not None
        and resource is not None
        and (loaded.resource, loaded.folder) == (resource, app.folder_of(resource))
    )


def _named(resource: Resource) -> str:
    return f'{key_of(resource)[0]} "{resource.name}" of {resource.document.file}'


def _lines(problems: Iterable[Problem]) -> list[str]:
    """The first fault of each file on a line, and how many there are besides."""
    by_file: dict[str, list[Problem]] = {}
    for problem in problems:
        by_file.setdefault(problem.place.file, []).append(problem)
    return [
        first.line + (f" and {len(others)} more fault{'s' * (len(others) != 1)}" if others else "")
        for first, *others in by_file.values()
    ]
