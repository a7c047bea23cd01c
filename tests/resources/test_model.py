from __future__ import annotations

import pytest

from engine.resources import Explainer, Logger, Metadata, Model, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata:\n  name: iris\nspec:\n"


def model(spec: str) -> Model:
    found, faults = documents(HEAD + spec, "m.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Model)
    return resource


def refusals(spec: str) -> list[str]:
    """The headlines of all problems, with lines counted from the first of the spec's fields."""
    found, faults = documents(HEAD + spec, "m.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert resource is None
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" for p in problems]


FULL = """\
  storageUri: gs://models/iris
  modelType: classifier
  artifactVersion: 3
  schemaUri: gs://models/schema
  secretName: bucket
  requirements: [sklearn, joblib]
  memory: 100Ki
  replicas: 2
  minReplicas: 1
  maxReplicas: 4
  server: mlserver
  preloaded: true
  dedicated: true
  logger: {uri: "http://log", percent: 10}
  explainer: {type: anchor_tabular, modelRef: income}
  parameters:
    - {name: query, value: "A == 1"}
    - {name: max_batch_size, value: "32"}
  dataflow: {cleanTopicsOnDelete: true}
"""


def test_every_field_is_read() -> None:
    found, _ = documents(HEAD + FULL, "m.yaml")
    assert model(FULL) == Model(
        name="iris",
        storage_uri="gs://models/iris",
        model_type="classifier",
        artifact_version=3,
        schema_uri="gs://models/schema",
        secret_name="bucket",
        requirements=("sklearn", "joblib"),
        memory="100Ki",
        replicas=2,
        min_replicas=1,
        max_replicas=4,
        server="mlserver",
        preloaded=True,
        dedicated=True,
        logger=Logger("http://log", 10),
        explainer=Explainer("anchor_tabular", model_ref="income"),
        parameters=(("query", "A == 1"), ("max_batch_size", "32")),
        clean_topics_on_delete=True,
        metadata=Metadata(),
        document=found[0],
    )


def test_a_model_needs_no_more_than_a_storage_uri() -> None:
    bare = model("  storageUri: m\n")
    assert (bare.requirements, bare.parameters, bare.explainer, bare.memory) == ((), (), None, None)


def test_null_fields_are_absent_fields() -> None:
    spec = "  storageUri: m\n  requirements:\n  explainer: null\n  replicas: ~\n  llm:\n"
    assert model(spec) == model("  storageUri: m\n")


def test_a_model_knows_its_document() -> None:
    assert str(model("  storageUri: m\n").document.place(("spec", "storageUri"))) == "m.yaml:6:15"


@pytest.mark.parametrize("spec", ["  server: x\n", '  storageUri: ""\n  server: x\n'])
def test_a_model_without_storage_uri_is_refused(spec: str) -> None:
    (refusal,) = refusals(spec)
    assert refusal.endswith('model "iris" needs "storageUri"')


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    found, _ = documents(HEAD + "  storageUri: m\n  requirement: [sklearn]\n", "m.yaml")
    _, (problem,) = parse(found[0])
    assert str(problem) == (
        'm.yaml:7:3: model "iris" has an unknown field "requirement"\n'
        "    7 |   requirement: [sklearn]\n"
        '      |   ^^^^^^^^^^^ did you mean "requirements"?'
    )


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("modelType: 5", '1:14: model "iris": "modelType" must be a text, not 5'),
        ("preloaded: yes", '1:14: model "iris": "preloaded" must be true or false, not a text'),
        ("replicas: many", '1:13: model "iris": "replicas" must be a whole number, not a text'),
        ("replicas: true", '1:13: model "iris": "replicas" must be a whole number, not true'),
        ("replicas: 1.5", '1:13: model "iris": "replicas" must be a whole number, not 1.5'),
        ("replicas: -1", '1:13: model "iris": "replicas" must be at least 0, not -1'),
        ("artifactVersion: 4294967296", None),
        ("requirements: sklearn", '1:17: model "iris": "requirements" must be a list, not a text'),
        ("requirements: [1]", '1:18: model "iris": every entry of "requirements" must be a text, not 1'),
        ("requirements: [~]", '1:18: model "iris": every entry of "requirements" must be a text, not null'),
        ("explainer: shap", '1:14: model "iris": "explainer" must be a mapping, not a text'),
        ("parameters: [a]", '1:16: model "iris": every entry of "parameters" must be a mapping, not a text'),
        ("memory: lots", '1:11: model "iris": "memory" must be a quantity such as 100Ki, not "lots"'),
        ("memory: [1]", '1:11: model "iris": "memory" must be a whole number, not a list'),
        ("logger: {percent: 101}", '1:21: model "iris" logger: "percent" must be at most 100, not 101'),
        ("logger: {url: x}", '1:12: model "iris" logger has an unknown field "url"'),
        ("dataflow: {clean: true}", '1:14: model "iris" dataflow has an unknown field "clean"'),
    ],
)
def test_a_wrong_field_is_refused(field: str, message: str | None) -> None:
    message = message or '1:20: model "iris": "artifactVersion" must be at most 4294967295, not 4294967296'
    assert refusals(f"  {field}\n  storageUri: m\n") == [message]


