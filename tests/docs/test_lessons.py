"""Every page runs as written and prints what it says; its pictures, links and commands are what they claim to be."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import load_config
from tests.docs import pages
from tests.tools import ROOT, call

DOCS = ROOT / "docs"
LESSONS = sorted((DOCS / "en").glob("[0-9][0-9]_*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "README_cn.md",
    *sorted((DOCS / "en").glob("*.md")),
    *sorted((DOCS / "cn").glob("*.md")),
]
TRAINING = ("04", "06", "07", "12", "13", "14", "15")
NEEDS = "# needs "
LARGEST_PICTURE = 100_000  # bytes
ids = dict(ids=lambda path: str(path.relative_to(ROOT)))


def chinese(page: Path) -> Path:
    return DOCS / "cn" / page.name


# Running


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the checkout to a page, without the pictures that the pages make."""
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "docs" / "digits").symlink_to(DOCS / "digits")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Paddle 2.6 says so of its own `arange` when a network is exported.
@pytest.mark.filterwarnings("ignore:The Attr.force_cpu. of Op:UserWarning")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.name[:2] in TRAINING else ()) for page in LESSONS], **ids
)
def test_a_lesson_runs_as_written(page, checkout):
    blocks, names = pages.read_blocks(page), {}
    with np.printoptions():
        for index, block in enumerate(blocks):
            if block.language == "text":
                assert blocks[index - 1].language == "python", f"nothing prints the text of line {block.line}"
            elif block.language == "python":
                printed, expected = pages.run_code(block, page, names), pages.expected_output(blocks, index)
                assert printed == expected, f"{page.name}, line {block.line}"
            elif block.language == "bash" and not block.text.startswith(NEEDS):
                for command in pages.commands(block.text):
                    run_command(command)
    made = {path.name: path for path in (checkout / "docs" / "images").iterdir()}
    assert set(made) == shown_pictures(page)
    for name, path in made.items():
        assert difference(path, DOCS / "images" / name) < 12, f"docs/images/{name} is not what {page.name} draws"


def run_command(words: list[str]) -> None:
    """Run one of our tools, or see that a command of another program can be run."""
    if words[0] == "pip":
        return
    assert words[0] == "python", words
    arguments = [path for word in words[2:] for path in (sorted(glob.glob(word)) or [word])]
    done = call(Path(words[1]).stem, *arguments)
    assert done.code == 0, done


def shown_pictures(page: Path) -> set[str]:
    return {Path(link.target).name for link in pages.read_links(page) if link.is_picture}


def difference(path: Path, other: Path) -> float:
    """Mean difference of two pictures in grey levels of 0 to 255, seen from far: fonts may differ."""
    small = [
        np.asarray(Image.open(file).convert("L").resize((48, 24), Image.Resampling.BOX), float)
        for file in (path, other)
    ]
    return float(np.abs(small[0] - small[1]).mean())


def test_the_runner_finds_mistakes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '```python\nx = 2\nprint(x)\n```\n\n```text\n3\n```\n\n```python\nprint(x + 1)\nraise ValueError("no")\n```\n'
    )
    blocks, names = pages.read_blocks(page), {}
    assert [block.language for block in blocks] == ["python", "text", "python"]
    assert pages.run_code(blocks[0], page, names) == "2\n"
    assert pages.expected_output(blocks, 0) == "3\n"
    assert pages.expected_output(blocks, 2) == ""
    with pytest.raises(ValueError, match="no") as error:
        pages.run_code(blocks[2], page, names)
    assert error.traceback[-1].lineno + 1 == 12
    page.write_text("```python\nprint(1)\n```\nsomething else\n\n```text\n1\n```\n")
    with pytest.raises(AssertionError, match="line 7 does not stand right after its code"):
        pages.expected_output(pages.read_blocks(page), 0)
    page.write_text("```python\nprint(1)\n")
    with pytest.raises(AssertionError, match="the block of line 2 does not end"):
        pages.read_blocks(page)


def test_pictures_that_differ_are_told_apart():
    one, *others = sorted((DOCS / "images").glob("*.png"))
    assert difference(one, one) == 0
    assert min(difference(one, other) for other in others) > 12


# README


@pytest.fixture
def exported(checkout):
    """What the README's Python expects in the current folder."""
    from paddlevit.inference import export_model
    from paddlevit.models import create_model

    network = create_model("vit_tiny_patch16_224", 10, 8, 1, patch_size=4, embed_dim=16, depth=1, num_heads=2)
    export_model(network, checkout / "exported", class_names=[str(digit) for digit in range(10)])


@pytest.mark.slow
def test_the_readme_code_runs(exported):
    names = {}
    for block in pages.read_blocks(ROOT / "README.md"):
        if block.language == "python":
            pages.run_code(block, ROOT / "README.md", names)


# Two languages


def test_every_page_is_there_in_both_languages():
    names = [page.name for page in LESSONS]
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    assert {page.name for page in (DOCS / "cn").glob("*.md")} == {page.name for page in (DOCS / "en").glob("*.md")}


