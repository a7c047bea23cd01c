from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine.dataflow.gather import Answer, Call, Done, Gather, Progress, Refused, Wait
from engine.dataflow.plan import ENTRY, Edge, Node, Plan, single_model
from engine.errors import ModelFailed, NoAnswer, TooManyVisits
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.record import Side
from engine.resources import Join

if TYPE_CHECKING:
    from engine.dataflow.gather import Instruction

INPUTS, OUTPUTS = Side.INPUTS, Side.OUTPUTS


def columns(*rows: int, name: str = "x") -> Columns:
    """One row for each number, in a tensor of that name."""
    return Columns([b"%d" % row for row in rows], (TensorSpec(name, "INT64", ()),), (np.array(rows, "<i8"),))


def edge(source: int, *tensors: str, side: Side = OUTPUTS) -> Edge:
    return Edge(source, side, tensors)


def plan(*nodes: Node, output: bool = True) -> Plan:
    """A plan `p`; its steps are named by the caller, its output is the last node."""
    return Plan("p", (Node("p"), *nodes), output=output)


START = edge(ENTRY, side=INPUTS)
FORK = (Node("a", (START,)), Node("b", (START,)))


def joined(join: Join) -> Plan:
    return plan(*FORK, Node("c", (edge(1), edge(2)), join), Node("p", (edge(3),)))


def told(instructions: list[Instruction], *requests: Progress) -> list[tuple[object, ...]]:
    """Instructions as (node or kind, request numbers, tensors of the rows); calls in later rounds with their round."""
    found: list[tuple[object, ...]] = []
    for instruction in instructions:
        numbers = [requests.index(request) for request in instruction.requests]
        if isinstance(instruction, Done):
            found.append(("done", numbers))
        elif isinstance(instruction, Refused):
            found.append(("refused", numbers, str(instruction.error)))
        elif isinstance(instruction, Wait):
            found.append(("wait", numbers, instruction.node, instruction.round, instruction.seconds))
        else:
            what = instruction.node if isinstance(instruction, Call) else "answer"
            rows = [cells.tolist() for cells in instruction.columns.cells]
            later = (instruction.round,) if isinstance(instruction, Call) and instruction.round else ()
            found.append((what, numbers, rows, *later))
    return found


def test_a_lone_model_is_called_and_its_answer_is_the_answer() -> None:
    gather, request = Gather(single_model("m")), Progress()
    assert told(gather.start([request], columns(1)), request) == [(1, [0], [[1]])]
    assert told(gather.answer(1, [request], columns(2)), request) == [("answer", [0], [[2]]), ("done", [0])]
    assert gather.outcome(request) is None


def test_requests_of_a_batch_move_on_without_each_other() -> None:
    gather, first, second = Gather(single_model("m")), Progress(), Progress()
    gather.start([first, second], columns(1, 2))
    assert told(gather.answer(1, [second], columns(9)), first, second) == [("answer", [1], [[9]]), ("done", [1])]
    assert not first.answered


def test_steps_that_read_one_source_are_called_together() -> None:
    gather, request = Gather(plan(*FORK, output=False)), Progress()
    assert told(gather.start([request], columns(1)), request) == [(1, [0], [[1]]), (2, [0], [[1]])]


def test_an_inner_join_runs_with_all_in_the_order_of_the_references() -> None:
    gather, request = Gather(joined(Join.INNER)), Progress()
    gather.start([request], columns(1))
    assert gather.answer(2, [request], columns(20)) == []
    assert told(gather.answer(1, [request], columns(10)), request) == [(3, [0], [[10], [20]])]


def test_an_inner_join_gives_up_at_its_first_failure() -> None:
    gather, request = Gather(joined(Join.INNER)), Progress()
    gather.start([request], columns(1))
    gather.fail(1, [request], ModelFailed("broken"))
    assert told(gather.answer(2, [request], columns(20)), request) == [("done", [0])]


