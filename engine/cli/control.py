"""`load`, `unload`, `list` and `status`: what the control plane on Kafka holds, written and read."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, printing, waiting
from engine.errors import EngineError, InvalidResources, NothingLoaded, UnknownResource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.app import Named
    from engine.kafka.registry import Registry
    from engine.kafka.view import Key, View
    from engine.resources import Resource
    from engine.settings import Settings

# The reference's names for our states.
STATES = {
    "pipeline": {
        "ready": "PipelineReady",
        "creating": "PipelineCreating",
        "failed": "PipelineFailed",
        "terminated": "PipelineTerminated",
        "unknown": "PipelineCreate",
    },
    "model": {
        "ready": "ModelAvailable",
        "creating": "ModelProgressing",
        "failed": "ModelFailed",
        "terminated": "ModelTerminated",
        "unknown": "ModelCreate",
    },
    "experiment": {"ready": "active", "creating": "inactive", "failed": "inactive"},
}

# What the columns of a list are called, and what stands in them.
_COLUMNS = {
    "model": {"model": "name", "state": "state", "reason": "reason"},
    "pipeline": {"pipeline": "name", "state": "state", "reason": "reason"},
    "experiment": {"experiment": "name", "active": "active"},
    "": {"kind": "kind", "name": "name", "state": "state", "reason": "reason"},
}

# The reference's words for what is done to an experiment, where models and pipelines are loaded and unloaded.
_LOADED_BY = {"experiment": ("start", "stop")}

_ARTICLES = {"model": "a", "pipeline": "a", "experiment": "an"}

# Whom the examples of the commands are about.
_NAMES = {"model": "iris", "pipeline": "tfsimples", "experiment": "iris-versions"}

# What stands for standard input in the place of a file, and how problems name it.
_STDIN, _STDIN_NAME = "-", "standard input"

_file = click.option("-f", "--file-path", type=options.Path(), required=True, help="A YAML file; - is standard input.")


def _piped(_: click.Context, __: click.Parameter, path: str | None) -> str:
    """The file that is named, or standard input if something is piped into it."""
    if path is None and click.get_text_stream("stdin").isatty():
        raise click.UsageError("name a file by -f, or pipe the resources into the command")
    return path or _STDIN


_file_or_stdin = click.option(
    "-f", "--file-path", type=options.Path(), callback=_piped, help="A YAML file. [default: standard input]"
)


@click.command()
@_file_or_stdin
@waiting.flags
@options.kafka
@options.accepted
def load(file_path: str, **flags: Any) -> None:
    """Load the models, pipelines and experiments of a file.

    \b
    Example:
      seldon load -f pipelines/tfsimples.yaml
      cat pipelines/*.yaml | seldon load
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    _load(file_path, flags, None)


@click.command()
@_file_or_stdin
@waiting.flags
@options.kafka
@options.accepted
def unload(file_path: str, **flags: Any) -> None:
    """Unload the models, pipelines and experiments of a file.

    \b
    Example:
      seldon unload -f pipelines/tfsimples.yaml
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    _unload([key for key, _ in _read(file_path, None).folders.items()], flags)


@click.command()
@click.option("-f", "--file-path", type=options.Path(), help="Only what this YAML file holds.")
@click.option("-w", "--wait", is_flag=True, help="Wait until all are ready.")
@click.option("-t", "--timeout-secs", default=5.0, type=float, help="How long to wait. [default: 5]")
@printing.form(printing.TABLE, "a table, with -f the state of each as JSON on a line")
@options.kafka
@options.accepted
def status(file_path: str | None, timeout_secs: float, form: str | None, *, wait: bool, **flags: Any) -> None:
    """Show the states of all that is loaded, or of what a file holds.

    \b
    Example:
      seldon status
      seldon status -f pipelines/tfsimples.yaml -w
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    keys = None if file_path is None else list(_read(file_path, None).folders)

    shown: list[dict[str, Any]] = []

    async def read(registry: Registry) -> list[dict[str, Any]]:
        wanted, until = sorted(registry.view.resources) if keys is None else keys, time.monotonic() + timeout_secs
        for key in wanted:
            left = until - time.monotonic()
            shown.append(await _status_of(registry, key, STATES[key[0]]["ready"] if wait else "", left))
        return [{"kind": key[0], **_row(registry, key)} for key in wanted]

    if keys is None:
        click.echo(printing.rows(_listed(flags, read), _COLUMNS[""], form or printing.TABLE))
        return
    found = _with_registry(options.settings(flags, default_broker=True), read, create=wait)
    if form is not None:
        click.echo(printing.rows(found, _COLUMNS[""], form))
        return
    click.echo("\n".join(printing.document(each, printing.JSON) for each in shown))


def _with_example(text: str, example: str) -> str:
    """A command's help, where several commands are made by one function."""
    return f"{text}\n\n\b\nExample:\n  seldon {example}"


def _loading(kind: str) -> click.Command:
    verb = _LOADED_BY.get(kind, ("load",))[0]

    @click.command(
        verb, help=_with_example(f"{verb.capitalize()} the {kind}s of a file.", f"{kind} {verb} -f {_NAMES[kind]}.yaml")
    )
    @_file
    @waiting.flags
    @options.kafka
    @options.accepted
    def command(file_path: str, **flags: Any) -> None:
        _load(file_path, flags, kind)

    return command


def _unloading(kind: str) -> click.Command:
    verb = _LOADED_BY.get(kind, ("", "unload"))[1]

    @click.command(
        verb,
        help=_with_example(
            f"{verb.capitalize()} {_ARTICLES[kind]} {kind} by its name, or those of a file.",
            f"{kind} {verb} {_NAMES[kind]}",
        ),
    )
    @click.argument("name", required=False)
    @click.option("-f", "--file-path", type=options.Path(), help="A YAML file.")
    @waiting.flags
    @options.kafka
    @options.accepted
    def command(name: str | None, file_path: str | None, **flags: Any) -> None:
        if (name is None) == (file_path is None):
            raise click.UsageError(f"give the {kind}'s name, or a file by -f")
        keys = [(kind, name)] if name is not None else list(_read(file_path or "", kind).folders)
        _unload(keys, flags)

    return command


def _listing(kind: str) -> click.Command:
    @click.command("list", help=_with_example(f"List the {kind}s that are loaded, with their states.", f"{kind} list"))
    @printing.form(printing.TABLE)
    @options.kafka
    @options.accepted
    def command(form: str, **flags: Any) -> None:
        async def read(registry: Registry) -> list[dict[str, Any]]:
            return [_row(registry, key) for key in sorted(registry.view.resources) if key[0] == kind]

        click.echo(printing.rows(_listed(flags, read), _COLUMNS[kind], form))

    return command


def _listed(flags: dict[str, Any], read: Callable[[Registry], Awaitable[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """What is found in a namespace: nothing, with a word of it, where nothing was ever loaded."""
    try:
        found: list[dict[str, Any]] = _with_registry(options.settings(flags, default_broker=True), read)
    except NothingLoaded as nothing:
        click.echo(str(nothing), err=True)
        return []
    return found


def _status(kind: str) -> click.Command:
    @click.command("status", help=_with_example(f"Show the state of a {kind}.", f"{kind} status {_NAMES[kind]}"))
    @click.argument("name")
    @click.option(
        "-w",
        "--wait",
        default="",
        metavar="STATE",
        help=f"Wait for a state, such as {STATES[kind]['ready']}.",
    )
    @click.option("-t", "--timeout-secs", default=5.0, type=float, help="How long to wait. [default: 5]")
    @printing.form(printing.JSON)
    @options.kafka
    @options.accepted
    def command(name: str, wait: str, timeout_secs: float, form: str, **flags: Any) -> None:
        known = STATES[kind].values()
        if wait and wait not in known:
            raise click.UsageError(f'no state "{wait}"; states are {", ".join(known)}')
        settings = options.settings(flags, default_broker=True)
        _print_status(settings, (kind, name), wait, timeout_secs, form)

    return command


@click.command("status")
@click.argument("name")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is active.")
@click.option("-t", "--timeout-secs", default=5.0, type=float, help="How long to wait. [default: 5]")
@printing.form(printing.JSON)
@options.kafka
@options.accepted
def experiment_status(name: str, timeout_secs: float, form: str, *, wait: bool, **flags: Any) -> None:
    """Show the state of an experiment, which is active when its candidates and its mirror are ready.

    \b
    Example:
      seldon experiment status iris-versions -w
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    settings = options.settings(flags, default_broker=True)
    _print_status(settings, ("experiment", name), "active" if wait else "", timeout_secs, form)


model_load, pipeline_load = _loading("model"), _loading("pipeline")
experiment_start, experiment_stop = _loading("experiment"), _unloading("experiment")
model_unload, pipeline_unload = _unloading("model"), _unloading("pipeline")
model_list, pipeline_list, experiment_list = _listing("model"), _listing("pipeline"), _listing("experiment")
model_status, pipeline_status = _status("model"), _status("pipeline")


def _read(path: str, kind: str | None) -> Named:
    """The resources of a file; those of one kind alone when the command is for that kind."""
    from engine import app

    texts = {_STDIN_NAME: _from_stdin()} if path == _STDIN else {}
    path = _STDIN_NAME if texts else path
    named = app.read([path], texts=texts)
    if kind is None:
        return named
    wanted = {key: folder for key, folder in named.folders.items() if key[0] == kind}
    if not wanted:
        raise InvalidResources([f"{path}: it holds no {kind}; `seldon load -f` loads whatever a file holds"])
    return app.Named(tuple(r for r in named.resources if type(r).__name__.lower() == kind), wanted)


def _from_stdin() -> bytes:
    from engine.resources.source import MOST_BYTES

    # A byte more than is taken shows that it is too much.
    return click.get_binary_stream("stdin").read(MOST_BYTES + 1)


def _load(path: str, flags: dict[str, Any], kind: str | None) -> None:
    from engine import app

    named = _read(path, kind)
    wait, seconds = flags.pop("wait"), flags.pop("timeout_secs")

    async def write(registry: Registry) -> None:
        await registry.load(named.resources, named.folders, lambda view: app.check_references(named, view))
        click.echo("\n".join("{}" for _ in named.resources))
        if wait:
            await waiting.loaded(registry, list(named.folders), seconds)

    _with_registry(options.settings(flags, default_broker=True), write, create=True)


def _unload(keys: list[Key], flags: dict[str, Any]) -> None:
    wait, seconds = flags.pop("wait"), flags.pop("timeout_secs")

    settings = options.settings(flags, default_broker=True)
    gone: dict[Key, Resource] = {}

    def check(view: View) -> None:
        missing = [key for key in keys if key not in view.resources]
        if missing:
            raise UnknownResource(f'no {missing[0][0]} "{missing[0][1]}" is loaded')
        gone.update((key, view.resources[key].resource) for key in keys)

    async def write(registry: Registry) -> None:
        from engine.kafka import cleaning

        # Experiments before those whose calls they split.
        await registry.unload(*reversed(keys), check=check)
        click.echo("\n".join("{}" for _ in keys))
        await cleaning.clean_unattended(settings, registry.view, gone.values(), time.time())
        if wait:
            await waiting.unloaded(registry, keys, seconds)

    _with_registry(settings, write)


def _row(registry: Registry, key: Key) -> dict[str, Any]:
    """A resource's line in a list."""
    from engine.kafka.view import describe

    row, kind = describe(registry.view, key, time.time()), key[0]
    row["state"] = STATES[kind][row["state"]]
    if kind == "experiment":
        row["active"] = row["state"] == "active"
    return row


def _print_status(settings: Settings, key: Key, wait: str, seconds: float, form: str) -> None:
    """Print the state of one resource, as soon as it is as waited for."""

    async def read(registry: Registry) -> str:
        status = await _status_of(registry, key, wait, seconds)
        if form == printing.TABLE:
            found = [_row(registry, key)] if key in registry.view.resources else []
            return printing.rows(found, _COLUMNS[key[0]], form)
        return printing.document(status, form)

    # What is waited for may be the first that is loaded.
    click.echo(_with_registry(settings, read, create=bool(wait)))


async def _status_of(registry: Registry, key: Key, wait: str, seconds: float) -> dict[str, Any]:
    kind, name = key
    until = time.monotonic() + seconds
    with waiting.Progress() as progress:
        while True:
            if key not in registry.view.resources and not wait:
                raise UnknownResource(f'no {kind} "{name}" is loaded')
            if key in registry.view.resources and (not wait or _state(registry, key) == wait):
                return _STATUSES[kind](registry, key)
            if _is_gone(registry, key) and wait == STATES[kind].get("terminated"):
                return {f"{kind}Name": name, "versions": []}
            reason = f"{kind} {name} is {_reason(registry, key)}"
            if time.monotonic() > until:
                raise EngineError(f"{kind.capitalize()} wait status timeout: {reason}")
            progress.say(f"waiting for {wait}: {reason}")
            await registry.wait(min(1.0, max(until - time.monotonic(), 0.01)))


def _is_gone(registry: Registry, key: Key) -> bool:
    """Whether a resource is not loaded, and nobody who is alive still runs it."""
    return key not in registry.view.resources and not registry.view.pending(key, time.time())


def _state(registry: Registry, key: Key) -> str:
    state = registry.view.state(key, time.time())
    return STATES[key[0]][state.state if state else "unknown"]


def _reason(registry: Registry, key: Key) -> str:
    if key not in registry.view.resources:
        return "not loaded"
    state = registry.view.state(key, time.time())
    return f"{_state(registry, key)}, {state.reason if state else registry.view.silence(time.time())}"


def _pipeline_status(registry: Registry, key: Key) -> dict[str, Any]:
    from engine.cli import described
    from engine.resources import Pipeline

    loaded, state = registry.view.resources[key], registry.view.state(key, time.time())
    pipeline = loaded.resource
    assert isinstance(pipeline, Pipeline)
    return {
        "pipelineName": pipeline.name,
        "versions": [
            {
                "pipeline": described.pipeline(pipeline, loaded.version),
                "state": {
                    "pipelineVersion": loaded.version,
                    "status": _state(registry, key),
                    "reason": state.reason if state else registry.view.silence(time.time()),
                    **({"lastChangeTimestamp": _timestamp(state.at)} if state else {}),
                    "modelsReady": state is not None and state.state == "ready",
                },
            }
        ],
    }


def _model_status(registry: Registry, key: Key) -> dict[str, Any]:
    from engine.resources import Model

    loaded, state = registry.view.resources[key], registry.view.state(key, time.time())
    model = loaded.resource
    assert isinstance(model, Model)
    living = registry.view.living_states(key, time.time())
    return {
        "modelName": model.name,
        "versions": [
            {
                "version": loaded.version,
                "kubernetesMeta": {},
                "state": {
                    "state": _state(registry, key),
                    "reason": state.reason if state else registry.view.silence(time.time()),
                    "availableReplicas": sum(said.state == "ready" for said in living),
                    **({"lastChangeTimestamp": _timestamp(state.at)} if state else {}),
                },
                "modelDefn": {
                    "meta": {"name": model.name, "kubernetesMeta": {}},
                    "modelSpec": {"uri": model.storage_uri, "requirements": list(model.requirements)},
                },
            }
        ],
    }


def _experiment_status(registry: Registry, key: Key) -> dict[str, Any]:
    from engine.resources import Experiment

    view, now = registry.view, time.time()
    experiment, state = view.resources[key].resource, view.state(key, now)
    assert isinstance(experiment, Experiment)
    assert state is not None

    def is_ready(name: str) -> bool:
        # A model that was just unloaded may say that it is ready for a moment yet.
        key = (str(experiment.resource_type), name)
        said = view.state(key, now) if key in view.resources else None
        return said is not None and said.state == "ready"

    return {
        "experimentName": experiment.name,
        "active": state.state == "ready",
        "candidatesReady": all(is_ready(candidate.name) for candidate in experiment.candidates),
        "mirrorReady": experiment.mirror is None or is_ready(experiment.mirror.name),
        "statusDescription": state.reason,
        "kubernetesMeta": {},
    }


_STATUSES = {"model": _model_status, "pipeline": _pipeline_status, "experiment": _experiment_status}


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _with_registry(settings: Settings, use: Callable[[Registry], Awaitable[Any]], *, create: bool = False) -> Any:
    """Connect, read the registry, use it, close. NothingLoaded where there is none, unless it is to be made."""
    from engine.kafka.client import Topology
    from engine.kafka.registry import Registry
    from engine.protocol.record import Topics

    async def run() -> Any:
        topology = Topology(settings)
        await topology.start()
        registry = Registry(settings, Topics(settings.topic_prefix, settings.namespace))
        try:
            await registry.start(topology, create=create)
            return await use(registry)
        finally:
            await registry.stop()
            await topology.stop()

    _quiet()
    return asyncio.run(run())


def _quiet() -> None:
    """A command's errors are ours to print; the client would print its own before."""
    import logging

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
