"""Explainers: runtimes that say of a request which of its features make a model, or a pipeline, answer as it does.

Explaining takes long and blocks, so it runs on threads of its own, a few explanations at once. What is explained is
called back on the event loop, with many perturbed rows in one call, so that nobody who has to answer waits for a thread
that explains.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from engine.errors import (
    InvalidInput,
    ModelFailed,
    Overloaded,
    RequestError,
    RuntimeUnavailable,
    TimedOut,
    TooLarge,
    Unreachable,
)
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec, encode_parameters
from engine.protocol.messages import InferParameter, ModelMetadataResponse
from engine.protocol.record import travelling
from engine.resources import did_you_mean, quoted
from engine.runtimes import artefacts, features, modules, options, shapley, stores
from engine.runtimes.contract import Part
from engine.runtimes.features import Background, Table, Texts
from engine.runtimes.inprocess import THREADS_PREFIX
from engine.runtimes.shapley import Trees

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from engine.protocol.record import HeaderPairs, Headers
    from engine.resources import Model, Problem
    from engine.runtimes.contract import Explained, Runtime
    from engine.runtimes.shapley import Array, Values

log = logging.getLogger(__name__)

KERNEL_SHAP, TREE_SHAP = "kernel_shap", "tree_shap"

# The parameters of an explainer: how many combinations of features it tries, which of several outputs it explains.
SAMPLES, OUTPUT = "nsamples", "output"

# Explanations of one explainer that are computed at once: they take a core each.
DEFAULT_THREADS = 2

# Rows of one call back, where the resource does not say: between two of them an explanation can be ended.
DEFAULT_ROWS = 8192

# How Seldon Core 2 marks the answers of explainers.
ALIBI_TYPE, ALIBI_METHOD = "x-seldon-alibi-type", "x-seldon-alibi-method"

# What those who are explained may say; any other error of theirs would say something else of the explainer.
_PASSED_ON = (InvalidInput, TimedOut, Unreachable, Overloaded, TooLarge, ModelFailed)


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that this process has, as explainers ask it.

    runtime_of   the model's runtime, at each call anew since it may be loaded anew; None when it is not there
    """

    name: str
    runtime_of: Callable[[str], Runtime | None]

    @property
    def title(self) -> str:
        """As `Explained` has it."""
        return f'model "{self.name}"'

    async def ask(self, columns: Columns, headers: HeaderPairs, timeout: float) -> Columns:
        """As `Explained` has it."""
        runtime = self.runtime_of(self.name)
        if runtime is None:
            raise Unreachable("it is not loaded")
        async for part in runtime.infer(columns, [headers], timeout):
            if isinstance(part.outcome, RequestError):
                raise part.outcome
            return part.outcome
        raise ModelFailed("its runtime gave no answer")

    def native(self) -> Any:
        """As `Explained` has it."""
        return getattr(self.runtime_of(self.name), "native", None)


