"""The questions of the report: each takes an opened run and gives a list of answers.

Every answer with scores in it says what they are, and that contributions are unknown where they are: of methods that
do not aim at target samples.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from scripts.report.format import Answer
from scripts.report.open_run import OpenRun
from scripts.report.prefilter import prefilter
from selection.attribution import bias, history, overlap, totals, trends


def numbers(run: OpenRun) -> Answer:
    """The run in numbers, one row."""
    record, counts = run.record, totals.summary(run.log).to_pylist()[0]
    row = {
        "method": run.selection.method,
        "ended": record.ending,
        "steps": counts["steps"],
        "planned_steps": record.settings.train.steps,
        "groups": counts["groups"],
        "ranks": record.facts.get("world_size", counts["ranks"]),
        "candidates": counts["candidates"],
        "samples": counts["samples"],
        "picks": counts["picks"],
        "scored": counts["scored"],
        "dropped_unscored": counts["dropped"] or None,
        "picks_unscored": counts["picks_unscored"] if counts["dropped"] else None,
        "not_finite": counts["not_finite"],
        "seconds": record.training[-1]["seconds"] if record.training else None,
        "seconds_per_step": record.training[-1]["seconds"] / len(record.training) if record.training else None,
    }
    for name in ("val_loss", "test_loss"):
        row[f"first_{name}"] = record.evaluations[0][name] if record.evaluations else None
        row[f"final_{name}"] = record.evaluations[-1][name] if record.evaluations else None
    note = _meaning(run) if counts["scored"] else _NOTHING_SCORED.format(method=run.selection.method)
    return Answer("numbers", f"{run.name} in numbers", pa.Table.from_pylist([row]), note, upright=True)


_NOTHING_SCORED = (
    "Nothing was scored: method {method} trains on what it draws, or no step is written yet. "
    "Scores and contributions are unknown."
)


def overview(run: OpenRun, top: int) -> list[Answer]:
    """What the report shows when nothing is asked: numbers, gaps, sources, the prefilter, the highest and lowest
    documents."""
    answers = [numbers(run), *_gaps(run)]
    if run.log.knows_documents:
        answers += sources(run)
    if run.selection.prefilter:
        answers += prefilter(run, top)
    if not run.log.knows_documents:
        return answers
    scored = answers[0].table["scored"][0].as_py()
    if scored:
        for lowest, name in ((False, "highest"), (True, "lowest")):
            table = totals.documents(run.log, "mean_score", lowest, top)
            answers.append(_documents(run, f"{name}_documents", f"Documents of {name} mean score", table))
    return answers


def sources(run: OpenRun) -> list[Answer]:
    table = totals.sources(run.log)
    shown = table.select(["source", "pool_share", "picks_share", "lift", "pick_rate", "mean_score", "contribution"])
    starved = table.filter(pc.less(table["lift"], 0.5))["source"].to_pylist()
    note = f"Starved (lift below 0.5): {', '.join(starved)}.\n" if starved else ""
    note += f"lift: share of the picks over share of the pool.\n{_meaning(run)}"
    picked, unknown = (pc.sum(table[name]).as_py() or 0 for name in ("picked", "picked_unknown"))
    if 0 < round(unknown) < round(picked):
        note += (
            f"\nIt is known of the {picked - unknown:,.0f} picks of {picked:,.0f} that were scored; mean scores are "
            "over what was scored."
        )
    return [Answer("sources", "Sources, by pick rate", table, note, shown)]


def time(run: OpenRun, windows: int = 6) -> list[Answer]:
    table = trends.over_time(run.log, windows)
    rows: dict[str, dict] = {}
    for row in table.to_pylist():
        column = f"to_{row['last_step']}_rate"
        rows.setdefault(row["source"], {"source": row["source"]})[column] = row["pick_rate"]
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    shown = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows.values()])
    return [Answer("time", "Pick rate of every source, in stretches of steps up to ...", table, "", shown)]


def early_late(run: OpenRun) -> list[Answer]:
    table = trends.early_and_late(run.log)
    return [Answer("early_late", "First third of the steps against the last third", table, _meaning(run, False))]


def returning(run: OpenRun) -> list[Answer]:
    table = trends.returning(run.log)
    note = "" if table.num_rows else "No sample was scored twice: the run is shorter than an epoch, or scored little."
    return [Answer("returning", "Standing of a sample in its group when it came again", table, note)]


def biases(run: OpenRun) -> list[Answer]:
    titles = {
        "length": "Pick rate by document length (characters)",
        "position": "Pick rate by position in the document (0 = beginning)",
        "rarity": "Pick rate by token rarity (bits per token)",
        "loss": "Pick rate by loss when scored (nats)",
    }
    table = bias.bias(run.log)
    return [
        Answer(f"bias_{feature}", titles[feature], rows.drop_columns("feature"), _meaning(run, False))
        for feature in bias.FEATURES
        if (rows := table.filter(pc.equal(table["feature"], feature))).num_rows
    ]


def gaps(run: OpenRun) -> list[Answer]:
    found = _gaps(run)
    if found:
        return found
    table = totals.gaps(run.log)
    return [Answer("gaps", "Steps without rows", table, "None: every step has every group.")]


def usual_order(run: OpenRun, order: str | None) -> str:
    """The column that samples are ordered by where none is given."""
    return order or ("contribution" if run.method.aims else "mean_score")


def samples(run: OpenRun, order: str | None, lowest: bool, top: int) -> list[Answer]:
    order = usual_order(run, order)
    table = totals.samples(run.log, order, lowest, top)
    shown = table.select(["sample_id", "offered", "scored", "picked", "mean_score", "contribution"])
    title = f"Samples of {_end(lowest)} {order}"
    return [Answer("samples", title, _with_text(run, table), _meaning(run), _with_text(run, shown))]


def documents(run: OpenRun, order: str, lowest: bool, top: int) -> list[Answer]:
    table = totals.documents(run.log, order, lowest, top)
    return [_documents(run, "documents", f"Documents of {_end(lowest)} {order}", table)]


def sample(run: OpenRun, sample_id: int) -> list[Answer]:
    """One sample: its text, every time it was offered, and what it lost to."""
    table = history.sample_history(run.log, sample_id)
    shown = table.drop_columns(["sample_id", "candidates"])
    note = "margin: score less the bar it had to clear (rejected) or less the best rejected score (picked)"
    note += "; in steps without scores, of what was predicted." if run.selection.amortised else "."
    note = f"{_meaning(run, False)}\n{note}".strip()
    answers = [Answer("history", f"Sample {sample_id}, every time it was offered", table, note, shown)]
    if run.texts:
        spans = run.texts.spans(sample_id)
        rows = [
            {"document": s.document, "source": s.source, "first": s.first, "last": s.last, "text": text}
            for s, text in zip(spans, run.texts.pieces(sample_id), strict=True)
        ]
        text = pa.Table.from_pylist(rows)
        answers.append(Answer("text", f"Text of sample {sample_id}", text, whole_text=True))
        duplicates = run.texts.duplicates(sample_id)
        if duplicates.num_rows:
            fates = history.fates(run.log, duplicates)
            answers.append(Answer("duplicates", "Its documents that have duplicates, and these", fates, _DUPLICATES))
    winners = {winner: None for row in table.to_pylist() for winner in row["lost_to"] or []}
    if winners and run.texts:
        lost_to = _with_text(run, pa.table({"sample_id": list(winners)}))
        answers.append(Answer("lost_to", "What was picked in its place, nearest to the bar", lost_to))
    return answers


_DUPLICATES = "Of each: samples that were offered, and its share of what became of them. One group: one text, or alike."


def document(run: OpenRun, name: str) -> list[Answer]:
    table = _with_text(run, history.document_samples(run.log, name), name)
    return [Answer("document", f"Samples of document {name}", table, _meaning(run))]


def source(run: OpenRun, name: str, top: int) -> list[Answer]:
    stretches = trends.over_time(run.log, source=name)
    if not stretches.num_rows:
        known = ", ".join(totals.sources(run.log)["source"].to_pylist())
        raise ValueError(f"source {name!r} is in no candidate of this run; its sources are: {known}")
    answers = [Answer("time", f"Source {name} over time", stretches.drop_columns("source"), _meaning(run, False))]
    for lowest in (False, True):
        table = totals.documents(run.log, "mean_score", lowest, top, source=name)
        title = f"Documents of {_end(lowest)} mean score in {name}"
        answers.append(_documents(run, f"{_end(lowest)}_documents", title, table.drop_columns("source")))
    return answers


def step(run: OpenRun, number: int) -> list[Answer]:
    table = history.step_contents(run.log, number)
    shown = table.select(["group", "sample_id", "pick", "score", "loss", "predicted", "margin"])
    title = f"What was in step {number}"
    return [Answer("step", title, _with_text(run, table), _meaning(run, False), _with_text(run, shown))]


def against(run: OpenRun, other: OpenRun) -> list[Answer]:
    """This run (first) and another (second)."""
    same = overlap.agreement(run.log, other.log)
    names = f"{run.name} (first) and {other.name} (second)"
    scores = f"score: {run.method.ranks_by or 'none'} (first), {other.method.ranks_by or 'none'} (second)."
    answers = [
        Answer(
            "agreement",
            f"Same candidates in the same group: {names}",
            same,
            scores if same["groups"][0].as_py() else "The two runs were never offered the same candidates together.",
            upright=True,
        ),
        Answer(
            "agreement_by_sample",
            f"Samples that both were offered, at any time: {names}",
            overlap.agreement_by_sample(run.log, other.log),
            upright=True,
        ),
    ]
    if run.log.knows_documents and other.log.knows_documents:
        moved = overlap.sources_moved(run.log, other.log)
        answers.append(Answer("sources_moved", f"Sources that moved: {names}", moved))
    return answers


# What --ask knows by name, of those that take no more than the run.
BY_NAME: dict[str, Callable[[OpenRun], list[Answer]]] = {
    "sources": sources,
    "time": time,
    "early-late": early_late,
    "returning": returning,
    "bias": biases,
    "gaps": gaps,
    "predictor": prefilter,
}


def _meaning(run: OpenRun, contribution: bool = True) -> str:
    """What the scores of this run are and, where there are any, its contributions; of a run that scores nothing, no
    more than that these are unknown."""
    score = f"score: {run.method.ranks_by}." if run.method.ranks_by else ""
    if not contribution:
        return score
    if run.method.aims:
        return f"{score}\ncontribution: how much the picks lowered the loss on the target samples, to first order."
    return f"{score}\nContributions are unknown: method {run.selection.method} measures none.".strip()


def _end(lowest: bool) -> str:
    return "lowest" if lowest else "highest"


def _gaps(run: OpenRun) -> list[Answer]:
    table = totals.gaps(run.log)
    if not table.num_rows:
        return []
    note = "A file is lost or damaged or, at the end of a run still going, not written yet."
    return [Answer("gaps", "Steps for which groups have no rows", table, note)]


def _documents(run: OpenRun, name: str, title: str, table: pa.Table) -> Answer:
    shown = table.select(
        [c for c in ("document", "source", "picked", "scored", "offered", "mean_score") if c in table.column_names]
    )
    if run.texts and table.num_rows:
        where = history.first_samples(run.log, table["document"].to_pylist())
        texts = [_piece(run, where[document], document) for document in table["document"].to_pylist()]
        table, shown = (t.append_column("text", pa.array(texts, pa.string())) for t in (table, shown))
    return Answer(name, title, table, _meaning(run, False), shown)


def _piece(run: OpenRun, sample_id: int, document: str) -> str:
    """What a sample has of a document."""
    pieces = zip(run.texts.spans(sample_id), run.texts.pieces(sample_id), strict=True)
    return "".join(text for span, text in pieces if span.document == document)


def _with_text(run: OpenRun, table: pa.Table, document: str | None = None) -> pa.Table:
    """The table with a column `text`: that of every row's sample, or of the sample's part of one document."""
    if not run.texts:
        return table
    ids = table["sample_id"].to_pylist()
    texts = [_piece(run, i, document) if document else run.texts.text(i) for i in ids]
    return table.append_column("text", pa.array(texts, pa.string()))