def test_rows_of_a_join_that_answered_in_different_orders_do_not_cross() -> None:
    gather, requests = Gather(joined(Join.INNER)), [Progress(), Progress(), Progress()]
    first, second, third = requests
    gather.start(requests, columns(1, 2, 3))
    gather.answer(1, [third, first], columns(13, 11))
    gather.answer(1, [second], columns(12))
    calls = gather.answer(2, [second, first, third], columns(22, 21, 23))
    assert told(calls, *requests) == [(3, [1], [[12], [22]]), (3, [0, 2], [[11, 13], [21, 23]])]


def test_an_any_join_runs_once_with_the_first() -> None:
    gather, request = Gather(joined(Join.ANY)), Progress()
    gather.start([request], columns(1))
    assert told(gather.answer(2, [request], columns(20)), request) == [(3, [0], [[20]])]
    assert gather.answer(1, [request], columns(10)) == []


def test_of_sources_that_come_at_once_an_any_join_takes_the_one_that_stands_first_in_the_plan() -> None:
    late = Node("b", (edge(1, side=INPUTS),))
    early = Node("c", (Edge(ENTRY, INPUTS, (), (("x", "z"),)),))
    output = Node("p", (edge(3, side=INPUTS), edge(2, side=INPUTS)), Join.ANY)
    gather, request = Gather(plan(Node("a", (START,)), late, early, output)), Progress()
    [answer] = [found for found in gather.start([request], columns(1)) if isinstance(found, Answer)]
    assert answer.columns.names == ("x",)


def test_an_any_join_survives_a_failure() -> None:
    gather, request = Gather(joined(Join.ANY)), Progress()
    gather.start([request], columns(1))
    assert gather.fail(1, [request], ModelFailed("broken")) == []
    assert told(gather.answer(2, [request], columns(20)), request) == [(3, [0], [[20]])]


def test_an_outer_join_waits_for_every_source() -> None:
    gather, request = Gather(joined(Join.OUTER)), Progress()
    gather.start([request], columns(1))
    assert gather.answer(2, [request], columns(20)) == []
    assert told(gather.answer(1, [request], columns(10)), request) == [(3, [0], [[10], [20]])]


def test_an_outer_join_runs_with_what_there_is_once_the_rest_cannot_come() -> None:
    gather, request = Gather(joined(Join.OUTER)), Progress()
    gather.start([request], columns(1))
    gather.answer(2, [request], columns(20))
    assert told(gather.fail(1, [request], ModelFailed("broken")), request) == [(3, [0], [[20]])]


def test_an_outer_join_of_nothing_does_not_run() -> None:
    gather, request = Gather(joined(Join.OUTER)), Progress()
    gather.start([request], columns(1))
    gather.fail(1, [request], ModelFailed("broken"))
    assert told(gather.fail(2, [request], ModelFailed("too")), request) == [("done", [0])]


def test_a_branch_that_is_not_taken_never_runs() -> None:
    branches = plan(
        Node("router", (START,)), Node("left", (edge(1, "l"),)), Node("right", (edge(1, "r"),)), output=False
    )
    gather, request = Gather(branches), Progress()
    gather.start([request], columns(1))
    assert told(gather.answer(1, [request], columns(5, name="r")), request) == [(3, [0], [[5]])]


def test_what_a_step_is_given_is_a_source_when_the_step_is_called() -> None:
    gather = Gather(plan(Node("a", (START,)), Node("b", (edge(1, side=INPUTS),)), output=False))
    request = Progress()
    assert told(gather.start([request], columns(1)), request) == [(1, [0], [[1]]), (2, [0], [[1]])]


def test_a_request_whose_branch_was_not_taken_is_told_what_is_missing() -> None:
    gather = Gather(plan(Node("a", (START,)), Node("b", (edge(1, "y"),)), Node("p", (edge(2),))))
    request = Progress()
    gather.start([request], columns(1))
    assert told(gather.answer(1, [request], columns(2)), request) == [("done", [0])]
    assert str(gather.outcome(request)) == (
        'pipeline "p" ended without an answer: step "b" did not run, a.outputs gave x and not "y"; '
        "the output did not run, b.outputs gave nothing"
    )


def test_a_join_that_was_not_met_is_told() -> None:
    gather, request = Gather(plan(*FORK, Node("p", (edge(1, "y"), edge(2))))), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], columns(1))
    gather.answer(2, [request], columns(1))
    outcome = gather.outcome(request)
    assert isinstance(outcome, NoAnswer)
    assert str(outcome).endswith("the output did not run, not all of a.outputs, b.outputs gave what it wants")