class ExplainerRuntime:
    """Explains requests by shap, as a checked Model with an `explainer` says.

    background  where its background data are, to be fetched on a thread; None: it has none
    """

    def __init__(self, model: Model, explained: Explained, background: Callable[[], Path] | None) -> None:
        assert model.explainer is not None
        parameters = dict(model.parameters)
        self.name, self.type, self.output = model.name, model.explainer.type, parameters.get(OUTPUT)
        self.samples = int(parameters[SAMPLES]) if SAMPLES in parameters else None
        self.max_rows = int(parameters.get(options.MAX_BATCH_SIZE, DEFAULT_ROWS))
        self.threads = int(parameters.get(options.THREADS, DEFAULT_THREADS))
        self._explained, self._find_background = explained, background
        self._background: Background | None = None
        self._version, self._broken = "", False
        self._trees: Trees | None = None
        self._executor: ThreadPoolExecutor | None = None
        # Threads that explain, also for somebody who does not wait any more: the next explanation's time begins when
        # one is free.
        self._free = asyncio.Semaphore(self.threads)
        self._ways: set[_WayBack] = set()

    async def load(self) -> None:
        """Read the background and the trees, off the event loop; RuntimeUnavailable says what is missing."""
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix=f"{THREADS_PREFIX}{self.name}")
        try:
            await asyncio.get_running_loop().run_in_executor(executor, self._load)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._executor = executor

    async def unload(self) -> None:
        """Begin no more explanations; those that run end at their next call back, with an error."""
        executor, self._executor = self._executor, None
        for way in self._ways:
            way.end()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    async def ready(self) -> bool:
        """Whether it is loaded; whether what it explains would answer is for those to say who have that."""
        return self._executor is not None and not self._broken

    async def metadata(self) -> Any:
        """Its one output; the inputs are those of what it explains."""
        metadata = ModelMetadataResponse(name=self.name, versions=["1"], platform=f"shap_{self.type}")
        metadata.outputs.add(name="explanation", datatype="BYTES", shape=[-1])
        return metadata

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """An explanation for each row, as soon as it is there; `timeout` is for the whole of it, once it has begun."""
        tasks = {
            asyncio.ensure_future(self._explain(columns.take([row]), headers[row], timeout)): row
            for row in range(len(columns))
        }
        added = (self._answer_headers(),)
        left = set(tasks)
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    outcome = task.result()
                    yield Part([tasks[task]], outcome, None if isinstance(outcome, RequestError) else added)
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _answer_headers(self) -> Headers:
        return (ALIBI_TYPE, b"explanation"), (ALIBI_METHOD, self.type.encode())

    async def _explain(self, columns: Columns, headers: HeaderPairs, timeout: float) -> Columns | RequestError:
        """One row's explanation, or why there is none."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        executor = self._executor
        if executor is None:
            self._free.release()
            return Unreachable(f'explainer "{self.name}" is not loaded')
        way = _WayBack(self._explained, tuple(travelling(headers)), loop, loop.time() + timeout)
        self._ways.add(way)
        future = executor.submit(self._explain_blocking, columns, way)
        future.add_done_callback(partial(self._is_free, loop))
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return TimedOut(f'explainer "{self.name}" was not done in {timeout:g} s')
        except RequestError as error:
            return error
        except _Ended:
            return ModelFailed(f'explainer "{self.name}" was unloaded before it was done')
        except Exception as error:  # noqa: BLE001  shap, and what models give it, fail in many ways
            return ModelFailed(f'explainer "{self.name}": {type(error).__name__}: {error}')
        finally:
            way.end()
            self._ways.discard(way)

    def _is_free(self, loop: asyncio.AbstractEventLoop, _: Future[Columns]) -> None:
        """On the thread that has ended."""
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._free.release)

    # From here on: what runs on the explainer's threads.

    def _load(self) -> None:
        if not shapley.is_installed():
            raise RuntimeUnavailable(self.name, _NEEDS_SHAP)
        if self._find_background is not None:
            path = self._find_background()
            try:
                self._background = Background.read(path)
            except (OSError, ValueError) as error:
                raise RuntimeUnavailable(self.name, f"the background data {path} cannot be read: {error}") from error
        if self.type == TREE_SHAP:
            self._trees = self._read_trees()

    def _import_shap(self) -> None:
        """By the first explanation: to import it when it loads made `seldon up` a second slower."""
        if self._version:
            return
        try:
            with modules.importing:
                self._version = shapley.load()
        except Exception as error:
            # Not only ImportError: its libraries check each other's versions in many ways.
            self._broken = True
            raise ModelFailed(f'explainer "{self.name}": {_NEEDS_SHAP}; importing it raised {error}') from error

    def _read_trees(self) -> Trees:
        native = self._explained.native()
        if native is None:
            raise RuntimeUnavailable(
                self.name,
                f"{TREE_SHAP} reads the trees of an artefact that this process has loaded itself, and "
                f"{self._explained.title} is none; use type {KERNEL_SHAP}, which only asks it",
            )
        try:
            self._import_shap()
            return Trees(native, self._background.rows if self._background is not None else None)
        except Exception as error:
            raise RuntimeUnavailable(
                self.name, f"{TREE_SHAP} cannot read {self._explained.title}: {error}; use type {KERNEL_SHAP}"
            ) from error

    def _explain_blocking(self, columns: Columns, way: _WayBack) -> Columns:
        self._import_shap()
        texts = Texts.of(columns)
        if texts is not None and self.type == TREE_SHAP:
            raise InvalidInput(f"{TREE_SHAP} explains rows of numbers, and was given text; use type {KERNEL_SHAP}")
        found = self._of_table(columns, way) if texts is None else self._of_texts(texts, way)
        elements = [orjson.dumps(each) for each in found]
        spec = TensorSpec("explanation", "BYTES", (len(elements),), _AS_TEXT)
        return Columns(columns.ids, (spec,), ([tensors.join_bytes(elements)],))

    def _of_table(self, columns: Columns, way: _WayBack) -> list[dict[str, Any]]:
        background = self._background
        table = Table.of(columns, background.names if background is not None else ())
        if background is not None and background.rows.shape[1] != len(table.names):
            raise InvalidInput(
                f"a row has {len(table.names)} features; the background of explainer "
                f'"{self.name}" has {background.rows.shape[1]}'
            )
        if self._trees is not None:
            values = self._trees(table.rows)
        else:
            rows = background.rows if background is not None else np.zeros((1, len(table.names)))
            values = shapley.kernel(
                lambda asked: self._ask(way, len(asked), lambda part: table.request(asked[part])),
                rows,
                table.rows,
                self.samples,
            )
        return [self._document(each, table.names, [row.tolist()]) for each, row in zip(values, table.rows, strict=True)]

    def _of_texts(self, texts: Texts, way: _WayBack) -> list[dict[str, Any]]:
        def ask(written: Sequence[str]) -> Array:
            return self._ask(way, len(written), lambda part: texts.request(written[part]))

        found = []
        for written in texts.written:
            words, values = shapley.text(ask, written, self.samples)
            found.append(self._document(values, words, [written]))
        return found

    def _ask(self, way: _WayBack, count: int, request: Callable[[slice], Columns]) -> Array:
        """The answers to so many perturbed rows, in as few calls as the parameters allow."""
        answers = []
        for start in range(0, count, self.max_rows):
            part = slice(start, min(start + self.max_rows, count))
            given = way.ask(request(part))
            try:
                answers.append(features.answers(given, self.output, part.stop - part.start))
            except ModelFailed as error:
                raise ModelFailed(f"{self._explained.title}: {error}") from None
        return np.concatenate(answers)

    def _document(self, values: Values, names: Sequence[str], instance: Any) -> dict[str, Any]:
        """One row's explanation, laid out as alibi's are."""
        name, kind = _ALIBI[self.type]
        parameters = {SAMPLES: self.samples, OUTPUT: self.output, "link": "identity", "seed": shapley.SEED}
        return {
            "meta": {
                "name": name,
                "type": [kind],
                "explanations": ["local"],
                "params": parameters if self.type == KERNEL_SHAP else {"link": "identity"},
                "version": self._version,
            },
            "data": {
                "shap_values": values.shap[:, np.newaxis].tolist(),
                "expected_value": values.base.tolist(),
                "link": "identity",
                "feature_names": names,
                "raw": {"raw_prediction": [values.answer.tolist()], "instances": instance},
            },
        }


_NEEDS_SHAP = 'explainers need shap; pip install "millrace[explain]"'

_ALIBI = {KERNEL_SHAP: ("KernelShap", "blackbox"), TREE_SHAP: ("TreeShap", "whitebox")}


_AS_TEXT = encode_parameters({"content_type": InferParameter(string_param="str")})


class _Ended(Exception):
    """Nobody waits for the explanation any more."""


class _WayBack:
    """From a thread that explains to what is explained, until it is ended.

    `ask` blocks the thread and not the event loop; once the way is ended it raises _Ended, at once.
    """

    def __init__(
        self, explained: Explained, headers: HeaderPairs, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> None:
        self._explained, self._headers, self._loop, self._deadline = explained, headers, loop, deadline
        self._lock, self._ended = Lock(), False
        self._call: Future[Columns] | None = None

    def ask(self, columns: Columns) -> Columns:
        """One call back. An error of what is explained is the explanation's, and says whose it is."""
        with self._lock:
            if self._ended:
                raise _Ended
            call = self._call = asyncio.run_coroutine_threadsafe(self._ask(columns), self._loop)
        try:
            return call.result()
        except CancelledError:
            raise _Ended from None
        except RequestError as error:
            raise self._told(error) from error

    def end(self) -> None:
        """Make no more calls, and give up the one that is out."""
        with self._lock:
            self._ended = True
            if self._call is not None:
                self._call.cancel()

    async def _ask(self, columns: Columns) -> Columns:
        remaining = self._deadline - self._loop.time()
        return await self._explained.ask(columns, self._headers, max(remaining, 0.0))

    def _told(self, error: RequestError) -> RequestError:
        kind = next((kind for kind in _PASSED_ON if isinstance(error, kind)), ModelFailed)
        step = f', step "{error.step}"' if error.step else ""
        return kind(f"{self._explained.title}{step}: {error.text}")


