"""Markdown pages as programs: their code blocks, what these print, their links and their commands."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)$")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMANDS = ("python", "python3", "make", "pip")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    """What stands after the opening fence."""
    text: str
    """What stands between the fences."""
    line: int
    """Number of its first line in the page, from 1."""


@dataclass(frozen=True)
class Link:
    """A link or a picture."""

    is_picture: bool
    text: str
    target: str


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks, opened = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (fence[1], number + 1), []
        elif opened is not None and line == "```":
            blocks.append(Block(opened[0], "".join(f"{line}\n" for line in lines), opened[1]))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{page}: the block of line {opened[1]} does not end"
    return blocks


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def read_links(page: Path) -> list[Link]:
    """The links and pictures of a page, in order."""
    return [Link(mark == "!", text, target) for mark, text, target in _LINK.findall(prose(page))]


def run_code(block: Block, page: Path, names: dict) -> str:
    """Run a block of Python among the names that the blocks before it made; return what it prints."""
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")  # so that a traceback names the right line
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def expected_output(blocks: list[Block], index: int) -> str:
    """What the page says that a block prints: the `text` block right after it, or nothing."""
    block, following = blocks[index], blocks[index + 1 : index + 2]
    if not following or following[0].language != "text":
        return ""
    lines_between = following[0].line - (block.line + block.text.count("\n")) - 2
    assert lines_between == 1, f"the output of line {following[0].line} does not stand right after its code"
    return following[0].text


def without_comments(block: Block) -> object:
    """What a block says, whatever the language of its comments."""
    if block.language == "python":
        return ast.dump(ast.parse(block.text))
    if block.language in ("bash", "yaml"):
        return [line.partition("# ")[0].rstrip() for line in block.text.splitlines() if not line.startswith("#")]
    return block.text


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell, split into words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def all_commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page: those of its bash blocks, and those that stand as code inside a line."""
    for block in read_blocks(page):
        if block.language == "bash":
            yield from commands(block.text)
    for code in _INLINE.findall(prose(page)):
        if code.split()[0] in _COMMANDS and " " in code:
            yield from commands(code)
