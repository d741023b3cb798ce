"""The wheel offers the libraries under one name of their own, beside whatever else is called `model`."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("pipeline", "model", "selection")
EXAMPLE = """
import torch
torch.manual_seed(0)
target_tokens, target_targets = torch.randint(0, 4096, (2, 4, 128))
tokens, targets = torch.randint(0, 4096, (2, 16, 128))
"""
CHECK = """
import model, greats.model, greats.selection.selector, greats.pipeline.stream
assert model.OWNER == "somebody else"
assert all(parameter.grad is not None for parameter in network.parameters())
print(greats.model.__file__)
"""


def folders() -> set[str]:
    found = [path for library in LIBRARIES for path in (ROOT / library, *(ROOT / library).rglob("*"))]
    return {".".join(("greats", *path.relative_to(ROOT).parts)) for path in found if (path / "__init__.py").exists()}


def test_every_folder_of_the_libraries_is_packaged():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(folders())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: building leaves folders behind.
    for part in (*LIBRARIES, "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(folder)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder / "dist"), str(folder)], check=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_nothing_at_its_top_but_greats(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"greats"}


def test_the_readme_example_runs_where_it_is_installed_beside_a_package_called_model(wheel, tmp_path):
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
    )
    (site / "model").mkdir()
    (site / "model" / "__init__.py").write_text('OWNER = "somebody else"\n')
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch and the rest, as they are here

    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    installed = re.sub(r"^from (pipeline|model|selection)\b", r"from greats.\1", example, flags=re.MULTILINE)
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE + installed + "\nnetwork = model\n" + CHECK)
    ended = subprocess.run([str(python), str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.split()[-1]).is_relative_to(site)
