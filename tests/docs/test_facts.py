"""What the README and docs/ name is there, and what there is to name is named."""

import dataclasses
import json
import re
from importlib import import_module

import pytest
from torch.distributed.run import get_args_parser

from pipeline.mixture.registry import CORPORA
from pipeline.prepare.recipe import Recipe
from scripts.bench.__main__ import BENCHMARKS
from scripts.compare.__main__ import Options as CompareOptions
from scripts.evaluate.__main__ import Evaluate
from scripts.export import Export
from scripts.generate import Generate
from scripts.mix.__main__ import Mix
from scripts.prepare.__main__ import Verify
from scripts.report.__main__ import Options as ReportOptions
from scripts.report.__main__ import Question
from scripts.taylor.__main__ import Options as TaylorOptions
from scripts.train.config import MAY_CHANGE, Config, flat
from scripts.train.record import Ended
from selection.log.schema import SCHEMA
from selection.methods import METHODS
from tests.docs.blocks import PAGES, ROOT, inline_code, read_page, table_rows
from tests.docs.parsers import options_of

TOP_FOLDERS = "pipeline/|model/|selection/|scripts/|tests/|docs/"
LINK = re.compile(r"\[[^\]^]*\]\(([^)]+)\)")


def all_settings() -> dict:
    """Every key of a configuration with its default."""
    return flat(Config().as_dict())


def test_the_readme_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_bytes()) < 7_000


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short_and_of_the_right_width(page):
    lines = (ROOT / page).read_text().splitlines()
    assert len(lines) <= 300
    assert not [line for line in lines if len(line) > 130 and not line.startswith("|")]