def check(model: Model) -> list[Problem]:
    """What stands against a Model that is an explainer, beyond what it refers to."""
    explainer, refuse = model.explainer, model.document.problem
    assert explainer is not None
    problems = _check_parameters(model)
    if explainer.type and explainer.type not in _PARAMETERS:
        hint = did_you_mean(explainer.type, _PARAMETERS) or f"supported are {' and '.join(_PARAMETERS)}, by shap"
        text = f"explainers of type {quoted(explainer.type)} are not supported"
        problems.append(refuse(("spec", "explainer", "type"), text, hint))
    if explainer.type == TREE_SHAP and explainer.pipeline_ref:
        text = f"{TREE_SHAP} reads the trees of one model, and a pipeline has none of its own"
        problems.append(refuse(("spec", "explainer", "pipelineRef"), text, f"use type {KERNEL_SHAP}"))
    uri = model.storage_uri
    can_be_opened = artefacts.is_local(uri) or stores.is_address(uri)
    if uri and not (can_be_opened and stores.shown(uri).endswith(features.SUFFIXES)):
        text = f"{quoted(stores.shown(uri))} is no background data, which an explainer's storageUri names"
        problems.append(refuse(("spec", "storageUri"), text, "name a .csv or .npy file, or leave it out"))
    return problems


