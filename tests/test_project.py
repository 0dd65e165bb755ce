"""What stands round the code: workflows, hooks, templates, what contributors read."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import versions
import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = ["CONTRIBUTING.md", "SECURITY.md"]
FORMS = {
    "github-workflows": WORKFLOWS,
    "citation-file-format": [ROOT / "CITATION.cff"],
}
"""Form that `check-jsonschema` knows -> files that have it."""

pytestmark = pytest.mark.smoke


def targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def has_form(form, files):
    return run(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{form}", *files)


def audit(path):
    """zizmor on workflows, without a network: 0 is nothing found."""
    return run(BIN / "zizmor", "--offline", "--no-progress", "--quiet", path)


# --- workflows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_files_have_the_form_that_their_reader_knows(form):
    code, said = has_form(form, FORMS[form])
    assert code == 0, said


def test_workflows_let_nobody_in():
    code, said = audit(ROOT / ".github")
    assert code == 0, said


def test_the_linters_see_what_they_look_for(tmp_path):
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    good, bad = WORKFLOWS[0].read_text("utf-8"), folder / "bad.yml"
    bad.write_text(good.replace("runs-on", "runs_on"))
    assert has_form("github-workflows", [bad])[0] == 1
    for planted in (
        good.replace(".ci/run", "echo ${{ github.event.pull_request.title }}"),
        re.sub(r"checkout@\w+", "checkout@main", good),
        good.replace("pull_request:", "pull_request_target:"),
        good.replace("permissions:\n      contents: read", "permissions: write-all"),
    ):
        assert planted != good
        bad.write_text(planted)
        assert audit(tmp_path)[0] > 0, planted


def test_workflows_run_what_a_reader_can_run():
    """Each command is the repository's own script, or a target of the Makefile."""
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text("utf-8"))["jobs"].values():
            chosen = job.get("strategy", {}).get("matrix", {}).get("target", [])
            assert set(chosen) <= targets()
            for command in [step["run"] for step in job["steps"] if "run" in step]:
                assert command == 'make "$TARGET"' or (ROOT / command).is_file(), command


# --- hooks and templates ------------------------------------------------------------------------


def test_every_hook_names_what_is_there():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"ruff", "codespell", "run-boxes", "notebook-outputs"} == hooks.keys()
    for hook in hooks.values():
        program, *words = shlex.split(hook["entry"])
        assert (BIN / Path(program).name).exists(), program
        assert [w for w in words if "/" in w and not (ROOT / w).exists()] == []
    pages = re.compile(hooks["notebook-outputs"]["files"])
    assert pages.match("book/04_encoding.ipynb")
    assert not pages.match("book/building.md")


def test_templates_have_five_lines():
    folder = ROOT / ".github"
    for path in (*folder.glob("ISSUE_TEMPLATE/*.md"), folder / "pull_request_template.md"):
        text = path.read_text("utf-8")
        if path.parent.name == "ISSUE_TEMPLATE":
            _, head, text = text.split("---\n")
            assert {"name", "about"} <= yaml.safe_load(head).keys()
        assert len(text.splitlines()) == 5, path.name


# --- what contributors read ---------------------------------------------------------------------


def test_the_change_log_has_its_form():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", v) for v in versions[1:]]
    assert all(released)
    dates = [found[2] for found in released]
    assert dates == sorted(dates, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert released[0][1] == project["version"] == cited["version"]
    assert dates[0] == str(cited["date-released"])


@pytest.mark.parametrize("name", TEXTS)
def test_texts_name_what_is_there(name):
    text = (ROOT / name).read_text("utf-8")
    asked = set(re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", text, re.M))
    asked = {word for pair in asked for word in pair if word}
    assert asked
    assert asked <= targets()
    folders = r"(?:book|data|setr_lite|tests|\.github)/[\w./-]*\w"
    paths = set(re.findall(rf"(?<![\w/]){folders}", text))
    paths |= set(re.findall(r"\]\(([^)#:]+)\)", text))
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text("utf-8"), re.M), test
    assert paths
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_what_other_versions_leave_out_is_there():
    assert [name for name in versions.LEFT_OUT if not (ROOT / "tests" / name).exists()] == []