def test_a_failure_before_the_output_is_the_outcome_and_names_its_step() -> None:
    gather, request = Gather(single_model("m")), Progress()
    gather.start([request], columns(1))
    assert told(gather.fail(1, [request], ModelFailed("broken")), request) == [("done", [0])]
    outcome = gather.outcome(request)
    assert isinstance(outcome, ModelFailed)
    assert (outcome.text, outcome.step) == ("broken", "m")


def test_of_several_failures_the_first_is_the_outcome() -> None:
    gather, request = Gather(joined(Join.INNER)), Progress()
    gather.start([request], columns(1))
    gather.fail(2, [request], ModelFailed("first"))
    gather.fail(1, [request], ModelFailed("second"))
    assert str(gather.outcome(request)) == "first"


def test_a_failure_off_the_way_to_the_output_does_not_replace_the_answer() -> None:
    gather, request = Gather(plan(*FORK, Node("p", (edge(1),)))), Progress()
    gather.start([request], columns(1))
    gather.fail(2, [request], ModelFailed("broken"))
    gather.answer(1, [request], columns(1))
    assert gather.outcome(request) is None


def test_a_failure_off_the_way_does_not_explain_a_missing_answer() -> None:
    gather, request = Gather(plan(*FORK, Node("p", (edge(1, "y"),)))), Progress()
    gather.start([request], columns(1))
    gather.fail(2, [request], ModelFailed("broken"))
    gather.answer(1, [request], columns(1))
    assert isinstance(gather.outcome(request), NoAnswer)


def test_a_pipeline_without_an_output_has_only_failures_to_tell() -> None:
    gather, good, bad = Gather(plan(*FORK[:1], output=False)), Progress(), Progress()
    gather.start([good, bad], columns(1, 2))
    gather.answer(1, [good], columns(1))
    gather.fail(1, [bad], ModelFailed("broken"))
    assert gather.outcome(good) is None
    assert str(gather.outcome(bad)) == "broken"


def test_a_request_that_sets_nothing_off_is_done_at_once() -> None:
    gather, request = Gather(plan(Node("a", (edge(ENTRY, "y", side=INPUTS),)), output=False)), Progress()
    assert told(gather.start([request], columns(1)), request) == [("done", [0])]


def test_an_output_without_steps_answers_with_what_came_in() -> None:
    gather, request = Gather(plan(Node("p", (START,)))), Progress()
    assert told(gather.start([request], columns(7)), request) == [("answer", [0], [[7]]), ("done", [0])]


def chain(length: int, side: Side) -> Plan:
    """Steps that each read one side of the step before, deeper than Python's stack."""
    first = Node("s0", (START,))
    return plan(first, *(Node(f"s{number}", (edge(number, side=side),)) for number in range(1, length)), output=False)


def test_a_failure_runs_down_a_chain_deeper_than_the_stack() -> None:
    gather, request = Gather(chain(10_000, OUTPUTS)), Progress()
    gather.start([request], columns(1))
    assert told(gather.fail(1, [request], ModelFailed("broken")), request) == [("done", [0])]


def test_inputs_run_down_a_chain_deeper_than_the_stack() -> None:
    gather, request = Gather(chain(10_000, INPUTS)), Progress()
    assert len(gather.start([request], columns(1))) == 10_000


def test_a_long_list_of_missing_steps_is_cut() -> None:
    steps = chain(100, OUTPUTS).nodes[1:]
    gather, request = Gather(plan(*steps, Node("p", (edge(100),)))), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], columns(1))
    gather.outcome(request)
    request = Progress()
    branch = plan(Node("s0", (edge(ENTRY, "y", side=INPUTS),)), *steps[1:], Node("p", (edge(100),)))
    gather = Gather(branch)
    gather.start([request], columns(1))
    text = str(gather.outcome(request))
    assert 'step "s0" did not run, p.inputs gave x and not "y"; ' in text
    assert text.endswith('step "s4" did not run, s3.outputs gave nothing; …')


