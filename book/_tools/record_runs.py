"""Train recipes and put their small results under data/runs, where the pages load them.

    python book/_tools/record_runs.py toytown_naive toytown_pup toytown_mla \\
        --keep-model toytown_pup
    python book/_tools/record_runs.py camvid_pup data.root=DIR
    python book/_tools/record_runs.py camvid_dinov2_pup data.name=camvid_unseen --suffix _unseen \\
        data.root=DIR model.pretrained=FILE train.feature_cache=DIR

For each recipe: record.json (command, machine, versions, seed, seconds, scores per class and the
confusion matrix), log.csv and the predicted label maps of some held-out images: of the sample's
scenes for toytown_*, else of four images evenly spread over val. --keep-model NAME, last on the
line, adds that recipe's weights in half precision, without auxiliary heads.
"""

import shutil

import numpy as np
import torch
from PIL import Image
from records import RUNS, STREETS, about, cores, options, train_to_the_end, write

from setr_lite.checkpoint import read_info, save_checkpoint
from setr_lite.datasets import Cityscapes, load_dataset
from setr_lite.model import SETR, count_parameters
from setr_lite.recipes import get_recipe

PLACES = {  # a reader's own, no part of the result
    "data.root": "", "train.out": "", "model.pretrained": "model.pretrained=FILE",
    "train.feature_cache": "train.feature_cache=DIR"}


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("words", nargs="+", metavar="RECIPE or section.key=value")
    parser.add_argument("--keep-model", default="", metavar="RECIPE")
    parser.add_argument("--suffix", default="", help="of the folder's name, for a second record")
    asked = parser.parse_args(words)
    settings = [word for word in asked.words if "=" in word]
    for recipe in (word for word in asked.words if "=" not in word):
        record(recipe, settings, asked)


def record(recipe, settings, asked):
    config = get_recipe(recipe).override(*settings)
    result = train_to_the_end(config, progress=True)
    out = RUNS / (recipe + asked.suffix)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = SETR.from_pretrained(result["checkpoint"])
    shown = [PLACES.get(word.split("=")[0], word) for word in settings]
    facts = {
        **about(" ".join(["setr-lite train", recipe, *filter(None, shown)]), machine(config)),
        "seed": config.train.seed,
        "seconds": round(result["seconds"]), "steps": result["step"],
        "parameters": count_parameters(model), "learned": learned(model, config),
        "data": config.data.name,
        **result["confusion"].to_dict(read_info(result["checkpoint"])["classes"]),
    }
    write(out / "record.json", facts)
    shutil.copy(result["folder"] / "log.csv", out / "log.csv")
    toytown = recipe.startswith("toytown")
    dataset = Cityscapes(STREETS, "val") if toytown else load_dataset(config.data, "val")
    count = len(dataset) if toytown else 4
    spread = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
    write_labels(model, [dataset[i] for i in spread], out / "labels")
    if recipe == asked.keep_model:
        keep(model, result["checkpoint"], out / "model")
    print(f"{out}: mIoU {facts['miou']:.3f} in {facts['seconds']} s")


def learned(model, config):
    """Parameters that the run could change."""
    frozen = count_parameters(model.encoder) if config.train.freeze_encoder else 0
    return count_parameters(model) - frozen


def machine(config):
    if torch.cuda.is_available() and config.train.device != "cpu":
        return torch.cuda.get_device_name()
    return cores()


def write_labels(model, samples, folder):
    folder.mkdir()
    for sample in samples:
        label = model.predict(sample.image)
        Image.fromarray(np.asarray(label)).save(folder / f"{sample.name}.png", optimize=True)


def keep(model, checkpoint, folder):
    config = model.config.override("model.aux=false")
    small = SETR.from_config(config.model).half()
    wanted = small.state_dict()
    small.load_state_dict({k: v for k, v in model.state_dict().items() if k in wanted})
    info = read_info(checkpoint)
    save_checkpoint(folder, small, config, classes=info["classes"], palette=info["palette"])


if __name__ == "__main__":
    main()
