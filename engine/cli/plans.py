"""`seldon pipeline graph` draws a pipeline from its file; `seldon pipeline try` runs it here, without a broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options
from engine.errors import UnknownResource

if TYPE_CHECKING:
    from engine.app import Named
    from engine.dataflow.external import Upstream
    from engine.dataflow.plan import Plan
    from engine.resources import Pipeline
    from engine.trial import Passed

# So many elements of a tensor show what it holds; `--format json` shows all.
SHOWN_ELEMENTS = 16

_name = click.option("--name", metavar="PIPELINE", help="Which pipeline, when there are several.")


@click.command()
@click.argument("path", type=options.Path())
@_name
@click.option("--format", "style", type=click.Choice(("text", "mermaid", "json")), default="text", show_default=True)
def graph(path: str, name: str | None, style: str) -> None:
    """Print a pipeline's plan, from its file alone.

    \b
    Example:
      seldon pipeline graph pipelines/conditional.yaml --format mermaid
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine import app
    from engine.dataflow.compiler import compile_pipeline
    from engine.dataflow.external import compile_input

    for pipeline in _pipelines(app.read([path]), name):
        compiled, _ = compile_pipeline(pipeline)
        upstream, _ = compile_input(pipeline)
        assert compiled is not None, "app.read refuses what does not compile"
        click.echo(_drawn(compiled, upstream, style), nl=False)


@click.command("try")
@click.argument("path", type=options.Path())
@_name
@click.option("--data", help="The request, as V2 JSON.")
@click.option("-f", "--file-path", type=click.Path(path_type=Path), help="A file with the request.")
@click.option("--format", "style", type=click.Choice(("text", "json")), default="text", show_default=True)
def try_(path: str, name: str | None, data: str | None, file_path: Path | None, style: str) -> None:
    """Run a pipeline here, with its models and no broker, and show each step's tensors.

    \b
    Example:
      seldon pipeline try pipelines/conditional.yaml \\
        --data '{"inputs": [{"name": "INPUT0", "shape": [2], "datatype": "INT32", "data": [1, 2]}]}'
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    from engine import app, trial
    from engine.protocol import rest_json
    from engine.resources import Model

    if (data is None) == (file_path is None):
        raise click.UsageError("give the request by --data, or by -f")
    body = data.encode() if data is not None else _read(file_path)
    named = app.read([path])
    found = _pipelines(named, name)
    if len(found) > 1:
        raise click.UsageError(f"{path} holds {len(found)} pipelines; say which by --name")
    models = {
        resource.name: (resource, Path(app.folder_of(resource)))
        for resource in named.resources
        if isinstance(resource, Model)
    }
    message = rest_json.decode_request(body)
    passed, error = asyncio.run(trial.run(found[0], models, message, options.settings({})))
    if style == "json":
        click.echo(json.dumps([_data(part) for part in passed]))
    else:
        for part in passed:
            click.echo("\n".join(_lines(part)))
    if error is not None:
        raise error


def _drawn(compiled: Plan, upstream: Upstream | None, style: str) -> str:
    """A plan, and before it what the pipeline takes of others."""
    from engine.dataflow import external, plan

    if style == "json":
        data = plan.as_data(compiled)
        if upstream is not None:
            data["input"] = external.as_data(upstream)
        return json.dumps(data) + "\n"
    drawn = plan.as_mermaid(compiled) if style == "mermaid" else plan.as_text(compiled)
    if upstream is None:
        return drawn
    title, lines = drawn.split("\n", 1)
    fed = external.as_mermaid(upstream) if style == "mermaid" else external.as_text(upstream)
    return f"{title}\n{lines}{fed}" if style == "mermaid" else f"{title}\n{fed}{lines}"


def _read(path: Path | None) -> bytes:
    assert path is not None
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None


def _pipelines(named: Named, name: str | None) -> list[Pipeline]:
    from engine.resources import Pipeline, did_you_mean

    found = [resource for resource in named.resources if isinstance(resource, Pipeline)]
    if not found:
        raise UnknownResource("there is no pipeline in what was named")
    if name is None:
        return found
    chosen = [pipeline for pipeline in found if pipeline.name == name]
    if not chosen:
        hint = did_you_mean(name, [pipeline.name for pipeline in found])
        raise UnknownResource(f'there is no pipeline "{name}"' + (f"; {hint}" if hint else ""))
    return chosen


def _tensors(message: Any) -> list[dict[str, Any]]:
    from engine.protocol import rest_json

    request = message.DESCRIPTOR.name == "ModelInferRequest"
    encoded = rest_json.encode_request(message) if request else rest_json.encode_response(message)
    tensors: list[dict[str, Any]] = json.loads(encoded)["inputs" if request else "outputs"]
    return tensors


def _data(part: Passed) -> dict[str, Any]:
    if part.error is not None:
        return {"place": part.place, "error": part.error}
    return {"place": part.place, "tensors": _tensors(part.message)}


def _lines(part: Passed) -> list[str]:
    if part.error is not None:
        return [part.place, f"  {part.error}"]
    return [part.place, *(f"  {_line(tensor)}" for tensor in _tensors(part.message))]


def _line(tensor: dict[str, Any]) -> str:
    shown = ", ".join(json.dumps(element) for element in tensor["data"][:SHOWN_ELEMENTS])
    more = ", …" if len(tensor["data"]) > SHOWN_ELEMENTS else ""
    return f"{tensor['name']} {tensor['datatype']} {tensor['shape']}: {shown}{more}"