def anchors(page: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    for target in LINK.findall(read_page(page).prose):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (folder / path).resolve() if path else ROOT / page
        assert there.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(str(there.relative_to(ROOT))), f"{page}: {target}"


def test_every_page_is_listed_in_the_readme():
    listed = LINK.findall((ROOT / "README.md").read_text().partition("## Read on")[2])
    assert set(listed) == {page for page in PAGES if page != "README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(rf"(?:(?<=[\s`(])|^)((?:{TOP_FOLDERS})[\w./-]*[\w/])", text, re.MULTILINE)
    for name in named:
        if not name.startswith("selection/*"):
            assert (ROOT / name).exists(), f"{page}: {name}"
    for name in inline_code(read_page(page).prose):
        if re.fullmatch(r"(pipeline|model|selection|scripts)(\.\w+)+", name) and name not in all_settings():
            assert known_module_or_key(name), f"{page}: {name}"
        if re.fullmatch(r"\w+\.toml", name):
            assert (ROOT / "scripts" / "configs" / name).exists() or name == "config.toml", f"{page}: {name}"


def known_module_or_key(name: str) -> bool:
    sections = {key.rpartition(".")[0] for key in all_settings()}
    if name in sections:
        return True
    module, _, attribute = name.rpartition(".")
    try:
        import_module(name)
    except ImportError:
        return hasattr(import_module(module), attribute)
    return True


def fields(options: type) -> set[str]:
    return {field.name for field in dataclasses.fields(options)}


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_the_text_is_one(page):
    known = set(all_settings()) | {"config", "help", "data.path", *dir(get_args_parser().parse_args(["x"]))}
    commands = Recipe, Verify, ReportOptions, CompareOptions, Evaluate, Export, Generate, Mix, TaylorOptions
    for options in (*commands, *map(options_of, BENCHMARKS)):
        known |= fields(options)
    for code in inline_code(read_page(page).prose):
        for flag in re.findall(r"(?:^| )--([\w.-]+)", code):
            assert flag.replace("-", "_") in known, f"{page}: --{flag}"


@pytest.mark.parametrize("page", PAGES)
def test_every_key_in_the_text_is_one(page):
    sections = "|".join(fields(Config) - {"out"})
    for code in inline_code(read_page(page).prose):
        key = code.split(" ")[0]
        if re.fullmatch(rf"({sections})(\.[a-z_]+)+", key) and not key.endswith((".py", ".toml")):
            assert key in all_settings() or known_module_or_key(key), f"{page}: {code}"


def test_every_key_is_documented_with_its_default():
    documented = {}
    for section in sorted({key.rpartition(".")[0] for key in all_settings()}):
        for name, default, what in table_rows("docs/settings.md", f"## `[{section}]`" if section else "## Top level"):
            assert what
            documented[f"{section}.{name.strip('`')}".lstrip(".")] = json.loads(default.strip("`"))
    assert documented == all_settings()


def test_every_option_of_prepare_is_documented():
    rows = table_rows("docs/data.md", "## Options")
    named = {name for row in rows for name in re.findall(r"`--([\w-]+)`", row[0])}
    assert named == {name.replace("_", "-") for name in fields(Recipe)}
    corpora = next(row[1] for row in rows if row[0] == "`--corpus`")
    assert set(re.findall(r"`([\w-]+)`", corpora)) - {"datasets"} == set(CORPORA)


def test_what_a_resumed_run_may_change_is_told():
    text = " ".join(read_page("docs/running.md").prose.split())
    told = text.partition("It may change")[2].partition(". What is promised")[0]
    for key in MAY_CHANGE - {"train.resume"}:
        assert f"`{key}`" in told or (key.startswith("data.") and "`data.*`" in told), key


def test_every_preset_and_configuration_is_listed():
    text = (ROOT / "docs" / "settings.md").read_text()
    for path in (ROOT / "scripts" / "configs").rglob("*.toml"):
        assert f"`{path.relative_to(ROOT)}`" in text


def test_the_table_of_methods_is_that_of_the_registry():
    rows = {row[0].strip("`"): row[1:] for row in table_rows("docs/method.md", "## The methods")}
    assert list(rows) == list(METHODS)
    for name, (_, passes, aims) in rows.items():
        assert (passes, aims == "yes") == (METHODS[name].passes, METHODS[name].aims), name


def test_every_column_of_the_log_is_explained():
    rows = table_rows("docs/log.md", "# The selection log")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(SCHEMA.names)


def test_every_question_of_the_report_is_named():
    text = (ROOT / "docs" / "log.md").read_text()
    for question in Question.__args__:
        assert f"`{question}`" in text or f"--ask {question} " in text, question


def test_how_a_run_may_end_is_told():
    text = (ROOT / "docs" / "running.md").read_text()
    for name in (*fields(Ended), *dataclasses.fields(Ended)[0].type.__args__):
        assert f"`{name}`" in text, name


def test_every_benchmark_has_its_command():
    text = "".join((ROOT / page).read_text() for page in PAGES)
    for name in BENCHMARKS:
        assert f"python -m scripts.bench {name}" in text, name


# What each promise of docs/guarantees.md begins with, and the tests of it: their names, or what these begin with.
PROMISES = {
    "Exact resume.": ["test_killed_at_any_moment", "test_a_killed_run_goes_on_as_if_nothing"],
    "A checkpoint is complete or not there": ["test_training_goes_on_while_a_checkpoint_is_written"],
    "Restarts.": ["test_torchrun_restarts"],
    "Other world sizes.": [
        "test_a_run_goes_on_at_another_world_size",
        "test_one_and_two_ranks_choose_the_same",
        "test_two_replicas_of_two_train_as_one_process_and_go_on",
    ],
    "A sample is drawn at most once an epoch": ["test_stream_properties"],
    "Another dataset or other settings are refused": [
        "test_a_resume_with_other_settings_names_them",
        "test_a_resume_says_that_the_dataset_lost_a_shard",
    ],
    "SIGTERM and SIGINT": ["test_a_stopped_run_checkpoints"],
    "The error or death of one rank ends all": ["test_what_one_rank_meets", "test_torchrun_ends_when_a_rank_is_killed"],
    "Broken shards": ["test_a_broken_shard_is_found_out", "test_a_cut_archive", "test_a_broken_shard_met_by_a_worker"],
    "All ranks compute on the same kind of device.": ["test_ranks_do_not_mix_devices"],
    "What is not finite": [
        "test_a_candidate_that_is_not_finite_is_never_picked",
        "test_an_update_that_is_not_finite_is_skipped",
        "test_a_run_that_diverged_stops_with_a_sentence",
    ],
    "A full or read-only disk": [
        "test_a_full_disk",
        "test_a_folder_that_cannot_be_written",
        "test_a_checkpoint_that_c",
    ],
    "No code from data": ["test_a_hostile", "test_a_broken_shard_is_found_out", "test_commands_run_only_where_they"],
    "`prepare` goes on.": [
        "test_killed_at_every_stage",
        "test_after_an_interruption_the_same_command_goes_on",
        "test_any_number_of_workers_gives_the_same_bytes",
        "test_bad_input_leaves_nothing",
        "test_what_is_whole_and_of_this_text_is_taken_over",
    ],
    "A dataset elsewhere": ["test_what_a_network_does_is_tried_again", "test_two_ranks_fetch_a_shard_once"],
}


def test_every_promise_names_the_file_that_tests_it():
    rows = table_rows("docs/guarantees.md", "# What a run survives")
    assert [re.match(r"\*\*(.*?)\*\*", row[0])[1] for row in rows] == list(PROMISES)
    for row, tests in zip(rows, PROMISES.values(), strict=True):
        files = re.findall(r"`(tests/[\w/]+\.py)`", row[1])
        sources = [(ROOT / file).read_text() for file in files]
        for test in tests:
            assert any(f"\ndef {test}" in source for source in sources), (row[0], test)
        for file, source in zip(files, sources, strict=True):
            assert any(f"\ndef {test}" in source for test in tests), (row[0], file)
