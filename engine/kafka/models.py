"""The models that run here: loads them, lets each give way to its next version, and says how they are."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelFailed, RuntimeUnavailable, Unreachable
from engine.kafka import states
from engine.kafka.describing import metadata_of
from engine.kafka.retiring import Leaving, Retirable
from engine.kafka.view import CREATING, FAILED, Loaded
from engine.resources import Model
from engine.runtimes import choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.kafka.asking import Asking
    from engine.kafka.states import Told
    from engine.kafka.telling import Telling
    from engine.kafka.upkeep import Upkeep
    from engine.kafka.view import View
    from engine.runtimes.contract import Runtime
    from engine.settings import Settings

log = logging.getLogger(__name__)

# A model that takes longer to say what it knows of its tensors is told of without that.
DESCRIBE_SECONDS = 2.0


class Models:
    """One runtime for each model that was loaded, and the reason for each that could not be.

    asking      what explainers ask; it is stopped with the models
    trusted     folders that were named on the command line: artefacts there may unpickle
    leaving     those that were unloaded; to be freed when what was read before has ended
    explained   the versions of models that explainers were loaded for; they are loaded anew when these are
    """

    def __init__(
        self,
        settings: Settings,
        view: View,
        asking: Asking,
        upkeep: Upkeep,
        telling: Telling,
        *,
        trusted: Iterable[str],
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._view, self._asking = settings, view, asking
        self._upkeep, self._telling, self._clock = upkeep, telling, clock
        self._trusted = set(trusted)
        self._runtimes: dict[str, tuple[Loaded, Retirable]] = {}
        self._failed: dict[str, tuple[Loaded, str]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self.leaving = Leaving(self._retire)
        self.explained: dict[str, Loaded | None] = {}

    async def stop(self) -> None:
        """Free all; calls that are out end with an error."""
        self.leaving.free()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._asking.stop()
        await asyncio.gather(*(runtime.unload() for _, runtime in self._runtimes.values()))

    def trust(self, folders: Iterable[str]) -> None:
        """These folders are below what was named on the command line, too."""
        self._trusted |= set(folders)

    @property
    def taken_up(self) -> dict[str, Loaded]:
        """The version of each model that was loaded last, be it in vain: that is newer than what runs."""
        return {name: found[0] for name, found in (*self._runtimes.items(), *self._failed.items())}

    def runs(self, loaded: Loaded) -> bool:
        """Whether a model runs in this version, and no newer one has failed."""
        name = loaded.key[1]
        return name not in self._failed and name in self._runtimes and self._runtimes[name][0] == loaded

    def runtime(self, name: str) -> Runtime | None:
        """The runtime of a model that this process has; None when it has none."""
        found = self._runtimes.get(name)
        return found[1] if found else None

    def called(self, name: str) -> Runtime:
        """The runtime that a request calls, be it that of a model that is leaving.

        Raises ModelFailed for one that could not be loaded, Unreachable for one that may come (again).
        """
        if (runtime := self.runtime(name) or self.leaving.get(name)) is not None:
            return runtime
        if name in self._failed:
            raise ModelFailed(f'model "{name}" could not be loaded: {self._failed[name][1]}')
        raise Unreachable(f'model "{name}" is not loaded')

    def usable(self, name: str) -> bool:
        """Whether this process has a model of that name, and it does not fail."""
        said = self._telling.said.get(("model", name))
        return name in self._runtimes and (said is None or said.state != FAILED)

    async def load(self, loaded: Loaded) -> None:
        """Load a model; the old one answers until the new one does, and goes on if the new one cannot."""
        model = loaded.resource
        assert isinstance(model, Model)
        if model.explainer is not None:
            self.explained[model.name] = self.taken_up.get(model.explainer.model_ref)
        if loaded.key in self._upkeep.unfit:
            self._failed[model.name] = (loaded, self._upkeep.unfit[loaded.key])
            return
        await self._telling.tell(loaded, CREATING, "loading")
        try:
            await self.renew(loaded)
        except RuntimeUnavailable as error:
            log.warning("%s", error)
            self._failed[model.name] = (loaded, error.reason)

    async def renew(self, loaded: Loaded) -> None:
        """Load a model in the place of the one that runs, which finishes what it has begun.

        Raises RuntimeUnavailable when it cannot be loaded, and the one that runs goes on.
        """
        model = loaded.resource
        assert isinstance(model, Model)
        folder, trusted = Path(loaded.folder), loaded.folder in self._trusted
        explained = await self._asking.of(model.explainer, self.runtime) if model.explainer is not None else None
        runtime = choice.make(model, folder, self._settings, trusted=trusted, explained=explained)
        await runtime.load()
        self._failed.pop(model.name, None)
        old = self._runtimes.get(model.name)
        self._runtimes[model.name] = (loaded, Retirable(runtime))
        if old is not None:
            self._retire(old[1])
            self._telling.said.pop(loaded.key, None)  # what it says of its tensors may be new

    def retry(self, name: str) -> None:
        """Forget that a model could not be loaded as it stands."""
        self._failed.pop(name, None)

    async def unload(self, name: str) -> None:
        """Have a model leave."""
        self._failed.pop(name, None)
        if (found := self._runtimes.pop(name, None)) is not None:
            self.leaving.add(name, found[1])

    def _retire(self, runtime: Retirable) -> None:
        task = asyncio.create_task(runtime.retire(self._settings.request_timeout))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def tell(self) -> dict[str, Told]:
        """Tell the state of every model, where it has changed: these states."""
        # Of what could not be loaded anew an older version may run; what is told is of the new one.
        runtimes = [found for name, found in self._runtimes.items() if name not in self._failed]
        # All at once: servers that are away each take their time to be known as such.
        looks = await asyncio.gather(*(self._look(*found) for found in runtimes))
        seen = [*looks, *((loaded, (FAILED, reason), None) for loaded, reason in self._failed.values())]
        found = states.of_models([(loaded, told) for loaded, told, _ in seen], self._view, self._clock())
        for (loaded, _, metadata), told in zip(seen, found, strict=True):
            await self._telling.tell(loaded, *told, metadata)
        return {loaded.key[1]: told for (loaded, _, _), told in zip(seen, found, strict=True)}

    async def _look(self, loaded: Loaded, runtime: Runtime) -> tuple[Loaded, Told, Any]:
        """How a model is by itself, and where it may be news, what it says of its tensors."""
        ready = await runtime.ready()
        told = states.of_model(self._upkeep.lost.get(loaded.key, ""), ready=ready)
        is_news = states.is_news(loaded, self._telling.said.get(loaded.key))
        metadata = await metadata_of(runtime, DESCRIBE_SECONDS) if ready and is_news else None
        return loaded, told, metadata
