"""The page of a running product, in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect
from product import SAMPLES, infer, inputs

from engine.dataflow.compiler import compile_pipeline
from engine.resources import load

if TYPE_CHECKING:
    from looking import View
    from product import Product, Response

    from engine.resources import Pipeline

pytestmark = pytest.mark.asyncio(loop_scope="session")

PIPELINES = {pipeline.name: pipeline for pipeline in load([SAMPLES])[0].pipelines}
WIDE, NARROW = 1280, 390
FORMS = [{"width": WIDE, "theme": "light"}, {"width": NARROW, "theme": "dark"}]
SHARE = re.compile(r"^\d+(\.\d)? %$")
# A broker is given twenty seconds to answer before it is called away.
AWAY_MS = 60_000
PARTS = [
    ("pipelines",),
    ("pipelines", "counter", "steps"),
    ("pipelines", "gated", "requests"),
    ("pipelines", "conditional", "send"),
    ("models", "iris", "send"),
    ("experiments", "prices"),
]


def sample(name: str) -> Any:
    return json.loads((SAMPLES / "requests" / f"{name}.json").read_text())


async def ask(product: Product, target: str, document: Any) -> tuple[str, Response]:
    """Call the gateway; the id of the request and its answer."""
    request_id = f"web-{secrets.token_hex(6)}"
    headers = [("x-request-id", request_id)]
    return request_id, await asyncio.to_thread(infer, product.address, target, document, headers)


async def send(view: View, text: str) -> None:
    """Write a request in the place of the one that the form has, and send it."""
    body = view.page.get_by_label("Request, as V2 JSON")
    await expect(body).to_have_value(re.compile("INPUT"))
    await body.fill(text)
    await view.page.get_by_role("button", name="Send", exact=True).click()


def drawn(pipeline: Pipeline) -> tuple[set[str], int]:
    """The steps that a graph has, and how many edges come of them and of the output."""
    plan, _ = compile_pipeline(pipeline)
    assert plan is not None
    steps = {plan.nodes[index].name for index in plan.steps}
    return steps, sum(len(node.sources) for node in plan.nodes)


@pytest.mark.parametrize("name", PIPELINES)
async def test_a_sample_is_drawn_as_it_runs(view: View, name: str) -> None:
    steps, edges = drawn(PIPELINES[name])
    await view.open("pipelines", name, "steps")
    assert await view.labels(".node.step") == steps
    assert await view.labels(".node.input") == {f"{name}.inputs"}
    fed = PIPELINES[name].input
    sources = (*fed.external_inputs, *fed.external_triggers) if fed else ()
    assert await view.page.locator(".node.external").count() == len(sources)
    assert await view.page.locator(".picture .edge").count() == edges + len(sources)
    rows = await view.texts(".steps tbody th .name")
    assert steps <= set(rows)


async def test_a_graph_reads_from_left_to_right(view: View) -> None:
    await view.open("pipelines", "conditional")
    places = [
        await view.node(name).bounding_box()
        for name in ("conditional.inputs", "choose", "add10", "conditional.outputs")
    ]
    lefts = [place["x"] for place in places if place]
    assert len(lefts) == 4
    assert lefts == sorted(lefts)


async def test_a_cycle_is_drawn_back(view: View) -> None:
    await view.open("pipelines", "counter")
    await expect(view.page.locator(".edge.back title")).to_have_text(re.compile("^again → count"))
    await expect(view.page.locator(".picture .edge.trigger")).to_have_count(2)


async def test_a_request_lights_its_way(view: View, product: Product) -> None:
    request_id, answer = await ask(product, "pipelines/conditional", sample("conditional"))
    assert answer.status == 200, answer
    await view.open("pipelines", "conditional", "requests", request_id)
    await expect(view.page.locator(".picture.traced .node.lit")).to_have_count(4)
    assert await view.labels(".node.lit") == {"conditional.inputs", "choose", "add10", "conditional.outputs"}
    await expect(view.page.locator(".edge.lit")).to_have_count(3)
    added = view.page.locator('.visit[data-node="add10"]')
    assert await added.locator(".tensors th .name").all_text_contents() == ["INPUT", "OUTPUT"]
    assert await added.locator(".tensors tbody tr").last.locator(".value").all_text_contents() == ["11", "12"]
    await expect(added.get_by_role("img", name="Distribution of OUTPUT: 11 to 12")).to_be_visible()


async def test_the_latest_requests_lead_to_each(view: View, product: Product) -> None:
    request_id, _ = await ask(product, "pipelines/tfsimples", sample("tfsimples"))
    await view.open("pipelines", "tfsimples")
    row = view.page.locator(".requests tbody tr", has_text=request_id)
    await expect(row.locator(".dot")).to_have_class(re.compile("good"))
    await row.get_by_role("link").click()
    await expect(view.page.locator(".request-head h3")).to_have_text(f"Request {request_id}")
    await expect(view.page.locator('.visit[data-node="tfsimple2"]')).to_be_visible()
    await view.page.get_by_role("link", name="All requests").click()
    await view.page.get_by_label("Find by id").fill(request_id)
    await view.page.get_by_role("button", name="Find").click()
    await expect(view.page.locator('.visit[data-node="tfsimple1"]')).to_be_visible()


async def test_a_request_that_is_nowhere_is_said_to_be(view: View) -> None:
    view.expected = re.compile("404")
    await view.open("pipelines", "tfsimples", "requests", "never-sent")
    await expect(view.page.locator(".request-head .state")).to_have_text(re.compile("not found"))
    await expect(view.page.locator(".request-body")).to_contain_text(re.compile(r"\w"))


async def test_a_failure_is_shown_where_it_happened(view: View, product: Product) -> None:
    request_id, answer = await ask(product, "pipelines/counter", sample("counter-endless"))
    assert answer.status != 200
    await view.open("pipelines", "counter")
    row = view.page.locator(".requests tbody tr", has_text=request_id)
    await expect(row.locator(".fault-text")).to_contain_text("count")
    await row.get_by_role("link").click()
    await expect(view.node("count")).to_have_class(re.compile("failed"))
    await expect(view.page.locator(".request-head .state")).to_have_text(re.compile("failed"))
    await expect(view.page.locator(".visit.failed .fault").first).to_contain_text("count")
    await expect(view.page.locator('.visit[data-node="again"] h4').last).to_contain_text("round")


async def test_numbers_move_while_requests_run(view: View, product: Product) -> None:
    await view.open("pipelines", "sums", "steps")
    over = asyncio.Event()

    async def load() -> None:
        while not over.is_set():
            await ask(product, "pipelines/sums", sample("sums"))

    running = asyncio.create_task(load())
    try:
        moving = re.compile(r"^(?!0/s)\d.*/s$")
        await expect(view.page.locator(".figure.rate dd")).to_have_text(moving)
        await expect(view.page.locator('#list a[aria-current="page"] .rate span').last).to_have_text(
            re.compile(r"^[1-9.]")
        )
        await expect(view.node("summing").locator(".node-figure")).to_have_text(
            re.compile(r"^(?!0/s).+/s · .+ (ms|µs|s)$")
        )
        await expect(view.page.locator(".edge.flowing .edge-figure").first).to_have_text(moving)
        await expect(view.page.locator(".steps tr", has_text="summing").locator("td.number").nth(2)).to_have_text(
            re.compile("s$")
        )
    finally:
        over.set()
        await running
    await expect(view.page.locator(".figure.rate dd")).to_have_text("0/s")


async def test_a_request_is_sent_and_its_answer_comes_step_by_step(view: View) -> None:
    await view.open("pipelines", "conditional", "send")
    await send(view, json.dumps(sample("conditional-large")))
    await expect(view.page.locator(".answer h4")).to_have_text(re.compile("^Answer 200"))
    await expect(view.page.locator(".answer pre")).to_contain_text("[1000, 2000]")
    await expect(view.node("mul10")).to_have_class(re.compile("lit"))
    await expect(view.node("add10")).not_to_have_class(re.compile("lit"))
    await expect(view.page.locator("#said")).to_have_text(re.compile("^Answer 200"))


@pytest.mark.parametrize(("kind", "name"), [("models", "price"), ("experiments", "quotes-ab")])
async def test_a_model_and_an_experiment_are_asked_too(view: View, kind: str, name: str) -> None:
    await view.open(kind, name, "send")
    await send(view, json.dumps(sample("quotes")))
    await expect(view.page.locator(".answer h4")).to_have_text(re.compile("^Answer 200"))
    await expect(view.page.locator(".answer pre")).to_contain_text("[11, 12]")


async def test_a_wrong_request_is_refused_in_words(view: View) -> None:
    view.expected = re.compile("400")
    await view.open("pipelines", "conditional", "send")
    await send(view, "{nonsense")
    await expect(view.page.get_by_role("alert")).to_have_text(re.compile("^This is not JSON"))
    await view.page.get_by_role("button", name="Fill in again").click()
    await send(view, "{}")
    await expect(view.page.locator("#send-fault, .answer")).to_contain_text(re.compile("inputs"))


async def test_an_experiment_shows_its_real_shares(view: View, product: Product) -> None:
    await view.open("experiments", "prices")
    assert await view.texts(".shares tbody tr td:nth-child(2)") == ["75 %", "25 %", "10 %"]
    real = view.page.locator(".shares tbody tr td:nth-child(3)")
    await expect(real.first).to_have_text("\N{EN DASH}")

    async def ask_on() -> None:
        while True:
            await ask(product, "models/price", inputs(INPUT=[1, 2]))

    # Shares are of the last seconds, so that they go when calls stop.
    asking = asyncio.create_task(ask_on())
    try:
        await expect(real).to_have_text([SHARE, SHARE, "\N{EN DASH}"])
        shares = [float(text.split()[0]) for text in (await real.all_text_contents())[:2]]
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert sum(shares) == pytest.approx(100, abs=1)


async def test_markup_and_hidden_characters_of_callers_are_text(view: View, product: Product) -> None:
    request_id, answer = await ask(product, "pipelines/odd-names", inputs(INPUT=[1]))
    assert answer.status == 200, str(answer)[:500]
    await view.open("pipelines", "odd-names", "requests", request_id)
    outputs = view.page.locator('.visit[data-node="odd"] .record').last
    await expect(outputs.locator(".tensors th .name").first).to_have_text("<img src=x onerror=window.hacked=1>")
    words = outputs.locator("tr", has_text="WORDS").locator(".value")
    assert await words.all_text_contents() == ['"<img src=x onerror=window.hacked=1>"', '"abcU+202EdefU+0007"']
    await expect(outputs.locator("tr", has_text="LARGE")).to_contain_text("999,984 more values")
    await expect(outputs.locator("tr", has_text="LARGE")).to_contain_text("[1000000]")
    assert await view.page.locator("main img").count() == 0
    assert await view.page.evaluate("window.hacked === undefined")


async def test_markup_in_an_error_and_in_an_id_is_text(view: View, product: Product) -> None:
    _, answer = await ask(product, "pipelines/odd-errors", inputs(INPUT=[1]))
    assert answer.status == 500
    await view.open("pipelines", "odd-errors")
    await expect(view.page.locator(".requests .fault-text").first).to_contain_text(
        "<img src=x onerror=window.hacked=1>"
    )
    await expect(view.page.locator(".requests .fault-text .hidden-character").first).to_have_text("U+202E")
    view.expected = re.compile("404")
    await view.open("pipelines", "odd-errors", "requests", "%3Cb%3Eno%E2%80%AEid")
    await expect(view.page.locator(".request-head h3")).to_have_text("Request <b>noU+202Eid")
    assert await view.page.evaluate("window.hacked === undefined")


async def test_a_list_is_narrowed_by_a_word(view: View) -> None:
    await view.open()
    await view.page.get_by_label("Filter by name").fill("join")
    assert await view.texts("#list .rows .name") == ["join-any", "join-inner", "join-outer"]
    await view.page.get_by_label("Filter by name").fill("nothing like it")
    await expect(view.page.locator("#list")).to_contain_text("No name has")


async def test_the_keyboard_reaches_a_step(view: View) -> None:
    await view.open("pipelines", "conditional")
    await view.page.get_by_label("Filter by name").focus()
    await view.page.keyboard.type("triggered")
    for _ in range(2):  # past the order
        await view.page.keyboard.press("Tab")
    await view.page.keyboard.press("Enter")
    await expect(view.page.locator("article h2")).to_have_text("triggered")
    await view.node("approved").focus()
    await view.page.keyboard.press("Enter")
    await expect(view.page.locator(".steps tr.chosen th")).to_have_text("approved")
    await expect(view.page.locator(".steps tr.chosen")).to_be_focused()
    await view.page.get_by_role("tab", name="Steps").focus()
    await view.page.keyboard.press("ArrowLeft")
    await view.page.keyboard.press("Space")
    await expect(view.page.get_by_role("tab", name="Send")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("view", [{"width": NARROW}], indirect=True)
async def test_on_a_narrow_screen_list_and_pipeline_take_turns(view: View) -> None:
    await view.open()
    await expect(view.page.locator("main")).to_be_hidden()
    await view.page.locator("#list").get_by_role("link", name="conditional").click()
    await expect(view.page.locator("article h2")).to_have_text("conditional")
    await expect(view.page.locator("#list")).to_be_hidden()
    await view.page.get_by_role("link", name="All pipelines").click()
    await expect(view.page.locator("#list")).to_be_visible()


async def test_the_theme_is_chosen_and_kept(view: View) -> None:
    await view.open()
    button = view.page.locator("#theme")
    await expect(button).to_have_accessible_name("Theme: system")
    light = await view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    await button.click()
    await button.click()
    await view.open()
    await expect(button).to_have_accessible_name("Theme: dark")
    assert await view.page.evaluate("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize("part", PARTS, ids="-".join)
@pytest.mark.parametrize("view", FORMS, indirect=True, ids=lambda form: f"{form['theme']}-{form['width']}")
async def test_nothing_is_serious_to_axe_and_nothing_hangs_over(view: View, part: tuple[str, ...]) -> None:
    await view.open(*part)
    assert await view.faults() == []
    assert await view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_fifty_steps_and_two_hundred_pipelines_stay_usable(view: View) -> None:
    names = [f"step-{number:02}" for number in range(50)]
    nodes = [{"id": "big.inputs", "kind": "input", "label": "big.inputs"}]
    nodes += [{"id": name, "kind": "step", "label": name, "model": name} for name in names]
    edges = [
        {"from": source, "to": name, "kind": "data", "side": "outputs"}
        for source, name in zip(names, names[3:], strict=False)
    ]
    graph = {"version": 1, "state": "PipelineReady", "reason": "", "cyclic": False, "nodes": nodes, "edges": edges}
    pipelines = [{"name": "big", **graph}, *({"name": f"pipeline-{n:03}", **graph} for n in range(200))]
    body = {
        "namespace": "default",
        "broker": "",
        "guarantee": "",
        "pipelines": pipelines,
        "models": [],
        "experiments": [],
    }
    await view.page.route("**/ui/api/graphs", lambda route: route.fulfill(json=body))
    view.expected = re.compile("404")
    await view.open("pipelines", "big", "steps")
    await expect(view.page.locator(".node.step")).to_have_count(50)
    await expect(view.page.locator("#list .rows a")).to_have_count(201)
    await view.page.get_by_role("button", name="Whole graph").click()
    stage, last = await view.page.locator(".stage").bounding_box(), await view.node("step-49").bounding_box()
    assert stage is not None
    assert last is not None
    assert last["x"] + last["width"] <= stage["x"] + stage["width"]
    await view.page.get_by_label("Filter by name").fill("line-199")
    await view.page.locator("#list .rows a:visible").click()
    await expect(view.page.locator("article h2")).to_have_text("pipeline-199")


async def test_a_server_that_is_away_is_said_to_be_until_it_is_back(view: View, product: Product) -> None:
    await view.open("pipelines", "sums", "steps")
    banner = view.page.locator("#banner")
    await expect(view.page.locator(".figure.rate dd")).to_have_text("0/s")
    await expect(banner).to_be_empty()
    product.process.send_signal(signal.SIGSTOP)
    try:
        await expect(banner).to_contain_text("The server is away.")
        await expect(view.page.locator("body")).to_have_class("stale")
    finally:
        product.process.send_signal(signal.SIGCONT)
    await expect(banner).to_be_empty()


async def test_a_broker_that_is_away_is_said_to_be_until_it_is_back(view: View, product: Product) -> None:
    await view.open("pipelines", "sums", "steps")
    banner = view.page.locator("#banner")
    await expect(view.page.locator(".figure.rate dd")).to_have_text("0/s")
    await expect(banner).to_be_empty()
    broker = embedded_broker(product)
    os.kill(broker, signal.SIGSTOP)
    try:
        await expect(banner).to_have_text(
            re.compile(f"^The broker is away. no Kafka broker answers at {product.broker}"), timeout=AWAY_MS
        )
    finally:
        os.kill(broker, signal.SIGCONT)
    await expect(banner).to_be_empty(timeout=AWAY_MS)
    _, answer = await ask(product, "pipelines/sums", sample("sums"))
    assert answer.status == 200, answer


def embedded_broker(product: Product) -> int:
    """The process of the broker that the product has started."""
    number = product.process.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    (broker,) = (int(child) for child in children if b"tansu" in Path(f"/proc/{child}/cmdline").read_bytes())
    return broker