def _check_parameters(model: Model) -> list[Problem]:
    assert model.explainer is not None
    known = _PARAMETERS.get(model.explainer.type, _PARAMETERS[KERNEL_SHAP])
    problems, refuse = [], model.document.problem
    for index, (name, value) in enumerate(model.parameters):
        place = ("spec", "parameters", index)
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            text = f"an explainer of type {model.explainer.type} has no parameter {quoted(name)}"
            problems.append(refuse((*place, "name"), text, hint))
        elif name != OUTPUT and not (value.isdecimal() and len(value) < _MOST_DIGITS and int(value)):
            text = f'parameter "{name}" is {quoted(value)}; it must be a whole number above 0'
            problems.append(refuse((*place, "value"), text))
    return problems


# Python refuses to read a number of thousands of digits.
_MOST_DIGITS = 10

# The types that there are, and the parameters of each.
_PARAMETERS = {
    KERNEL_SHAP: (SAMPLES, OUTPUT, options.MAX_BATCH_SIZE, options.THREADS),
    TREE_SHAP: (options.THREADS,),
}


def make(model: Model, folder: Path, explained: Explained, *, cache: Path, outside: bool) -> ExplainerRuntime:
    """The runtime of a checked explainer. `outside`: its background may lie elsewhere than below its file's folder."""
    find = partial(artefacts.fetch, model.name, model.storage_uri, folder, cache, outside=outside)
    return ExplainerRuntime(model, explained, find if model.storage_uri else None)
