"""Fault drills: after every accident the checkpoint of before loads, a message says what happened,
and the run that goes on ends exactly like one to which nothing happened.

`make test` runs a short form, `make test-faults` the full one with its log.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drill import FULL, SAMPLE, STEPS, can_mount, command, go, loads, mounted, same
from processes import Child, start_ranks, wait_for

from setr_lite import checkpoint

full = pytest.mark.skipif(not FULL, reason="part of `make test-faults`")


def say(text):
    """A line of the drill's log."""
    print(f"\n    {text}", end="", flush=True)


def finish(out, tmp_path, *more, **options):
    """Resume to the end."""
    child = Child(
        go, [*command(out, *more, **options), "--resume"], log=tmp_path / "finish.txt")
    assert child.wait() == 0, child.text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    child = Child(go, command(home / "run"), log=home / "says.txt")
    assert child.wait() == 0, child.text()
    return home / "run"


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path, undisturbed):
    """In training, in saving, in evaluation, in start-up: wherever the moment falls."""
    out, wanted = tmp_path / "run", 60 if FULL else 4
    dice, kills, phases = random.Random(0), 0, []
    while kills < wanted:
        resume = ["--resume"] * checkpoint.exists(out / "last")
        words = [*command(out), *resume]
        if resume and loads(out / "last") > STEPS - 4:  # begin again, the kills go on
            finish(out, tmp_path)
            same(out, undisturbed)
            shutil.rmtree(out)
            continue
        child = Child(go, words, log=tmp_path / "victim.txt")
        _let_live(child, out, dice)
        child.kill(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.text()
        kills += 1
        phases.append(_phase(out))
        if checkpoint.exists(out / "last"):
            step = loads(out / "last")
            say(f"kill {kills}: {phases[-1]}, loads at step {step}")
        else:
            assert not (out / "last").exists()
            say(f"kill {kills}: before the first checkpoint")
    if checkpoint.exists(out / "last"):
        (out / ".abcd1234.part").mkdir(exist_ok=True)  # as a kill while curves are drawn leaves it
        finish(out, tmp_path)
        same(out, undisturbed)
    say(f"{kills} kills, {phases.count('while saving')} of them while saving")
    assert not FULL or phases.count("while saving") >= 5


def _let_live(child, out, dice):
    """For a few steps and a random while; every other time until a checkpoint is being written,
    and some milliseconds more."""
    steps = dice.choice([0, 1, 1, 2, 3])
    for _ in range(steps):
        before = _stamp(out)
        _until(child, lambda before=before: _stamp(out) != before)
    time.sleep(dice.uniform(0, 0.05 if steps else 0.5))
    if steps and dice.random() < 0.5:
        _until(child, (out / "last.part").exists)
        time.sleep(dice.uniform(0, 0.01))


def _until(child, condition):
    while child.process.exitcode is None and not condition():
        time.sleep(0.0005)


def _stamp(out):
    """Changes with every checkpoint."""
    try:
        return os.stat(out / "last" / "state.json").st_mtime_ns
    except OSError:
        return 0


def _phase(out):
    names = {p.name for p in out.iterdir()} if out.exists() else set()
    if names & {"last.part", "last.old", "best.part", "best.old"}:
        return "while saving"
    return "between saves"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=full)])
def test_a_signal_finishes_the_step_and_saves(tmp_path, undisturbed, number):
    out = tmp_path / "run"
    child = Child(go, command(out, "train.save_every=1000"), log=tmp_path / "says.txt")
    wait_for(lambda: "step 8: mIoU" in child.text())
    child.kill(number)
    assert child.wait() == 0, child.text()
    text = child.text()
    step = loads(out / "last")
    assert f"stopped after step {step}, saved in {out / 'last'}" in text
    assert text.splitlines()[-1].endswith("--resume")
    say(f"{signal.Signals(number).name}: {text.splitlines()[-2]} {text.splitlines()[-1].strip()}")
    finish(out, tmp_path, "train.save_every=1000")
    same(out, undisturbed)


