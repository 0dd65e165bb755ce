"""What is installed, and from what: constraints, licences, the wheel in an empty environment."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import licences
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
UV = Path(sys.executable).with_name("uv")


@pytest.mark.smoke
def test_constraints_are_names_and_versions():
    form = r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*"
    wrong = [line for line in LINES if not re.fullmatch(form, line)]
    assert wrong == []  # no host, no path, no local build such as +cpu
    names = [line.partition("==")[0] for line in LINES]
    assert names == sorted(set(names))


@pytest.mark.smoke
def test_constraints_meet_the_requirements():
    versions = dict(line.split("==") for line in LINES)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        for need in map(Requirement, group):
            if need.name != "setr-lite":
                assert need.specifier.contains(versions[canonicalize_name(need.name)]), need


def test_constraints_are_what_is_installed():
    versions = dict(line.split("==") for line in LINES)
    there = {name: Version(distribution(name).version).public for name in licences.installed()}
    differ = {name: found for name, found in there.items() if versions.get(name) != found}
    assert differ == {}  # after an upgrade: write the new versions, run the tests, commit


def test_every_dependency_has_a_known_licence():
    rows = licences.read()
    assert [row[0] for row in rows] == [line.partition("==")[0] for line in LINES]
    installed = [row for row in licences.rows() if row in rows]
    assert len(installed) == len(rows)  # else: python tests/licences.py, and read what changed
    free = re.compile(r"BSD|MIT|Apache|ISC|PSF|Python Software|MPL|Mozilla|HPND|CC0|0BSD|Zlib")
    others = {name: words for name, words, _ in rows if not free.search(words)}
    # tools of the tests, not shipped: a spell checker, and one whose repository says MIT
    assert others == {"codespell": "GPL-2.0-only", "axe-playwright-python": ""}


@pytest.mark.smoke
def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python = next(d for d in conda["dependencies"] if str(d).startswith("python="))
    version = python.removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    pip = next(d for d in conda["dependencies"] if isinstance(d, dict))["pip"]
    assert "-c constraints.txt" in pip
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", pip[-1])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert "-e '.[book,test]'" in (ROOT / "Makefile").read_text("utf-8")
    assert extras == ["book", "test"]
    assert len(pip) == 2  # nothing that pyproject.toml does not know


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the files that belong to the package."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "setr_lite", place / "setr_lite",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    code = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(place / "dist")], cwd=place, check=True,
                   capture_output=True)  # fmt: skip
    return next((place / "dist").glob("*.whl"))


def test_the_wheel_is_complete(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    wanted = {p.relative_to(ROOT).as_posix() for p in (ROOT / "setr_lite").rglob("*")
              if p.is_file() and "__pycache__" not in p.parts}  # fmt: skip
    assert {n for n in names if ".dist-info/" not in n} == wanted
    assert "setr_lite/py.typed" in wanted
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.mark.skipif(not UV.exists(), reason="uv makes the empty environment")
def test_the_wheel_alone_in_an_empty_environment(wheel, tmp_path):
    """Neither notebook packages, nor data, nor even PyTorch are needed to import it."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = {"check": True, "capture_output": True, "text": True, "cwd": tmp_path, "env": clean}
    home = tmp_path / "empty"
    subprocess.run([UV, "venv", "--offline", "--python", sys.executable, home], **run)
    python = home / "bin" / "python"
    install = [UV, "pip", "install", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, **run)
    code = ("import setr_lite, sys; print(setr_lite.__file__, setr_lite.__version__);"
            "print(sorted({n.partition('.')[0] for n in sys.modules} - sys.stdlib_module_names))")
    said = subprocess.run([python, "-c", code], **run).stdout.splitlines()
    assert said[0] == f"{next(home.rglob('setr_lite/__init__.py'))} {PROJECT['version']}"
    assert said[1] == "['__main__', 'setr_lite']"
    helped = subprocess.run([home / "bin" / "setr-lite", "--help"], **run).stdout
    assert "usage: setr-lite" in helped
