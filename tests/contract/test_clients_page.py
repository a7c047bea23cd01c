"""docs/clients.md, run: its files are written, its programs and commands run, and what they print is what it says."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from product import Product
from programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
# As the page has them: what is served where.
GATEWAY, BROKER = "localhost:9000", "localhost:9092"

# What these need is fetched, or they are skipped.
FETCHED = ("kserve", "grpcurl")

pytestmark = pytest.mark.broker


class Block(NamedTuple):
    """A block of code, and the file that the line before it names, if it names one."""

    language: str
    code: str
    file: str


def blocks(text: str) -> list[Block]:
    found = re.findall(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(language, code, file) for file, language, code in found]


OPENING, *PARTS = re.split(r"^## ", TEXT, flags=re.MULTILINE)
SECTIONS = {title: blocks(body) for title, _, body in (part.partition("\n") for part in PARTS)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`seldon up` with the page's own files."""
    folder = tmp_path_factory.mktemp("page")
    for block in blocks(OPENING):
        (folder / block.file).write_text(block.code)
    product = Product(
        folder, "up", folder / "twice.yaml", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0",
        "--partitions", "1",
    )  # fmt: skip
    try:
        yield product.start()
        product.stop()
    finally:
        product.kill()


def test_every_block_is_a_file_or_is_run() -> None:
    """One of another language would be left out in silence."""
    for title, section in SECTIONS.items():
        assert section, title
        assert {block.language for block in section if not block.file} <= {"console", "python", "text"}, title
    assert TEXT.count("```") == 2 * sum(map(len, (blocks(OPENING), *SECTIONS.values())))


@pytest.mark.parametrize("title", [title for title in SECTIONS if title not in FETCHED])
async def test_a_client_prints_what_the_page_says(page: Product, tmp_path: Path, title: str) -> None:
    await follow(SECTIONS[title], page, tmp_path, sys.executable)


async def test_kserve_prints_what_the_page_says(page: Product, tmp_path: Path, kserve_python: str) -> None:
    await follow(SECTIONS["kserve"], page, tmp_path, kserve_python)


async def test_grpcurl_prints_what_the_page_says(page: Product, tmp_path: Path, grpcurl: str) -> None:
    await follow(SECTIONS["grpcurl"], page, tmp_path, grpcurl)


async def follow(section: list[Block], page: Product, folder: Path, program: str) -> None:
    """Do what a section says, with the programs beside this one before all others."""
    path = os.pathsep.join([str(Path(program).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    there = f"cd {shlex.quote(str(folder))} && export PYTHONWARNINGS=ignore PATH={shlex.quote(path)} && "
    printed = []
    for block in section:
        code = block.code.replace(GATEWAY, page.address).replace(BROKER, page.broker)
        if block.file:
            (folder / block.file).write_text(code)
        elif block.language == "python":
            printed.append(await run("bash", "-c", f"{there} python -", stdin=code))
        elif block.language == "text":
            assert printed.pop() == block.code
        else:
            for command, said in commands(code):
                assert (await run("bash", "-c", there + command)).strip() == said.strip(), command
    assert printed == []


def commands(console: str) -> list[tuple[str, str]]:
    """Each command of a console, and what it prints."""
    parts = re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]
    return [(command, said) for command, _, said in (part.partition("\n") for part in parts)]
