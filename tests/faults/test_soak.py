"""The judge of the long run, and the run that is committed."""

import json
from pathlib import Path

import pytest
import soak

RECORD = Path(__file__).parents[2] / "data" / "runs" / "soak" / "soak.json"


def readings(memory, files, speed):
    steps = range(100)
    return {
        "step": list(steps), "memory_mb": [memory(s) for s in steps],
        "files": [files(s) for s in steps], "images_per_s": [speed(s) for s in steps],
    }  # fmt: skip


def flat(step):
    return 100


@pytest.mark.parametrize(("memory", "files", "speed", "verdict"), [
    (flat, flat, flat, (True, True)),
    (lambda s: 50 + min(s, 25), flat, flat, (True, True)),  # caches fill, then no more
    (lambda s: 100 + s / 10, flat, flat, (False, True)),
    (flat, lambda s: 20 + s // 60, flat, (False, True)),
    (flat, flat, lambda s: 101 - s, (True, False)),
])  # fmt: skip
def test_what_grows_is_not_flat(memory, files, speed, verdict):
    found = soak.judge(readings(memory, files, speed))
    assert (found["flat"], found["steady"]) == verdict


def test_the_committed_run_was_flat():
    """Its speed is recorded, not judged: see the note in it."""
    record = json.loads(RECORD.read_text())
    assert record["steps"] >= 4000
    assert record["bounds"] == soak.BOUNDS
    found = soak.judge(record["readings"])
    assert found["flat"]
    assert found == {name: record[name] for name in found}
    assert RECORD.with_suffix(".png").exists()
