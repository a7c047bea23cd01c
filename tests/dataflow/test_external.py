"""External references: what they complete to, and every refusal with its exact words and place."""

from __future__ import annotations

import pytest

from engine.dataflow.external import Source, Upstream, as_data, as_mermaid, as_text, check_upstreams, compile_input
from engine.dataflow.plan import Edge
from engine.protocol.record import Owner, Side
from engine.resources import Join, Pipeline, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata:\n  name: {name}\nspec:\n"
TAIL = "  steps: [{name: score}]\n  output: {steps: [score]}\n"

INPUTS, OUTPUTS = Side.INPUTS, Side.OUTPUTS
SUMS = Source("sums", Owner.PIPELINE, "sums", OUTPUTS)


def read(spec: str, name: str = "fraud") -> Pipeline:
    found, faults = documents(HEAD.format(name=name) + spec, f"{name}.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Pipeline)
    return resource


def fed(*lines: str, name: str = "fraud", tail: str = TAIL) -> Pipeline:
    """A pipeline with these lines in its `input`."""
    return read("".join(["  input:\n", *(f"    {line}\n" for line in lines), tail]), name)


def upstream(*lines: str) -> Upstream:
    found, problems = compile_input(fed(*lines))
    assert problems == []
    assert found is not None
    return found


def refusals(*lines: str) -> list[str]:
    """The headlines and hints of all problems, with lines counted from the first of the input's fields."""
    found, problems = compile_input(fed(*lines))
    assert found is None
    return [f"{p.place.line - 6}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


def across(*pipelines: Pipeline, present: tuple[Pipeline, ...] = ()) -> list[str]:
    return [f"{p.place}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in check_upstreams(pipelines, present)]


def plain(name: str, step: str = "score", output: str = "") -> Pipeline:
    return read(f"  steps: [{{name: {step}}}]\n{output or f'  output: {{steps: [{step}]}}'}\n", name)


def test_a_pipeline_without_an_input_takes_nothing_of_others() -> None:
    assert compile_input(plain("sums")) == (None, [])


@pytest.mark.parametrize(
    ("reference", "source", "tensors"),
    [
        ("sums", SUMS, ()),
        ("sums.outputs", SUMS, ()),
        ("sums.inputs", Source("sums", Owner.PIPELINE, "sums", INPUTS), ()),
        ("sums.outputs.x", SUMS, ("x",)),
        ("sums.step.plus", Source("sums", Owner.MODEL, "plus", OUTPUTS), ()),
        ("sums.step.plus.inputs", Source("sums", Owner.MODEL, "plus", INPUTS), ()),
        ("sums.step.plus.outputs.x", Source("sums", Owner.MODEL, "plus", OUTPUTS), ("x",)),
    ],
)
def test_a_reference_is_completed(reference: str, source: Source, tensors: tuple[str, ...]) -> None:
    found = upstream(f"externalInputs: [{reference}]")
    assert (found.sources, found.edges) == ((source,), (Edge(0, source.side, tensors),))


def test_a_lone_source_needs_no_key_and_several_do() -> None:
    assert not upstream("externalInputs: [sums.outputs.x, sums.outputs.y]").joins
    assert upstream("externalInputs: [sums]", "externalTriggers: [gate]").joins


def test_the_window_is_a_minute_unless_it_is_said() -> None:
    assert upstream("externalInputs: [sums]").window == 60
    assert upstream("externalInputs: [sums]", "joinWindowMs: 0").window == 60
    assert upstream("externalInputs: [sums]", "joinWindowMs: 1500").window == 1.5


def test_tensors_of_one_source_that_must_all_be_there_are_one_edge() -> None:
    found = upstream("externalInputs: [sums.outputs.x, other, sums.outputs.y]")
    assert [edge.tensors for edge in found.edges] == [("x", "y"), ()]


def test_tensors_of_one_source_that_need_not_all_be_there_are_edges_of_their_own() -> None:
    found = upstream("externalInputs: [sums.outputs.x, sums.outputs.y]", "joinType: any")
    assert [(edge.source, edge.tensors) for edge in found.edges] == [(0, ("x",)), (0, ("y",))]


def test_a_whole_source_is_not_narrowed_by_a_tensor_of_it() -> None:
    assert upstream("externalInputs: [sums.outputs.x, sums]").edges == (Edge(0, OUTPUTS),)


def test_joins_of_data_and_triggers_are_each_their_own() -> None:
    found = upstream("externalInputs: [sums]", "externalTriggers: [a, b]", "joinType: outer", "triggersJoinType: any")
    assert (found.join, found.triggers_join, len(found.triggers)) == (Join.OUTER, Join.ANY, 2)


def test_a_tensor_map_goes_with_the_source_it_names() -> None:
    found = upstream("externalInputs: [sums, a.step.s]", "tensorMap: {sums.outputs.x: u, a.step.s.outputs.y: v}")
    assert [edge.renames for edge in found.edges] == [(("x", "u"),), (("y", "v"),)]


GRAMMAR = "write <pipeline> or <pipeline>.step.<step>, then .inputs or .outputs, and .<tensor> for one tensor of it"


@pytest.mark.parametrize(
    "reference", ["sums.output", "sums.step", "sums.step.a.b", "sums.outputs.x.y", "sums..x", "a.step.s.outputs.x.y"]
)
@pytest.mark.parametrize("field", ["externalInputs", "externalTriggers"])
def test_what_is_no_reference_is_refused(field: str, reference: str) -> None:
    lines = [f"{field}: [{reference}]"] + (["externalInputs: [sums]"] if field == "externalTriggers" else [])
    message = f'the input of pipeline "fraud" reads "{reference}", which is no reference'
    assert refusals(*lines) == [f"1:{len(field) + 8}: {message} ({GRAMMAR})"]


def test_a_pipeline_does_not_feed_itself() -> None:
    assert refusals("externalInputs: [fraud.step.score]") == [
        (
            '1:22: the input of pipeline "fraud" reads "fraud.step.score", which is its own '
            "(steps read their own pipeline; the input names others)"
        )
    ]


def test_an_edge_has_the_renames_of_its_own_tensors() -> None:
    found = upstream(
        "externalInputs: [sums.outputs.x, sums.outputs.y]",
        "externalTriggers: [sums]",
        "joinType: any",
        "tensorMap: {sums.outputs.x: u, sums.outputs.y: v}",
    )
    assert [edge.renames for edge in (*found.edges, *found.triggers)] == [(("x", "u"),), (("y", "v"),), ()]


def test_a_rename_is_not_told_where_nothing_that_is_read_is_a_reference() -> None:
    [refusal] = refusals("externalInputs: [sums.output.x]", "tensorMap: {sums.outputs.x: u}")
    assert "which is no reference" in refusal


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sum.outputs.x", 'did you mean "sums.outputs.x"?'),
        ("sums.outputs.y", 'did you mean "sums.outputs.x"?'),
        ("sums.x", 'did you mean "sums.outputs.x"?'),
        ("other.outputs.", 'did you mean "other.outputs.<tensor>"?'),
        ("other.outputs", 'did you mean "other.outputs.<tensor>"?'),
        ("other.inputs.quantity", 'did you mean "other.outputs.quantity"?'),
        ("z", "write <pipeline>.outputs.<tensor> or <pipeline>.step.<step>.outputs.<tensor>"),
    ],
)
def test_a_rename_of_what_is_not_read_is_refused_with_the_nearest(key: str, hint: str) -> None:
    message = f'the input of pipeline "fraud" renames "{key}", but does not read it'
    assert refusals("externalInputs: [sums.outputs.x, other]", f"tensorMap: {{{key}: u}}") == [
        f"2:17: {message} ({hint})"
    ]


@pytest.mark.parametrize(
    ("inputs", "first", "second"),
    [
        (["externalInputs: [sums]"], "sums.outputs.x", "sums.outputs.y"),
        (["externalInputs: [sums, tens]"], "sums.outputs.x", "tens.outputs.y"),
        (["externalInputs: [sums, tens]", "joinType: any"], "sums.outputs.x", "sums.outputs.y"),
    ],
)
def test_tensors_that_come_together_may_not_get_one_name(inputs: list[str], first: str, second: str) -> None:
    [refusal] = refusals(*inputs, f"tensorMap: {{{first}: u, {second}: u}}")
    what = f'renames "{first}" and "{second}" to "u", and both can come (give them different names)'
    assert refusal.endswith(f'the input of pipeline "fraud" {what}')


@pytest.mark.parametrize("inputs", ["[sums, tens]", "[sums.outputs.x, sums.outputs.y, tens]"])
def test_tensors_that_may_come_in_place_of_each_other_may_get_one_name(inputs: str) -> None:
    second = "sums.outputs.y" if "outputs" in inputs else "tens.outputs.y"
    found = upstream(f"externalInputs: {inputs}", "joinType: any", f"tensorMap: {{sums.outputs.x: u, {second}: u}}")
    assert [edge.renames for edge in found.edges][:2] == [(("x", "u"),), (("y", "u"),)]


def test_triggers_give_nothing_to_rename() -> None:
    assert refusals("externalInputs: [sums]", "externalTriggers: [gate]", "tensorMap: {gate.outputs.x: u}") == [
        (
            '3:17: the input of pipeline "fraud" renames "gate.outputs.x", but does not read it '
            '(did you mean "sums.outputs.x"?)'
        )
    ]


def test_a_tensor_with_dots_in_its_name_is_renamed() -> None:
    found = upstream("externalInputs: [sums.step.s]", "tensorMap: {sums.step.s.outputs.a.b: u}")
    assert found.edges[0].renames == (("a.b", "u"),)


def test_pipelines_that_feed_each_other_in_a_row_are_sound() -> None:
    first, second = plain("sums"), fed("externalInputs: [sums]", name="second")
    third = fed("externalInputs: [second.step.score, sums.outputs]", name="third")
    assert across(third, second, first) == []
    assert across(third, present=(first, second)) == []


def test_an_unknown_pipeline_is_refused_with_the_nearest() -> None:
    assert across(fed("externalInputs: [sum]"), plain("sums")) == [
        ('fraud.yaml:7:22: the input of pipeline "fraud" reads "sum"; no pipeline has that name (did you mean "sums"?)')
    ]
    assert across(fed("externalInputs: [frauds]")) == [
        (
            'fraud.yaml:7:22: the input of pipeline "fraud" reads "frauds"; no pipeline has that name '
            "(load it first, or in the same call)"
        )
    ]


def test_an_unknown_pipeline_of_a_trigger_is_refused() -> None:
    assert across(fed("externalInputs: [sums]", "externalTriggers: [gats.step.open]"), plain("sums")) == [
        (
            'fraud.yaml:8:24: the input of pipeline "fraud" reads "gats.step.open"; no pipeline has that name '
            "(load it first, or in the same call)"
        )
    ]


@pytest.mark.parametrize(("step", "hint"), [("scor", 'did you mean "score"?'), ("zzz", "its steps are score")])
def test_an_unknown_step_of_a_pipeline_is_refused_with_the_nearest(step: str, hint: str) -> None:
    assert across(fed("externalInputs: [sums]", f"externalTriggers: [sums.step.{step}]"), plain("sums")) == [
        (
            f'fraud.yaml:8:24: the input of pipeline "fraud" reads "sums.step.{step}"; '
            f'pipeline "sums" has no step of that name ({hint})'
        )
    ]


def test_the_answers_of_a_pipeline_without_an_output_are_refused() -> None:
    silent = plain("sums", output="  maxStepRevisits: 0")
    assert across(fed("externalInputs: [sums]"), silent) == [
        (
            'fraud.yaml:7:22: the input of pipeline "fraud" reads "sums"; pipeline "sums" has no output '
            "(give it an output, or read one of its steps)"
        )
    ]
    assert across(fed("externalInputs: [sums.step.score, sums.inputs]"), silent) == []


def test_pipelines_that_feed_each_other_in_a_cycle_are_refused_once() -> None:
    ring = [fed(f"externalInputs: [{other}]", name=name) for name, other in (("a", "b"), ("b", "c"), ("c", "a"))]
    reader = fed("externalInputs: [a]", name="reader")
    assert across(*ring, reader) == [
        "a.yaml:7:22: pipelines a, b, c feed each other in a cycle (a record would go round for ever)"
    ]


def test_a_cycle_with_what_is_loaded_already_is_told_where_it_is_closed() -> None:
    present = (fed("externalInputs: [b]", name="a"),)
    assert across(
        fed("externalTriggers: [a]", "externalInputs: [other]", name="b"), plain("other"), present=present
    ) == ["b.yaml:7:24: pipelines b, a feed each other in a cycle (a record would go round for ever)"]


def test_of_rings_that_share_a_pipeline_the_shortest_is_told() -> None:
    a, b = fed("externalInputs: [b, c]", name="a"), fed("externalInputs: [c]", name="b")
    c = fed("externalInputs: [a]", name="c")
    assert across(a, b, c) == [
        "a.yaml:7:25: pipelines a, c feed each other in a cycle (a record would go round for ever)"
    ]


def test_a_cycle_is_told_with_what_else_is_wrong() -> None:
    ring = [fed(f"externalInputs: [{other}, zzz]", name=name) for name, other in ("ab", "bc", "ca")]
    places = [refusal.partition(": ")[0] for refusal in across(*ring)]
    assert places == ["a.yaml:7:25", "b.yaml:7:25", "c.yaml:7:25", "a.yaml:7:22"]


def test_a_pipeline_that_reads_itself_is_told_of_by_its_own_check_alone() -> None:
    assert across(fed("externalInputs: [fraud]")) == []


def test_a_cycle_of_what_is_loaded_already_is_no_fault_of_what_it_feeds() -> None:
    present = [fed(f"externalInputs: [{other}]", name=name) for name, other in (("a", "b"), ("b", "a"))]
    assert across(fed("externalInputs: [a]", name="c"), present=tuple(present)) == []


def test_thousands_of_pipelines_are_checked() -> None:
    chain = [plain("p0"), *(fed(f"externalInputs: [p{n - 1}]", name=f"p{n}") for n in range(1, 2000))]
    assert check_upstreams(chain) == []


def test_a_cycle_of_thousands_of_pipelines_is_told_in_a_line() -> None:
    ring = [fed(f"externalInputs: [p{(n + 1) % 2000}]", name=f"p{n}") for n in range(2000)]
    [problem] = check_upstreams(ring)
    assert problem.message == "pipelines p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, … feed each other in a cycle"


def test_hints_are_looked_for_a_hundred_times_at_most() -> None:
    up = read("  steps: [" + ", ".join(f"{{name: step-{n:04}}}" for n in range(9000)) + "]\n", name="up")
    reader = fed("externalInputs: [" + ", ".join(f"up.step.stem-{n:04}" for n in range(200)) + "]")
    problems = check_upstreams([up, reader])
    assert [len(problems), "did you mean" in problems[0].hint, "did you mean" in problems[-1].hint] == [
        100,
        True,
        False,
    ]


def test_thousands_of_references_are_read() -> None:
    several = "externalInputs: [" + ", ".join(f"up.step.s{n}" for n in range(5000)) + "]"
    renames = "tensorMap: {" + ", ".join(f"up.step.s{n}.outputs.x: u{n}" for n in range(5000)) + "}"
    pipeline = fed(several, renames)
    up = read("  steps: [" + ", ".join(f"{{name: s{n}}}" for n in range(5000)) + "]\n", name="up")
    assert [*compile_input(pipeline)[1], *check_upstreams([pipeline, up])] == []


@pytest.mark.parametrize("text", ["x." * 5000, "x" * 10_000, "sums." + "x" * 10_000])
@pytest.mark.parametrize("lines", ["externalInputs: [{}]", "externalInputs: [other]\n    externalTriggers: [{}]"])
def test_a_reference_of_10_kb_is_refused_in_a_line(lines: str, text: str) -> None:
    pipeline = fed(lines.format(text))
    problems = [*compile_input(pipeline)[1], *check_upstreams([pipeline, plain("other")])]
    assert [len(problem.message) < 200 for problem in problems] == [True]


def test_an_input_is_drawn_in_every_form() -> None:
    found = upstream(
        "externalInputs: [sums.outputs.x, other]", "externalTriggers: [gate]", "tensorMap: {sums.outputs.x: u}"
    )
    assert as_text(found).splitlines() == [
        "  input (inner, by key within 60 s)",
        "    <- sums.outputs x as u",
        "    <- other.outputs",
        "    triggered by",
        "    <~ gate.outputs",
    ]
    assert as_mermaid(found).splitlines() == [
        '  u0(["sums.outputs"])',
        '  u1(["other.outputs"])',
        '  u2(["gate.outputs"])',
        '  u0 -->|"x as u"| n0',
        "  u1 --> n0",
        "  u2 -.-> n0",
    ]
    assert as_data(found)["sources"] == [
        {"from": "sums.outputs", "tensors": ["x"], "renames": {"x": "u"}},
        {"from": "other.outputs", "tensors": [], "renames": {}},
    ]


@pytest.mark.parametrize(
    ("lines", "title"),
    [
        (["externalInputs: [sums]"], "  input"),
        (["externalInputs: [sums.outputs.x, sums.outputs.y]", "joinType: any"], "  input (any)"),
        (["externalInputs: [sums]", "externalTriggers: [gate]"], "  input (by key within 60 s)"),
        (["externalInputs: [a, b]", "joinType: outer", "joinWindowMs: 50"], "  input (outer, by key within 0.05 s)"),
    ],
)
def test_a_drawing_says_how_an_input_waits_where_it_does(lines: list[str], title: str) -> None:
    assert as_text(upstream(*lines)).splitlines()[0] == title


def test_a_name_cannot_break_a_drawing() -> None:
    found = upstream("""externalInputs: ['su"ms.outputs.x"y#1']""")
    assert as_mermaid(found).splitlines() == [
        '  u0(["su#quot;ms.outputs"])',
        '  u0 -->|"x#quot;y#35;1"| n0',
    ]