# The sample of the reference: the same step is input and trigger, of the step that goes round and of the one outside.
COUNTER = Node("counter", (START, Edge(2, OUTPUTS, ("output",), back=True)), Join.ANY, cycle=1)
LOOP = Node("loop", (edge(1, "output"),), Join.INNER, (edge(1, "continue"),), cycle=1)
COUNTED = Node("done", (edge(1, "output"),), Join.INNER, (edge(1, "stop"),))
CYCLE = replace(plan(COUNTER, LOOP, COUNTED, Node("p", (edge(3),))), max_visits=3)


def said(*rows: int, also: str) -> Columns:
    """What the counter answers: its count, and whether to go on."""
    count, more = columns(*rows, name="output"), columns(*rows, name=also)
    return Columns(count.ids, count.specs + more.specs, count.cells + more.cells)


def test_a_cycle_goes_round_until_a_step_outside_it_has_what_it_waits_for() -> None:
    gather, request = Gather(CYCLE), Progress()
    assert told(gather.start([request], columns(1)), request) == [(1, [0], [[1]])]
    assert told(gather.answer(1, [request], said(2, also="continue")), request) == [(2, [0], [[2]])]
    assert told(gather.answer(2, [request], columns(2, name="output")), request) == [(1, [0], [[2]], 1)]
    assert told(gather.answer(1, [request], said(3, also="stop"), 1), request) == [(3, [0], [[3]])]
    assert told(gather.answer(3, [request], columns(3)), request) == [("answer", [0], [[3]]), ("done", [0])]
    assert gather.outcome(request) is None


def test_requests_of_one_batch_go_round_on_their_own_and_together_where_they_can() -> None:
    gather, requests = Gather(CYCLE), [Progress(), Progress(), Progress()]
    first, second, third = requests
    gather.start(requests, columns(1, 2, 3))
    assert told(gather.answer(1, [second], said(9, also="stop")), *requests) == [(3, [1], [[9]])]
    gather.answer(1, [third, first], said(4, 2, also="continue"))
    calls = gather.answer(2, [first, third], columns(2, 4, name="output"))
    assert told(calls, *requests) == [(1, [0, 2], [[2, 4]], 1)]


def test_a_step_that_would_run_too_often_fails_instead() -> None:
    gather, request = Gather(replace(CYCLE, max_visits=2)), Progress()
    gather.start([request], columns(1))
    for round_ in range(2):
        gather.answer(1, [request], said(1, also="continue"), round_)
        found = gather.answer(2, [request], columns(1, name="output"), round_)
    text = 'step "counter" was visited 2 times, the most that maxStepRevisits allows'
    assert told(found, request) == [("refused", [0], text), ("done", [0])]
    outcome = gather.outcome(request)
    assert isinstance(outcome, TooManyVisits)
    assert (str(outcome), outcome.step) == (text, "counter")


def test_of_a_batch_only_those_fail_that_ran_too_often() -> None:
    gather, requests = Gather(replace(CYCLE, max_visits=1)), [Progress(), Progress()]
    gather.start(requests[:1], columns(1))
    gather.answer(1, requests[:1], said(1, also="continue"))
    gather.start(requests[1:], columns(2))
    text = 'step "counter" was visited once, the most that maxStepRevisits allows'
    found = gather.answer(2, requests[:1], columns(1, name="output"))
    assert told(found, *requests) == [("refused", [0], text), ("done", [0])]


def test_a_failure_in_a_cycle_ends_it() -> None:
    gather, request = Gather(CYCLE), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], said(1, also="continue"))
    assert told(gather.fail(2, [request], ModelFailed("broken")), request) == [("done", [0])]
    assert str(gather.outcome(request)) == "broken"


def test_a_cycle_that_ended_without_an_answer_tells_what_never_ran() -> None:
    gather, request = Gather(CYCLE), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], said(1, also="continue"))
    gather.answer(2, [request], columns(1, name="output"))
    assert told(gather.answer(1, [request], columns(1, name="output"), 1), request) == [("done", [0])]
    assert str(gather.outcome(request)) == (
        'pipeline "p" ended without an answer: step "done" did not run, no round gave what it wants of '
        "counter.outputs; the output did not run, done.outputs gave nothing"
    )