@pytest.mark.parametrize("memory", ["100Ki", "1.5Gi", "100", "1e3", "200M"])
def test_memory_may_be_a_quantity(memory: str) -> None:
    assert model(f'  storageUri: m\n  memory: "{memory}"\n').memory == memory


def test_memory_may_be_a_number() -> None:
    assert model("  storageUri: m\n  memory: 100000\n").memory == 100_000


def test_a_number_for_a_text_is_refused_with_how_to_write_it() -> None:
    spec = HEAD + "  storageUri: m\n  parameters: [{name: size, value: 32}]\n"
    _, (problem,) = parse(documents(spec, "m.yaml")[0][0])
    assert problem.message == 'model "iris" parameter "size": "value" must be a text, not 32'
    assert problem.hint == 'write it in quotes: "32"'


def test_a_repeated_parameter_is_refused() -> None:
    spec = "  storageUri: m\n  parameters: [{name: a, value: x}, {name: a, value: y}]\n"
    assert refusals(spec) == ['2:44: model "iris" has repeated parameter "a"']


def test_a_parameter_needs_a_name() -> None:
    spec = "  storageUri: m\n  parameters: [{value: x}, {value: y}]\n"
    assert refusals(spec) == [
        '2:16: model "iris" parameter needs "name"',
        '2:28: model "iris" parameter needs "name"',
    ]


def test_an_explainer_may_explain_a_pipeline() -> None:
    explainer = model("  storageUri: m\n  explainer: {type: anchor_text, pipelineRef: p}\n").explainer
    assert explainer == Explainer("anchor_text", pipeline_ref="p")


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        ("{type: t}", 'model "iris" explainer needs "modelRef" or "pipelineRef", one of them'),
        (
            "{type: t, modelRef: m, pipelineRef: p}",
            'model "iris" explainer needs "modelRef" or "pipelineRef", one of them and not both',
        ),
        ("{modelRef: m}", 'model "iris" explainer needs "type"'),
    ],
)
def test_an_explainer_has_a_type_and_one_reference(explainer: str, message: str) -> None:
    assert refusals(f"  storageUri: m\n  explainer: {explainer}\n") == [f"2:3: {message}"]


def test_an_llm_is_refused_as_not_supported() -> None:
    assert refusals("  llm: {modelRef: m}\n") == ['1:3: model "iris": llm models are not supported']


def test_an_explainer_with_an_llm_is_refused() -> None:
    spec = "  llm: {modelRef: m}\n  explainer: {type: t, modelRef: m}\n"
    assert refusals(spec)[0] == '1:3: model "iris" cannot have both an explainer and an llm'


def test_all_faults_are_told_at_once() -> None:
    assert len(refusals("  replicas: x\n  servr: y\n  memory: z\n")) == 4


def test_an_explainer_may_be_without_storage() -> None:
    assert model("  explainer: {type: kernel_shap, modelRef: m}\n").storage_uri == ""
