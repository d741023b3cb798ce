import ast
from collections import Counter

import pytest

from pipeline.corpora import installed_docs as module
from pipeline.corpora.installed_docs import installed_documents
from pipeline.mixture.registry import read_corpus

KINDS = ("topics", "docstrings", "source", "licences", "descriptions")


@pytest.fixture(scope="module")
def documents():
    """A little of every kind: the corpus is read lazily, so a small budget makes it quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUDGETS", dict.fromkeys(KINDS, 60_000))
        installed_documents.cache_clear()
        yield list(read_corpus("installed-docs"))
    installed_documents.cache_clear()


def test_all_kinds_in_bounds(documents):
    characters = Counter()
    for document in documents:
        assert document.source == document.id.split("/")[0]
        assert len(document.text) >= 200
        characters[document.source] += len(document.text)
    assert set(characters) == set(KINDS)
    assert all(60_000 <= characters[kind] < 500_000 for kind in KINDS)


def test_ids_and_texts_are_unique(documents):
    assert len({document.id for document in documents}) == len(documents)
    assert len({document.text for document in documents}) == len(documents)


def test_a_module_gives_docstrings_or_source_never_both(documents):
    def modules(kind):
        return {d.id.split("/")[1].rsplit(":")[0] for d in documents if d.source == kind}

    assert modules("docstrings")
    assert modules("source")
    assert not modules("docstrings") & modules("source")


def test_the_order_is_the_same_again(documents):
    installed_documents.cache_clear()
    assert list(read_corpus("installed-docs")) == documents


def test_prose_is_what_it_is_called(documents):
    topic = next(document for document in documents if document.id.startswith("topics/assert:"))
    assert "assert_stmt ::=" in topic.text
    assert not any(">>>" in document.text for document in documents if document.source == "docstrings")


def test_docstrings_come_in_order_without_examples_and_once(tmp_path):
    path = tmp_path / "m.py"
    words = "explains at some length what it is for and how to use it, " * 3
    path.write_text(
        f'"""Module {words}\n\n>>> 1 + 1\n2\n\nAfter the example."""\n'
        f'class A:\n    """Class {words}"""\n    def f(self):\n        """Method {words}"""\n'
        f'def g():\n    """short"""\n'
        f'async def h():\n    """Class {words}"""\n'
    )
    made = module._Module("m", path)
    reader = module._Reader()
    ((name, text),) = module._docstrings([made], reader)
    paragraphs = text.split("\n\n")
    assert name == "m"
    assert [paragraph.split()[0] for paragraph in paragraphs] == ["Module", "After", "Class", "Method"]
    assert "1 + 1" not in text


def test_what_is_no_text_or_no_python_is_counted(tmp_path):
    reader = module._Reader()
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"name = '\xe9'")
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    assert reader.text(latin) == ""
    assert ast.dump(reader.tree(broken)) == ast.dump(ast.Module([], []))
    assert reader.skipped == 2


def test_long_texts_are_cut_and_lose_nothing():
    text = "".join(f"line {i} of a paragraph\n" + "\n" * (i % 5 == 0) for i in range(3000)) + "x" * 40_000
    parts = list(module._parts(text))
    assert "".join(parts) == text
    assert all(len(part) <= 2 * module._PART for part in parts)
    assert parts[0].endswith("\n\n")
