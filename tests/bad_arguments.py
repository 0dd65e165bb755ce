"""Every public function that takes an image, a path or a number, called with wrong ones.

`LEFT_OUT` has the others, with the reason. Switches and functions that are handed over are left to
mypy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import setr_lite
from setr_lite import (
    bench,
    datasets,
    distributed,
    evaluate,
    inference,
    losses,
    recipes,
    toytown,
    visualize,
    weights,
)
from setr_lite.logits import LazyLogits

NAN, INF = float("nan"), float("inf")
PATHS = (None, 3, 2.5, [], {}, "", "nowhere", "a\0b", "long" * 2000, Path("no/where.png"))
NUMBERS = (None, "x", -1, NAN, INF, -INF, 2.5, 1e30, 10**30, [], [1], {})
REALS = (None, "x", NAN, INF, -1, [], {})
SIZES = (None, "x", 3, (), (4,), (0, 4), (4, -1), (4, 4, 4), (NAN, 4), (2.5, 4), (10**9, 10**9),
         ("a", "b"))  # fmt: skip
IMAGES = (
    None, 3, NAN, "", "nowhere.png", Path("nowhere"), [], {}, np.zeros(3, np.uint8),
    np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8),
    np.full((4, 4, 3), NAN), torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.int8),
    torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8),
)  # fmt: skip
LABELS = (
    None, 3, "x", [], np.zeros((1, 4, 4), np.uint8), np.zeros(4, np.uint8), np.full((4, 4), NAN),
    np.full((4, 4), 9), np.full((4, 4), -1), torch.full((4, 4), 99), torch.zeros(2, 4, 4),
    torch.full((4, 4), 0.5),
)  # fmt: skip
PALETTES = (None, 3, "x", [], [[1, 2]], [[1, 2, 300]], [[-1, 0, 0]], [[NAN, 0, 0]], [["a", 1, 2]])
WORDS = (None, 3, "", "x", [], NAN)
LABEL, COLOURS = np.zeros((4, 4), np.uint8), [[1, 2, 3], [4, 5, 6]]
IMAGE = np.zeros((4, 4, 3), np.uint8)
BATCH = torch.zeros(1, 3, 8, 8)


def logits(image: torch.Tensor) -> LazyLogits:
    """What a model that sees nothing says."""
    return LazyLogits.of(image[:, :2])


def calls(house: Path, model: Any) -> Iterator[tuple[str, Callable[[Any], Any], tuple[Any, ...]]]:
    """Name, a function of the one argument that is wrong, and what is given for it."""
    last, window = house / "run" / "last", inference.Window(8, 8)
    for kind in (*datasets.DATASETS.values(),):
        yield f"{kind.__name__}(root)", kind, PATHS
        yield f"{kind.__name__}(split)", lambda v, k=kind: k(house / "data", v), WORDS
    yield "Folder(classes)", lambda v: datasets.Folder(house / "data", "val", v), (
        3, 2.5, "nowhere", "a\0b", Path("no/where"))
    yield "read_image", datasets.read_image, PATHS
    yield "read_label", datasets.read_label, PATHS
    yield "rank_counters", lambda v: datasets.rank_counters(0, 1, v, 0, 2), NUMBERS
    yield "rank_counters(world)", lambda v: datasets.rank_counters(0, 1, 3, 0, v), (0, -1, 2)
    yield "get_recipe", setr_lite.get_recipe, WORDS
    yield "SETR(from_pretrained)", setr_lite.SETR.from_pretrained, PATHS
    yield "load_pretrained", lambda v: setr_lite.load_pretrained(model.encoder, v), PATHS
    yield "load_setr", lambda v: setr_lite.load_setr(model, v), PATHS
    yield "find_images", lambda v: evaluate.find_images([v], "out"), PATHS
    yield "predict_files(images)", lambda v: evaluate.predict_files(last, v, house / "no"), PATHS
    yield "predict_files(alpha)", lambda v: evaluate.predict_files(
        last, house / "data/images/val", house / "no", alpha=v), REALS
    yield "plot_curves", visualize.plot_curves, PATHS
    yield "SETR(predict)", model.predict, [v for v in IMAGES if not isinstance(v, list)]
    yield "SETR(preprocess)", model.preprocess, IMAGES
    yield "predict_images", lambda v: list(setr_lite.predict_images(model, [v])), IMAGES
    yield "image_views", lambda v: evaluate.image_views(v, model.config), IMAGES
    yield "overlay(image)", lambda v: visualize.overlay(v, LABEL, COLOURS), IMAGES
    yield "overlay(label)", lambda v: visualize.overlay(IMAGE, v, COLOURS), LABELS
    yield "overlay(palette)", lambda v: visualize.overlay(IMAGE, LABEL, v), PALETTES
    yield "overlay(alpha)", lambda v: visualize.overlay(IMAGE, LABEL, COLOURS, v), REALS
    yield "colorize(label)", lambda v: visualize.colorize(v, COLOURS), LABELS
    yield "colorize(palette)", lambda v: visualize.colorize(LABEL, v), PALETTES
    yield "outline", visualize.outline, LABELS[:7]
    yield "panel(images)", lambda v: visualize.panel([v]), IMAGES
    yield "panel(columns)", lambda v: visualize.panel([IMAGE], columns=v), (0, -1, 2.5, "x", NAN)
    yield "panel(width)", lambda v: visualize.panel([IMAGE], width=v), (*REALS, 0, 1e9)
    yield "legend(palette)", lambda v: visualize.legend(["a", "b"], v), PALETTES
    yield "legend(present)", lambda v: visualize.legend(["a", "b"], COLOURS, v), (
        3, "x", [9], [-1], [NAN], [None])
    yield "legend(columns)", lambda v: visualize.legend(["a"], COLOURS, columns=v), (
        0, -1, 2.5, "x", NAN, None)
    yield "plot_confusion", lambda v: visualize.plot_confusion(v, ["a", "b"]), (
        None, 3, "x", [], [[1]], [[1, 2]], [[NAN, 1], [1, 1]], [[-1, 0], [0, 1]], np.ones((3, 3)))
    yield "ConfusionMatrix", setr_lite.ConfusionMatrix, (*NUMBERS, 0)
    yield "ConfusionMatrix(ignore)", lambda v: setr_lite.ConfusionMatrix(300, ignore_index=v), (
        255, 0, None, "x", NAN)
    sides = [v for v in SIZES[3:] if v != (10**9, 10**9)]
    yield "Window", lambda v: inference.Window(v, 4), (*NUMBERS, 0, *sides)
    yield "Window(stride)", lambda v: inference.Window(8, v), (*NUMBERS, 0, 9, *sides)
    yield "window_starts", lambda v: inference.window_starts(8, v, 2), (*NUMBERS, 0)
    for name, run in {
        "sliding_window": lambda v: inference.sliding_window(logits, BATCH, window, batch=v),
        "multi_scale_probabilities": lambda v: inference.multi_scale_probabilities(
            logits, [BATCH], (8, 8), window=window, batch=v),
        "predict": lambda v: inference.predict(logits, BATCH, window=window, batch=v),
        "predict_views": lambda v: inference.predict_views(
            logits, [BATCH], (8, 8), window=window, batch=v),
    }.items():
        yield f"{name}(batch)", run, (*NUMBERS, 0)
    yield "predict(ratios)", lambda v: inference.predict(logits, BATCH, ratios=v), (
        (), (0,), (-1,), (NAN,), (INF,), ("x",), 3, None)
    yield "predict(size)", lambda v: inference.predict(logits, BATCH, size=v), SIZES[1:]
    yield "predict(image)", lambda v: inference.predict(logits, v), (
        None, 3, "x", IMAGE, torch.zeros(2, 8, 8), torch.zeros(1, 3, 0, 8))
    yield "render_scene(seed)", toytown.render_scene, NUMBERS
    yield "render_scene(size)", lambda v: toytown.render_scene(0, v), SIZES
    yield "write_toytown(out)", lambda v: toytown.write_toytown(v, 1, 1), (
        None, 3, [], "", "a\0b", "long" * 2000)
    for key in ("train", "val", "seed", "size", "workers"):
        yield f"write_toytown({key})", lambda v, k=key: toytown.write_toytown(
            house / "no", **{k: v}, progress=False), SIZES if key == "size" else NUMBERS
    yield "layout_ids", toytown.layout_ids, WORDS
    yield "scene_seed", lambda v: toytown.scene_seed(v, "train", 0), NUMBERS
    yield "check_class_weights", lambda v: losses.check_class_weights(v, 2), (
        3, "x", [], [1], [1, NAN], [1, INF], [1, -1], [0, 0], [None, 1])
    yield "attention_maps(block)", lambda v: setr_lite.attention_maps(
        model, torch.zeros(1, 3, 16, 16), v), (99, -99, 2.5, "x", NAN)
    yield "attention_maps(image)", lambda v: setr_lite.attention_maps(model, v), (
        None, 3, "x", IMAGE, torch.zeros(3, 16))
    yield "estimate_memory", lambda v: setr_lite.estimate_memory(
        setr_lite.get_recipe("toytown_pup"), processes=v), (*NUMBERS, 0)
    yield "view_size", lambda v: evaluate.view_size("base", v, (4, 4), (8, 8), 4), (*REALS, 0)
    yield "view_sizes", lambda v: evaluate.view_sizes(model.config, v), SIZES
    yield "Bench", lambda v: bench.Bench("train", batch=v), (*NUMBERS, 0)
    yield "of_recipe", bench.of_recipe, WORDS


LEFT_OUT = {
    "a model, a data set or settings that others of these functions make and check": (
        "SegmentationDataset", "TrainStream", "check_settings", "check_views", "data_root",
        "evaluate", "load_dataset", "predictor", "require_same", "RunConfig", "commands",
        "push_to_hub"),
    "tensors and tables inside of other functions, checked there": (
        "SETROutput", "segmentation_loss", "loss_and_terms", "loss_divisor",
        "resize_cross_entropy", "predict_each", "with_legend", "from_augreg", "from_deit",
        "from_mmseg", "from_mmseg_vit", "from_official", "from_plain", "from_timm", "head_of",
        "kind_of", "ToyClass"),
    "a row that `bench` made": ("bench", "describe", "describe_setting", "save_row"),
    "processes, not data": (
        "StopSignals", "barrier", "choose_device", "find_writers", "mean_over_ranks",
        "name_lost_process", "one_thread", "rank", "smallest_over_ranks", "start", "start_loader",
        "starts_again", "stop", "sum_over_ranks", "world_size", "writes"),
    "nothing to get wrong": ("UserError", "recipe_table"),
}
"""Public names that `calls` does not call, by the reason."""


def public() -> set[str]:
    """Names of the package's and the rooms' functions and classes, recipes aside: those take
    nothing."""
    rooms = (setr_lite, bench, datasets, distributed, evaluate, inference, losses, recipes, toytown,
             visualize, weights)  # fmt: skip
    found = {name for room in rooms for name in room.__all__ if callable(getattr(room, name))}
    return found - set(recipes.RECIPES)


def cases(house: Path, model: Any) -> list[tuple[str, Callable[[Any], Any], Any]]:
    """Every call with one wrong value."""
    return list(itertools.chain.from_iterable(
        [(name, call, value) for value in values] for name, call, values in calls(house, model)))
