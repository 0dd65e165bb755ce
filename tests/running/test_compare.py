"""Logs of ours and of mmsegmentation beside each other."""

from __future__ import annotations

import json
import random

import pytest

from setr_lite.cli import main
from setr_lite.errors import UserError
from setr_lite.running.compare import compare_logs, read_log


def ours(path, loss, lr=0.01, miou=(), steps=1000):
    """A ``log.csv`` with a line each 10 steps; `loss` is a function of the step."""
    lines = ["step,loss,lr,images_per_s,miou"]
    lines += [f"{i},{loss(i)},{lr},3.1," for i in range(10, steps + 1, 10)]
    lines += [f"{step},,,,{value}" for step, value in miou]
    path.write_text("\n".join(lines) + "\n")
    return path


def noisy(mean, seed, late=0.0):
    draw = random.Random(seed)
    return lambda step: mean + draw.gauss(0, 0.05) + late * (step > 600)


def old_log(path, miou=0.4):
    """As mmsegmentation 0.x writes it: an evaluation's ``iter`` is how many batches it had."""
    entries = [{"env_info": "sys.platform: linux", "config": "model = dict()", "seed": 0}]
    for i in range(50, 1001, 50):
        entries.append({"mode": "train", "epoch": 1, "iter": i, "lr": 0.01, "memory": 18841,
                        "data_time": 0.01, "decode.loss_ce": 0.7, "loss": 1.0 + i / 1e6,
                        "time": 0.9})  # fmt: skip
        if i % 500 == 0:
            entries.append({"mode": "val", "epoch": 1, "iter": 250, "lr": 0.01, "aAcc": 0.8,
                            "mIoU": miou, "IoU.wall": 0.7})  # fmt: skip
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def new_log(path, miou=40.0):
    """As mmsegmentation 1.x writes it: percent, and the step in its own key."""
    entries = []
    for i in range(50, 1001, 50):
        entries.append({"lr": 0.01, "data_time": 0.01, "loss": 1.0 + i / 1e6, "time": 0.9,
                        "iter": i, "memory": 1, "step": i})  # fmt: skip
        if i % 500 == 0:
            entries.append({"aAcc": 80.0, "mIoU": miou, "mAcc": 51.0, "time": 0.1, "step": i})
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.mark.parametrize(("write", "name"), [(old_log, "x.log.json"), (new_log, "scalars.json")])
def test_logs_of_mmsegmentation(tmp_path, write, name):
    rows = read_log(write(tmp_path / name))
    assert len(rows) == 22
    assert [(r["step"], r["miou"]) for r in rows if "miou" in r] == [(500, 0.4), (1000, 0.4)]
    assert [r["step"] for r in rows if "loss" in r] == list(range(50, 1001, 50))
    run = ours(tmp_path / "log.csv", noisy(1.0, 1), miou=[(500, 0.395), (1000, 0.42)])
    said = compare_logs(tmp_path, tmp_path / name)
    assert "mIoU at step 500: 39.50, the other 40.00 at 500 (-0.50 points)" in said
    assert "mIoU at step 1000: 42.00, the other 40.00 at 1000 (+2.00 points)" in said
    assert said == compare_logs(run, tmp_path / name)


def test_a_run_that_falls_behind_and_one_that_does_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours(tmp_path / "a" / "log.csv", noisy(1.0, 1, late=0.2))
    ours(tmp_path / "b" / "log.csv", noisy(1.0, 2))
    assert "the loss is behind from step 601 on, to the end" in compare_logs(
        tmp_path / "a", tmp_path / "b")
    other_way = compare_logs(tmp_path / "b", tmp_path / "a")
    assert "behind from" not in other_way
    ours(tmp_path / "a" / "log.csv", lambda i: 1.0 + 0.001 * (i % 30) + 0.5 * (300 < i <= 400))
    ours(tmp_path / "b" / "log.csv", lambda i: 1.0 + 0.001 * (i % 30))
    assert "the loss is behind in steps 301..400, and not after" in compare_logs(
        tmp_path / "a", tmp_path / "b")


def test_another_rate_is_told_with_its_step(tmp_path):
    a = ours(tmp_path / "a.csv", noisy(1.0, 1), lr=0.01)
    b = ours(tmp_path / "b.csv", noisy(1.0, 2), lr=0.001)
    assert "the learning rates differ from step 1 on: compare the settings" in compare_logs(a, b)
    assert "rates differ" not in compare_logs(a, a)


def test_the_command_draws_both(tmp_path, capsys):
    run = ours(tmp_path / "log.csv", noisy(1.0, 1), miou=[(1000, 0.3)])
    picture = tmp_path / "new" / "both.png"
    log = old_log(tmp_path / "x.log.json")
    assert main(["compare", str(tmp_path), "--with", str(log), "--out", str(picture)]) == 0
    assert f"written: {picture}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(run), "--with", str(log), "--out", str(tmp_path / "x.odd")]) == 2
    assert "give a name as x.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "a,b\n1,2\n", "has no column 'step'"),
        ("log.csv", "step,loss\n1,two\n", "line 2: loss is 'two', expected a number"),
        ("log.csv", "step,loss\n", "has no column 'step'"),
        ("log.csv", "step,loss\n,2\n", "line 2 has no step"),
        ("log.csv", "step,loss\n1,nan\n", "holds no step with a loss or an mIoU"),
        ("x.log.json", "{", "line 1 is no JSON"),
        ("x.log.json", "[1]\n", "line 1 is no JSON object"),
        ("x.log.json", '{"env_info": "x"}\n', "holds no step with a loss"),
        ("x.log.json", '{"mode": "train", "iter": [1], "loss": 2}\n', "step is"),
    ],
)
def test_other_content_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_log(tmp_path / name)
    with pytest.raises(UserError, match=r"nothing: no log there|nothing.log.csv: no log there"):
        read_log(tmp_path / "nothing")
