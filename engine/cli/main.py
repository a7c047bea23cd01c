"""The group of all commands, and how they end: errors on stderr with exit 1, wrong input with 2, Ctrl-C with 130."""

from __future__ import annotations

import errno
import sys

import click

from engine import __version__
from engine.cli import (
    INTERRUPTED,
    bench,
    completion,
    configs,
    control,
    goflags,
    infer,
    inspecting,
    plans,
    printing,
    redriving,
    serve,
    top,
    topics,
)
from engine.errors import EngineError, InvalidInput, InvalidResources, InvalidSettings

# A full disk, a file that may not grow, a quota, a disk that was mounted read-only.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}


class _Group(goflags.Group):
    """Turns the product's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InvalidResources as error:
            count = len(error.problems)
            click.echo(
                f"{error}\n\nError: {count} problem{'s' * (count != 1)}, nothing was started or loaded",
                err=True,
            )
            ctx.exit(2)
        except InvalidSettings as error:
            click.echo(f"Error: {printing.plain(str(error))}", err=True)
            ctx.exit(2)
        except EngineError as error:
            click.echo(f"Error: {printing.plain(str(error))}", err=True)
            # What a step refuses is another matter: the command did what it was asked.
            ctx.exit(2 if isinstance(error, InvalidInput) and error.step is None else 1)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            click.echo(f"Error: cannot write to {error.filename or 'standard output'}: {error.strerror}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(err=True)  # what comes next on a terminal does not stand behind its ^C
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="millrace")
def main() -> None:
    """Run pipelines of models on Kafka, and call them.

    \b
    Example:
      seldon up pipelines/
      seldon pipeline infer tfsimples -f request.json
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


@main.group(cls=goflags.Group)
def model() -> None:
    """Load, call and look at models.

    \b
    Example:
      seldon model list
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


@main.group(cls=goflags.Group)
def pipeline() -> None:
    """Load, call and look at pipelines.

    \b
    Example:
      seldon pipeline infer tfsimples -f request.json
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


@main.group(cls=goflags.Group)
def experiment() -> None:
    """Split the calls of a model or a pipeline between several, by weight.

    \b
    Example:
      seldon experiment start -f pipelines/experiment.yaml
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped


main.add_command(configs.config)
main.add_command(completion.completion)
main.add_command(topics.topics)
main.add_command(bench.bench)
main.add_command(top.top)
for command in (serve.up, serve.worker, serve.gateway, control.load, control.unload, control.status):
    main.add_command(command)
for command in (
    control.model_load,
    control.model_unload,
    control.model_list,
    control.model_status,
    infer.model_infer,
    infer.model_metadata,
):
    model.add_command(command)
for command in (
    control.experiment_start,
    control.experiment_stop,
    control.experiment_status,
    control.experiment_list,
):
    experiment.add_command(command)
for command in (
    control.pipeline_load,
    control.pipeline_unload,
    control.pipeline_list,
    control.pipeline_status,
    infer.pipeline_infer,
    inspecting.inspect,
    redriving.redrive,
    plans.graph,
    plans.try_,
):
    pipeline.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
