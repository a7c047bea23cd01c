from __future__ import annotations

import errno
import json
import os
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.resources
from engine.resources import (
    Document,
    Experiment,
    Model,
    Pipeline,
    Resource,
    Resources,
    documents,
    load,
    parse,
    to_json,
)

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: "


def model_yaml(name: str) -> str:
    return f"{HEAD}Model\nmetadata:\n  name: {name}\nspec:\n  storageUri: here\n"


def pipeline_yaml(name: str) -> str:
    return f"{HEAD}Pipeline\nmetadata:\n  name: {name}\nspec:\n  steps: [{{name: a}}]\n"


def experiment_yaml(name: str, default: str, resource_type: str = "model") -> str:
    return (
        f"{HEAD}Experiment\nmetadata:\n  name: {name}\nspec:\n  default: {default}\n"
        f"  resourceType: {resource_type}\n  candidates: [{{name: {default}, weight: 1}}]\n"
    )


def document(text: str) -> Document:
    found, problems = documents(text, "r.yaml")
    assert problems == []
    return found[0]


def messages(text: str) -> list[str]:
    resource, problems = parse(document(text))
    assert resource is None
    return [problem.message for problem in problems]


def test_the_kind_decides_what_is_parsed() -> None:
    texts = (model_yaml("m"), pipeline_yaml("p"), experiment_yaml("e", "m"))
    assert [type(parse(document(text))[0]) for text in texts] == [Model, Pipeline, Experiment]


def test_a_status_is_accepted_and_has_no_meaning() -> None:
    text = model_yaml("m")
    assert parse(document(text + "status: {replicas: 1}\n")) == parse(document(text))


@pytest.mark.parametrize("text", ["[1, 2]", "text", "5"])
def test_a_resource_must_be_a_mapping(text: str) -> None:
    assert messages(text) == ["a resource must be a mapping"]


def test_a_resource_needs_version_and_kind() -> None:
    assert messages("spec: {}") == ['the resource needs "apiVersion"', 'the resource needs "kind"']


def test_another_version_is_refused_with_the_right_one() -> None:
    _, (problem,) = parse(document("apiVersion: mlops.seldon.io/v1\nkind: Model\n"))
    assert problem.message == 'apiVersion "mlops.seldon.io/v1" is not supported'
    assert problem.hint == "write mlops.seldon.io/v1alpha1"


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    _, (problem,) = parse(document(f"{HEAD}Pipelyne\n"))
    assert str(problem) == (
        'r.yaml:2:7: kind "Pipelyne" is not supported\n'
        "    2 | kind: Pipelyne\n"
        '      |       ^^^^^^^^ did you mean "Pipeline"?'
    )


def test_a_kind_like_no_other_is_refused_with_all_there_are() -> None:
    _, (problem,) = parse(document(f"{HEAD}Server\n"))
    assert problem.hint == "there are Model, Pipeline and Experiment"


def test_a_resource_needs_a_spec() -> None:
    assert messages(f"{HEAD}Model\nmetadata: {{name: m}}\n") == ['model "m" needs "spec"']


def test_a_spec_must_be_a_mapping() -> None:
    assert messages(f"{HEAD}Model\nmetadata: {{name: m}}\nspec: []\n") == [
        'model "m": "spec" must be a mapping, not a list'
    ]


def test_an_unknown_field_of_a_resource_is_refused() -> None:
    assert messages(model_yaml("m") + "sepc: {}\n") == ['the resource has an unknown field "sepc"']


def test_faults_in_metadata_and_spec_are_told_together() -> None:
    text = f"{HEAD}Model\nmetadata: {{name: M}}\nspec: {{storage: m}}\n"
    assert messages(text) == [
        'the model does not have a valid name: "M"',
        'model "M" has an unknown field "storage"',
        'model "M" needs "storageUri"',
    ]


def test_a_resource_can_be_hashed() -> None:
    assert len({parse(document(model_yaml("m")))[0], parse(document(model_yaml("m")))[0]}) == 1


def test_json_is_canonical() -> None:
    text = "spec: {storageUri: ü}\nmetadata: {name: m}\nkind: Model\napiVersion: mlops.seldon.io/v1alpha1\n"
    resource, _ = parse(document(text))
    assert resource
    assert to_json(resource) == (
        '{"apiVersion":"mlops.seldon.io/v1alpha1","kind":"Model","metadata":{"name":"m"},"spec":{"storageUri":"ü"}}'
    )


def test_json_escapes_what_yaml_would_take_for_a_line_end() -> None:
    resource, _ = parse(document(f'{HEAD}Model\nmetadata: {{name: m}}\nspec: {{storageUri: "a\\u2028b"}}\n'))
    assert resource
    assert '"a\\u2028b"' in to_json(resource)


