"""Makes the pictures of docs/observe.md: the page of `seldon up pipelines/` under a little load, as a browser shows it.

Run it from the repository's root where a Chromium is on the PATH. It needs no network and ends what it starts.
"""
# ruff: noqa: INP001  the documentation is no package

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SELDON = str(Path(sys.executable).with_name("seldon"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ANY_PORT = "127.0.0.1:0"

START_SECONDS, SHOWN_MS = 60.0, 20_000

# What is called meanwhile, each so many times a second.
LOAD = ("conditional", "tfsimples")
RATE = 4

SAMPLE = ROOT / "pipelines" / "requests" / "conditional.json"


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=START_SECONDS)


def banner(process: subprocess.Popen[str]) -> tuple[str, str]:
    """HOST:PORT of the gateway, and the page's address."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "ready in" in line:
            gateway, page = re.search(r"gateway +([^,\s]+)", said), re.search(r"page +(\S+)", said)
            assert gateway is not None, said
            assert page is not None, said
            return gateway[1], page[1]
    raise SystemExit(f"seldon up ended before it was ready:\n{said}")


def ask(gateway: str) -> str:
    """Send the conditional sample its request; the id that it got."""
    connection = http.client.HTTPConnection(gateway, timeout=START_SECONDS)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v2/pipelines/conditional/infer", SAMPLE.read_bytes(), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise SystemExit(f"the conditional sample answered {answer.status}: {text.decode()}")
    return str(answer.headers["x-request-id"])


def take(page: Page, url: str, where: str, name: str, ready: str, *, dark: bool = False, wait: float = 0.0) -> None:
    """A picture of one part of the page, once what is to be seen on it is there."""
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.goto("about:blank")
    page.goto(f"{url}#/{where}")
    expect(page.locator(ready).first).to_be_visible(timeout=SHOWN_MS)
    # Rates are over the last seconds.
    time.sleep(wait)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


def send(page: Page, url: str) -> None:
    """A picture of the form with its answer."""
    page.emulate_media(color_scheme="light")
    page.goto("about:blank")
    page.goto(f"{url}#/pipelines/conditional/send")
    form = page.get_by_label("Request, as V2 JSON")
    expect(form).to_have_value(re.compile("INPUT0"), timeout=SHOWN_MS)
    form.fill(SAMPLE.read_text())
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".answer h4")).to_be_visible(timeout=SHOWN_MS)
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.screenshot(path=IMAGES / "page-send.png", animations="disabled")


def main() -> None:
    """Start everything, and take the pictures."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on the PATH")
    IMAGES.mkdir(exist_ok=True)
    up = ("up", "pipelines/", "--listen", ANY_PORT, "--kafka-listen", ANY_PORT, "--ui-listen", ANY_PORT)
    with contextlib.ExitStack() as stack:
        gateway, url = banner(stack.enter_context(running(SELDON, *up)))
        for name in LOAD:
            load = ("bench", f"{name}.pipeline", "--rate", str(RATE), "--seconds", "600", "--inference-host", gateway)
            stack.enter_context(running(SELDON, *load))
        driver = stack.enter_context(sync_playwright())
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        take(page, url, "pipelines/conditional", "page-pipeline", ".picture .node", wait=8)
        request = ask(gateway)
        take(page, url, f"pipelines/conditional/requests/{request}", "page-request", ".visit")
        take(page, url, "pipelines/tfsimples", "page-dark", ".picture .node", dark=True, wait=3)
        send(page, url)
        chromium.close()


if __name__ == "__main__":
    main()
