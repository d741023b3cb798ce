"""The questions of the report: each takes an opened run and gives a list of answers."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from scripts.report.format import Answer
from scripts.report.predictor import predictor
from scripts.report.run import Study
from selection.attribution import bias, history, overlap, totals, trends


def numbers(study: Study) -> Answer:
    """The run in numbers, one row."""
    run, counts = study.run, totals.summary(study.log).to_pylist()[0]
    settings = run.config
    row = {
        "method": run.method,
        "steps": counts["steps"],
        "planned_steps": settings.get("train", {}).get("steps"),
        "groups": counts["groups"],
        "ranks": settings.get("run", {}).get("world_size", counts["ranks"]),
        "candidates": counts["candidates"],
        "samples": counts["samples"],
        "picks": counts["picks"],
        "scored": counts["scored"],
        "dropped_unscored": counts["dropped"] or None,
        "picks_unscored": counts["picks_unscored"] if counts["dropped"] else None,
        "not_finite": counts["not_finite"],
        "seconds": run.training[-1]["seconds"] if run.training else None,
        "seconds_per_step": run.training[-1]["seconds"] / len(run.training) if run.training else None,
    }
    for name in ("val_loss", "test_loss"):
        row[f"first_{name}"] = run.evaluations[0][name] if run.evaluations else None
        row[f"final_{name}"] = run.evaluations[-1][name] if run.evaluations else None
    note = "" if counts["scored"] else _NOTHING_SCORED.format(method=run.method)
    return Answer("numbers", f"{run.name} in numbers", pa.Table.from_pylist([row]), note, upright=True)


_NOTHING_SCORED = (
    "Nothing was scored: method {method} trains on what it draws, or no step is written yet. "
    "Scores and contributions are unknown."
)


def overview(study: Study, top: int) -> list[Answer]:
    """What the report shows when nothing is asked: numbers, gaps, sources, the prefilter, the highest and lowest
    documents."""
    answers = [numbers(study), *_gaps(study)]
    if study.log.knows_documents:
        answers += sources(study)
    if study.run.has_prefilter:
        answers += predictor(study, top)
    if not study.log.knows_documents:
        return answers
    scored = answers[0].table["scored"][0].as_py()
    if scored:
        for lowest, name in ((False, "highest"), (True, "lowest")):
            table = totals.documents(study.log, "mean_score", lowest, top)
            answers.append(_documents(study, f"{name}_documents", f"Documents of {name} mean score", table))
    return answers


def sources(study: Study) -> list[Answer]:
    table = totals.sources(study.log)
    shown = table.select(["source", "pool_share", "picks_share", "lift", "pick_rate", "mean_score", "contribution"])
    starved = table.filter(pc.less(table["lift"], 0.5))["source"].to_pylist()
    note = f"Starved (lift below 0.5): {', '.join(starved)}.\n" if starved else ""
    note += (
        "lift: share of the picks over share of the pool.\n"
        "contribution: how much the picks lowered the loss on the target samples, to first order."
    )
    picked, unscored = (pc.sum(table[name]).as_py() or 0 for name in ("picked", "picked_unscored"))
    if 0 < round(unscored) < round(picked):
        note += (
            f"\nIt is known of the {picked - unscored:,.0f} picks of {picked:,.0f} that were scored; mean scores are "
            "over what was scored."
        )
    return [Answer("sources", "Sources, by pick rate", table, note, shown)]


def time(study: Study, windows: int = 6) -> list[Answer]:
    table = trends.over_time(study.log, windows)
    rows: dict[str, dict] = {}
    for row in table.to_pylist():
        column = f"to_{row['last_step']}_rate"
        rows.setdefault(row["source"], {"source": row["source"]})[column] = row["pick_rate"]
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    shown = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows.values()])
    return [Answer("time", "Pick rate of every source, in stretches of steps up to ...", table, "", shown)]


def early_late(study: Study) -> list[Answer]:
    table = trends.early_and_late(study.log)
    return [Answer("early_late", "First third of the steps against the last third", table)]


def returning(study: Study) -> list[Answer]:
    table = trends.returning(study.log)
    note = "" if table.num_rows else "No sample was scored twice: the run is shorter than an epoch, or scored little."
    return [Answer("returning", "Standing of a sample in its group when it came again", table, note)]


def biases(study: Study) -> list[Answer]:
    titles = {
        "length": "Pick rate by document length (characters)",
        "position": "Pick rate by position in the document (0 = beginning)",
        "rarity": "Pick rate by token rarity (bits per token)",
        "loss": "Pick rate by loss when scored (nats)",
    }
    table = bias.bias(study.log)
    return [
        Answer(f"bias_{feature}", titles[feature], rows.drop_columns("feature"))
        for feature in bias.FEATURES
        if (rows := table.filter(pc.equal(table["feature"], feature))).num_rows
    ]


def gaps(study: Study) -> list[Answer]:
    found = _gaps(study)
    if found:
        return found
    table = totals.gaps(study.log)
    return [Answer("gaps", "Steps without rows", table, "None: every step has every group.")]


def samples(study: Study, order: str, lowest: bool, top: int) -> list[Answer]:
    table = totals.samples(study.log, order, lowest, top)
    shown = table.select(["sample_id", "offered", "scored", "picked", "mean_score", "contribution"])
    title = f"Samples of {_end(lowest)} {order}"
    return [Answer("samples", title, _with_text(study, table), "", _with_text(study, shown))]


def documents(study: Study, order: str, lowest: bool, top: int) -> list[Answer]:
    table = totals.documents(study.log, order, lowest, top)
    return [_documents(study, "documents", f"Documents of {_end(lowest)} {order}", table)]


def sample(study: Study, sample_id: int) -> list[Answer]:
    """One sample: its text, every time it was offered, and what it lost to."""
    table = history.sample_history(study.log, sample_id)
    shown = table.drop_columns(["sample_id", "candidates"])
    note = "margin: score less the bar it had to clear (rejected) or less the best rejected score (picked)"
    note += "; in steps without scores, of what was predicted." if study.run.has_prefilter else "."
    answers = [Answer("history", f"Sample {sample_id}, every time it was offered", table, note, shown)]
    if study.texts:
        spans = study.texts.spans(sample_id)
        rows = [
            {"document": s.document, "source": s.source, "first": s.first, "last": s.last, "text": text}
            for s, text in zip(spans, study.texts.pieces(sample_id), strict=True)
        ]
        text = pa.Table.from_pylist(rows)
        answers.append(Answer("text", f"Text of sample {sample_id}", text, whole_text=True))
    winners = {winner: None for row in table.to_pylist() for winner in row["lost_to"] or []}
    if winners and study.texts:
        lost_to = _with_text(study, pa.table({"sample_id": list(winners)}))
        answers.append(Answer("lost_to", "What was picked in its place, nearest to the bar", lost_to))
    return answers


def document(study: Study, name: str) -> list[Answer]:
    table = _with_text(study, history.document_samples(study.log, name), name)
    return [Answer("document", f"Samples of document {name}", table)]


def source(study: Study, name: str, top: int) -> list[Answer]:
    stretches = trends.over_time(study.log, source=name)
    if not stretches.num_rows:
        known = ", ".join(totals.sources(study.log)["source"].to_pylist())
        raise ValueError(f"source {name!r} is in no candidate of this run; its sources are: {known}")
    answers = [Answer("time", f"Source {name} over time", stretches.drop_columns("source"))]
    for lowest in (False, True):
        table = totals.documents(study.log, "mean_score", lowest, top, source=name)
        title = f"Documents of {_end(lowest)} mean score in {name}"
        answers.append(_documents(study, f"{_end(lowest)}_documents", title, table.drop_columns("source")))
    return answers


def step(study: Study, number: int) -> list[Answer]:
    table = history.step_contents(study.log, number)
    shown = table.select(["group", "sample_id", "pick", "score", "loss", "predicted", "margin"])
    return [Answer("step", f"What was in step {number}", _with_text(study, table), "", _with_text(study, shown))]


def against(study: Study, other: Study) -> list[Answer]:
    """This run (first) and another (second)."""
    same = overlap.agreement(study.log, other.log)
    names = f"{study.run.name} (first) and {other.run.name} (second)"
    answers = [
        Answer(
            "agreement",
            f"Same candidates in the same group: {names}",
            same,
            "" if same["groups"][0].as_py() else "The two runs were never offered the same candidates together.",
            upright=True,
        ),
        Answer(
            "agreement_by_sample",
            f"Samples that both were offered, at any time: {names}",
            overlap.agreement_by_sample(study.log, other.log),
            upright=True,
        ),
    ]
    if study.log.knows_documents and other.log.knows_documents:
        moved = overlap.sources_moved(study.log, other.log)
        answers.append(Answer("sources_moved", f"Sources that moved: {names}", moved))
    return answers


# What --ask knows by name, of those that take no more than the run.
PLAIN: dict[str, Callable[[Study], list[Answer]]] = {
    "sources": sources,
    "time": time,
    "early-late": early_late,
    "returning": returning,
    "bias": biases,
    "gaps": gaps,
    "predictor": predictor,
}


def _end(lowest: bool) -> str:
    return "lowest" if lowest else "highest"


def _gaps(study: Study) -> list[Answer]:
    table = totals.gaps(study.log)
    if not table.num_rows:
        return []
    note = "A file is lost or damaged or, at the end of a run still going, not written yet."
    return [Answer("gaps", "Steps for which groups have no rows", table, note)]


def _documents(study: Study, name: str, title: str, table: pa.Table) -> Answer:
    shown = table.select(
        [c for c in ("document", "source", "picked", "scored", "offered", "mean_score") if c in table.column_names]
    )
    if study.texts and table.num_rows:
        where = history.first_samples(study.log, table["document"].to_pylist())
        texts = [_piece(study, where[document], document) for document in table["document"].to_pylist()]
        table, shown = (t.append_column("text", pa.array(texts, pa.string())) for t in (table, shown))
    return Answer(name, title, table, "", shown)


def _piece(study: Study, sample_id: int, document: str) -> str:
    """What a sample has of a document."""
    pieces = zip(study.texts.spans(sample_id), study.texts.pieces(sample_id), strict=True)
    return "".join(text for span, text in pieces if span.document == document)


def _with_text(study: Study, table: pa.Table, document: str | None = None) -> pa.Table:
    """The table with a column `text`: that of every row's sample, or of the sample's part of one document."""
    if not study.texts:
        return table
    ids = table["sample_id"].to_pylist()
    texts = [_piece(study, i, document) if document else study.texts.text(i) for i in ids]
    return table.append_column("text", pa.array(texts, pa.string()))
