"""Which runtime computes a Model resource: by the form of its storageUri and by its requirements."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from engine.errors import RuntimeUnavailable
from engine.resources import nearest
from engine.runtimes import mlserver, python
from engine.runtimes.inprocess import DEFAULT_THREADS, InProcessRuntime
from engine.runtimes.remote import SCHEMES, RemoteRuntime, Server
from engine.runtimes.remote_grpc import GrpcTransport
from engine.runtimes.remote_rest import RestTransport

if TYPE_CHECKING:
    from engine.resources import Model, Problem
    from engine.runtimes.contract import Runtime

# Parameters that are ours; the others reach the model's own runtime.
MAX_BATCH_SIZE, MAX_BATCH_DELAY, THREADS = "max_batch_size", "max_batch_delay_ms", "threads"

# Bounded, since Python refuses to read a number of thousands of digits.
_COUNT = re.compile("0*[1-9][0-9]{0,8}")


def check(model: Model) -> list[Problem]:
    """What of a Model resource no runtime here can serve."""
    problems = []
    refuse = model.document.problem
    if model.explainer is not None:
        problems.append(refuse(("spec", "explainer"), f'model "{model.name}" is an explainer: not supported yet'))
    problems += _check_uri(model)
    for index, (name, value) in enumerate(model.parameters):
        if name in (MAX_BATCH_SIZE, THREADS) and not _COUNT.fullmatch(value):
            place = ("spec", "parameters", index, "value")
            problems.append(refuse(place, f'parameter "{name}" is "{value}"; it must be a whole number above 0'))
        if name == MAX_BATCH_DELAY:
            place = ("spec", "parameters", index, "name")
            problems.append(
                refuse(place, f'parameter "{name}" is not supported yet', "requests of one fetch are stacked")
            )
    return problems


def make(model: Model, folder: Path, *, max_message_bytes: int, allow_pickle: bool, trusted: bool) -> Runtime:
    """The runtime of a checked Model. `trusted`: its file was named on the command line, so it may unpickle.

    Raises RuntimeUnavailable when what it needs is not at hand.
    """
    parameters = dict(model.parameters)
    if _scheme(model) in SCHEMES:
        return connect(model.name, model.storage_uri, max_message_bytes=max_message_bytes)
    if model.storage_uri.startswith("python:"):
        function = partial(python.load, model.name, model.storage_uri, folder)
    else:
        own = {name: value for name, value in parameters.items() if name not in (MAX_BATCH_SIZE, THREADS)}
        artefact = _artefact(model, folder, allow_pickle=allow_pickle, trusted=trusted)
        function = partial(mlserver.load, model.name, _requirement(model), artefact, own)
    rows = parameters.get(MAX_BATCH_SIZE)
    threads = int(parameters.get(THREADS, DEFAULT_THREADS))
    return InProcessRuntime(model.name, function, max_rows=int(rows) if rows else None, threads=threads)


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


def _check_uri(model: Model) -> list[Problem]:
    refuse = model.document.problem
    scheme, place = _scheme(model), ("spec", "storageUri")
    if scheme in SCHEMES:
        return _check_server(model)
    if scheme == "python":
        module, _, attribute = model.storage_uri.removeprefix("python:").partition(":")
        if all(part.isidentifier() for part in (*module.split("."), attribute)):
            return []
        return [refuse(place, f'"{model.storage_uri}" names no callable', "write python:PACKAGE.MODULE:ATTRIBUTE")]
    if scheme not in ("", "file"):
        hint = "supported are grpc://, grpcs://, http://, https://, python:, file:// and paths"
        return [refuse(place, f'"{model.storage_uri}": {scheme}: addresses are not supported yet', hint)]
    return _check_requirements(model)


def _check_server(model: Model) -> list[Problem]:
    scheme, place = _scheme(model), ("spec", "storageUri")
    if scheme in ("http", "https") and model.requirements:
        text = f'"{model.storage_uri}": artefacts from the network are not supported yet'
        return [model.document.problem(place, text, "without requirements it is the address of a V2 server")]
    if Server.parse(model.name, model.storage_uri) is None:
        text = f'"{model.storage_uri}" is no server address'
        return [model.document.problem(place, text, f"write {scheme}://HOST:PORT/NAME")]
    return []


def _check_requirements(model: Model) -> list[Problem]:
    known = tuple(mlserver.IMPLEMENTATIONS)
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
    return next(name for name in model.requirements if name in mlserver.IMPLEMENTATIONS)


def _artefact(model: Model, folder: Path, *, allow_pickle: bool, trusted: bool) -> Path:
    """The artefact's path; only a trusted resource may unpickle, and only from below its own folder."""
    text = model.storage_uri
    path = Path(unquote(urlsplit(text).path)) if text.startswith("file:") else Path(text)
    found = (folder / path).resolve()
    if not (allow_pickle or (trusted and found.is_relative_to(folder.resolve()))):
        raise RuntimeUnavailable(
            model.name,
            "its artefact unpickles, which runs code; put it beside the resource's file and name that on the "
            "worker's command line, or set allow_pickle",
        )
    return found
