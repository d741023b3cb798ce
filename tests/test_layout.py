"""The house keeps its order: which way imports go, how large a file and a folder may be, what loads without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("pipeline", "model", "selection")
ENTRIES, LINES = 12, 300


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The project's own modules that a file imports, wherever in it."""
    found, package = set(), path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` names a module, `from module import thing` does not.
            found |= {f"{origin}.{name.name}" if is_module(f"{origin}.{name.name}") else origin for name in node.names}
    return {name for name in found if name.split(".")[0] in (*LIBRARIES, "scripts", "tests") and is_module(name)}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_imports_nothing_but_itself_and_relatively(library):
    """So it can be installed under any name, beside code of any other."""
    for path in sources(library):
        assert {name.split(".")[0] for name in imports(path)} <= {library}, path
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {*LIBRARIES, "scripts"}, (path, names)


def test_nothing_imports_the_tests():
    for path in sources(*LIBRARIES, "scripts"):
        assert not any(name.split(".")[0] == "tests" for name in imports(path)), path


@pytest.mark.parametrize("of", ["files", "folders"])
def test_imports_make_no_circle(of):
    arrows: dict[str, set[str]] = {}
    for path in sources(*LIBRARIES, "scripts"):
        own = module(path)
        targets = imports(path)
        if of == "folders":
            own = folder(path)
            targets = {folder(file_of(name)) for name in targets}
        arrows.setdefault(own, set()).update(targets - {own})
    left = dict(arrows)
    while left:  # takes away what imports nothing that is left
        ends = [name for name, targets in left.items() if not targets & left.keys()]
        assert ends, f"a circle among {sorted(left)}"
        left = {name: targets for name, targets in left.items() if name not in ends}


def file_of(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def folder(path: Path) -> str:
    """The folder a file is in; what lies in a top folder itself stands for itself."""
    place = path.relative_to(ROOT)
    return str(place if len(place.parts) == 2 else place.parent)


def test_files_and_folders_stay_small():
    for path in sources(*LIBRARIES, "scripts", "tests"):
        lines = len(path.read_text().splitlines())
        assert lines <= LINES, f"{path} has {lines} lines"
    for top in (*LIBRARIES, "scripts", "tests"):
        for place in [ROOT / top, *(path for path in (ROOT / top).rglob("*") if path.is_dir())]:
            entries = [path.name for path in place.iterdir() if path.name not in ("__pycache__", ".hypothesis")]
            assert len(entries) <= ENTRIES, f"{place} has {len(entries)} entries"


@pytest.mark.parametrize("name", ["selection.log", "selection.attribution", "selection.prefilters.ngrams"])
def test_reading_a_log_needs_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
