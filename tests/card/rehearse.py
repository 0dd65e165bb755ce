"""`tests/benchmarks/gpu.py` at toy size on the pretended card: that every section runs.

    .venv/bin/python tests/card/card.py tests/card/rehearse.py FOLDER [--only SECTION ...]

Its times and numbers mean nothing, and the tests that compare numbers fail there: the section
``tests`` is left out unless it is named.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import torch.profiler
from on_card import _made_numbers

from setr_lite import train

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SECTIONS = ("card", "same_as_cpu", "resume", "loss", "steps", "evaluation", "loading", "profile",
            "mmsegmentation")  # fmt: skip



def on_the_host(**_: Any) -> torch.profiler.profile:
    """A profile without the card's side, which nothing here would answer."""
    return LISTEN(activities=[torch.profiler.ProfilerActivity.CPU])


LISTEN = torch.profiler.profile

if __name__ == "__main__":
    train.check_saved = _made_numbers
    torch.profiler.profile = on_the_host
    words = sys.argv[1:] if "--only" in sys.argv else [*sys.argv[1:], "--only", *SECTIONS]
    sys.argv = [str(SCRIPT), *words, "--toy"]
    runpy.run_path(str(SCRIPT), run_name="__main__")