def test_data_of_one_round_and_triggers_of_another_do_not_meet() -> None:
    gather, request = Gather(CYCLE), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], said(1, also="continue"))
    gather.answer(2, [request], columns(1, name="output"))
    assert told(gather.answer(1, [request], columns(1, name="stop"), 1), request) == [("done", [0])]


def test_what_is_held_does_not_set_a_later_round_off() -> None:
    outer = replace(COUNTER, join=Join.OUTER)
    gather, request = Gather(replace(CYCLE, nodes=(CYCLE.nodes[0], outer, *CYCLE.nodes[2:]))), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], said(1, also="continue"))
    assert told(gather.answer(2, [request], columns(1)), request) == [("done", [0])]


def test_an_outer_join_in_a_cycle_has_what_is_held_again_in_each_round() -> None:
    outer = replace(COUNTER, join=Join.OUTER)
    gather, request = Gather(replace(CYCLE, nodes=(CYCLE.nodes[0], outer, *CYCLE.nodes[2:]))), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], said(1, also="continue"))
    found = gather.answer(2, [request], columns(5, name="output"))
    assert told(found, request) == [(1, [0], [[1], [5]], 1)]


def test_the_window_of_a_join_in_a_cycle_is_that_of_its_round() -> None:
    first = Node("a", (START, Edge(3, OUTPUTS, back=True)), Join.ANY, cycle=1)
    join = Node("c", (edge(1), edge(2)), Join.OUTER, window=0.5, cycle=1)
    gather, request = (
        Gather(replace(plan(first, Node("b", (edge(1),), cycle=1), join, output=False), max_visits=2)),
        Progress(),
    )
    gather.start([request], columns(1))
    assert told(gather.answer(1, [request], columns(5)), request) == [("wait", [0], 3, 0, 0.5), (2, [0], [[5]])]
    assert told(gather.expire(3, [request]), request) == [(3, [0], [[5]])]
    gather.answer(3, [request], columns(6))
    assert told(gather.answer(1, [request], columns(7), 1), request) == [("wait", [0], 3, 1, 0.5), (2, [0], [[7]], 1)]
    assert gather.expire(3, [request]) == []
    assert told(gather.expire(3, [request], 1), request) == [(3, [0], [[7]], 1)]


RINGS = (
    Node("a", (START, Edge(1, OUTPUTS, back=True)), Join.ANY, cycle=1),
    Node("b", (START, Edge(2, OUTPUTS, back=True)), Join.ANY, cycle=2),
)


def test_what_reads_two_cycles_takes_the_first_that_each_gives() -> None:
    both = plan(*RINGS, Node("p", (edge(1, "y"), edge(2))))
    gather, request = Gather(replace(both, max_visits=2)), Progress()
    gather.start([request], columns(1))
    gather.answer(1, [request], columns(10))
    gather.answer(2, [request], columns(20))
    gather.answer(2, [request], columns(21), 1)
    found = gather.answer(1, [request], columns(11, name="y"), 1)
    assert ("answer", [0], [[11], [20]]) in told(found, request)


def test_what_reads_two_cycles_gives_up_when_one_ends_without_what_it_wants() -> None:
    gather, request = Gather(plan(*RINGS, Node("p", (edge(1, "y"), edge(2))))), Progress()
    gather.start([request], columns(1))
    gather.answer(2, [request], columns(20))
    gather.fail(1, [request], ModelFailed("broken"))
    assert request.unmet == [(3, "the output did not run, no round gave what it wants of a.outputs, b.outputs")]


def ring(length: int) -> Plan:
    """Steps that each read what the step before is given, deeper than Python's stack; the first reads the last too."""
    first = Node("s0", (START, Edge(length, INPUTS, back=True)), Join.ANY, cycle=1)
    rest = (Node(f"s{number}", (edge(number, side=INPUTS),), cycle=1) for number in range(1, length))
    return plan(first, *rest, output=False)


def test_a_round_runs_through_a_cycle_deeper_than_the_stack() -> None:
    gather, request = Gather(replace(ring(10_000), max_visits=2)), Progress()
    found = gather.start([request], columns(1))
    assert len([call for call in found if isinstance(call, Call)]) == 20_000
    assert isinstance(found[-1], Refused)
