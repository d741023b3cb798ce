"""The corpus `installed-docs`: text that is on every machine which can run this project, without a download.

Five kinds of documents, each its own source: the language's reference topics (`topics`), docstrings without
their code examples (`docstrings`), module sources (`source`), licence texts (`licences`) and package
descriptions (`descriptions`), from this Python installation and the packages installed in it. Files are read
and parsed, never imported or run.

A module gives its docstrings or its source, never both: else the text that `val` measures would be trained on.
Equal texts are given once, whichever packages repeat them.
"""

import ast
import hashlib
import logging
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import Distribution, distributions
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from .corpus import Corpus
from .document import Document, encodable

# Characters taken of each kind: all there is of topics (half a million), licences and descriptions, and of the
# rest enough for some 35,000 samples of 128 tokens, of which about three in ten are the prose.
_BUDGETS = {
    "topics": 1_000_000,
    "docstrings": 4_000_000,
    "source": 7_500_000,
    "licences": 1_500_000,
    "descriptions": 1_500_000,
}
_PART = 8_192  # longer texts are cut near this many characters: many documents deal evenly to splits
_SHORTEST = 200
_SHORTEST_DOCSTRING = 120  # shorter ones name a thing rather than explain it
_LEFT_OUT = {"test", "tests", "testing", "_vendor", "_vendored", "site-packages", "dist-packages", "pydoc_data"}
_THIS_PROJECT = "greats"
_LICENCE = re.compile(r"(licen[cs]e|copying|notice).*", re.IGNORECASE)
_EXAMPLE = re.compile(r"^[ \t]*>>>.*\n?(?:[ \t]*\S.*\n?)*", re.MULTILINE)  # to the next blank line
_log = logging.getLogger(__name__)


class _Module(NamedTuple):
    name: str
    path: Path

    def gives_docstrings(self) -> bool:
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 0


class _Reader:
    """Reads files as text; `skipped` counts those that are no text, or no Python."""

    def __init__(self):
        self.skipped = 0

    def text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            self.skipped += 1
            return ""

    def tree(self, path: Path) -> ast.Module:
        try:
            with warnings.catch_warnings():  # of invalid escapes in other people's strings
                warnings.simplefilter("ignore")
                return ast.parse(self.text(path))
        except (SyntaxError, ValueError):
            self.skipped += 1
            return ast.Module([], [])


@lru_cache(maxsize=1)  # prepare goes over the corpus twice, and it is small
def installed_documents() -> tuple[Document, ...]:
    """All documents of the corpus, in an order that depends on nothing but what is installed."""
    packages = _packages()
    modules = _modules(packages)
    reader = _Reader()
    kinds: dict[str, Iterable[tuple[str, str]]] = {
        "topics": _topics(reader),
        "docstrings": _docstrings([module for module in modules if module.gives_docstrings()], reader),
        "source": ((m.name, reader.text(m.path)) for m in modules if not m.gives_docstrings()),
        "licences": _licences(packages, reader),
        "descriptions": ((package.name, package.metadata.get("Description", "")) for package in packages),
    }
    seen: set[bytes] = set()
    documents = tuple(chain.from_iterable(_bounded(kind, texts, _BUDGETS[kind], seen) for kind, texts in kinds.items()))
    if reader.skipped:
        _log.warning("installed-docs: skipped %d files that are not UTF-8 text or not Python", reader.skipped)
    return documents


def _bounded(kind: str, texts: Iterable[tuple[str, str]], characters: int, seen: set[bytes]) -> Iterator[Document]:
    """The parts of (name, text) pairs as documents of source `kind`, each new to `seen`, until `characters`."""
    for name, text in texts:
        for number, part in enumerate(_parts(encodable(text))):
            digest = hashlib.sha256(part.encode()).digest()
            if len(part) < _SHORTEST or digest in seen:
                continue
            seen.add(digest)
            yield Document(f"{kind}/{name}:{number}", part, kind)
            characters -= len(part)
        if characters <= 0:
            return


def _parts(text: str) -> Iterator[str]:
    """The text cut near every _PART characters, at a blank line or, failing that, at a line's end."""
    begin = 0
    while begin < len(text):
        end = len(text)
        if end - begin > 2 * _PART:
            blank = text.find("\n\n", begin + _PART, begin + 2 * _PART)
            line = text.find("\n", begin + _PART, begin + 2 * _PART)
            end = blank + 2 if blank >= 0 else line + 1 if line >= 0 else begin + _PART
        yield text[begin:end]
        begin = end


def _packages() -> list[Distribution]:
    """The installed distributions by name, without this project."""
    by_name = {}
    for package in distributions():
        if package.name and package.name.lower() != _THIS_PROJECT:
            by_name.setdefault(package.name.lower(), package)
    return [by_name[name] for name in sorted(by_name)]


def _modules(packages: list[Distribution]) -> list[_Module]:
    """The standard library's modules and the packages', in turn, so that a few large packages do not fill a budget."""
    library = Path(sysconfig.get_paths()["stdlib"])
    owners = [[(path.relative_to(library), path) for path in library.rglob("*.py")]]
    for package in packages:
        owners.append([(Path(file), Path(file.locate())) for file in package.files or () if file.suffix == ".py"])
    turns = []
    for files in owners:
        named = [_Module(".".join(file.with_suffix("").parts), path) for file, path in files if _wanted(file)]
        turns.append(sorted(named, key=lambda module: hashlib.sha256(module.name.encode()).digest()))
    return [module for turn in zip_longest(*turns) for module in turn if module]


def _wanted(file: Path) -> bool:
    return not _LEFT_OUT & set(file.parts) and ".." not in file.parts


def _topics(reader: _Reader) -> Iterator[tuple[str, str]]:
    """What help("topic") prints: a module that holds one dictionary, read without importing it."""
    path = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
    for statement in reader.tree(path).body if path.exists() else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            yield from sorted(ast.literal_eval(statement.value).items())


def _docstrings(modules: list[_Module], reader: _Reader) -> Iterator[tuple[str, str]]:
    """Per module, its docstrings one below the other; one that many modules repeat only where it comes first."""
    seen: set[str] = set()
    for name, path in modules:
        texts = []
        for node in _definitions(reader.tree(path)):
            text = _EXAMPLE.sub("", ast.get_docstring(node) or "").strip()
            if len(text) >= _SHORTEST_DOCSTRING and text not in seen:
                seen.add(text)
                texts.append(text)
        yield name, "\n\n".join(texts)


def _definitions(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[ast.AST]:
    """The module, class or function and those defined in it, in their order in the file."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child)


def _licences(packages: list[Distribution], reader: _Reader) -> Iterator[tuple[str, str]]:
    for package in packages:
        for file in sorted(package.files or (), key=str):
            if _LICENCE.fullmatch(file.name) and file.suffix in ("", ".txt", ".md", ".rst"):
                yield str(file), reader.text(Path(file.locate()))


# The prose is what a model of this corpus is meant to learn.
INSTALLED_DOCS = Corpus(
    lambda asked: iter(installed_documents()),
    lambda asked: sum(len(document.text) for document in installed_documents()),
    seq_len=128,
    vocab_size=4096,
    target_sources=("topics", "docstrings"),
)
