"""Is it the learning rate that makes PUP fall behind a linear probe on CamVid?

    OMP_NUM_THREADS=1 python book/_tools/measure_camvid_rates.py WEIGHTS CAMVID CACHE

The recorded runs gave every head the rate that suits Naive. Here each head gets rates below and
above it, on the same frozen tokens and the same 367 images (the places are those of
measure_camvid_controls.py), for a third of the steps. Scored on val, and on 50 of the training
images, which tells a model that cannot fit from one that fits too well. A second seed of PUP is
scored with BatchNorm's running statistics and with each image's own: do they cost the score?
Two more seeds of MLA, with the recipe's rate and all its steps, stand beside the recorded run.

Results go to data/runs/camvid_rates/results.json after every run; started again, the command skips
what is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import records
from measure_auxiliary import write
from measure_camvid_controls import measure, places

OUT = records.RUNS / "camvid_rates" / "results.json"
RATE = 1.5e-2
"""Of the recipes."""
LOW, HIGH, LOWEST = 5e-3, 4.5e-2, 1.5e-3
"""A third of it, three times it, a tenth of it."""
SWEEP = [(head, rate, 0, 1) for head in ("pup", "naive", "mla", "linear")
         for rate in (LOW, RATE, HIGH, LOWEST)]
"""Head, rate, seed, how often the steps asked for; PUP first, whose score is in question."""
ARMS = [*SWEEP, ("pup", RATE, 1, 1), *(("mla", RATE, seed, 3) for seed in (1, 2))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = places(__doc__, OUT)
    parser.set_defaults(steps=400)
    options = parser.parse_args(argv)
    command = "OMP_NUM_THREADS=1 python book/_tools/measure_camvid_rates.py WEIGHTS CAMVID CACHE"
    results = (json.loads(options.out.read_text()) if options.out.exists()
               else records.about(command) | {"runs": []})
    short = options.steps
    for head, rate, seed, times in ARMS:
        options.steps = short * times
        arm = {"head": head, "rate": rate, "seed": seed, "steps": options.steps}
        if any(arm.items() <= run.items() for run in results["runs"]):
            continue
        found = measure(options, head, "train", "last", seed, f"optim.lr={rate}",
                        own_statistics=head == "pup" and seed == 1)
        found["scores"] = {  # all heads learned from these frames
            name.replace("last of the drive", "50 of the training images"): score
            for name, score in found["scores"].items()}
        results["runs"].append(arm | found)
        write(options.out, results)


if __name__ == "__main__":
    main()
