"""The benchmark command at toy size: rows have what a reader needs. No time is asserted."""

from __future__ import annotations

import functools
import json
import statistics
import sys
from pathlib import Path

import pytest

from setr_lite.bench import OURS, Bench, bench, describe, describe_setting, of_recipe, save_row
from setr_lite.bench.ours import WORKS, make_work
from setr_lite.bench.turns import Process, Side
from setr_lite.bench.what import KINDS
from setr_lite.cli import main
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe
from setr_lite.running.memory import estimate_memory
from setr_lite.toytown import write_toytown

TOY = {"encoder": "toy", "size": (32, 48), "classes": 5, "turns": 2, "threads": 1}


def here(command, task):
    """A side in this process: starting one of its own takes seconds."""
    assert command[1:] == OURS[1:]
    return Side(make_work, task)


def measure(kind: str, against: str = "plain", **settings) -> dict:
    return bench(Bench(kind, **{**TOY, **settings}), against=against, start=here)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("forward", {"labels": True}),
        pytest.param(
            "train", {"head": "mla", "dialect": "official", "batch": 2}, marks=pytest.mark.slow),
        ("eval", {"image_size": (48, 80), "stride": 24}),
        ("loss", {"batch": 2}),
    ],
)
def test_two_forms_agree_and_a_row_tells_all(kind: str, settings: dict) -> None:
    row = measure(kind, **settings)
    assert row["difference"] < 1e-5
    for side in (row["ours"], row["theirs"]):
        assert len(side["seconds"]) == 2  # the warm-up does not count
        assert min(side["seconds"]) > 0
        assert {"python", "torch"} <= set(side["versions"])
    ratio = row["ratio"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert row["machine"]["cores"] >= 1
    assert row["threads"] == 1
    text = describe(row)
    assert "x as fast" in text
    assert "torch" in describe_setting(row)


def test_training_crops_from_files(tmp_path) -> None:
    write_toytown(tmp_path, train=2, val=1, size=(48, 64), layout="ade20k", workers=1)
    row = measure("data", against="", root=str(tmp_path), images=3)
    assert row["ours"]["images_per_second"] > 0
    assert "theirs" not in row
    assert "opencv" in row["ours"]["versions"]


def test_memory_stands_beside_the_estimate() -> None:
    one, two = (measure("memory", against="", batch=batch) for batch in (1, 2))
    assert one["estimated_bytes"] < two["estimated_bytes"] < 2 * one["estimated_bytes"]
    ratio = two["estimated_bytes"] / two["ours"]["bytes"]
    assert f" {ratio:.3f} of it" in describe(two)


def test_memory_of_a_recipes_step(capsys, monkeypatch) -> None:
    levers = ("train.micro_batch=1", "train.accumulate=2", "data.crop_size=64,64", "optim.name=sgd")
    what = of_recipe("toytown_mla", levers, batch=4, turns=1, threads=1)
    row = bench(what, start=here)
    assert (row["head"], row["classes"], row["size"]) == ("mla", 19, (64, 64))
    run = get_recipe("toytown_mla").override(*levers, "train.batch_size=4", "train.amp=off")
    found = estimate_memory(run)
    assert row["estimated_bytes"] == found.peak - found.weights - found.batch
    assert row["ours"]["bytes"] > found.optimizer  # the step was taken
    text = describe(row)
    assert "memory toytown_mla train.micro_batch=1 " in text
    assert found.dominant in text
    monkeypatch.setattr("setr_lite.bench.rows.bench", functools.partial(bench, start=here))
    command = "bench memory toytown_naive data.crop_size=32,32 --batch 2 --turns 1 --threads 1"
    assert main(command.split()) == 0
    assert "memory toytown_naive data.crop_size=32,32, 32x32, batch 2" in capsys.readouterr().out
    assert main(["bench", "train", "toytown_naive"]) == 2
    assert "train: takes no recipe" in capsys.readouterr().err


def test_the_command_line_knows_every_kind() -> None:
    assert {*WORKS, "memory"} == {*KINDS, "recipe"}


def test_rows_of_a_file(tmp_path) -> None:
    path, row = tmp_path / "new" / "rows.json", {"kind": "loss", "head": "naive"}
    for command in ("a", "b", "a"):
        save_row(row, path, command)
    assert [saved["command"] for saved in json.loads(path.read_text())] == ["b", "a"]
    path.write_text("{")
    with pytest.raises(UserError, match=r"rows\.json: cannot hold the results"):
        save_row(row, path, "a")


@pytest.mark.slow
def test_a_side_in_a_process_of_its_own(tmp_path) -> None:
    script = tmp_path / "side.py"
    script.write_text(
        "from setr_lite.bench.turns import Work, serve\n"
        "from setr_lite.errors import UserError\n"
        "def make(task):\n"
        "    if task['kind'] == 'no':\n"
        "        raise UserError('not this')\n"
        "    print('libraries talk')\n"
        "    return Work(lambda: len(b'1' * 2**26), lambda n: [n], {'side': '1'})\n"
        "serve(make)\n"
    )
    task, command = {"kind": "yes", "threads": 1, "device": "cpu"}, (sys.executable, str(script))
    side = Process(command, task)
    assert side.versions["side"] == "1"
    assert side.memory() < 2**24  # nothing was done yet
    assert side.run()["probe"] == [2**26]
    assert abs(side.memory() - 2**26) < 2**24
    side.stop()
    with pytest.raises(UserError, match="not this"):
        Process(command, task | {"kind": "no"})


def test_mistakes_are_said_in_a_line() -> None:
    with pytest.raises(UserError, match="no benchmark 'trian'; did you mean"):
        Bench("trian")
    with pytest.raises(UserError, match="turns=0: give a whole number, 1 up"):
        Bench("loss", turns=0)
    with pytest.raises(UserError, match="forward has no plain form"):
        measure("forward")
    with pytest.raises(UserError, match=r"nowhere\.py: no such file"):
        measure("forward", against="nowhere.py")
    with pytest.raises(UserError, match="only ade20k"):
        measure("data", against=__file__, data="camvid")


def test_committed_rows_are_what_their_turns_say() -> None:
    """Nobody has improved a number by hand, and every row says how it was made."""
    rows = json.loads((Path(__file__).parents[1] / "benchmarks" / "results.json").read_text())
    assert {row["kind"] for row in rows} >= {"forward", "train", "eval", "loss"}
    for row in rows:
        words = row["command"].split()
        assert words[:2] == ["setr-lite", "bench"]
        assert words[2] == row["kind"]
        assert row["head"] in row["command"] or "--head" not in words
        assert row["device"] in ("cpu", "cuda")
        assert row["ours"]["median"] == statistics.median(row["ours"]["seconds"])
        if "theirs" in row:
            pairs = zip(row["ours"]["seconds"], row["theirs"]["seconds"], strict=True)
            ratios = [theirs / ours for ours, theirs in pairs]
            assert row["ratio"]["median"] == pytest.approx(statistics.median(ratios))
            assert row["memory_ratio"] == pytest.approx(
                row["ours"]["bytes"] / row["theirs"]["bytes"])
