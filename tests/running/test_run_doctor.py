"""The doctor of a run: planted causes, healthy runs, folders that hold other things."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from setr_lite import checkpoint
from setr_lite.cli import _parser, main
from setr_lite.config import RunConfig
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe
from setr_lite.running.doctor import CAUSES, LIKELY, diagnose, likely, ranked, report
from setr_lite.running.traces import Traces, look_at_weights, read_traces

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "data" / "runs"
SAMPLE = ROOT / "data" / "sample" / "toytown_cityscapes"
sys.path.insert(0, str(ROOT / "book" / "_tools"))
import plant_causes as planted  # noqa: E402

RECORD = json.loads((RUNS / "doctor" / "record.json").read_text())
ILL = [run for run in RECORD["runs"] if planted.CASES[run["case"]].names]
WELL = [run for run in RECORD["runs"] if not planted.CASES[run["case"]].names]
SEEDS = sorted({run["seed"] for run in RECORD["runs"]})


def names(findings):
    return [finding.name for finding in findings]


# ---- planted causes ------------------------------------------------------------------------------


def test_enough_cases_are_recorded():
    found = {(run["case"], run["seed"]) for run in RECORD["runs"]}
    assert len(found) == len(RECORD["runs"])
    assert {run["case"] for run in RECORD["runs"]} == set(planted.CASES)
    assert len({run["case"] for run in ILL if run["seed"] == 0}) >= 15
    assert len({run["case"] for run in ILL if run["seed"] == 1}) >= 15


@pytest.mark.parametrize("seed", SEEDS)
def test_nine_of_ten_planted_causes_stand_first_or_second(seed):
    runs = [run for run in ILL if run["seed"] == seed]
    missed = [run["case"] for run in runs if not planted.named_soon(run)]
    assert len(missed) <= len(runs) / 10, missed


@pytest.mark.slow
def test_a_planted_cause_is_no_likely_cause_of_the_other_runs():
    """The control of the control: a doctor that names everything would pass the test above."""
    told = [len(likely(planted.diagnosed(run))) for run in ILL]
    assert sum(told) / len(told) < 2
    for name in CAUSES:
        named = [run for run in ILL if name in names(likely(planted.diagnosed(run))[:1])]
        wrong = [run["case"] for run in named if name not in planted.CASES[run["case"]].names]
        assert len(wrong) <= len(ILL) / 20, (name, wrong)


def test_healthy_runs_have_no_likely_cause():
    assert len(WELL) >= 6
    for run in WELL:
        assert names(likely(planted.diagnosed(run))) == [], (run["case"], run["seed"])


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_the_recorded_runs_on_toytown_are_healthy(head, capsys):
    assert main(["doctor", str(RUNS / f"toytown_{head}")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "looked at 112 lines of log.csv, a confusion matrix of 19 classes, the settings" in said
    assert f"none of the {len(CAUSES)} mistakes that this command knows is likely here" in said


# ---- what was not planted by training ------------------------------------------------------------


def traces(*settings, losses=(1.1, 0.9, 0.7, 0.5, 0.4, 0.3), matrix=None, **more):
    """A run of six lines, healthy but for what is given."""
    config = get_recipe("toytown_naive").override(
        "model.aux=false", "model.num_classes=3", "train.steps=60", "optim.warmup=6", *settings)
    rows = [{"step": 10.0 * (i + 1), "loss": loss, "lr": 1e-3} for i, loss in enumerate(losses)]
    matrix = matrix or [[90, 5, 5], [5, 90, 5], [5, 5, 90]]
    values = {"folder": "RUN", "rows": rows, "matrix": matrix, "config": config,
              "names": tuple("abc"[: len(matrix)])}  # fmt: skip
    return Traces(**values | more)


MADE = {
    "rate too high": [
        traces(losses=(1.1, 0.9, 0.8, 0.9, 1.3, 1.9)), traces(losses=(9.0, 4, 2, 1, 0.5, 0.3)),
        traces(weights={"size": 3.0}), traces(weights={"size": 1e-4}),
        traces(losses=(1.0, 0.5, 2.0, 8.0), spoilt=40), traces(losses=(), spoilt=1)],
    "no finite number": [
        traces(spoilt=60), traces(losses=(1.0, 0.8, 0.7, float("nan"), 0.6, 0.5))],
    "shifted labels": [traces(matrix=[[1, 90, 1], [1, 1, 90], [90, 1, 1]])],
    "nothing labelled": [traces(matrix=[[0] * 3] * 3)],
    "collapsed to one class": [traces(
        losses=(1.1, 1.08, 1.0, 1.0, 1.0, 1.0), matrix=[[90, 0, 0], [90, 0, 0], [90, 0, 0]])],
    "fell back": [traces(state={"best": 0.5, "miou": 0.3})],
    "encoder not pretrained": [traces("model.encoder=vit_large_patch16")],
    "wrong normalisation": [traces(
        "model.encoder=vit_base_patch16", "model.pretrained=x.pth", "data.mean=0,0,0")],
    "window unlike crop": [traces("eval.mode=slide")],
    "BatchNorm of one image": [traces(
        "train.sync_bn=false", state={"processes": 2}, weights={"batches": 60})],
}  # fmt: skip
"""Cause -> runs that have it, beside the planted ones."""


@pytest.mark.parametrize("name", MADE)
def test_causes_that_no_training_was_spoilt_for(name):
    assert likely(ranked(traces())) == []
    for made in MADE[name]:
        assert names(ranked(made))[0] == name


def test_every_cause_is_tried():
    tried = set(MADE) | {name for case in planted.CASES.values() for name in case.names}
    assert tried == set(CAUSES)


def test_findings_are_in_order_and_say_how_to_prove_them():
    run = traces("data.crop_size=512,512", state={"best": 0.5, "miou": 0.3})
    found = ranked(run)
    assert [f.rank for f in found] == [1, 2]
    assert [f.name for f in found] == ["crop larger than images", "fell back"]
    assert found[0].strength > found[1].strength >= LIKELY
    assert "mIoU was 0.500 at best and is 0.300" in found[1].evidence
    assert "setr-lite eval RUN/best, beside setr-lite eval RUN/last" in found[1].check
    assert "2. fell back: the model was better before" in found[1].text()
    assert max(map(len, found[0].text().splitlines())) <= 84


def test_commands_and_settings_in_the_advice_exist():
    verbs = _parser()._subparsers._group_actions[0].choices
    said = " ".join(word for cause in CAUSES.values() for word in cause)
    assert set(re.findall(r"setr-lite ([a-z-]+)", said)) <= set(verbs)
    sections = RunConfig().to_dict()
    found = re.findall(r"\b(model|data|loss|optim|train|eval)\.([a-z_]+)", said)
    assert len(found) > 30
    assert [f"{a}.{b}" for a, b in found if b not in (*sections[a], "train", "training")] == []


# ---- a real folder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three steps, all of them warm-up, with the class that most pixels have left out."""
    out = tmp_path_factory.mktemp("run") / "pup"
    weights = ",".join("0" if k == 2 else "1" for k in range(19))
    assert main([
        "train", "toytown_pup", f"train.out={out}", f"data.root={SAMPLE}", "train.steps=3",
        "train.batch_size=2", "train.workers=0", "data.crop_size=32x48", "eval.limit=2",
        "model.channels=8", "train.device=cpu", "train.log_every=1", "data.mean=0.5,0.5,0.5",
        f"loss.class_weights={weights}",
    ]) == 0  # fmt: skip
    return out


