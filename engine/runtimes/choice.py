"""Which runtime computes a Model resource: by the form of its storageUri and by its requirements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from engine.errors import RuntimeUnavailable
from engine.resources import nearest
from engine.runtimes import artefacts, explainers, mlserver, onnx, options, processes, python, stores
from engine.runtimes.inprocess import InProcessRuntime
from engine.runtimes.options import Options
from engine.runtimes.remote import SCHEMES, RemoteRuntime, Server
from engine.runtimes.remote_grpc import GrpcTransport
from engine.runtimes.remote_rest import RestTransport
from engine.runtimes.stacked import StackedRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path, PurePath

    from engine.resources import Model, Problem
    from engine.runtimes.contract import Explained, Runtime
    from engine.runtimes.function import Function
    from engine.settings import Settings

# Seconds that a model in processes of its own may take to load; its artefact may come for an hour before that.
LOAD_SECONDS = 4200.0

# What `requirements` may name, and what each of them loads is in `_load_artefact`.
REQUIREMENTS = (*mlserver.IMPLEMENTATIONS, onnx.REQUIREMENT, mlserver.ANY)


def check(model: Model) -> list[Problem]:
    """What of a Model resource no runtime here can serve."""
    if model.explainer is not None:
        return explainers.check(model)
    return _check_uri(model) + options.check(model)


def make(
    model: Model, folder: Path, settings: Settings, *, trusted: bool, explained: Explained | None = None
) -> Runtime:
    """The runtime of a checked Model. `trusted`: its file was named on the command line, so it may unpickle.

    `explained` is what an explainer asks, and None for other models.

    Raises RuntimeUnavailable when what it needs is not at hand; an artefact is looked for when the runtime loads.
    """
    if explained is not None:
        cache = artefacts.cache_folder(settings.artefact_cache)
        return explainers.make(model, folder, explained, cache=cache, outside=settings.allow_pickle)
    called = Options.of(model)
    if _is_server(model):
        return _remote(model, called, settings)
    given = options.others(model)
    function: Callable[[], Function]
    if model.storage_uri.startswith("python:"):
        function = partial(python.load, model.name, model.storage_uri, folder, given)
    else:
        cache = artefacts.cache_folder(settings.artefact_cache)
        place = _Place(folder, cache, trusted=trusted, allow_pickle=settings.allow_pickle)
        function = partial(_load_artefact, model.name, model.storage_uri, _requirement(model), place, given)
    if called.processes:
        function = partial(
            processes.load,
            model.name,
            function,
            called.processes,
            load_timeout=LOAD_SECONDS,
            timeout=settings.request_timeout,
        )
    return InProcessRuntime(model.name, function, max_rows=called.max_rows, delay=called.delay, threads=called.threads)


def _remote(model: Model, called: Options, settings: Settings) -> Runtime:
    remote = connect(model.name, model.storage_uri, max_message_bytes=settings.max_message_bytes)
    if called.max_rows is None:
        return remote
    return StackedRuntime(
        model.name, remote, calls_at_once=called.threads, max_rows=called.max_rows, delay=called.delay
    )


def connect(name: str, uri: str, *, max_message_bytes: int) -> RemoteRuntime:
    """The runtime of a server's model. RuntimeUnavailable when the URI names no server."""
    server = Server.parse(name, uri)
    if server is None:
        raise RuntimeUnavailable(name, f'"{uri}" is not of the form grpc://HOST:PORT[/NAME] or http://HOST:PORT[/NAME]')
    transport = GrpcTransport if server.scheme.startswith("grpc") else RestTransport
    return RemoteRuntime(server, transport(server, max_message_bytes=max_message_bytes))


def _scheme(model: Model) -> str:
    scheme, colon, _ = model.storage_uri.partition(":")
    return scheme if colon else ""


def _is_server(model: Model) -> bool:
    """Whether it is the address of a V2 server; over HTTP, requirements say that it is an artefact's."""
    scheme = _scheme(model)
    return scheme in SCHEMES and not (scheme in ("http", "https") and model.requirements)


