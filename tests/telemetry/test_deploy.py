"""The files for Grafana and Prometheus: every expression asks for what the product exports, by labels that it has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from prometheus_client.core import CounterMetricFamily

from engine.errors import ModelFailed
from engine.protocol.record import Owner
from engine.telemetry.exposition import families
from engine.telemetry.figures import SIZES, STEP_SECONDS, Distribution, Figures, Group

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "millrace.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
EXPRESSIONS = {**PANELS, **{alert["alert"]: alert["expr"] for alert in ALERTS}}

# What Prometheus itself adds, and what its client tells of a process where the system lets it.
ADDED = {"up": set(), "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
TARGET = {"job", "instance"}

FUNCTIONS = {"sum", "rate", "increase", "deriv", "histogram_quantile"}
TOKEN = re.compile(
    r"""(?P<text>"[^"]*")|(?P<range>\[(?:\$__rate_interval|[0-9]+[smhd])\])|(?P<name>[A-Za-z_:][\w:]*)"""
    r"""|(?P<number>[0-9.]+)|(?P<sign>=~|!=|==|[-+*/<>=(){},])|(?P<space>\s+)"""
)


class Selector(NamedTuple):
    metric: str
    labels: frozenset[str]


def exported() -> dict[str, set[str]]:
    """Each sample's name with its labels, of a process that has something to say of everything."""
    figures = Figures()
    flow = figures.flow(Owner.PIPELINE, "p")
    flow.step("s").seconds.observe(1)
    flow.failed("s", ModelFailed("x"))
    flow.ended_unanswered(ModelFailed("x"))
    for owner in figures.answers:
        figures.answered(owner, "n", "rest", "200", 1.0)
    behind = {(owner, "n"): 1 for owner in (Owner.PIPELINE, Owner.MODEL, Owner.EXPLAINER)}
    group = Group(Distribution(STEP_SECONDS), Distribution(SIZES), 0, 0, behind, 0)
    return {sample.name: set(sample.labels) for family in families(figures, {"g": group}) for sample in family.samples}


def tokens(expression: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(expression):
        match = TOKEN.match(expression, place)
        assert match is not None, f"no PromQL from here on: {expression[place:]}"
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match.group()))
        place = match.end()
    return found


def inside(found: list[tuple[str, str]], start: int, end: str) -> list[tuple[str, str]]:
    """The tokens between a bracket at `start` and the next `end`."""
    stop = next(place for place in range(start, len(found)) if found[place][1] == end)
    return found[start + 1 : stop]


def read(expression: str) -> tuple[list[Selector], set[str]]:
    """What an expression selects, and the labels that it sums by; fails for what is no PromQL of these files."""
    found = tokens(expression)
    for opening, closing in ("()", "{}"):
        assert [t for _, t in found].count(opening) == [t for _, t in found].count(closing), expression
    selectors, grouped, passed = [], set[str](), 0
    for place, (kind, text) in enumerate(found):
        following = found[place + 1][1] if place + 1 < len(found) else ""
        if kind != "name" or place < passed or text in ("and", "or", "unless"):
            continue
        if text == "by":
            grouped |= {name for kind, name in inside(found, place + 1, ")") if kind == "name"}
            passed = place + 2 + len(inside(found, place + 1, ")"))
        elif following in ("(", "by"):
            assert text in FUNCTIONS, f"{text} is no function that these files use"
        else:
            labels = inside(found, place + 1, "}") if following == "{" else []
            passed = place + 2 + len(labels)
            selectors.append(Selector(text, frozenset(name for kind, name in labels if kind == "name")))
    return selectors, grouped


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_asks_for_what_is_exported_by_labels_that_it_has(expression: str) -> None:
    known = {**exported(), **ADDED}
    selectors, grouped = read(expression)
    assert selectors
    for metric, labels in selectors:
        assert metric in known
        assert labels <= known[metric] | TARGET
        assert grouped <= known[metric] | TARGET


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_rates_are_taken_of_what_only_grows(expression: str) -> None:
    grow = {name for name in exported() if name.endswith(("_total", "_bucket", "_sum", "_count"))}
    for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
        assert name in grow | {"process_cpu_seconds_total"}


def test_every_family_of_the_product_is_on_the_dashboard_or_told_of_in_its_page() -> None:
    page = (DEPLOY.parent / "docs" / "reference" / "metrics.md").read_text()
    names = set()
    for family in families(Figures(), {}):
        name = f"{family.name}_total" if isinstance(family, CounterMetricFamily) else family.name
        if not name.startswith("seldon_experiment_"):  # told of as a whole
            names.add(name)
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_a_name_that_is_misspelt_is_noticed() -> None:
    [selector], grouped = read('sum by (pipeline) (rate(seldon_pipeline_requets_total{pipeline=~"$pipeline"}[5m])) > 1')
    assert (selector.metric, selector.labels) == ("seldon_pipeline_requets_total", {"pipeline"})
    assert grouped == {"pipeline"}
    assert selector.metric not in exported()


def test_alerts_say_what_it_is_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description"}


def test_panels_do_not_lie_over_each_other() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