def test_a_training_leaves_what_the_doctor_reads(trained, capsys):
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["step"] == 3
    assert len(scores["matrix"]) == len(scores["names"]) == 19
    seen = read_traces(trained)
    assert seen.missing() == []
    assert [row["step"] for row in seen.rows] == [1, 2, 3, 3]
    assert seen.weights["batches"] == 3
    assert abs(seen.weights["place"]) < 0.2
    assert read_traces(trained / "last") == seen  # a checkpoint stands for its run
    assert main(["doctor", str(trained)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1. wrong normalisation: images are not normalised as the encoder expects" in said
    assert "2. warm-up without end: all steps are warm-up" in said


def test_what_is_missing_is_said(trained, tmp_path):
    shutil.copy(trained / "log.csv", tmp_path)
    said, well = report(tmp_path)
    assert well
    assert said.endswith("not there to look at: scores.json, a checkpoint")
    assert diagnose(tmp_path, trained / "scores.json") is not None


def test_scores_of_eval_are_read(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "scores.json").unlink()
    assert "scores.json" in read_traces(run).missing()
    command = ["eval", str(run / "last"), "--json", str(run / "scores.json"), "eval.limit=2"]
    assert main(command) == 0  # as the message about bad scores says
    assert read_traces(run).matrix == read_traces(trained).matrix


def test_records_come_back_as_they_were(trained):
    seen = read_traces(trained)
    again = Traces.from_dict(json.loads(json.dumps(seen.to_dict())))
    assert names(ranked(again)) == names(ranked(seen))
    assert (again.rows, again.matrix, again.config) == (seen.rows, seen.matrix, seen.config)


def test_position_tables_tell_random_from_trained():
    tensors = checkpoint.read_tensors(RUNS / "toytown_pup" / "model")
    assert look_at_weights(tensors)["place"] > 0.6
    torch.manual_seed(0)
    assert abs(look_at_weights({"encoder.pos_embed": torch.randn(1, 289, 64)})["place"]) < 0.05
    assert look_at_weights({"x": torch.ones(3)}) == {}


# ---- other content -------------------------------------------------------------------------------

HEAD = "step,loss,lr,images_per_s,miou\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "step,loss\n1,2\n", r"log.csv: line 1 is 'step,loss', expected step,loss,lr"),
        ("log.csv", f"{HEAD}1,two,1,1,\n", "log.csv: line 2, loss is 'two', expected a number"),
        ("log.csv", f"{HEAD}1,2\n", "log.csv: line 2 is '1,2', expected 5 values"),
        ("scores.json", "{", "scores.json: not readable as JSON"),
        ("scores.json", "[]", "a list, not a JSON object"),
        ("scores.json", '{"miou": 1}', "'matrix' is None, expected K lists of K counts; write it"),
        ("scores.json", '{"matrix": [[1, 2], [3]]}', "expected K lists of K counts"),
        ("scores.json", '{"matrix": [[1, -2], [3, 4]]}', "expected K lists of K counts"),
        ("scores.json", '{"matrix": [[1, 2], [3, 4]]}', "expected 19 lists, as model.num_classes"),
        ("last/config.json", "{}", "config.json: 'config' is None"),
        ("last/state.json", '{"step": -1}', "state.json: 'step' is -1"),
        ("last/model.safetensors", "x", "not a readable safetensors file"),
    ],
)
def test_other_content_is_one_line(trained, tmp_path, capsys, name, text, message):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / name).write_text(text)
    assert main(["doctor", str(run)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.count("\n") == 1


def test_folders_of_something_else(tmp_path, capsys):
    for place, message in ((tmp_path / "none", "no such folder"),
                           (tmp_path, "holds nothing of a run")):  # fmt: skip
        assert main(["doctor", str(place)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="not readable as JSON"):
        diagnose(RUNS / "toytown_pup", tmp_path / "none.json")


def test_odd_but_readable_logs(trained, tmp_path):
    """NaN, huge numbers, a half-written last line: what is left is looked at."""
    log = tmp_path / "log.csv"
    log.write_text(f"{HEAD}1,nan,1e-3,1,\n2,1e400,1e999,1,\n3,1e300,1e-3,1,\n3,,,,0.5\n4,0.")
    seen = read_traces(tmp_path)
    assert [row["step"] for row in seen.rows] == [1, 2, 3, 3]
    assert names(diagnose(tmp_path)) == ["no finite number"]
    assert "behind step 1" in diagnose(tmp_path)[0].evidence
    for text in (HEAD, f"{HEAD}1,0,0,0,0\n", HEAD + "5,1,0,1,\n" * 9):
        shutil.copytree(trained / "last", tmp_path / "last", dirs_exist_ok=True)
        log.write_text(text)
        assert report(tmp_path)[0].startswith(f"{tmp_path}: looked at")


def test_settings_that_somebody_edited(trained, tmp_path):
    """Another K is noticed by the scores; values that no run has are refused."""
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "last" / "config.json"
    info = json.loads(file.read_text())
    info["config"]["model"]["num_classes"] = 7
    file.write_text(json.dumps({**info, "classes": []}))
    with pytest.raises(UserError, match="expected 7 lists, as model"):
        diagnose(tmp_path / "run")
    info["config"]["optim"]["lr"] = "fast"
    file.write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"config.json"):
        diagnose(tmp_path / "run")
    assert checkpoint.exists(trained / "last")
