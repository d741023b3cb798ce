"""What `prepare` and `prepare verify` say of a dataset's duplicates."""

from pipeline.dataset.duplicates import FILE
from pipeline.dataset.manifest import Manifest


def sentences(manifest: Manifest) -> list[str]:
    """What was found and done: a sentence on duplicates, and one on what was dropped from the pool, if anything was."""
    told = manifest.duplicates
    if not told:
        return []
    found = f"{told.get('exact', 0):,} documents have the text of an earlier one"
    if told["near"]:
        found += f", {told['like']:,} are like one (similarity {told['near']})"
    if told["mode"] == "keep":
        said = ["duplicates: not looked for"]
    elif told["mode"] == "drop":
        said = [f"duplicates: {found}, and are dropped"]
    elif told["groups"]:
        said = [f"duplicates: {found}, in {told['groups']:,} groups; they are kept, and listed in {FILE}"]
    else:
        said = ["duplicates: none"]
    if leaked := told["dropped_from_pool_as_held_out"]:
        said.append(f"{leaked:,} documents of the pool are held out too, and are dropped from it")
    if measured := told.get("dropped_from_target_as_measured"):
        said.append(f"{measured:,} documents of the target are measured too, and are dropped from it")
    return said