names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
keys = st.text(min_size=1, max_size=8, alphabet=st.characters(exclude_categories=("Cs",)))

models = st.fixed_dictionaries(
    {"storageUri": texts.filter(str.strip)},
    optional={
        "requirements": st.lists(texts, max_size=3),
        "memory": st.integers(0, 1 << 40),
        "replicas": st.integers(0, 9),
        "preloaded": st.booleans(),
        "parameters": st.lists(
            st.fixed_dictionaries({"name": names, "value": texts}), max_size=3, unique_by=lambda p: p["name"]
        ),
    },
)
steps = st.fixed_dictionaries(
    {"name": names},
    optional={
        "inputs": st.lists(names, max_size=3),
        "inputsJoinType": st.sampled_from(["inner", "outer", "any"]),
        "tensorMap": st.dictionaries(keys, texts, max_size=3),
        "batch": st.fixed_dictionaries({}, optional={"size": st.integers(1, 9), "windowMs": st.none()}),
    },
)
pipelines = st.fixed_dictionaries(
    {"steps": st.lists(steps, min_size=1, max_size=4, unique_by=lambda step: step["name"])},
    optional={"maxStepRevisits": st.integers(0, 9), "output": st.just({"steps": ["a"]})},
)
kinds = st.one_of(st.tuples(st.just("Model"), models), st.tuples(st.just("Pipeline"), pipelines))
metadata = st.fixed_dictionaries(
    {"name": st.just("the-resource")}, optional={"labels": st.dictionaries(keys, texts, max_size=3)}
)


@settings(deadline=None)
@given(kinds, metadata, st.dictionaries(keys, st.one_of(texts, st.floats(allow_nan=False)), max_size=2))
def test_a_resource_travels_as_json(
    kind: tuple[str, object], meta: dict[str, object], status: dict[str, object]
) -> None:
    written = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": kind[0], "metadata": meta, "spec": kind[1]}
    status = {key: value for key, value in status.items() if value not in (float("inf"), float("-inf"))}
    resource = parsed_yaml({**written, "status": status})
    again, problems = documents(to_json(resource), "topic")
    assert problems == []
    assert again[0].data == resource.document.data
    assert parse(again[0]) == (resource, [])


def parsed_yaml(written: dict[str, object]) -> Resource:
    resource, problems = parse(document(json_with_escapes(written)))
    assert problems == []
    assert resource
    return resource


def json_with_escapes(written: dict[str, object]) -> str:
    """YAML that writes every character beyond ASCII by its escape, as JSON cannot for the rare planes."""
    text = json.dumps(written, ensure_ascii=False)
    return "".join(character if " " <= character <= "~" else f"\\U{ord(character):08x}" for character in text)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SPEC_KEYS = (
    "steps",
    "input",
    "output",
    "storageUri",
    "explainer",
    "llm",
    "candidates",
    "mirror",
    "parameters",
)


@settings(deadline=None)
@given(
    st.sampled_from(["Model", "Pipeline", "Experiment", "Other"]),
    st.dictionaries(st.sampled_from(SPEC_KEYS), yaml_values),
    yaml_values,
)
def test_any_mapping_gives_a_resource_or_problems(kind: str, spec: object, meta: object) -> None:
    data = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}
    found, _ = documents(json.dumps(data), "r.yaml")
    for each in found:
        resource, problems = parse(each)
        assert (resource is None) == bool(problems)
        assert all(str(problem) for problem in problems)


