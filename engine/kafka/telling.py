"""What this process says of the resources that it runs: each state once, and again when it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.kafka.view import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.kafka.view import Key, Loaded


class Telling:
    """Tells states and remembers them.

    said     the last state that was told of each resource
    write    puts a state on the status topic; it may raise BrokerUnavailable
    forget   takes this instance's state of a resource off the status topic
    """

    def __init__(
        self,
        instance: str,
        write: Callable[[State], Awaitable[None]],
        forget: Callable[[Key, str], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._instance, self._write, self._forget, self._clock = instance, write, forget, clock
        self.said: dict[Key, State] = {}

    async def tell(self, loaded: Loaded, state: str, reason: str, metadata: Any = None) -> None:
        """Say the state of a resource, unless that is what was said last."""
        said = self.said.get(loaded.key)
        if said is not None and (said.offset, said.state, said.reason) == (loaded.offset, state, reason):
            return
        told = State(loaded.key, self._instance, loaded.version, state, reason, self._clock(), metadata, loaded.offset)
        self.said[loaded.key] = told
        try:
            await self._write(told)
        except BaseException:
            # Nobody has heard it, so that it is said again when somebody asks for it to be said.
            if self.said.get(loaded.key) is told:
                self._say_as_before(loaded.key, said)
            raise

    def _say_as_before(self, key: Key, said: State | None) -> None:
        if said is None:
            del self.said[key]
        else:
            self.said[key] = said

    async def forget(self, key: Key) -> None:
        """Nothing of a resource is here any more, so there is nothing to be said of it."""
        del self.said[key]
        await self._forget(key, self._instance)
