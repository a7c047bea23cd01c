"""What experiments refer to: whether it is there, of the kind that they say, and split by no other experiment."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from engine.resources import Experiment, Model, Pipeline, ResourceType, did_you_mean, quoted
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.resources import Problem, Resource
    from engine.resources.source import KeyPath

# Looking for a near name takes 15 µs for each there is.
_MOST_GUESSED = 1000

_Name: TypeAlias = "tuple[type[Resource], str]"


def check_experiments(resources: Iterable[Resource], present: Iterable[Resource] = ()) -> list[Problem]:
    """What stands against these experiments, beside what is `present`.

    Candidates and mirrors that are not there or of the other kind, explainers among them, candidates that answer
    nobody, and defaults that an experiment which is present splits already.
    """
    checked = {(type(each), each.name): each for each in resources}
    known = {(type(each), each.name): each for each in present} | checked
    problems = Findings()
    with suppress(TooManyProblems):
        for experiment in checked.values():
            if isinstance(experiment, Experiment):
                for path, name, role in _references(experiment):
                    _check_reference(experiment, path, name, role, known, problems)
                _check_default(experiment, checked, known, problems)
    return list(problems)


def _references(experiment: Experiment) -> Iterator[tuple[KeyPath, str, str]]:
    """Where it names another resource, which, and as what."""
    for index, candidate in enumerate(experiment.candidates):
        yield ("spec", "candidates", index, "name"), candidate.name, "candidate"
    if experiment.mirror is not None:
        yield ("spec", "mirror", "name"), experiment.mirror.name, "mirror"


def _check_reference(
    experiment: Experiment, path: KeyPath, name: str, role: str, known: Mapping[_Name, Resource], problems: Findings
) -> None:
    kind: type[Model | Pipeline] = Pipeline if experiment.resource_type is ResourceType.PIPELINE else Model
    found = known.get((kind, name))
    if found is None:
        fault, hint = f"no {experiment.resource_type} has that name", _near(experiment, name, known)
    elif isinstance(found, Model) and found.explainer is not None:
        fault, hint = "that is an explainer", "split the calls of what it explains"
    elif isinstance(found, Pipeline) and found.output is None and role == "candidate":
        fault, hint = "it has no output, so its callers would get no answer", "give it an output, or make it the mirror"
    else:
        return
    text = f"experiment {quoted(experiment.name)} has {role} {experiment.resource_type} {quoted(name)}; {fault}"
    problems.add(experiment.document.problem(path, text, hint))


def _near(experiment: Experiment, name: str, known: Mapping[_Name, Resource]) -> str:
    is_model = experiment.resource_type is ResourceType.MODEL
    kind, other = (Model, Pipeline) if is_model else (Pipeline, Model)
    if (other, name) in known:
        word = other.__name__.lower()
        return f"there is a {word} of that name: write resourceType: {word}, for all candidates"
    if name.endswith(".experiment") or (Experiment, name) in known:
        return "experiments do not split the calls of experiments: name the candidates here"
    names = [each for each_kind, each in known if each_kind is kind]
    hint = did_you_mean(name, names) if len(names) <= _MOST_GUESSED else ""
    return hint or "load it first, or in the same call"


def _check_default(
    experiment: Experiment, checked: Mapping[_Name, Resource], known: Mapping[_Name, Resource], problems: Findings
) -> None:
    """Two that are loaded together were compared when their files were read."""
    if not experiment.default:
        return
    for other in known.values():
        if not isinstance(other, Experiment) or (Experiment, other.name) in checked:
            continue
        if (other.resource_type, other.default) == (experiment.resource_type, experiment.default):
            text = (
                f"experiment {quoted(experiment.name)}: {experiment.resource_type} {quoted(experiment.default)} is "
                f"already the default of experiment {quoted(other.name)}"
            )
            hint = f"stop that one first, or call this one as {experiment.name}.experiment, without a default"
            problems.add(experiment.document.problem(("spec", "default"), text, hint))
            return