@full
def test_a_stop_during_evaluation_loses_neither_steps_nor_the_score(tmp_path, undisturbed):
    """Killed after the save and before the score: the run that goes on evaluates first."""
    out = tmp_path / "run"
    child = Child(go, command(out, "train.save_every=1000"), {"term": 8}, log=tmp_path / "a.txt")
    assert child.wait() == 0
    assert loads(out / "last") == 8
    state = out / "last" / "state.json"
    state.write_text(state.read_text().replace('"scored": 8', '"scored": 0'))
    finish(out, tmp_path, "train.save_every=1000")
    same(out, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("needs to be root, to mount a small disk")
    with mounted(disk, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        yield disk


def test_a_full_disk_is_noticed_before_anything_is_touched(tmp_path, undisturbed, small_disk):
    out, marker = small_disk / "run", tmp_path / "go on"
    child = Child(go, command(out), {"wait": 6}, str(marker), log=tmp_path / "says.txt")
    wait_for(marker.with_suffix(".here").exists)
    before = {p: p.stat().st_mtime_ns for p in (out / "last").iterdir()}
    ballast = small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - 500_000))
    marker.touch()
    assert child.wait() == 2
    text = child.text()
    assert f"could not save {out / 'last'}: No space left on device: " in text
    assert "what was saved there before is untouched" in text
    assert "Traceback" not in text
    say(text.splitlines()[-1])
    assert loads(out / "last") == 5
    assert {p: p.stat().st_mtime_ns for p in (out / "last").iterdir()} == before
    ballast.unlink()
    finish(out, tmp_path)
    same(out, undisturbed)


@full
def test_a_disk_that_is_full_to_the_last_byte(tmp_path, undisturbed, small_disk):
    """Not even the log can be written."""
    out, marker = small_disk / "run", tmp_path / "go on"
    child = Child(go, command(out), {"wait": 6}, str(marker), log=tmp_path / "says.txt")
    wait_for(marker.with_suffix(".here").exists)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    marker.touch()
    assert child.wait() == 2, child.text()
    text = child.text()
    assert "No space left on device" in text
    assert "Traceback" not in text
    say(text.splitlines()[-1])
    assert loads(out / "last") == 5
    ballast.unlink()
    finish(out, tmp_path)
    same(out, undisturbed)


