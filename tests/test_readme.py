"""What the README says: its blocks run, its numbers are those of the records."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from setr_lite.checkpoint import read_state
from setr_lite.cli import main
from setr_lite.recipes import camvid_dinov2_mla

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
RUNS = ROOT / "data" / "runs"
SHORT = {
    "toytown": "--train 4 --val 2",
    "train": "train.steps=2 train.batch_size=2 train.eval_every=0 train.device=cpu train.workers=0",
    "eval": "train.device=cpu",
    "predict": "train.device=cpu",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def lines(block):
    text = [line.split("  #")[0].strip() for line in block.splitlines()]
    return [line for line in text if line]


def shortened(command):
    """The command's words, with a schedule of seconds, on two processes instead of eight GPUs."""
    words = shlex.split(command.replace("--nproc_per_node=8", "--nproc_per_node=2"))
    verb = words[words.index("setr_lite" if "torchrun" in words else "setr-lite") + 1]
    return words + SHORT.get(verb, "").split()


def run(command, folder):
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_python_block(tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")
    (block,) = blocks("python")
    run([sys.executable, "-c", block], tmp_path)
    with Image.open(tmp_path / "street.png") as picture:
        assert picture.size == (192, 96)


@pytest.mark.slow
def test_command_lines(tmp_path, monkeypatch, capsys):
    """In their order, since each works on what the ones before it left.

    In this process, where PyTorch is imported already; what torchrun starts has its own.
    """
    monkeypatch.chdir(tmp_path)
    alone, (together,) = (lines(block) for block in blocks("bash"))
    for command in alone:
        assert main(shortened(command)[1:]) == 0, command
        printed = capsys.readouterr().out
        if " recipes" in command:
            assert "toytown_pup" in printed or "train.steps=" in printed
    assert "mIoU" in run(shortened(together), tmp_path)
    assert len(list((tmp_path / "pictures").glob("**/*_overlay.png"))) == 2
    state = read_state(tmp_path / "runs" / "eight" / "last")
    assert (state["step"], state["samples"]) == (2, 4)  # as one process: for test_parallel to show


def tables():
    """The rows of the tables of results: recipe -> {column: text}."""
    text, found = README.partition("## Results")[2].partition("\n## ")[0], {}
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        head, _, *rows = [
            [cell.strip(" `") for cell in line.strip("|").split("|")]
            for line in block.splitlines()
        ]
        found |= {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    return found


@pytest.mark.smoke
def test_results_are_those_of_the_records():
    rows = tables()
    texts = {path.parent.name: path.read_text("utf-8") for path in RUNS.glob("*/record.json")}
    runs = {name: json.loads(text) for name, text in texts.items() if "setr-lite train" in text}
    assert set(rows) == {name.removesuffix("_unseen") for name in runs}
    seeds = {"camvid_dinov2_mla": other_seeds_of_mla(runs["camvid_dinov2_mla"])}
    for name, row in rows.items():
        run, unseen = runs[name], runs.get(f"{name}_unseen")
        mious = [f"{100 * miou:.1f}" for miou in (run["miou"], *seeds.pop(name, ()))]
        assert row["mIoU"] == " to ".join(sorted({min(mious), max(mious)}))
        assert row["training"] == f"{run['seconds']} s"
        if name.startswith("toytown"):
            assert row["parameters"] == f"{run['parameters'] / 1e6:.2f} M"
            assert run["device"].startswith("2 CPU cores")
        else:
            there = f"{100 * unseen['miou']:.1f}" if unseen else "not run"
            assert row["unseen drive"] == there
            assert run["device"].startswith("1 of 2 CPU cores")
    assert not seeds


def other_seeds_of_mla(run):
    """The mIoU of the runs that differ from the recorded one of MLA in their seed alone."""
    runs = json.loads((RUNS / "camvid_rates/results.json").read_text("utf-8"))["runs"]
    same = {"head": "mla", "rate": camvid_dinov2_mla().optim.lr, "steps": run["steps"]}
    found = {r["seed"]: r["scores"]["val"]["miou"] for r in runs if same.items() <= r.items()}
    assert set(found) == {1, 2}
    return found.values()


@pytest.mark.smoke
def test_files_that_are_named_exist():
    for path in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path
