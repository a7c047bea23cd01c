"""The parts of the page that decide something: figures as words, text of callers, the address, the way of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from looking import watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from looking import View
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRAPH = {
    "nodes": [
        {"id": "in", "kind": "input"},
        {"id": "choose", "kind": "step"},
        {"id": "small", "kind": "step"},
        {"id": "large", "kind": "step"},
        {"id": "out", "kind": "output"},
    ],
    "edges": [
        {"from": "in", "to": "choose", "side": "inputs", "tensors": []},
        {"from": "choose", "to": "small", "side": "outputs", "tensors": ["S"]},
        {"from": "choose", "to": "large", "side": "outputs", "tensors": ["L"]},
        {"from": "small", "to": "out", "side": "outputs", "tensors": []},
        {"from": "large", "to": "out", "side": "outputs", "tensors": []},
    ],
}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def modules(browser: Browser, address: str) -> AsyncIterator[View]:
    """The page, for its modules alone: nothing is done to it."""
    page = await browser.new_page()
    with watched(page, address) as view:
        await view.open()
        yield view
        await page.close()


def record(node: str, side: str, *tensors: str) -> dict[str, Any]:
    return {"node": node, "side": side, "tensors": [{"name": name} for name in tensors]}


async def test_figures_are_words_of_three_digits(modules: View) -> None:
    counts = await modules.run("format", "a.map(m.count)", [0, 0.123, 4.04, 128.4, 9999, 12_400, 3_100_000, None])
    assert counts == ["0", "0.12", "4", "128", "9999", "12.4k", "3.1M", "\N{EN DASH}"]
    times = await modules.run("format", "a.map(m.seconds)", [0, 0.0000123, 0.0041, 0.25, 1.5, 240, None])
    assert times == ["0 ms", "12 µs", "4.1 ms", "250 ms", "1.5 s", "4 min", "\N{EN DASH}"]


async def test_json_keeps_a_list_of_values_on_a_line(modules: View) -> None:
    written = await modules.run(
        "format", "m.json(a)", {"data": [1, "a [b] c", None], "none": [], "in": {"x": [[1], [2]]}}
    )
    assert written == (
        '{\n  "data": [1, "a [b] c", null],\n  "none": [],\n  "in": {\n    "x": [\n      [1],\n      [2]\n    ]\n  }\n}'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with accents: é", "plain, with accents: é"),
        ("a\u202eb\u2066c", "a[U+202E]b[U+2066]c"),
        ("bell\u0007 and\nline", "bell[U+0007] and[\\n]line"),
        ("zero\u200bwidth\ufeff", "zero[U+200B]width[U+FEFF]"),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
    ],
)
async def test_what_cannot_be_seen_is_shown_by_its_number(modules: View, text: str, shown: str) -> None:
    assert await modules.run("text", "m.plain(a)", text) == shown


async def test_a_long_name_loses_its_middle(modules: View) -> None:
    assert await modules.run("text", "m.shortened(a, 9)", "the-first-and-the-last") == "the-…last"
    assert await modules.run("text", "m.shortened(a, 9)", "as-it-is") == "as-it-is"


async def test_an_address_is_read_as_it_is_written(modules: View) -> None:
    route = {"kind": "pipeline", "name": "p", "tab": "requests", "request": "an/id #%&?"}
    assert await modules.run("route", "m.parse(m.format(a))", route) == route
    nowhere = {"kind": "pipeline", "name": None, "tab": None, "request": None}
    assert await modules.run("route", "a.map(m.parse)", ["", "#/", "#/nonsense"]) == [nowhere] * 3
    assert (await modules.run("route", "m.parse(a)", "#/models/%zz"))["name"] == "%zz"


async def test_an_edge_carries_what_both_its_ends_allow(modules: View) -> None:
    figures = {"rate": 10, "steps": {"choose": {"rate": 10}, "small": {"rate": 7}, "large": {"rate": 3}}}
    expression = "a[0].edges.map((edge) => m.edgeRate(edge, new Map(a[0].nodes.map((node) => [node.id, node])), a[1]))"
    assert await modules.run("figures", expression, [GRAPH, figures]) == [10, 7, 3, 7, 3]
    assert await modules.run("figures", expression, [GRAPH, None]) == [None] * 5


async def test_the_way_of_a_request_leaves_out_the_branch_not_taken(modules: View) -> None:
    records = [
        record("in", "inputs", "X"),
        record("choose", "inputs", "X"),
        record("choose", "outputs", "S"),
        record("small", "inputs", "S"),
        record("small", "outputs", "Y"),
        record("out", "outputs", "Y"),
    ]
    expression = "(({ nodes, edges, failed }) => [[...nodes], [...edges], [...failed]])(m.path(a[0], a[1]))"
    nodes, edges, failed = await modules.run("figures", expression, [GRAPH, records])
    assert (nodes, edges, failed) == (["in", "choose", "small", "out"], [0, 1, 3], [])


async def test_the_way_of_a_request_that_failed_ends_where_it_failed(modules: View) -> None:
    broken = {**record("choose", "outputs"), "error": {"message": "no"}}
    records = [record("in", "inputs", "X"), record("choose", "inputs", "X"), broken]
    expression = "(({ edges, failed }) => [[...edges], [...failed]])(m.path(a[0], a[1]))"
    assert await modules.run("figures", expression, [GRAPH, records]) == [[0], ["choose"]]
