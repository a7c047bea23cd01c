"""What a reader of the page sees and does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from playwright.async_api import Locator, Page

DEADLINE_MS = 20_000
expect.set_options(timeout=DEADLINE_MS)

SERIOUS = ("serious", "critical")


class View:
    """The page in a browser, and what it said and asked for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.expected: re.Pattern[str] | None = None

    def said(self, text: str) -> None:
        """Take down an error of the page, unless the test brings it about."""
        if not (self.expected and self.expected.search(text)):
            self.errors.append(text)

    async def open(self, kind: str = "", name: str = "", *rest: str) -> None:
        """Go to a part of the page and wait until it shows what is loaded."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.address}#/{'/'.join(filter(None, (kind, name, *rest)))}")
        await expect(self.page.locator("#list .rows a").first).to_be_attached()
        if name:
            await expect(self.page.locator("article h2")).to_have_text(name)

    def node(self, name: str) -> Locator:
        """A node of the graph, by its whole name."""
        return self.page.locator(f'.node[aria-label$=" {name}"]')

    async def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in await self.page.locator(selector).all_text_contents()]

    async def labels(self, selector: str) -> set[str]:
        """The names of the nodes that a selector finds, without their kinds."""
        nodes = await self.page.locator(selector).all()
        return {str(await node.get_attribute("aria-label")).partition(" ")[2] for node in nodes}

    async def faults(self) -> list[str]:
        """What axe-core finds serious."""
        found = (await Axe().run(self.page)).response["violations"]
        return [_told(each) for each in found if each["impact"] in SERIOUS]

    async def run(self, module: str, expression: str, argument: Any = None) -> Any:
        """The value of an expression in which `m` is a module of the page and `a` the argument."""
        script = f"async ([path, a]) => {{ const m = await import(path); return {expression}; }}"
        return await self.page.evaluate(script, [f"{self.address}static/{module}.js", argument])


@contextlib.contextmanager
def watched(page: Page, address: str) -> Iterator[View]:
    """A page whose reader fails at the end when it said an error or asked another host."""
    view, own = View(page, address), urlsplit(address).netloc
    page.on("console", lambda message: view.said(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: view.said(str(error)))
    page.on(
        "request", lambda request: None if urlsplit(request.url).netloc == own else view.strangers.append(request.url)
    )
    yield view
    assert view.errors == [], "the page said errors"
    assert view.strangers == [], "the page asked other hosts"


def _told(violation: Any) -> str:
    nodes = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
    return f"{violation['id']}: {violation['help']}: {', '.join(nodes)}"
