"""What the README and the pages of docs/ say in code: blocks, command lines, and names in the running text.

The pages of docs/study, docs/homogeneous and docs/pools are not among them: they record what was run, with the keys
of that time.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMANDS = ("python -m ", "torchrun ", "make ", "pip ")  # what a command line begins with


@dataclass(frozen=True)
class Block:
    """A fenced block with its language, or an indented one, whose language is `shell`."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    blocks: tuple[Block, ...]
    prose: str  # all but the blocks


def read_page(name: str, text: str | None = None) -> Page:
    """The page's blocks, and its running text."""
    lines = (ROOT / name).read_text().splitlines() if text is None else text.splitlines()
    found, prose, number = [], [], 0
    while number < len(lines):
        start, fence = number, re.match(r"\s*```(\w*)$", lines[number])
        if fence:
            number = next(n for n in range(start + 1, len(lines)) if lines[n].strip() == "```")
            found.append(Block(name, start + 1, fence[1], "\n".join(lines[start + 1 : number]) + "\n"))
            number += 1
        elif lines[number].startswith("    ") and not (number and lines[number - 1].strip()):
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            found.append(Block(name, start + 1, "shell", "\n".join(line[4:] for line in lines[start:number]) + "\n"))
        else:
            assert "```" not in lines[number], f"{name}, line {number + 1}: a fence inside a line"
            prose.append(lines[number])
            number += 1
    return Page(tuple(found), "\n".join(prose) + "\n")


def inline_code(prose: str) -> list[str]:
    """What stands between single backticks, also where it goes over a line's end."""
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose)]


def command_lines(page: Page) -> list[str]:
    """The page's command lines, one line each, without remarks: those of its shell blocks and those in its text."""
    found = []
    for block in page.blocks:
        if block.language == "shell":
            for line in block.text.replace("\\\n", " ").splitlines():
                found.append(" ".join(re.sub(r"\s#.*", "", line).split()))
    found += [code for code in inline_code(page.prose) if code.startswith(COMMANDS)]
    return found


def words_of(command: str) -> list[str]:
    """A command line's words, what it redirects left out."""
    return shlex.split(command.split(" > ")[0])


def blocks_of(page: str, language: str) -> list[str]:
    return [block.text for block in read_page(page).blocks if block.language == language]


def table_rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = ("\n" + read_page(page).prose).partition(f"\n{heading}\n")[2]
    assert section, f"{page} has no heading {heading}"
    section = re.split(r"^#", section, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]
