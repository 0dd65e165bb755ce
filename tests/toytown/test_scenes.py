"""ToyTown: the same bytes everywhere, every class in sight, and three true layouts on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setr_lite import datasets
from setr_lite.errors import UserError
from setr_lite.toytown import (
    CLASSES,
    PALETTE,
    layout_ids,
    render_scene,
    scene_seed,
    scenes,
    write_toytown,
)
from setr_lite.toytown.canvas import ROAD, SHADOW, SKY, Canvas, Dice, _isqrt, pack

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "toytown_sha256.json").read_text())
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"
NAMES = [c.name for c in CLASSES]
SMALL = (48, 96)


def digest(seed: int, size: tuple[int, int]) -> str:
    image, label = render_scene(seed, size)
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


# ------------------------------------------------------------------------------------ scenes
@pytest.mark.smoke
@pytest.mark.parametrize("scene", GOLDEN["scenes"], ids=lambda s: f"{s['seed']}-{s['size']}")
def test_bytes_of_a_scene(scene):
    assert digest(scene["seed"], tuple(scene["size"])) == scene["sha256"]


def test_bytes_do_not_depend_on_the_process():
    code = (
        "import hashlib; from setr_lite.toytown import render_scene as r;"
        "i, l = r(77, (64, 128));"
        "print(hashlib.sha256(i.tobytes() + l.tobytes()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        assert out.stdout.strip() == digest(77, (64, 128))


@pytest.mark.smoke
@pytest.mark.parametrize("size", [(96, 192), (97, 131), (64, 64), (48, 200), (150, 90)])
def test_shapes_and_values(size):
    image, label = render_scene(5, size)
    assert image.shape == (*size, 3)
    assert label.shape == size
    assert image.dtype == label.dtype == np.uint8
    assert label.max() < len(CLASSES)
    assert image.min() < 60 < 180 < image.max()  # neither black nor white nor flat


def test_every_class_is_common_and_none_is_everything():
    pixels, scenes = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for seed in range(50):
        _, label = render_scene(seed)
        count = np.bincount(label.ravel(), minlength=len(CLASSES))
        pixels += count / label.size / 50
        scenes += (count >= 10) / 50
    for name, share, common in zip(NAMES, pixels, scenes, strict=True):
        print(f"{name:14s}{share:8.2%} of the pixels, in {common:4.0%} of the scenes")
    assert pixels.min() > 0.005
    assert scenes.min() > 1 / 3
    assert pixels.max() < 0.4


def test_scenes_differ_in_light_and_content():
    scenes = [render_scene(seed, SMALL) for seed in range(40)]
    brightness = [image.mean() for image, _ in scenes]
    assert min(brightness) < 90 < 125 < max(brightness)  # night and noon
    assert len({label.tobytes() for _, label in scenes}) == 40


def test_a_seed_is_one_street_at_every_size():
    _, small = render_scene(8, (96, 192))
    image, large = render_scene(8, (288, 576))
    assert (large[1::3, 1::3] == small).mean() > 0.95
    assert image[:60].std() > 0


def test_labels_follow_the_picture():
    """Sky above, road below: the label is that of the pixel, not flipped or shifted."""
    labels = np.stack([render_scene(seed)[1] for seed in range(30)])
    rows = np.arange(96)[:, None]
    centre = {n: (rows * (labels == i)).sum() / (labels == i).sum() for i, n in enumerate(NAMES)}
    assert centre["sky"] < 30 < centre["building"] < 50 < centre["car"] < centre["road"]
    assert centre["traffic sign"] < centre["person"]
    assert (labels[:, -1, 96] == NAMES.index("road")).mean() > 0.9


# ------------------------------------------------------------------------------------ canvas
def test_dice_are_splitmix64():
    dice = Dice(0)
    dice.state = 0
    # the first outputs of splitmix64 from state 0, as published with xoshiro's C code
    assert [dice._next() for _ in range(3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]
    dice.state = 0xE220A8397B1DCDAF  # array() starts where the next number says
    start = Dice(0)
    start.state = dice.state
    want = Dice(0)
    want.state = start._next()
    assert dice.array((2, 3)).ravel().tolist() == [want._next() for _ in range(6)]


def test_canvas_fills_pixels_by_their_centres():
    canvas = Canvas((4, 4))  # 8 x 8 half pixels of 960 units, centres at 480, 1440, ...
    canvas.rect(480, 481, 1441, 2401, pack(ROAD, (8, 16, 24)))
    rows, columns = np.nonzero(canvas.pixels)
    assert (sorted(set(rows)), sorted(set(columns))) == ([1, 2], [0, 1])
    image, label = canvas.finish()
    # pixel (0,0) holds 2 of 4 half pixels: half the colour, and the class in front of the tie
    assert image[0, 0].tolist() == [4, 8, 12]
    assert label[0, 0] == ROAD
    assert label[2, 2] == SKY


@pytest.mark.parametrize(
    ("votes", "winner"),
    [((0, 0, 2, 0), 0), ((2, 0, 2, 2), 2), ((0, 2, 2, 0), 2), ((1, 1, 1, 1), 1), ((3, 1, 3, 0), 3)],
)
def test_vote_of_four(votes, winner):
    canvas = Canvas((1, 1))
    canvas.pixels[:] = np.array(votes, np.uint32).reshape(2, 2) << 24
    assert canvas.finish()[1].item() == winner


def test_triangle_and_disc_by_hand():
    canvas = Canvas((4, 4))
    canvas.polygon([(0, 7680), (7680, 7680), (0, 0)], pack(1, (0, 0, 0)))
    canvas.paint()
    assert (canvas.pixels >> 24).sum(1).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    canvas = Canvas((4, 4))
    canvas.ellipse(3840, 3840, 1920, 960, pack(1, (0, 0, 0)))  # half axes of 2 and 1 half pixels
    canvas.paint()
    assert np.argwhere(canvas.pixels).tolist() == [[y, x] for y in (3, 4) for x in (2, 3, 4, 5)]


def test_shadow_darkens_and_keeps_the_class():
    canvas = Canvas((4, 4))
    canvas.pixels[:] = pack(ROAD, (100, 201, 3))
    canvas.polygon([(0, 0), (7680, 0), (7680, 7680), (0, 7680)], SHADOW)
    canvas.paint()
    assert set(canvas.pixels.ravel().tolist()) == {pack(ROAD, (75, 151, 3))}


@pytest.mark.parametrize("seed", range(6))
def test_shapes_painted_together_are_those_painted_one_by_one(seed):
    """Random shapes, painted when all are known, against a canvas that paints after each."""
    together, one_by_one, dice = Canvas((12, 20)), Canvas((12, 20)), Dice(seed)

    def point() -> tuple[int, int]:
        return dice.between(-3000, 15000), dice.between(-2000, 9000)

    for step in range(120):
        (x, y), (right, low), ink = point(), point(), pack(step % 11, (step, 2 * step, 255 - step))
        paint, *arguments = dice.pick((
            (Canvas.polygon, [(x, y), (right, y), (x, low)], ink),
            (Canvas.polygon, [(x, y), (right, y), (right, low), (x, low)], SHADOW),
            (Canvas.ellipse, x, y, dice.between(0, 3000), dice.between(0, 2000), ink),
            (Canvas.ellipse, x, y, dice.between(0, 3000), dice.between(0, 2000), SHADOW),
            (Canvas.leaves, x, y, dice.between(0, 2000), (ink, 1, 2, 3), dice.between(40, 400), x),
            (Canvas.rect, x, y, right, low, ink),
            (Canvas.surface, together.box(x, y, right, low), True, partial(marked, ink)),
        ))
        for canvas in (together, one_by_one):
            paint(canvas, *arguments)
        one_by_one.paint()
    together.paint()
    assert len(np.unique(together.pixels)) > 20
    assert (together.pixels == one_by_one.pixels).all()


def marked(ink: int, sight: np.ndarray) -> np.ndarray:
    """A surface whose ink tells the place in its box, for those pixels that are in sight."""
    return (ink + np.arange(sight.size).reshape(sight.shape))[sight]


def test_what_lies_hidden_is_never_looked_at():
    canvas = Canvas((4, 4))
    canvas.surface(canvas.box(0, 0, 3840, 3840), True, lambda sight: pytest.fail("looked at"))
    canvas.rect(0, 0, 7680, 7680, 5)
    canvas.paint()
    assert (canvas.pixels == 5).all()


def test_rows_and_columns_are_those_of_the_centres():
    for size in ((96, 192), (97, 131), (48, 64)):
        canvas = Canvas(size)
        for units in range(-300, canvas.width + 300, 7):
            assert canvas.row(units) == np.searchsorted(canvas.y, units)
            assert canvas.column(units) == np.searchsorted(canvas.x, units)


def test_whole_roots_are_exact_where_floats_are_not():
    roots = [0, 1, 2, 3, 94906265, 94906266, 94906267, 1 << 30, (1 << 31) - 1]
    squares = [max(0, r * r + d) for r in roots for d in (-1, 0, 1)]
    assert _isqrt(np.array(squares)).tolist() == [math.isqrt(s) for s in squares]


# ------------------------------------------------------------------------------------ layouts
def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_ids_of_the_classes_in_the_published_layouts():
    want = {  # Cityscapes labelIds, ADE20K's 1..150, Pascal Context's alphabetical 0..59
        "sky": (23, 3, 47), "road": (7, 7, 41), "person": (24, 13, 37), "car": (26, 21, 14),
        "building": (11, 2, 11), "pole": (17, 94, 0), "traffic sign": (20, 44, 46),
        "vegetation": (21, 5, 53), "terrain": (22, 10, 29), "sidewalk": (8, 12, 45),
        "fence": (13, 33, 25),
    }
    tables = [layout_ids(name) for name in ("cityscapes", "ade20k", "pascal_context")]
    assert {n: tuple(int(t[i]) for t in tables) for i, n in enumerate(NAMES)} == want
    assert all(table.dtype == np.uint8 for table in tables)
    assert PALETTE.shape == (len(CLASSES), 3)


def test_ids_agree_with_the_tables_of_the_readers():
    tables = json.loads((Path(datasets.__file__).parent / "class_tables.json").read_text())
    ade = [row[0] for row in tables["ade20k"]]
    pascal = [row[0] for row in tables["pascal_context"]]
    same = {"vegetation": "tree", "terrain": "grass", "traffic sign": "signboard"}
    for c in CLASSES:
        assert ade[c.ade20k - 1] == same.get(c.name, c.name)
        other = (same | {"traffic sign": "sign", "pole": "background"}).get(c.name, c.name)
        assert pascal[c.pascal_context] == other


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("layout", "images", "masks", "lossless"),
    [
        ("cityscapes", ["leftImg8bit/train/toytown/toytown_000000_000000_leftImg8bit.png",
                        "leftImg8bit/train/toytown/toytown_000001_000000_leftImg8bit.png",
                        "leftImg8bit/val/toytown/toytown_000000_000000_leftImg8bit.png"],
         ["gtFine/train/toytown/toytown_000000_000000_gtFine_labelIds.png",
          "gtFine/train/toytown/toytown_000001_000000_gtFine_labelIds.png",
          "gtFine/val/toytown/toytown_000000_000000_gtFine_labelIds.png"], True),
        ("ade20k", ["images/training/ADE_train_00000001.jpg",
                    "images/training/ADE_train_00000002.jpg",
                    "images/validation/ADE_val_00000001.jpg"],
         ["annotations/training/ADE_train_00000001.png",
          "annotations/training/ADE_train_00000002.png",
          "annotations/validation/ADE_val_00000001.png"], False),
        ("pascal_context", [f"VOCdevkit/VOC2010/JPEGImages/{n}.jpg"
                            for n in ("2008_000000", "2008_000001", "2010_000000")],
         [f"VOCdevkit/VOC2010/SegmentationClassContext/{n}.png"
          for n in ("2008_000000", "2008_000001", "2010_000000")], False),
    ],
)
def test_layout_on_disk(tmp_path, layout, images, masks, lossless):
    write_toytown(tmp_path, 2, 1, SMALL, seed=3, layout=layout, progress=False)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    lists = {f"VOCdevkit/VOC2010/ImageSets/SegmentationContext/{s}.txt" for s in ("train", "val")}
    extra = lists if layout == "pascal_context" else set()
    assert found == {*images, *masks, *extra, "toytown.json"}
    scenes = [scene_seed(3, "train", 0), scene_seed(3, "train", 1), scene_seed(3, "val", 0)]
    for scene, image_path, mask_path in zip(scenes, images, masks, strict=True):
        image, label = render_scene(scene, SMALL)
        mask = read(tmp_path / mask_path)
        assert (mask == layout_ids(layout)[label]).all()
        assert mask.dtype == np.uint8
        stored = read(tmp_path / image_path).astype(int)
        if lossless:
            assert (stored == image).all()
        else:
            assert np.abs(stored - image).mean() < 3
    if layout == "pascal_context":
        folder = tmp_path / "VOCdevkit/VOC2010/ImageSets/SegmentationContext"
        assert (folder / "train.txt").read_text() == "2008_000000\n2008_000001\n"
        assert (folder / "val.txt").read_text() == "2010_000000\n"


def test_no_scene_is_in_two_splits_or_towns():
    seeds = [scene_seed(s, split, i) for s in (0, 1) for split in ("train", "val")
             for i in (0, 1, 999_999)]
    assert len(set(seeds)) == len(seeds)
    assert len({digest(s, SMALL) for s in seeds}) == len(seeds)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
            for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_interrupted_run_is_completed(tmp_path, monkeypatch):
    write_toytown(tmp_path / "whole", 4, 2, SMALL, progress=False)
    out, draw, calls = tmp_path / "town", scenes.render_scene, []

    def tired(seed, size):
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(seed, size)

    monkeypatch.setattr(scenes, "render_scene", tired)
    with pytest.raises(KeyboardInterrupt):
        write_toytown(out, 4, 2, SMALL, progress=False)
    (out / "gtFine/train/toytown/toytown_000001_000000_gtFine_labelIds.png").unlink()
    write_toytown(out, 4, 2, SMALL, progress=False)
    assert len(calls) == 4 + 4  # scene 1 again, scene 3, and two of val
    whole, resumed = snapshot(tmp_path / "whole"), snapshot(out)
    assert {k: v[1] for k, v in resumed.items()} == {k: v[1] for k, v in whole.items()}

    write_toytown(out, 4, 2, SMALL, progress=False)
    assert snapshot(out) == resumed  # nothing drawn, nothing touched
    assert len(calls) == 8


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    def broken(self, path, **_):
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space"):
        write_toytown(tmp_path, 1, 0, SMALL, progress=False)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["toytown.json"]


# ------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": -1}, r"train=-1: give a number of scenes"),
        ({"val": 1_000_000}, r"val=1000000: .* 0 to 999999"),
        ({"seed": -5}, r"seed=-5: give a seed from 0"),
        ({"size": (40, 192)}, r"size=40x192 .*: give 48x64 or more"),
        ({"size": (96,)}, r"size=96 .*: give 48x64 or more"),
        ({"layout": "cityscape"}, r"layout='cityscape' .*did you mean 'cityscapes'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        write_toytown(tmp_path / "town", **({"train": 1, "val": 1, "progress": False} | arguments))
    assert not (tmp_path / "town").exists()


def test_bad_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file: give a folder"):
        write_toytown(tmp_path / "file", 1, 1, progress=False)
    with pytest.raises(UserError, match=r"holds other files and no toytown.json"):
        write_toytown(tmp_path, 1, 1, progress=False)
    write_toytown(tmp_path / "town", 1, 0, SMALL, progress=False)
    with pytest.raises(UserError, match=r"holds a town made with train=1, seed=0: ask for that"):
        write_toytown(tmp_path / "town", 2, 0, SMALL, seed=1, progress=False)
    (tmp_path / "town" / "toytown.json").write_text("[1, 2")
    with pytest.raises(UserError, match=r"toytown.json is not a note of ToyTown's"):
        write_toytown(tmp_path / "town", 1, 0, SMALL, progress=False)


def test_render_refuses_bad_arguments():
    with pytest.raises(UserError, match=r"seed=-1"):
        render_scene(-1)
    with pytest.raises(UserError, match=r"size=96x63"):
        render_scene(0, (96, 63))


# ------------------------------------------------------------------------------------- sample
def test_the_committed_sample_is_what_its_note_says():
    note = json.loads((SAMPLE / "toytown.json").read_text())
    files = [p for p in SAMPLE.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 3_000_000
    assert len(files) == 1 + 2 * (note["train"] + note["val"])
    path = SAMPLE / "leftImg8bit/val/toytown/toytown_000003_000000_leftImg8bit.png"
    image, _ = render_scene(scene_seed(note["seed"], "val", 3), tuple(note["size"]))
    assert (read(path) == image).all()