@pytest.mark.slow
def test_a_quota_that_the_disk_does_not_tell_of(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(go, command(out), {"small files": 6}, log=tmp_path / "says.txt")
    assert child.wait() == 2, child.text()
    text = child.text()
    assert f"could not save {out / 'last'}: " in text
    assert "what was saved there before is untouched" in text
    say(text.splitlines()[-1])
    assert loads(out / "last") == 5
    assert not (out / "last.part").exists()
    finish(out, tmp_path)
    same(out, undisturbed)


def test_a_folder_that_cannot_be_written(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(go, command(out), {"term": 5}, log=tmp_path / "a.txt")
    assert child.wait() == 0
    if not can_mount(out):
        pytest.skip("needs to be root, to make a folder read-only for root")
    with mounted(out, "--bind", str(out)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)
        child = Child(go, [*command(out), "--resume"], log=tmp_path / "b.txt")
        assert child.wait() == 2
        new = Child(go, command(out / "new"), log=tmp_path / "c.txt")
        assert new.wait() == 2
    for text in (child.text(), new.text()):
        assert "cannot be written (Read-only file system)" in text
        assert "Traceback" not in text
    say(child.text().splitlines()[-1])
    assert loads(out / "last") == 5
    finish(out, tmp_path)
    same(out, undisturbed)


WORKERS = "train.workers=2"


@pytest.mark.slow
def test_a_dead_loader_process_ends_the_run(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(go, command(out, WORKERS), {"kill worker": 5}, log=tmp_path / "says.txt")
    assert child.wait() == 2, child.text()
    text = child.text()
    assert "a loader process died while it prepared this step or a later one" in text
    assert "Traceback" not in text
    say(text.splitlines()[-1])
    assert 4 <= loads(out / "last") < 10
    finish(out, tmp_path)
    same(out, undisturbed)


@full
def test_a_dead_loader_process_is_started_again(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(
        go, command(out, WORKERS, "train.on_bad_image=skip"), {"kill worker": 5},
        log=tmp_path / "says.txt")
    assert child.wait() == 0, child.text()
    assert "1 so far, started again" in child.text()
    assert checkpoint.read_state(out / "last")["faults"] == {"images": 0, "workers": 1}
    same(out, undisturbed)


@pytest.fixture
def town(tmp_path):
    """The sample's streets in a folder of their own, six of them to train on: three steps make an
    epoch."""
    root = tmp_path / "town"
    shutil.copytree(SAMPLE, root)
    for image in sorted((root / "leftImg8bit" / "train").rglob("*.png"))[6:]:
        image.unlink()
    return root


@full
def test_an_image_that_breaks_in_epoch_3(tmp_path, town):
    """Fatal: named, and once it is repaired the run goes on as if nothing had been. Skipped:
    counted, and a run that is stopped and resumed skips the same."""
    image = sorted((town / "leftImg8bit" / "train").rglob("*.png"))[2]
    whole = image.read_bytes()
    reference, out = tmp_path / "reference", tmp_path / "run"
    assert Child(go, command(reference, data=town), log=tmp_path / "a.txt").wait() == 0
    child = Child(go, command(out, data=town), {"spoil": 7}, str(image), log=tmp_path / "b.txt")
    assert child.wait() == 2
    assert f"epoch 3: {image}: cannot be read as an image" in child.text()
    assert "train.on_bad_image=skip takes another image instead" in child.text()
    say(child.text().splitlines()[-1])
    assert 6 <= loads(out / "last") <= 9
    image.write_bytes(whole)
    finish(out, tmp_path, data=town)
    same(out, reference)

    skipping = command(reference := tmp_path / "skip", "train.on_bad_image=skip", data=town)
    child = Child(go, skipping, {"spoil": 7}, str(image), log=tmp_path / "c.txt")
    assert child.wait() == 0, child.text()
    skipped = child.text().count(f"skipped an image, 1 so far: {image}")
    assert skipped == 1
    counted = checkpoint.read_state(reference / "last")["faults"]["images"]
    assert counted == child.text().count("skipped an image") >= 3  # epochs 3 to 5
    image.write_bytes(whole)
    out = tmp_path / "skip and stop"
    words = command(out, "train.on_bad_image=skip", data=town)
    child = Child(go, words, {"spoil": 7, "term": 12}, str(image), log=tmp_path / "d.txt")
    assert child.wait() == 0, child.text()
    finish(out, tmp_path, "train.on_bad_image=skip", data=town)
    same(out, reference)
    assert checkpoint.read_state(out / "last")["faults"]["images"] == counted


def test_a_nan_in_a_weight_stops_before_the_update(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(go, command(out), {"nan weight": 7}, log=tmp_path / "says.txt")
    assert child.wait() == 2
    text = child.text()
    assert "step 7: the loss is nan" in text
    assert "stopped before the update. Images: " in text
    assert "Traceback" not in text
    say(text.splitlines()[-1])
    kept = out / "nonfinite"
    assert checkpoint.read_state(kept)["step"] == 6
    assert {p.name for p in kept.iterdir()} >= {
        "model.safetensors", "optimizer.pt", "batch_0.safetensors", "batch_0.json"}
    assert loads(out / "last") == 6
    finish(out, tmp_path)
    same(out, undisturbed)


def test_a_clock_that_goes_backwards(tmp_path, undisturbed):
    out = tmp_path / "run"
    child = Child(go, command(out), {"clock back": 5}, log=tmp_path / "says.txt")
    assert child.wait() == 0, child.text()
    same(out, undisturbed)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=full)])
def test_one_of_two_processes_is_killed(tmp_path, parallel):
    out, way = tmp_path / "run", f"train.parallel={parallel}"
    reference = tmp_path / "reference"
    ranks = start_ranks(2, go, command(reference, way), logs=tmp_path / "reference says")
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].text()
    ranks = start_ranks(2, go, command(out, way), {"die": 7}, logs=tmp_path / "says")
    assert ranks[1].wait() == -signal.SIGKILL
    assert ranks[0].wait() == 2, ranks[0].text()
    text = ranks[0].text()
    assert "process 0 of 2: another process of the run is gone" in text
    assert f"{out / 'last'} is the last checkpoint, --resume goes on from there" in text
    say(text.splitlines()[-1])
    assert loads(out / "last") == 6
    ranks = start_ranks(2, go, [*command(out, way), "--resume"], logs=tmp_path / "says")
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].text()
    same(out, reference)


@full
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path):
    out = tmp_path / "run"
    ranks = start_ranks(2, go, command(out), {"term one": 7}, logs=tmp_path / "says")
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].text()
    step = loads(out / "last")
    assert 7 <= step <= 8  # they agree a step later
    assert f"stopped after step {step}" in ranks[0].text()
    assert "to go on:\n  torchrun --standalone --nproc_per_node=2 -m setr_lite train" in (
        ranks[0].text())


@full
@pytest.mark.parametrize("accident", ["die", "term"])
def test_torchrun(tmp_path, accident):
    """The real thing: what torchrun does with the others, and that it comes back."""
    out = tmp_path / "run"
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]}; from drill import go; " \
           f"sys.exit(go(sys.argv[1:], {{'{accident}': 7}}))"  # fmt: skip
    script = tmp_path / "victim.py"
    script.write_text(code.replace("; ", "\n"))
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        str(script), *command(out),
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=180,
        env=os.environ | {"OMP_NUM_THREADS": "1"})
    if accident == "die":
        assert done.returncode != 0
        assert loads(out / "last") == 6
        said = [line for line in done.stderr.splitlines() if line.startswith("setr-lite train:")]
        say(f"torchrun exits {done.returncode}; rank 0: {said}")
    else:
        assert done.returncode == 0, done.stderr[-3000:]
        assert "to go on:" in done.stdout
        assert 7 <= loads(out / "last") <= 8
        say(f"torchrun exits 0: {done.stdout.splitlines()[-1].strip()[:60]}")
