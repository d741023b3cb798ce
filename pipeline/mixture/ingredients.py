"""The corpora that a dataset is made of: one on the command line, or those that a recipe file lists.

[[corpora]]
name = "web"                    # stands before its documents' ids, and is their source where no field says another
corpus = "openwebtext"          # and the options of that corpus, as on the command line
tokens = 500_000_000            # about so many of it; or weight, against the other weights; or else all of it

[[corpora]]
name = "mine"
role = "target"                 # split target, val and test are made of it; the pool is the others
corpus = "json"                 # (val and test are made of those of the role "measured", where there are any)
data_files = ["mine/*.jsonl"]
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..corpora.corpus import RECORD, Asked, Corpus
from ..corpora.document import Document
from .registry import CORPORA, estimated_characters, read_corpus

ROLES = POOL, TARGET, MEASURED = ("pool", "target", "measured")
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text", ".md": "text"}
_TARS = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Ingredient:
    """One corpus of a dataset, what is asked of it, and what it is for.

    name: stands before the ids of its documents and, where no field says another, is their source; '' for the pool of
    the command line, whose documents keep both. tokens: about how many of it are taken. weight: it gives this share,
    against the other weights of its role, of the largest mix that there is.
    """

    corpus: str
    asked: Asked = field(default_factory=Asked)
    name: str = ""
    role: str = "pool"
    weight: float | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        return f"corpus '{self.name}' ({self.corpus})" if self.name else f"corpus {self.corpus}"

    @property
    def registered(self) -> Corpus:
        return CORPORA[self.corpus]

    @property
    def whole(self) -> bool:
        """Whether all of it is taken."""
        return self.weight is None and self.tokens is None

    def documents(self) -> Iterator[Document]:
        """All documents of it, in their order. ValueError at once for what makes no sense, later for bad records."""
        documents = self._of_registry(read_corpus)
        return map(self._named, documents) if self.name else documents

    def characters(self) -> int:
        """Roughly how many characters of text all of it holds."""
        return self._of_registry(estimated_characters)

    def _of_registry(self, function):
        try:
            return function(self.corpus, **asdict(self.asked))
        except ValueError as error:
            raise ValueError(f"{self}: {error}" if self.name else str(error)) from error

    def _named(self, document: Document) -> Document:
        source = document.source if self.asked.source_field else self.name
        return replace(document, id=f"{self.name}:{document.id}", source=source, corpus=self.name)

    def record(self) -> dict:
        """What manifest.json says of it: what differs from the defaults."""
        told = {
            "name": self.name,
            "corpus": self.corpus,
            "role": self.role,
            "weight": self.weight,
            "tokens": self.tokens,
        }
        told |= {name: getattr(self.asked, name) for name in self.asked.given()}
        return {key: value for key, value in told.items() if value not in ("", None)}


def held_out_files(
    role: str, files: Sequence[str], asked: Asked, pool: str = "json", corpus: str | None = None
) -> Ingredient:
    """The target of the command line or, by `role`, what is measured on; its corpus by the names of its files where it
    is not given: JSON Lines beside a pool of conversations are instructions. ValueError where the names do not tell."""
    if corpus is None:
        option = f"--{role}-files"
        formats = {_format(name, option) for name in files}
        if len(formats) > 1:
            raise ValueError(f"{option} are of several formats, {', '.join(sorted(formats))}: list them in a --recipe")
        (corpus,) = formats
        if corpus == "json" and CORPORA[pool].conversations:
            corpus = "instructions"
    names = (*RECORD, "pipe", "chat_template")
    read = {name: getattr(asked, name) for name in names if name in CORPORA[corpus].reads}
    return Ingredient(corpus, Asked(tuple(files), **read), role, role)


def _format(name: str, option: str) -> str:
    if name.endswith(_TARS):
        return "webdataset"
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    if suffix not in _FORMATS:
        raise ValueError(
            f"{option}: the name of {name} tells no format (as {', '.join(_FORMATS)} and .tar do): say it by "
            "--target-corpus"
        )
    return _FORMATS[suffix]


def read_recipe(path: Path) -> tuple[Ingredient, ...]:
    """The ingredients that a recipe file lists. ValueError naming the file, the corpus and the key that is wrong."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--recipe {path} cannot be read: {error}") from error
    listed = told.get("corpora")
    if set(told) != {"corpora"} or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"--recipe {path}: a list [[corpora]] is expected, and nothing besides")
    found = tuple(_ingredient(f"--recipe {path}, corpus {place}", one) for place, one in enumerate(listed, start=1))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--recipe {path}: two corpora have the name '{name}'")
    roles = {one.role for one in found}
    if POOL not in roles:
        raise ValueError(f'--recipe {path}: no corpus has the role "pool": there is nothing to train on')
    if MEASURED in roles and TARGET not in roles:
        raise ValueError(f'--recipe {path}: a corpus is "measured" and none is the "target": give one that role')
    for role in ROLES:
        weighted = [one.name for one in found if one.role == role and one.weight is not None]
        if len(weighted) == 1:
            raise ValueError(
                f"--recipe {path}: the weight of '{weighted[0]}' stands against no other weight: leave it out"
            )
    return found


_OWN = {"name": str, "corpus": str, "role": str, "weight": (int, float), "tokens": int}
_ASKED = {each.name: bool if each.name == "pipe" else str for each in fields(Asked)} | {"data_files": list}


def _ingredient(where: str, told: dict) -> Ingredient:
    kinds = _OWN | _ASKED
    for key, value in told.items():
        if key not in kinds:
            raise ValueError(f"{where} has an unknown key '{key}': the keys are {', '.join(kinds)}")
        texts = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if not isinstance(value, kinds[key]) or not texts or (isinstance(value, bool) and key != "pipe"):
            raise ValueError(f"{where}: {key} is {value!r}, which is of the wrong kind")
    if not _NAME.fullmatch(told.get("name", "")):
        raise ValueError(f"{where} needs a name of letters, digits, '.', '_' and '-'")
    where = f"{where.rpartition(' ')[0]} '{told['name']}'"
    if told.get("corpus") not in CORPORA:
        raise ValueError(f"{where} needs a corpus, one of {', '.join(CORPORA)}")
    if told.get("role", "pool") not in ROLES:
        raise ValueError(f"{where}: its role is '{told['role']}'; it must be one of {', '.join(ROLES)}")
    for key in ("weight", "tokens"):
        if key in told and not told[key] > 0:
            raise ValueError(f"{where}: {key} is {told[key]}; it must be above 0")
    if "weight" in told and "tokens" in told:
        raise ValueError(f"{where} has a weight and a number of tokens: give one of them")
    asked = Asked(**{key: value for key, value in told.items() if key in _ASKED})
    asked = replace(asked, data_files=tuple(asked.data_files))
    return Ingredient(asked=asked, **{key: value for key, value in told.items() if key in _OWN})
