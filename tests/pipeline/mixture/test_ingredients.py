"""The corpora of a dataset, from a recipe file and from the command line."""

import json

import pytest

from pipeline.corpora.corpus import Asked
from pipeline.corpora.document import Document
from pipeline.mixture.ingredients import Ingredient, held_out_files, read_recipe
from pipeline.prepare.recipe import Recipe

RECIPE = """
[[corpora]]
name = "web"
corpus = "hub"
dataset = "owner/web"
subset = "all"
tokens = 500_000_000

[[corpora]]
name = "code"
corpus = "json"
data_files = ["code/*.jsonl"]
source_field = "repository"
weight = 0.5

[[corpora]]
name = "books"
corpus = "text"
data_files = ["books/*.txt"]
weight = 2

[[corpora]]
name = "mine"
role = "target"
corpus = "webdataset"
pipe = true
data_files = ["pipe:cat {a,b}.tar"]
"""


def _read(tmp_path, text):
    (tmp_path / "mix.toml").write_text(text)
    return read_recipe(tmp_path / "mix.toml")


def test_a_recipe_file(tmp_path):
    assert _read(tmp_path, RECIPE) == (
        Ingredient("hub", Asked(dataset="owner/web", subset="all"), "web", "pool", None, 500_000_000),
        Ingredient("json", Asked(("code/*.jsonl",), source_field="repository"), "code", "pool", 0.5),
        Ingredient("text", Asked(("books/*.txt",)), "books", "pool", 2),
        Ingredient("webdataset", Asked(("pipe:cat {a,b}.tar",), pipe=True), "mine", "target"),
    )


def test_what_the_manifest_says_is_what_the_recipe_said(tmp_path):
    web, code, books, mine = _read(tmp_path, RECIPE)
    assert web.record() == {
        "name": "web",
        "corpus": "hub",
        "role": "pool",
        "tokens": 500_000_000,
        "dataset": "owner/web",
        "subset": "all",
    }
    for one in (web, mine):
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in one.record().items()]
        assert one in _read(tmp_path, FIRST + "[[corpora]]\n" + "".join(lines))
    assert (code.record()["weight"], books.record()["weight"]) == (0.5, 2)


def test_a_name_stands_before_the_ids_and_is_the_source_where_no_field_says_another(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one", "kind": "x"}\n')
    asked = Asked((str(tmp_path / "a.jsonl"),))
    assert list(Ingredient("json", asked).documents()) == [Document("a.jsonl:0", "one", "a")]
    assert list(Ingredient("json", asked, "mine").documents()) == [Document("mine:a.jsonl:0", "one", "mine", "mine")]
    asked = Asked(asked.data_files, source_field="kind")
    assert list(Ingredient("json", asked, "mine").documents()) == [Document("mine:a.jsonl:0", "one", "x", "mine")]


FIRST = '[[corpora]]\nname = "a"\ncorpus = "text"\ndata_files = ["a"]\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("corpora = [", "cannot be read: "),
        ("", r"a list \[\[corpora\]\] is expected, and nothing besides"),
        ("corpora = [3]", r"a list \[\[corpora\]\] is expected"),
        (FIRST + "[other]\nx = 1", r"a list \[\[corpora\]\] is expected, and nothing besides"),
        ('[[corpora]]\ncorpus = "text"', "corpus 1 needs a name of letters"),
        (FIRST + '[[corpora]]\nname = "b/c"\ncorpus = "text"', "corpus 2 needs a name of letters"),
        ('[[corpora]]\nname = "b"\ncorpus = "pile"', "corpus 'b' needs a corpus, one of openwebtext, hub"),
        (FIRST + "wieght = 3", "corpus 1 has an unknown key 'wieght': the keys are name, corpus, role, weight"),
        (FIRST + 'weight = "3"', "corpus 1: weight is '3', which is of the wrong kind"),
        (FIRST + "tokens = true", "corpus 1: tokens is True, which is of the wrong kind"),
        ('[[corpora]]\nname = "a"\ncorpus = "text"\ndata_files = "a"', "corpus 1: data_files is 'a', which is of the"),
        (
            '[[corpora]]\nname = "a"\ncorpus = "text"\ndata_files = [3]',
            r"corpus 1: data_files is \[3\], which is of the",
        ),
        (FIRST + "tokens = 0", "corpus 'a': tokens is 0; it must be above 0"),
        (FIRST + "tokens = 1\nweight = 1", "corpus 'a' has a weight and a number of tokens: give one of them"),
        (FIRST + 'role = "val"', "corpus 'a': its role is 'val'; it must be one of pool, target"),
        (FIRST + 'role = "target"', 'no corpus has the role "pool": there is nothing to train on'),
        (
            FIRST + '[[corpora]]\nname = "b"\ncorpus = "text"\nrole = "measured"',
            'a corpus is "measured" and none is the "target"',
        ),
        (FIRST + FIRST, "two corpora have the name 'a'"),
        (FIRST + "weight = 3", "the weight of 'a' stands against no other weight: leave it out"),
    ],
)
def test_a_bad_recipe_file_gets_a_sentence(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=rf"^--recipe {tmp_path}/mix.toml.*{sentence}"):
        _read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "corpus"),
    [
        ("a.jsonl", "json"),
        ("x/a.json.gz", "json"),
        ("b.parquet", "parquet"),
        ("c.txt.zst", "text"),
        ("d.tar.gz", "webdataset"),
    ],
)
def test_target_files_tell_their_format(name, corpus):
    asked = Asked(("pool.txt",), text_field="body", pipe=True)
    expected = Asked((name,), text_field="text" if corpus == "text" else "body", pipe=corpus == "webdataset")
    assert held_out_files("target", [name], asked) == Ingredient(corpus, expected, "target", "target")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a.json", "b.txt"], "--target-files are of several formats, json, text: list them in a --recipe"),
        (["a.doc"], r"the name of a.doc tells no format \(as .jsonl, .json, .parquet, .txt, .md and .tar do\)"),
    ],
)
def test_target_files_of_no_clear_format_get_a_sentence(files, sentence):
    with pytest.raises(ValueError, match=sentence):
        held_out_files("target", files, Asked())


def test_a_recipe_and_what_it_replaces_exclude_each_other(tmp_path):
    (tmp_path / "mix.toml").write_text(RECIPE)
    recipe = Recipe("json", tmp_path, ("a.jsonl",), target_files=("b.jsonl",), recipe=tmp_path / "mix.toml")
    with pytest.raises(ValueError, match="leave out --corpus, --target-files, --data-files"):
        _ = recipe.ingredients
    with pytest.raises(ValueError, match="--corpus is missing"):
        _ = Recipe(out=tmp_path).ingredients
    with pytest.raises(ValueError, match="--measured-files does nothing without --target-files: leave it out"):
        _ = Recipe("json", tmp_path, ("a.jsonl",), measured_files=("b.jsonl",)).ingredients
    with pytest.raises(ValueError, match="--out is missing"):
        Recipe("json").check()