def test_load_reads_files_in_the_order_given(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.yaml").write_text(model_yaml(name))
    resources, problems = load([tmp_path / "b.yaml", str(tmp_path / "a.yaml")])
    assert ([model.name for model in resources.models], problems) == (["b", "a"], [])


def test_load_reads_a_folder_in_order_and_its_folders_with_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yml").write_text(model_yaml("b"))
    (tmp_path / "a.yaml").write_text(pipeline_yaml("p") + "---\n" + model_yaml("a"))
    (tmp_path / "sub" / "c.yaml").write_text(model_yaml("c"))
    resources, problems = load([tmp_path])
    assert problems == []
    assert [model.name for model in resources.models] == ["a", "b", "c"]
    assert [pipeline.name for pipeline in resources.pipelines] == ["p"]


def test_load_passes_over_what_is_hidden_and_what_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in (".git/a.yaml", ".a.yaml", "a.yaml~", "a.json"):
        (tmp_path / name).write_text(model_yaml("a"))
    assert load([tmp_path]) == (Resources(), [])


def test_load_passes_over_a_folders_files_that_are_not_about_resources(tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text("hook: !!python/name:x.y\n")
    (tmp_path / "service.yaml").write_text("apiVersion: v1\nkind: Service\n# beside mlops.seldon.io\n")
    assert load([tmp_path]) == (Resources(), [])


def test_load_passes_over_other_documents_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\n---\n" + model_yaml("a"))
    resources, problems = load([tmp_path / "a.yaml"])
    assert (len(resources.models), problems) == (1, [])


def test_load_refuses_a_document_without_a_version_beside_resources(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Model\n---\n" + model_yaml("a"))
    _, (problem,) = load([tmp_path / "a.yaml"])
    assert problem.message == 'the resource needs "apiVersion"'


@pytest.mark.parametrize("text", ["", "a: 1\n", "apiVersion: v1\nkind: Service\n", "[]", "apiVersion: 1\n"])
def test_load_refuses_a_named_file_without_resources(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    _, (problem,) = load([file])
    assert str(problem) == (
        f"{file}:1:1: the file holds no resource of mlops.seldon.io "
        "(begin it with apiVersion: mlops.seldon.io/v1alpha1)"
    )


def test_load_refuses_a_path_that_does_not_exist(tmp_path: Path) -> None:
    _, (problem,) = load([tmp_path / "none.yaml"])
    assert str(problem) == f"{tmp_path}/none.yaml:1:1: no such file or folder"


def test_load_refuses_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    _, (problem,) = load([tmp_path / "a.yaml"])
    assert problem.message == "cannot be read: Too many levels of symbolic links"


def test_load_refuses_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(folder: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", scandir)
    _, (problem,) = load([tmp_path])
    assert str(problem) == f"{tmp_path}:1:1: cannot be read: Permission denied"


def test_load_reads_a_file_once_that_is_named_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(model_yaml("a"))
    resources, problems = load([tmp_path / "a.yaml", tmp_path])
    assert (len(resources.models), problems) == (1, [])


def test_load_refuses_a_name_that_is_defined_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(model_yaml("m"))
    (tmp_path / "b.yaml").write_text("# second\n" + model_yaml("m"))
    resources, (problem,) = load([tmp_path])
    assert str(problem).splitlines()[0] == (
        f'{tmp_path}/b.yaml:5:9: model "m" is already defined at {tmp_path}/a.yaml:4:9'
    )
    assert len(resources.models) == 1


def test_a_model_and_a_pipeline_may_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(model_yaml("m") + "---\n" + pipeline_yaml("m"))
    assert load([tmp_path])[1] == []


def test_load_refuses_two_experiments_with_one_default(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(experiment_yaml("e", "m") + "---\n" + experiment_yaml("f", "m"))
    _, (problem,) = load([file])
    assert problem.message == f'model "m" is already the default of experiment "e" at {file}:6:12'
    assert problem.place.line == 15


def test_a_model_and_a_pipeline_of_one_name_may_each_be_a_default(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(experiment_yaml("e", "m") + "---\n" + experiment_yaml("f", "m", "pipeline"))
    assert load([tmp_path])[1] == []


def test_load_gives_what_is_sound_beside_all_problems(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(model_yaml("a"))
    (tmp_path / "b.yaml").write_text(model_yaml("B"))
    (tmp_path / "c.yaml").write_text("# mlops.seldon.io\na: [\n")
    resources, problems = load([tmp_path, tmp_path / "none"])
    assert ([model.name for model in resources.models], len(problems)) == (["a"], 3)


def test_a_loaded_resource_knows_its_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(model_yaml("a"))
    resources, _ = load(["sub"])
    assert resources.models[0].document.file == "sub/a.yaml"


def test_named_finds_a_resource_by_kind_and_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(model_yaml("m") + "---\n" + pipeline_yaml("p"))
    resources, _ = load([tmp_path])
    assert resources.named(Pipeline, "p") is resources.pipelines[0]
    assert resources.named(Model, "p") is None


def test_the_public_names_are_these() -> None:
    assert sorted(engine.resources.__all__) == [
        "API_VERSION",
        "Batch",
        "Candidate",
        "Document",
        "Experiment",
        "Explainer",
        "Input",
        "Join",
        "Logger",
        "Metadata",
        "Mirror",
        "Model",
        "Output",
        "Pipeline",
        "Place",
        "Problem",
        "Resource",
        "ResourceType",
        "Resources",
        "Step",
        "TopicOptions",
        "did_you_mean",
        "documents",
        "files",
        "load",
        "nearest",
        "parse",
        "quoted",
        "to_json",
    ]
