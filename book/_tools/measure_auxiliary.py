"""Do auxiliary losses help? Each head with and without them on ToyTown, three seeds.

    python book/_tools/measure_auxiliary.py
    python book/_tools/measure_auxiliary.py --steps 4 --out DIR --runs DIR   # a trial

Both runs of a pair start from the same weights of encoder, neck and head and see the same crops
in the same order; what differs is `model.aux`. Seeds are the outer loop, so that a study that is
cut short holds whole seeds. The result file is written after every run: started again, the
command skips what is there and goes on with a run that was interrupted.
"""

import json
import time

import torch
from records import about, cores, draw_town, study_options, today, train_to_the_end

from setr_lite import checkpoint
from setr_lite.datasets import load_dataset
from setr_lite.evaluate import evaluate, image_views
from setr_lite.metrics import ConfusionMatrix
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe

STEPS = {"naive": 1700, "pup": 1150, "mla": 1050}
"""About 150 s on two idle cores: 2200 steps took 191, 289 and 314 s there."""


def main(words=None):
    asked = study_options(__doc__, "auxiliary", "auxiliary").parse_args(words)
    draw_town(asked.town)
    file = asked.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else fresh()
    for seed in range(asked.seeds):
        for head, steps in STEPS.items():
            for aux in (True, False):
                key = {"head": head, "aux": aux, "seed": seed, "steps": asked.steps or steps}
                if any(key.items() <= run.items() for run in results["runs"]):
                    continue
                results["runs"].append(key | measure(asked, **key))
                write(file, results)


def fresh():
    facts = about("python book/_tools/measure_auxiliary.py", f"{cores()}, shared with other work")
    return facts | {"runs": []}


def measure(asked, head, aux, seed, steps):
    """Train one run, or what is left of it, and score it."""
    folder = asked.runs / f"{head}_{'with' if aux else 'without'}_{seed}"
    config = get_recipe(f"toytown_{head}").override(
        f"model.aux={aux}", f"train.seed={seed}", f"train.steps={steps}", "train.log_every=25",
        f"train.eval_every={max(1, steps // 5)}", f"train.out={folder}",
        f"data.root={asked.town}")
    last, seconds = folder / "last", None  # not known of a run that was interrupted
    started = checkpoint.exists(last)
    if not started or checkpoint.read_state(last)["step"] < steps:
        wall, cpu = time.perf_counter(), time.process_time()
        train_to_the_end(config)
        if not started:
            seconds = {"wall": round(time.perf_counter() - wall),
                       "cpu": round(time.process_time() - cpu)}
    model = SETR.from_pretrained(last)
    streets = load_dataset(config.data, "val")
    confusion = evaluate(model, streets, model.config)
    scores = confusion.to_dict(streets.classes)
    found = {
        "date": today(), "seconds": seconds,
        "miou": round(scores["miou"], 5),
        "iou": {name: round(scores["classes"][name]["iou"], 4) for name in scores["averaged"]},
        "aux_miou": [round(value, 4) for value in score_auxiliary_heads(model, streets)],
        **history(folder / "log.csv"),
    }
    print(f"{folder.name}: mIoU {found['miou']:.3f}, seconds {seconds}", flush=True)
    return found


@torch.inference_mode()
def score_auxiliary_heads(model, streets):
    """mIoU of each auxiliary head on its own, shallow to deep."""
    confusions = [ConfusionMatrix(len(streets.classes)) for _ in model.aux_heads]
    model.train()  # only then are they called; but BatchNorm keeps its statistics
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for index in range(len(streets)):
        sample = streets[index]
        output = model(image_views(sample.image, model.config)[0][None])
        for confusion, lazy in zip(confusions, output.aux, strict=True):
            confusion.update(output._replace(main=lazy, aux=()).label()[0], sample.label)
    return [float(confusion.miou()) for confusion in confusions]


def history(log):
    """The curves: the loss of single steps, with whatever it is the sum of, and the mIoU."""
    rows = [row.split(",") for row in log.read_text().split()[1:]]
    return {
        "losses": [[int(r[0]), round(float(r[1]), 3)] for r in rows if r[1]],
        "mious": [[int(r[0]), round(float(r[4]), 4)] for r in rows if r[4]],
    }


def write(file, results):
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    *facts, _ = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items())
    runs = ",\n".join(json.dumps(run) for run in results["runs"])  # a run a line
    part.write_text("{" + ",\n".join([*facts, f'"runs": [\n{runs}\n]']) + "}\n")
    part.rename(file)


if __name__ == "__main__":
    main()