def _check_uri(model: Model) -> list[Problem]:
    refuse = model.document.problem
    scheme, place = _scheme(model), ("spec", "storageUri")
    if _is_server(model):
        return _check_server(model)
    if scheme == "python":
        module, _, attribute = model.storage_uri.removeprefix("python:").partition(":")
        if all(part.isidentifier() for part in (*module.split("."), attribute)):
            return []
        return [refuse(place, f'"{model.storage_uri}" names no callable', "write python:PACKAGE.MODULE:ATTRIBUTE")]
    if not (artefacts.is_local(model.storage_uri) or stores.is_address(model.storage_uri)):
        return [refuse(place, f'"{stores.shown(model.storage_uri)}": nothing here opens such addresses', _near(scheme))]
    return _check_requirements(model)


def _near(scheme: str) -> str:
    known = tuple(sorted({*SCHEMES, *stores.schemes(), "file"}))
    close = nearest(scheme, known)
    if close is not None and close != scheme:
        return f'did you mean "{close}://"?'
    return f"supported are paths, python: and {', '.join(f'{each}://' for each in known)}"


def _check_server(model: Model) -> list[Problem]:
    scheme, place = _scheme(model), ("spec", "storageUri")
    if Server.parse(model.name, model.storage_uri) is None:
        text = f'"{model.storage_uri}" is no server address'
        return [model.document.problem(place, text, f"write {scheme}://HOST:PORT/NAME")]
    for index, (name, _) in enumerate(model.parameters):
        if name == options.PROCESSES:
            text = f'parameter "{name}" is for models that compute here, and this one is a server\'s'
            return [model.document.problem(("spec", "parameters", index, "name"), text)]
    return []


def _check_requirements(model: Model) -> list[Problem]:
    known = REQUIREMENTS
    if any(requirement in known for requirement in model.requirements):
        return []
    if not model.requirements:
        hint = f"requirements: [{known[0]}]"
        return [model.document.problem(("spec",), f'model "{model.name}" says not what loads its artefact', hint)]
    wanted = model.requirements[0]
    close = nearest(wanted, known)
    hint = f'did you mean "{close}"?' if close else f"supported are {', '.join(known)}"
    place = ("spec", "requirements", 0)
    return [model.document.problem(place, f'no runtime here serves "{wanted}"', hint)]


def _requirement(model: Model) -> str:
    return next(name for name in model.requirements if name in REQUIREMENTS)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model's artefact may come from, and how far it is trusted there.

    folder        the resource file's
    trusted       that file was named on the command line
    allow_pickle  artefacts from anywhere may run code
    """

    folder: Path
    cache: Path
    trusted: bool
    allow_pickle: bool

    def may_unpickle(self, found: Path) -> bool:
        """Only below a trusted folder, and never what was fetched into a cache there, unless anything may."""
        beside = found.is_relative_to(self.folder.resolve()) and not found.is_relative_to(self.cache.resolve())
        return self.allow_pickle or (self.trusted and beside)


def _load_artefact(name: str, uri: str, requirement: str, place: _Place, parameters: Mapping[str, str]) -> Function:
    """Fetch an artefact and load it. RuntimeUnavailable also for one that may run code and is not trusted to."""
    if stores.is_address(uri) and not place.allow_pickle:
        # Nothing is fetched in vain.
        _refuse_pickle(name, requirement, PurePosixPath(uri))
    found = artefacts.fetch(name, uri, place.folder, place.cache, outside=place.allow_pickle)
    if not place.may_unpickle(found.resolve()):
        _refuse_pickle(name, requirement, found)
    try:
        if requirement == onnx.REQUIREMENT:
            return onnx.load(name, found, parameters)
        return mlserver.load(name, requirement, found, parameters, place.folder)
    except RuntimeUnavailable as error:
        if stores.is_address(uri):
            # A path in the cache tells nobody what it is.
            raise RuntimeUnavailable(name, f'"{stores.shown(uri)}": {error.reason}') from error
        raise


def _refuse_pickle(name: str, requirement: str, path: PurePath) -> None:
    if artefacts.unpickles(requirement, path):
        raise RuntimeUnavailable(
            name,
            "its artefact unpickles, which runs code; put it beside the resource's file and name that on the "
            "worker's command line, or set allow_pickle",
        )
