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

from setr_lite.cli import main

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
    run(shortened(together), tmp_path)
    assert len(list((tmp_path / "pictures").glob("**/*_overlay.png"))) == 2
    assert (tmp_path / "runs" / "eight" / "last" / "model.safetensors").is_file()


def table():
    """The rows of the results table: recipe -> {column: text}."""
    text = README.partition("## Results")[2].partition("\n## ")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines() if line.startswith("|")
    ]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


@pytest.mark.smoke
def test_results_are_those_of_the_records():
    rows = table()
    runs = [path for path in RUNS.glob("*/record.json") if "setr-lite train" in path.read_text()]
    assert set(rows) == {path.parent.name for path in runs}
    for name, row in rows.items():
        record = json.loads((RUNS / name / "record.json").read_text("utf-8"))
        assert row["mIoU"] == f"{100 * record['miou']:.1f}"
        assert row["pixels right"] == f"{100 * record['pixel_accuracy']:.1f}"
        assert row["classes"] == str(len(record["averaged"]))
        assert row["parameters"] == f"{record['parameters'] / 1e6:.2f} M"
        assert row["steps"] == str(record["steps"])
        assert row["seconds"] == str(record["seconds"])
        assert row["device"] == record["device"]


@pytest.mark.smoke
def test_files_that_are_named_exist():
    for path in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path
