from __future__ import annotations

from dataclasses import replace

import pytest

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.plan import ENTRY, Edge, Node, Plan
from engine.protocol.record import Side
from engine.resources import Batch, Join, Output, Pipeline, Step, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata:\n  name: fraud\nspec:\n"

INPUTS, OUTPUTS = Side.INPUTS, Side.OUTPUTS


def read(spec: str) -> Pipeline:
    found, faults = documents(HEAD + spec, "p.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Pipeline)
    return resource


def plan(spec: str) -> Plan:
    compiled, problems = compile_pipeline(read(spec))
    assert problems == []
    assert compiled is not None
    return compiled


def refusals(spec: str) -> list[str]:
    """The headlines and hints of all problems, with lines counted from the first of the spec's fields."""
    compiled, problems = compile_pipeline(read(spec))
    assert compiled is None
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


def steps(*lines: str) -> str:
    return "".join(["  steps:\n", *(f"    - {line}\n" for line in lines)])


def many(count: int, inputs: str = "") -> Pipeline:
    """A pipeline of that many steps, the first of which reads `inputs`, the others the step before."""
    chained = [Step("s0", inputs=(inputs,) if inputs else ())]
    chained += [Step(f"s{index}", inputs=(f"s{index - 1}",)) for index in range(1, count)]
    document = read(steps("{name: a}")).document
    return Pipeline(name="fraud", steps=tuple(reversed(chained)), output=Output((f"s{count - 1}",)), document=document)


def test_a_step_without_inputs_takes_the_pipelines_inputs() -> None:
    assert plan(steps("{name: a}")).nodes == (Node("fraud"), Node("a", (Edge(ENTRY, INPUTS),)))


def test_a_pipeline_without_an_output_has_no_output_node() -> None:
    compiled = plan(steps("{name: a}"))
    assert (compiled.output, compiled.output_index) == (False, None)


def test_a_bare_step_name_means_its_outputs() -> None:
    assert plan(steps("{name: a}", "{name: b, inputs: [a]}")).nodes[2].edges == (Edge(1, OUTPUTS),)


def test_the_bare_name_of_the_pipeline_means_its_inputs() -> None:
    assert plan(steps("{name: a, inputs: [fraud]}")).nodes[1].edges == (Edge(ENTRY, INPUTS),)


def test_a_steps_inputs_are_a_source() -> None:
    assert plan(steps("{name: a}", "{name: b, inputs: [a.inputs]}")).nodes[2].edges == (Edge(1, INPUTS),)


def test_a_tensor_of_a_source_is_selected() -> None:
    compiled = plan(steps("{name: a}", "{name: b, inputs: [a.outputs.x]}"))
    assert compiled.nodes[2].edges == (Edge(1, OUTPUTS, ("x",)),)


def test_tensors_of_one_source_are_one_edge_in_the_order_of_the_references() -> None:
    compiled = plan(steps("{name: a}", "{name: b, inputs: [a.outputs.y, a.outputs.x]}"))
    assert compiled.nodes[2].edges == (Edge(1, OUTPUTS, ("y", "x")),)


def test_a_whole_source_is_not_narrowed_by_a_tensor_of_it() -> None:
    compiled = plan(steps("{name: a}", "{name: b, inputs: [a.outputs.y, a]}"))
    assert compiled.nodes[2].edges == (Edge(1, OUTPUTS),)


def test_several_sources_are_edges_in_the_order_of_the_references() -> None:
    compiled = plan(steps("{name: a}", "{name: b}", "{name: c, inputs: [b.outputs.x, fraud, a.inputs, b.outputs.y]}"))
    assert compiled.nodes[3].edges == (
        Edge(2, OUTPUTS, ("x",)),
        Edge(ENTRY, INPUTS),
        Edge(1, INPUTS),
        Edge(2, OUTPUTS, ("y",)),
    )


@pytest.mark.parametrize("join", ["outer", "any"])
def test_tensors_that_need_not_all_be_there_are_edges_of_their_own(join: str) -> None:
    lines = steps("{name: a}", f"{{name: b, inputs: [a.outputs.x, a.outputs.y], inputsJoinType: {join}}}")
    assert plan(lines).nodes[2].edges == (Edge(1, OUTPUTS, ("x",)), Edge(1, OUTPUTS, ("y",)))


def test_several_steps_read_one_source() -> None:
    compiled = plan(steps("{name: a}", "{name: b, inputs: [a]}", "{name: c, inputs: [a]}"))
    assert compiled.readers[1, OUTPUTS] == ((2, 0), (3, 0))


def test_steps_stand_after_their_sources() -> None:
    compiled = plan(steps("{name: c, inputs: [b, a]}", "{name: b, inputs: [a]}", "{name: a}"))
    assert [node.name for node in compiled.nodes] == ["fraud", "a", "b", "c"]


def test_steps_that_need_nothing_of_each_other_keep_the_order_of_the_file() -> None:
    assert [node.name for node in plan(steps("{name: z}", "{name: m}", "{name: a}")).nodes[1:]] == ["z", "m", "a"]


def test_the_tensor_map_of_a_step_goes_with_the_source_it_names() -> None:
    compiled = plan(
        steps("{name: a}", "{name: b, inputs: [a.outputs.x, fraud], tensorMap: {a.outputs.x: u, fraud.inputs.y: v}}")
    )
    assert compiled.nodes[2].edges == (
        Edge(1, OUTPUTS, ("x",), (("x", "u"),)),
        Edge(ENTRY, INPUTS, (), (("y", "v"),)),
    )


def test_a_tensor_map_renames_what_a_step_without_inputs_takes() -> None:
    compiled = plan(steps("{name: a, tensorMap: {fraud.inputs.x: y}}"))
    assert compiled.nodes[1].edges == (Edge(ENTRY, INPUTS, (), (("x", "y"),)),)


def test_the_output_takes_what_its_steps_say_renamed_by_its_tensor_map() -> None:
    spec = steps("{name: a}") + "  output: {steps: [a.outputs.x], tensorMap: {a.outputs.x: y}}\n"
    compiled = plan(spec)
    assert compiled.nodes[-1] == Node("fraud", (Edge(1, OUTPUTS, ("x",), (("x", "y"),)),))
    assert compiled.output_index == 2


def test_a_conditional_joins_its_branches_with_any() -> None:
    spec = steps(
        "{name: router}",
        "{name: left, inputs: [router.outputs.l]}",
        "{name: right, inputs: [router.outputs.r]}",
    )
    output = plan(spec + "  output: {steps: [left, right], stepsJoin: any}\n").nodes[-1]
    assert output == Node("fraud", (Edge(2, OUTPUTS), Edge(3, OUTPUTS)), Join.ANY)


def test_an_output_without_steps_sends_back_what_came_in() -> None:
    assert plan(steps("{name: a}") + "  output: {steps: []}\n").nodes[-1].edges == (Edge(ENTRY, INPUTS),)


def test_an_unknown_step_is_told_with_the_nearest_name() -> None:
    assert refusals(steps("{name: features}", "{name: score, inputs: [featurs.outputs]}")) == [
        '3:30: step "score" reads "featurs.outputs"; no step has that name (did you mean "features"?)'
    ]


def test_an_unknown_step_that_is_near_nothing_is_told_with_the_steps_there_are() -> None:
    assert refusals(steps("{name: a}", "{name: b, inputs: [zzz]}")) == [
        '3:26: step "b" reads "zzz"; no step has that name (the steps are a, b)'
    ]


def test_a_hint_does_not_list_more_steps_than_anybody_reads() -> None:
    lines = steps(*(f"{{name: s{index}}}" for index in range(12)), "{name: b, inputs: [zzz]}")
    assert refusals(lines)[0].endswith("(the steps are s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, …)")


def test_the_output_reads_steps_that_exist() -> None:
    assert refusals(steps("{name: a}") + "  output: {steps: [b]}\n") == [
        '3:20: the output reads "b"; no step has that name (the steps are a)'
    ]


@pytest.mark.parametrize("reference", ["fraud", "fraud.inputs", "fraud.outputs"])
def test_the_output_may_not_name_the_pipeline(reference: str) -> None:
    assert refusals(steps("{name: a}") + f"  output: {{steps: [{reference}]}}\n") == [
        f'3:20: the output reads "{reference}"; the pipeline\'s own name is not allowed there'
    ]


def test_a_step_may_not_read_the_pipelines_outputs() -> None:
    assert refusals(steps("{name: a, inputs: [fraud.outputs]}")) == [
        '2:26: step "a" reads "fraud.outputs", the pipeline\'s own outputs'
    ]


def test_a_slip_in_the_side_is_told_with_the_right_reference() -> None:
    assert refusals(steps("{name: a}", "{name: b, inputs: [a.output.x]}")) == [
        '3:26: step "b" reads "a.output.x", which is no reference (did you mean "a.outputs.x"?)'
    ]


@pytest.mark.parametrize("reference", ["a.q", "a.outputs.", "a.outputs.x.y.z", "a..x"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    [refusal] = refusals(steps("{name: a}", f"{{name: b, inputs: [{reference}]}}"))
    assert refusal.startswith(f'3:26: step "b" reads "{reference}", which is no reference')


def test_a_tensor_map_must_name_side_and_tensor() -> None:
    assert refusals(steps("{name: a}", "{name: b, inputs: [a], tensorMap: {a.x: y}}")) == [
        '3:42: step "b" renames "a.x"; write <step>.<inputs|outputs>.<tensor>'
    ]


def test_a_tensor_map_must_name_a_source_that_is_read() -> None:
    assert refusals(steps("{name: a}", "{name: b, inputs: [a], tensorMap: {a.inputs.x: y}}")) == [
        '3:42: step "b" renames "a.inputs.x", but does not read a.inputs'
    ]


def test_a_tensor_map_must_name_a_tensor_that_is_read() -> None:
    assert refusals(steps("{name: a}", "{name: b, inputs: [a.outputs.x], tensorMap: {a.outputs.y: z}}")) == [
        '3:52: step "b" renames "a.outputs.y", but does not read a.outputs.y'
    ]


def test_the_tensor_map_of_a_step_without_inputs_is_checked() -> None:
    assert refusals(steps("{name: a, tensorMap: {b.outputs.x: y}}")) == [
        '2:29: step "a" renames "b.outputs.x", but does not read b.outputs'
    ]


def test_the_tensor_map_of_an_output_without_steps_is_checked() -> None:
    assert refusals(steps("{name: a}") + "  output: {steps: [], tensorMap: {a.outputs.x: y}}\n") == [
        '3:35: the output renames "a.outputs.x", but does not read a.outputs'
    ]


@pytest.mark.parametrize(
    ("inputs", "renames"),
    [
        ("inputs: [two]", "two.outputs.a: y, two.outputs.b: y"),
        ("inputs: [two.outputs.a, two.outputs.b]", "two.outputs.a: y, two.outputs.b: y"),
        ("inputs: [two, one], inputsJoinType: any", "two.outputs.a: y, two.outputs.b: y"),
        ("inputs: [two.outputs.a, one.outputs.b]", "one.outputs.b: y, two.outputs.a: y"),
        ("inputs: [two.inputs, fraud]", "fraud.inputs.b: x, fraud.inputs.c: x, two.inputs.a: y, two.inputs.d: y"),
    ],
)
def test_tensors_that_come_together_may_not_get_one_name(inputs: str, renames: str) -> None:
    [refusal] = refusals(steps("{name: one}", "{name: two}", f"{{name: c, {inputs}, tensorMap: {{{renames}}}}}"))
    first, second = (entry.split(":")[0] for entry in renames.split(", ") if entry.endswith("y"))
    line, _, text = refusal.partition(": ")
    assert line.startswith("4:")
    assert text == f'step "c" renames "{first}" and "{second}" to "y", and both can come (give them different names)'


@pytest.mark.parametrize(
    ("inputs", "renames"),
    [
        ("inputs: [two.outputs.a, two.outputs.b], inputsJoinType: any", "two.outputs.a: y, two.outputs.b: y"),
        ("inputs: [two, one], inputsJoinType: any", "two.outputs.a: y, one.outputs.a: y"),
        ("inputs: [two, one], inputsJoinType: outer", "two.outputs.a: y, one.outputs.a: y"),
        ("inputs: []", "fraud.inputs.amount: y, fraud.inputs.sum: y"),
    ],
)
def test_tensors_that_may_come_in_place_of_each_other_may_get_one_name(inputs: str, renames: str) -> None:
    plan(steps("{name: one}", "{name: two}", f"{{name: c, {inputs}, tensorMap: {{{renames}}}}}"))


def test_outputs_that_come_together_may_not_get_one_name() -> None:
    spec = (
        steps("{name: a}") + "  output:\n    steps: [a]\n    tensorMap:\n      a.outputs.x: z\n      a.outputs.y: z\n"
    )
    assert refusals(spec) == [
        '7:7: the output renames "a.outputs.x" and "a.outputs.y" to "z", and both can come (give them different names)'
    ]


def test_a_cycle_is_told_where_its_first_step_reads_and_without_the_steps_behind_it() -> None:
    lines = steps(
        "{name: a, inputs: [c]}", "{name: b, inputs: [a]}", "{name: c, inputs: [b]}", "{name: d, inputs: [c]}"
    )
    assert refusals(lines) == [
        '2:26: pipeline "fraud" has a cycle among the steps a, c, b (allowCycles: true permits it)'
    ]


def test_a_cycle_is_told_without_the_steps_that_only_read_it() -> None:
    lines = steps("{name: d, inputs: [b]}", "{name: a, inputs: [b]}", "{name: b, inputs: [a]}")
    assert refusals(lines) == ['3:26: pipeline "fraud" has a cycle among the steps a, b (allowCycles: true permits it)']


def test_a_step_that_reads_itself_is_a_cycle() -> None:
    assert refusals(steps("{name: a, inputs: [a]}")) == [
        '2:26: pipeline "fraud" has a cycle among the steps a (allowCycles: true permits it)'
    ]


def test_all_faults_are_told_at_once() -> None:
    lines = steps("{name: a, inputs: [x1]}", "{name: b, inputs: [y.z]}") + "  output: {steps: [w9]}\n"
    assert [refusal.partition(":")[0] for refusal in refusals(lines)] == ["2", "3", "4"]


def test_triggers_gate_a_step_and_give_it_no_data() -> None:
    found = plan(steps("{name: a}", "{name: b, triggers: [a.outputs.go, fraud.inputs], triggersJoinType: any}"))
    assert found.nodes[2] == Node(
        "b",
        (Edge(0, Side.INPUTS),),
        Join.INNER,
        (Edge(1, Side.OUTPUTS, ("go",)), Edge(0, Side.INPUTS)),
        Join.ANY,
    )


def test_a_step_stands_after_its_triggers() -> None:
    found = plan(steps("{name: b, triggers: [a]}", "{name: a}"))
    assert [node.name for node in found.nodes] == ["fraud", "a", "b"]


def test_a_cycle_through_a_trigger_is_a_cycle() -> None:
    lines = steps("{name: a, triggers: [b]}", "{name: b, inputs: [a]}")
    assert refusals(lines) == ['2:28: pipeline "fraud" has a cycle among the steps a, b (allowCycles: true permits it)']


def test_a_trigger_of_an_unknown_step_is_refused() -> None:
    assert refusals(steps("{name: aa}", "{name: b, triggers: [aaa]}")) == [
        '3:28: the trigger of step "b" reads "aaa"; no step has that name (did you mean "aa"?)'
    ]


def test_the_window_of_a_join_is_kept_in_seconds() -> None:
    lines = steps("{name: a}", "{name: b, inputs: [a, fraud], inputsJoinType: outer, joinWindowMs: 250}")
    assert plan(lines).nodes[2].window == 0.25


CYCLES = "  allowCycles: true\n  maxStepRevisits: 3\n"
RING = ("{name: a, inputs: [fraud, b], inputsJoinType: any}", "{name: b, inputs: [a]}")
HINT = ' (a cycle begins at a step that joins a source from outside it by "any" or "outer")'


def test_a_cycle_begins_where_it_can_and_closes_with_an_edge_to_the_next_round() -> None:
    found = plan(steps(*reversed(RING)) + CYCLES)
    assert [(node.name, node.cycle) for node in found.nodes] == [("fraud", 0), ("a", 1), ("b", 1)]
    assert found.nodes[1].edges == (Edge(0, INPUTS), Edge(2, OUTPUTS, back=True))
    assert found.nodes[2].edges == (Edge(1, OUTPUTS),)


def test_a_step_may_be_visited_once_more_than_it_may_be_revisited() -> None:
    assert plan(steps(*RING) + CYCLES).max_visits == 4
    assert plan(steps(*RING) + "  allowCycles: true\n").max_visits == 1


def test_a_step_may_read_itself_where_cycles_are_allowed() -> None:
    found = plan(steps("{name: a, inputs: [fraud, a], inputsJoinType: outer}") + CYCLES)
    assert found.nodes[1].edges[1] == Edge(1, OUTPUTS, back=True)


def test_a_step_is_input_and_trigger_of_another() -> None:
    found = plan(steps("{name: a}", "{name: b, inputs: [a.outputs.x], triggers: [a.outputs.go]}"))
    assert (found.nodes[2].edges, found.nodes[2].triggers) == (
        (Edge(1, OUTPUTS, ("x",)),),
        (Edge(1, OUTPUTS, ("go",)),),
    )


def test_steps_of_a_cycle_that_nothing_begins_can_never_run() -> None:
    lines = steps("{name: a, inputs: [fraud, b]}", "{name: b, inputs: [a]}", "{name: c, inputs: [b]}") + CYCLES
    assert refusals(lines + "  output: {steps: [c]}\n") == [
        f'2:33: step "a" can never run: it waits for b.outputs, which can never come{HINT}',
        f'3:26: step "b" can never run: it waits for a.outputs, which can never come{HINT}',
        '4:26: step "c" can never run: it waits for b.outputs, which can never come',
        "7:20: the output can never come: it waits for c.outputs, which can never come",
    ]


def test_two_sources_in_one_cycle_have_no_rounds_in_common_with_another() -> None:
    other = ("{name: c, inputs: [fraud, d], inputsJoinType: any}", "{name: d, inputs: [c]}")
    lines = steps(*RING, *other, "{name: e, inputs: [a, b, c]}") + CYCLES
    assert refusals(lines) == [
        (
            '6:29: step "e" waits for a.outputs, b.outputs of one cycle and reads another, so that no rounds pair them '
            "(join them in a step that is in no cycle)"
        )
    ]
    assert plan(lines.replace("[a, b, c]}", "[a, b, c], inputsJoinType: any}"))


def test_a_step_of_a_cycle_takes_one_thing_of_another_cycle() -> None:
    self_reading = "{name: e, inputs: [fraud, e], inputsJoinType: any, triggers: [a, b], triggersJoinType: any}"
    assert refusals(steps(*RING, self_reading) + CYCLES) == [
        (
            '4:72: step "e" waits for a.outputs, b.outputs of one cycle and is in another, so that no rounds pair them '
            "(join them in a step that is in no cycle)"
        )
    ]
    assert plan(steps(*RING, self_reading.replace("[a, b]", "[b]")) + CYCLES)


def test_a_step_whose_source_is_refused_is_not_told_that_it_can_never_run() -> None:
    lines = steps("{name: a, inputs: [a, zzz], inputsJoinType: any}") + CYCLES
    assert refusals(lines) == ['2:29: step "a" reads "zzz"; no step has that name (the steps are a)']


def test_a_batch_stands_in_the_plan() -> None:
    assert plan(steps("{name: a, batch: {size: 2, windowMs: 50}}")).nodes[1].batch == Batch(2, 50)


def test_what_is_read_of_other_pipelines_is_none_of_the_plans_business() -> None:
    fed = plan(steps("{name: a}") + "  input: {externalInputs: [other]}\n")
    assert fed == plan(steps("{name: a}"))


@pytest.mark.parametrize("ways", ["one ring", "many rings"])
def test_cycles_of_10_000_steps_are_ordered(ways: str) -> None:
    source = (lambda n: n - 1) if ways == "one ring" else (lambda n: n - 1 if n % 2 else n + 1)
    found = [Step(f"s{n}", inputs=("fraud", f"s{source(n) % 10_000}"), inputs_join=Join.ANY) for n in range(10_000)]
    pipeline = replace(many(1), steps=tuple(found), output=None, allow_cycles=True)
    compiled, problems = compile_pipeline(pipeline)
    assert (problems, len(compiled.nodes) if compiled else 0) == ([], 10_001)


def test_a_ring_of_10_000_steps_that_nothing_begins_is_refused() -> None:
    pipeline = replace(many(10_000, inputs="s9999"), allow_cycles=True)
    compiled, problems = compile_pipeline(pipeline)
    assert (compiled, len(problems)) == (None, 100)


@pytest.mark.parametrize("join", ["inner", "any"])
def test_a_window_says_nothing_where_nothing_waits_for_it(join: str) -> None:
    lines = steps("{name: a}", f"{{name: b, inputs: [a, fraud], inputsJoinType: {join}, joinWindowMs: 5}}")
    assert plan(lines).nodes[2].join == join


def test_ten_thousand_chained_steps_in_reverse_order_compile() -> None:
    pipeline = many(10_000)
    compiled, problems = compile_pipeline(pipeline)
    assert problems == []
    assert compiled is not None
    assert [node.name for node in compiled.nodes[1:-1]] == [f"s{index}" for index in range(10_000)]


def test_a_ring_of_ten_thousand_steps_is_refused_in_a_line() -> None:
    pipeline = many(10_000, inputs="s9999")
    _, problems = compile_pipeline(pipeline)
    [problem] = problems
    assert problem.message.endswith(
        "has a cycle among the steps s9999, s9998, s9997, s9996, s9995, s9994, s9993, s9992, s9991, s9990, …"
    )


def test_ten_thousand_unknown_references_are_told_as_a_hundred() -> None:
    document = read(steps("{name: a}")).document
    wrong = tuple(Step(f"step-{index:05}", inputs=(f"stepp-{index:05}",)) for index in range(10_000))
    compiled, problems = compile_pipeline(Pipeline(name="fraud", steps=wrong, document=document))
    assert compiled is None
    assert len(problems) == 100
