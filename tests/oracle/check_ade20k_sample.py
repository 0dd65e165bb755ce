"""Run a full ViT-L recipe on a few real ADE20K images: loss and slopes, sliding window, ms+flip.

    python tests/oracle/check_ade20k_sample.py DIR [RECIPE]

DIR holds ADE20K's layout with some validation images; a handful is enough. The weights are random,
so the scores mean nothing: what is shown is that every part takes real pictures at full size. On
two CPU cores this takes minutes for each image.
"""

import sys
import time

import torch

from setr_lite.datasets import load_dataset
from setr_lite.evaluate import evaluate, image_views
from setr_lite.losses import segmentation_loss
from setr_lite.model import SETR, count_parameters
from setr_lite.recipes import get_recipe
from setr_lite.transforms import TrainTransform


def main(root, recipe="naive_ade20k_512_160k"):
    config = get_recipe(recipe).override(f"data.root={root}", "eval.window_batch=1")
    dataset = load_dataset(config.data, "val")
    print(f"{recipe}: {len(dataset)} images of {[tuple(s.label.shape) for s in dataset]}")
    torch.manual_seed(0)
    model = SETR.from_config(config.model)
    print(f"{count_parameters(model) / 1e6:.2f} M parameters, {torch.get_num_threads()} threads")

    augment = TrainTransform(config.data, seed=0)
    crops = [augment(dataset[i], i) for i in range(2)]
    image, label = (torch.stack(part) for part in zip(*crops, strict=True))
    start = time.perf_counter()
    loss = segmentation_loss(model.train()(image), label, aux_weight=config.loss.aux_weight)
    loss.backward()
    slopes = [p.grad.abs().max().item() for p in model.parameters() if p.requires_grad]
    print(f"loss {loss.item():.3f} of {tuple(image.shape)}, every parameter has a slope: "
          f"{min(slopes) > 0}, {time.perf_counter() - start:.0f} s")
    model.zero_grad(set_to_none=True)

    for protocol in ("official", "official+ms"):
        scored = config.override(f"eval.protocol={protocol}")
        views = image_views(dataset[0].image, scored)
        start = time.perf_counter()
        confusion = evaluate(model.eval(), dataset, scored)
        seconds = (time.perf_counter() - start) / len(dataset)
        print(f"{protocol}: {len(views)} sizes of the first image, "
              f"{int(confusion.matrix.sum())} pixels counted, {seconds:.0f} s an image")


if __name__ == "__main__":
    main(*sys.argv[1:])
