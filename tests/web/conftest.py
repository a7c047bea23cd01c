"""A browser on the page of a running product: `seldon up` with the samples, and with names and values made to deceive.

Each test leaves a screenshot in `tests/web/screenshots`, and fails when the page said an error or asked another host.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

# As in tests/conftest.py: modules beside this file and those of the broker's tests have to be put in reach.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "broker"))
sys.path.insert(0, str(Path(__file__).parent))

from looking import DEADLINE_MS, watched
from product import SAMPLES, Product

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from looking import View
    from playwright.async_api import Browser

HERE = Path(__file__).parent
SCREENSHOTS = HERE / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ANY_PORT = "127.0.0.1:0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need a broker, the one that the product brings."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("broker")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; where there is none, a skip, and on CI a failure."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        text = (
            f"SKIPPED: the page is not tested: none of {', '.join(BROWSERS)} is on the PATH (apt-get install chromium)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(f"{text}; where CI=true that is a failure", pytrace=False)
        pytest.skip(text)
    return found


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`seldon up` on the embedded broker, with a page."""
    product = Product(
        tmp_path_factory.mktemp("web"), "up", SAMPLES, HERE / "resources",
        "--listen", ANY_PORT, "--kafka-listen", ANY_PORT, "--ui-listen", ANY_PORT, "--partitions", 2,
    )  # fmt: skip
    try:
        yield product.start()
        product.stop()
    finally:
        product.kill()


@pytest.fixture(scope="module")
def address(product: Product) -> str:
    """Where its page is, from its banner."""
    (found,) = re.findall(r"^\s*page\s+(http://\S+)", product.out, re.MULTILINE)
    return str(found)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Its sandbox refuses to run for root, which CI is.
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def view(browser: Browser, address: str, request: pytest.FixtureRequest) -> AsyncIterator[View]:
    """A fresh page, 1280 pixels wide unless `@pytest.mark.parametrize("view", [...], indirect=True)` says otherwise."""
    wanted = {"width": 1280, "theme": "light", **getattr(request, "param", {})}
    context = await browser.new_context(
        viewport={"width": wanted["width"], "height": 900}, color_scheme=wanted["theme"], reduced_motion="reduce"
    )
    context.set_default_timeout(DEADLINE_MS)
    page = await context.new_page()
    with watched(page, address) as view:
        yield view
        SCREENSHOTS.mkdir(exist_ok=True)
        name = re.sub(r"[^a-zA-Z0-9-]+", "-", request.node.name)
        await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
        await context.close()
