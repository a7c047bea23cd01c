"""Fixtures for all tests: the brokers, each started once and only when a test asks for it."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# --import-mode=importlib leaves sys.path alone, so a module beside this file has to be put in reach.
sys.path.insert(0, str(Path(__file__).parent))

import grpcurl as grpcurl_tool
from brokers import ApacheKafka, EmbeddedInThread, NotHere, ensure_jars, kafka_missing
from environments import KSERVE

if TYPE_CHECKING:
    from collections.abc import Iterator

BROKER_FIXTURES = {"broker", "embedded_broker", "kafka_broker"}

_why_no_kafka = pytest.StashKey[str]()
_grpcurl = pytest.StashKey["str | None"]()
_why_no_kserve = pytest.StashKey["str | None"]()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Whoever asks for a broker is marked so, and for an Apache Kafka; products that many share come last.

    A product that only waits takes a third of a core with its broker: it is not to run beside other tests.
    """
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
        if _wants_kafka(item):
            item.add_marker("kafka")
    yield
    items.sort(key=_kind_of_product)


def _kind_of_product(item: pytest.Item) -> str:
    return _kind_of_broker(item) if "product" in getattr(item, "fixturenames", ()) else ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka's jars, grpcurl and kserve before the first test: a slow download is no test's timeout."""
    if session.config.option.collectonly:
        return
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "grpcurl" in asked:
        session.config.stash[_grpcurl] = grpcurl_tool.find()
    if "kserve_python" in asked:
        session.config.stash[_why_no_kserve] = KSERVE.ensure()
    if any(item.get_closest_marker("kafka") for item in session.items):
        _prepare_kafka(session)


def _prepare_kafka(session: pytest.Session) -> None:
    try:
        reason = kafka_missing()
        if reason is None:
            ensure_jars()
    except NotHere as error:
        reason = str(error)
    if reason is not None:
        session.config.stash[_why_no_kafka] = reason


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A suite that ran on one broker only must not look like one that ran on both."""
    reason = config.stash.get(_why_no_kafka, None)
    if reason is not None:
        word = "FAILED" if _on_ci() else "SKIPPED"
        terminalreporter.write_line(f"{word}: Apache Kafka tests: {reason}", yellow=True, bold=True)


# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("default", settings.get_profile("default"), deadline=None)
# `make nightly`.
settings.register_profile("nightly", max_examples=20_000, deadline=None)


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """The address of an embedded broker."""
    broker = EmbeddedInThread().start()
    yield broker.address
    broker.stop()


@pytest.fixture(scope="session")
def kafka_broker(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of an Apache Kafka; where there can be none, a skip, and on CI a failure."""
    reason = pytestconfig.stash.get(_why_no_kafka, None)
    if reason is not None:
        text = f"SKIPPED: Apache Kafka tests: {reason}"
        if _on_ci():
            pytest.fail(f"{text}; where CI=true that is a failure", pytrace=False)
        pytest.skip(text)
    with ApacheKafka() as broker:
        yield broker.address


@pytest.fixture(scope="session", params=["embedded", "kafka"])
def broker(request: pytest.FixtureRequest) -> str:
    """The address of a broker; the test runs once on each kind."""
    # Two fixtures below this one, so that a change of parameter (tests come in random order) ends neither.
    address: str = request.getfixturevalue(f"{request.param}_broker")
    return address


@pytest.fixture(scope="session")
def grpcurl(pytestconfig: pytest.Config) -> str:
    """The path of grpcurl; where it is not and Go cannot install it, a skip, and on CI a failure."""
    found = pytestconfig.stash.get(_grpcurl, None)
    if found is None:
        text = "SKIPPED: grpcurl is not here, nor is Go to install it"
        if _on_ci():
            pytest.fail(f"{text}; where CI=true that is a failure", pytrace=False)
        pytest.skip(text)
    return found


@pytest.fixture(scope="session")
def kserve_python(pytestconfig: pytest.Config) -> str:
    """The Python of kserve's environment; where that cannot be made, a skip, and on CI a failure."""
    reason = pytestconfig.stash[_why_no_kserve]
    if reason is not None:
        text = f"SKIPPED: {reason}"
        if _on_ci():
            pytest.fail(f"{text}; where CI=true that is a failure", pytrace=False)
        pytest.skip(text)
    return str(KSERVE.python)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has: topics and groups of one broker do not meet."""
    # Not from `random`, which pytest-randomly seeds alike before each test.
    return f"t{secrets.token_hex(4)}"


def _wants_kafka(item: pytest.Item) -> bool:
    if "kafka_broker" in getattr(item, "fixturenames", ()):
        return True
    return _kind_of_broker(item) == "kafka"


def _kind_of_broker(item: pytest.Item) -> str:
    """Of a test that runs on each kind; empty for others."""
    call = getattr(item, "callspec", None)
    return "" if call is None else call.params.get("broker", "")


def _on_ci() -> bool:
    return os.environ.get("CI") == "true"