@pytest.mark.parametrize("page", [*LESSONS, DOCS / "en" / "README.md", ROOT / "README.md"], **ids)
def test_chinese_pages_have_the_same_code(page):
    other = ROOT / "README_cn.md" if page.parent == ROOT else chinese(page)
    blocks, translated = pages.read_blocks(page), pages.read_blocks(other)
    assert [block.language for block in translated] == [block.language for block in blocks]
    for block, translation in zip(blocks, translated):
        if block.language in ("python", "bash", "yaml") or page in LESSONS:
            assert pages.without_comments(translation) == pages.without_comments(block), f"line {translation.line}"
    assert headings(other) == headings(page)
    assert re.search("[\u4e00-\u9fff]", pages.prose(other))
    pictures = [[link.target for link in pages.read_links(one) if link.is_picture] for one in (page, other)]
    assert pictures[0] == pictures[1]


def headings(page: Path) -> list[int]:
    return [len(marks) for marks in re.findall("^(#+) ", pages.prose(page), flags=re.MULTILINE)]


def test_without_comments_sees_every_change():
    def stripped(language, text):
        return pages.without_comments(pages.Block(language, text, 1))

    assert stripped("python", "x = 1  # one\n") == stripped("python", "# 一\nx = 1\n")
    assert stripped("python", "x = 1\n") != stripped("python", "x = 2\n")
    assert stripped("python", "print('a # b')\n") != stripped("python", "print('a # c')\n")
    assert stripped("bash", "# needs it\nls a  # b\n") == stripped("bash", "# 需要\nls a  # c\n")
    assert stripped("bash", "ls a\n") != stripped("bash", "ls b\n")
    assert stripped("text", "# 1\n") != stripped("text", "# 2\n")


# Links and pictures


@pytest.mark.parametrize("page", PAGES, **ids)
def test_links_lead_somewhere(page):
    links = pages.read_links(page)
    assert links
    for link in links:
        if not link.target.startswith(("http://", "https://")):
            assert (page.parent / link.target.partition("#")[0]).exists(), link
        assert link.text.strip(), f"{link.target} has no text"


def test_every_picture_is_shown_and_small():
    shown = set().union(*map(shown_pictures, LESSONS))
    pictures = {path.name: path for path in (DOCS / "images").iterdir()}
    assert {name for page in PAGES for name in shown_pictures(page)} >= set(pictures) >= shown
    assert max(path.stat().st_size for path in pictures.values()) < LARGEST_PICTURE


@pytest.mark.parametrize("page", LESSONS, **ids)
def test_lessons_lead_to_their_neighbours(page):
    targets = {link.target for link in pages.read_links(page)}
    number = LESSONS.index(page)
    neighbours = [LESSONS[i].name for i in (number - 1, number + 1) if 0 <= i < len(LESSONS)]
    assert {*neighbours, "README.md", f"../cn/{page.name}"} <= targets
    assert f"../en/{page.name}" in {link.target for link in pages.read_links(chinese(page))}
    assert page.name in {link.target for link in pages.read_links(DOCS / "en" / "README.md")}


# Commands


@pytest.mark.parametrize("page", PAGES, **ids)
def test_commands_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in pages.all_commands(page):
        check_command(words)


def check_command(words: list[str]) -> None:
    """Fail unless the tool exists and understands its arguments."""
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(arguments) <= set(targets), words
    elif program == "pip":
        check_install(arguments)
    elif program in ("python", "python3") and arguments[0] == "-m":
        check_module(arguments[1:])
    elif program in ("python", "python3"):
        assert arguments[0].startswith("tools/"), words
        check_tool(Path(arguments[0]), arguments[1:])
    else:
        raise AssertionError(f"{words}: no such program is known here")


def check_install(arguments: list[str]) -> None:
    wanted = re.findall(r"\[([\w,-]+)\]", " ".join(arguments))
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n\n")[0]
    for extra in ",".join(wanted).split(",") if wanted else ():
        assert re.search(f"^{extra} =", extras, flags=re.MULTILINE), f"there is no extra {extra}"


def check_module(arguments: list[str]) -> None:
    assert importlib.util.find_spec(arguments[0]), arguments
    if arguments[0] == "pytest":
        assert all(os.path.exists(word) for word in arguments[1:] if not word.startswith("-")), arguments


def check_tool(tool: Path, arguments: list[str]) -> None:
    assert (ROOT / tool).is_file(), f"there is no {tool}"
    names = runpy.run_path(str(ROOT / tool))
    if "parse" not in names:
        assert re.search(rf'choices=\(.*"{arguments[0]}"', (ROOT / tool).read_text()), arguments
        return
    try:
        args = names["parse"](arguments)
    except SystemExit as end:
        raise AssertionError(f"{tool} does not understand {arguments}") from end
    config = getattr(args, "config", None)
    if config and config.startswith("configs/"):
        load_config(config, args.override)


@pytest.mark.parametrize(
    "command",
    [
        "python tools/nothing.py",
        "python tools/train.py --epochs 3",
        "python tools/train.py -c configs/vit_nothing.yaml",
        "python tools/train.py -c configs/vit_digits.yaml -o optimizer.rate=1",
        "python tools/dev.py nothing",
        "python -m paddlevit.nothing",
        "python -m pytest tests/nothing",
        "make nothing",
        'pip install -e ".[nothing]"',
        "nothing at all",
    ],
)
def test_wrong_commands_are_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    (words,) = pages.commands(command)
    with pytest.raises((AssertionError, ValueError)):
        check_command(words)
