"""TyDi QA, gold passage (arXiv 2003.05002): its JSON files, which have the form of SQuAD 1.1.

The answer stands in the passage. The source is the language, which the ids begin with.
"""

from collections.abc import Iterator

from .task import Item, read_json, task
from .turns import text_of


def items(path: str, name: str, source: str) -> Iterator[Item]:
    """ValueError naming the file, and the question where it is one that is at fault."""
    told = read_json(path)
    try:
        found = [
            (p["context"], question) for entry in told["data"] for p in entry["paragraphs"] for question in p["qas"]
        ]
    except (KeyError, TypeError):
        raise ValueError(f"{path} has not the form of SQuAD: data, paragraphs, context and qas are expected") from None
    for number, (context, question) in enumerate(found, start=1):
        where = f"{path}, question {number}"
        answers = question.get("answers")
        if not isinstance(answers, list) or not answers:
            raise ValueError(f"{where} has no answers: take it out")
        texts = tuple(dict.fromkeys(text_of(answer, "text", where) for answer in answers))
        passage, asked = text_of({"context": context}, "context", where), text_of(question, "question", where)
        prompt = "Answer the question by words of the passage.\n\n"
        prompt += f"Passage: {passage}\n\nQuestion: {asked}"
        own, language = str(question.get("id", number)), str(question.get("id", "")).partition("-")[0]
        yield Item(where, f"{name}:{own}", language if language.isalpha() else source, prompt, texts)


TYDIQA = task(items)
