"""Does bfloat16 autocast cost accuracy? SETR-PUP on ToyTown in float32 and bfloat16, three seeds.

    python book/_tools/measure_precision.py [--heads pup mla naive]

Both runs of a pair start from the same weights and see the same crops in the same order; what
differs is `train.amp`. All are scored in float32. The result file is written after every run:
started again, the command skips what is there. Quick only where the processor multiplies bfloat16
itself (AMX, AVX512-BF16).
"""

import json

from measure_auxiliary import STEPS, history, write
from records import about, draw_town, study_options, today, train_to_the_end

from setr_lite.datasets import load_dataset
from setr_lite.evaluate import evaluate
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe


def main(words=None):
    parser = study_options(__doc__, "precision", "precision")
    parser.add_argument("--heads", nargs="+", default=["pup"], choices=STEPS)
    asked = parser.parse_args(words)
    draw_town(asked.town)
    file = asked.out / "results.json"
    results = about("python book/_tools/measure_precision.py") | {"runs": []}
    if file.exists():
        results = json.loads(file.read_text())
    for head in asked.heads:
        for seed in range(asked.seeds):
            for amp in ("off", "bf16"):
                key = {"head": head, "amp": amp, "seed": seed, "steps": asked.steps or STEPS[head]}
                if not any(key.items() <= run.items() for run in results["runs"]):
                    results["runs"].append(key | measure(asked, **key))
                    write(file, results)


def measure(asked, head, amp, seed, steps):
    """Train one run, or what is left of it, and score it."""
    folder = asked.runs / f"{head}_{amp}_{seed}"
    config = get_recipe(f"toytown_{head}").override(
        f"train.amp={amp}", f"train.seed={seed}", f"train.steps={steps}", "train.log_every=25",
        "train.eval_every=0", f"train.out={folder}", f"data.root={asked.town}")
    result = train_to_the_end(config)
    model, streets = SETR.from_pretrained(result["checkpoint"]), load_dataset(config.data, "val")
    scores = evaluate(model, streets, model.config).to_dict(streets.classes)
    print(f"{folder.name}: mIoU {scores['miou']:.3f}", flush=True)
    return {
        "date": today(), "miou": round(scores["miou"], 5),
        "iou": {name: round(scores["classes"][name]["iou"], 4) for name in scores["averaged"]},
        "losses": history(folder / "log.csv")["losses"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
