"""The workers of this process: makes each with what all of them share, and ends them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from engine.execution import Execution
from engine.kafka.agents import Worker, Writers
from engine.kafka.budget import Budget
from engine.kafka.joins import Joiner
from engine.kafka.offsets import GroupOffsets
from engine.kafka.transactions import Transactions
from engine.kafka.transport import ConsumerLoop
from engine.kafka.writing import Writer
from engine.protocol.record import Owner
from engine.settings import EXACTLY_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.dataflow.external import Upstream
    from engine.dataflow.plan import Plan
    from engine.execution import Callers
    from engine.kafka.client import Topology
    from engine.kafka.splits import Splits
    from engine.protocol.record import RequestIds, Topics
    from engine.runtimes.contract import Runtime
    from engine.settings import Settings
    from engine.telemetry.figures import Figures


class Workers:
    """Makes workers and executions for them.

    runtime_of   the runtime that a request calls; raises ModelFailed
    callers      where callers of this process wait for answers, if it has a gateway
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        topology: Topology,
        request_ids: RequestIds,
        *,
        instance: str,
        runtime_of: Callable[[str], Runtime],
        splits: Splits,
        figures: Figures,
        callers: Callers | None,
    ) -> None:
        self._settings, self._topics, self._topology = settings, topics, topology
        self._request_ids, self._runtime_of, self._splits = request_ids, runtime_of, splits
        self._figures, self._callers = figures, callers
        self._consumer_loop = ConsumerLoop()
        exactly = settings.processing_guarantee == EXACTLY_ONCE
        self._writers = Writers(
            Writer(settings),
            GroupOffsets(settings, stable_reads=not topology.holds_fetches),
            Transactions(settings, instance) if exactly else None,
            topics.replies,
        )
        # What waits for a pipeline must not take the room that this pipeline's own requests need: one budget for each
        # depth of pipelines that wait for others, and one for the models' worker, whose explainers ask all of them.
        self._budgets: dict[int | None, Budget] = {}
        # Every worker that was made and not ended: one whose job is cancelled while it starts must be ended too.
        self._living: set[Worker] = set()

    async def start(self) -> None:
        """Connect what they share. Raises BrokerUnavailable."""
        await self._writers.writer.start()

    async def stop(self) -> None:
        """Close what they share, once they have ended."""
        if self._writers.transactions is not None:
            await self._writers.transactions.stop()
        await self._writers.offsets.stop()
        await self._writers.writer.stop()
        self._consumer_loop.stop()

    async def end_all(self, *, drain: bool) -> None:
        """Stop every worker; without `drain` nothing is waited for, as the broker is gone."""
        await asyncio.gather(*(worker.stop(drain=drain) for worker in self._living))

    async def end(self, worker: Worker) -> None:
        """Stop a worker, and have it finish what it works on."""
        await worker.stop()
        self._living.discard(worker)

    async def watch(self) -> None:
        """Have all find out whether records wait that nobody brings them."""
        await asyncio.gather(*(worker.watch() for worker in self._living))

    def of_models(self) -> Worker:
        """A worker of all models."""
        return self._make(self._topics.group(Owner.MODEL, ""), None, None)

    def of_pipeline(self, name: str, upstream: Upstream | None, depth: int) -> Worker:
        """A worker of a pipeline.

        depth   how many pipelines its requests may wait for, one behind the other
        """
        # Windows last as long as they are set to, whatever is done to the machine's clock meanwhile.
        joiner = (
            Joiner(name, upstream, self._topics, self._settings, self._request_ids.new, time.monotonic)
            if upstream is not None
            else None
        )
        return self._make(self._topics.group(Owner.PIPELINE, name), depth, joiner)

    def _make(self, group: str, depth: int | None, joiner: Joiner | None) -> Worker:
        worker = Worker(
            group,
            self._settings,
            self._writers,
            self._budgets.setdefault(depth, Budget(self._settings.budget_bytes)),
            self._consumer_loop,
            holds_fetches=self._topology.holds_fetches,
            figures=self._figures,
            joiner=joiner,
        )
        self._living.add(worker)
        return worker

    def execution(self, plan: Plan, version: int, owner: Owner, worker: Worker) -> Execution:
        """What runs a plan in a worker."""
        return Execution(
            plan,
            version,
            owner,
            self._topics,
            self._runtime_of,
            worker.checkpoints.finished,
            worker.checkpoints.answered,
            timeout=self._settings.request_timeout,
            max_message_bytes=self._settings.max_message_bytes,
            batch_max_wait=self._settings.batch_max_wait,
            new_request_id=self._request_ids.new,
            callers=self._callers,
            splits=self._splits,
            flow=self._figures.flow(owner, plan.name),
        )
