"""Annotations as other programs write them become a folder data set, or one line of complaint."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from setr_lite.cli import main
from setr_lite.datasets.annotations import fill_polygon
from setr_lite.datasets.doctor import check_data
from setr_lite.datasets.folder import Folder, read_class_list, voc_palette
from setr_lite.datasets.make_masks import make_masks
from setr_lite.datasets.pascal_json import decode_rle
from setr_lite.errors import UserError

H, W = 6, 8


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def picture(path: Path, size: tuple[int, int] = (H, W)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return path


def labelme(folder: Path, name: str, *shapes: dict, **changes) -> Path:
    """As labelme 5.5 writes it, backslashes from Windows included."""
    picture(folder / f"{name}.jpg")
    path = folder / f"{name}.json"
    path.write_text(json.dumps({
        "version": "5.5.0", "flags": {}, "shapes": [
            {"group_id": None, "description": "", "flags": {}, "mask": None} | s for s in shapes],
        "imagePath": f"..\\photos\\{name}.jpg", "imageData": None,
        "imageHeight": H, "imageWidth": W,
    } | changes))  # fmt: skip
    return path


def polygon(label: str, *points: list[float], kind: str = "polygon") -> dict:
    return {"label": label, "points": [*points], "shape_type": kind}


SQUARE = polygon("crack", [1, 1], [3, 1], [3, 4], [1, 4])


def label_of(out: Path, name: str, split: str = "") -> np.ndarray:
    with Image.open(out / "labels" / split / f"{name}.png") as file:
        assert file.mode == "L"
        return np.asarray(file)


def test_labelme(tmp_path: Path) -> None:
    mask = np.zeros((2, 3), np.uint8)
    mask[0] = 255
    labelme(
        tmp_path / "in", "a", SQUARE, polygon("paint", [2, 2], [7, 5], kind="rectangle"),
        polygon("__ignore__", [0, 0], [1, 1], kind="rectangle"),
        polygon("spot", [6, 1], [7, 1], kind="circle"),
        polygon("paint", [-1, 5], [1, 6], kind="mask")
        | {"mask": base64.b64encode(png(mask)).decode()})
    labelme(tmp_path / "in", "b")
    picture(tmp_path / "in" / "unfinished.jpg")
    (tmp_path / "in" / "._a.json").write_bytes(b"\0\5\x16\7")  # macOS leaves these
    said = make_masks(tmp_path / "in", tmp_path / "out")
    assert said == (
        f"2 images with masks of 4 classes in {tmp_path / 'out'}; 1 image without annotation left"
        " out")  # fmt: skip
    expected = np.zeros((H, W), np.uint8)
    expected[1:4, 1:3] = 1  # the later over the earlier
    expected[2:5, 2:7] = 2
    expected[0, 0] = 255
    expected[0:2, 5:7] = 3
    expected[5, 0:2] = 2  # of the mask what lies inside the image
    np.testing.assert_array_equal(label_of(tmp_path / "out", "a"), expected)
    assert not label_of(tmp_path / "out", "b").any()
    listed = read_class_list(tmp_path / "out" / "classes.txt")
    assert listed.names == ("background", "crack", "paint", "spot")
    assert listed.palette.tolist() == [[0, 0, 0], *map(list, voc_palette(3))]
    original = (tmp_path / "in" / "a.jpg").read_bytes()
    assert (tmp_path / "out" / "images" / "a.jpg").read_bytes() == original


def coco(path: Path, **changes) -> Path:
    for name in ("p/1.jpg", "p/2.png"):
        picture(path.parent / name)
    content = {
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat", "supercategory": "x"}],
        "images": [{"id": 7, "file_name": "p/1.jpg", "height": H, "width": W},
                   {"id": 8, "file_name": "p/2.png", "height": H, "width": W}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "iscrowd": 0,
             "segmentation": [[1, 1, 3, 1, 3, 4, 1, 4], [6.0, 0.0, 7.0, 0.0, 7.0, 1.0]]},
            {"image_id": 7, "category_id": 3, "iscrowd": 1,
             "segmentation": {"size": [H, W], "counts": [2, 3, H * W - 5]}},
            {"image_id": 8, "category_id": 9, "segmentation": {"size": [H, W], "counts": "25Y1"}},
        ],
    } | changes  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def test_coco(tmp_path: Path) -> None:
    make_masks(coco(tmp_path / "c.json"), tmp_path / "out", split="val")
    expected = np.zeros((H, W), np.uint8)
    expected[1:4, 1:3] = 2
    expected[0, 6] = 2  # half a pixel of three corners: its centre is on the border
    expected[2:5, 0] = 1  # runs go down the columns
    np.testing.assert_array_equal(label_of(tmp_path / "out", "1", "val"), expected)
    other = label_of(tmp_path / "out", "2", "val")
    assert other[2:, 0].tolist() == [2, 2, 2, 2]  # 2 out, 5 in, 41 out
    assert other[0, 1] == 2
    assert (other == 2).sum() == 5
    assert read_class_list(tmp_path / "out" / "classes.txt").names == ("background", "cat", "dog")
    make_masks(tmp_path / "c.json", tmp_path / "out", split="train")  # beside it
    assert len(Folder(tmp_path / "out", "train")) == len(Folder(tmp_path / "out", "val")) == 2


@pytest.mark.parametrize(("counts", "runs"), [
    # from pycocotools 2.0.11: encode(asfortranarray(mask))
    ("`1", [48]), ("0`1", [0, 48]), ("25Y1", [2, 5, 41]), ("8212P1", [8, 2, 1, 4, 33]),
])  # fmt: skip
def test_known_run_lengths(counts: str, runs: list[int]) -> None:
    ends = np.cumsum([0, *runs])
    flat = np.zeros(H * W, bool)
    for i in range(1, len(runs), 2):
        flat[ends[i] : ends[i + 1]] = True
    for form in (counts, runs):
        np.testing.assert_array_equal(decode_rle(form, H, W), flat.reshape(W, H).T)




POLYGONS = [  # pycocotools 2.0.11: frPyObjects([flat], 60, 80)
    ([48.2, 32.2, 36, 62.1, 16.9, 3.2],
     "PP11l12M3N2N2N2N2N2N2N3M2N2N2N2N2N2M3N2N2NO1M3M3L4M3M3L4M3L4M3L3NSk1"),
    ([32.2, 27.8, 13.6, 9.1, 38.8, 21.1, 52, 2.6, 52.2, 24.7],
     "^l01l10O1O100O100O100O100O100O100O100O10O0O2O001O00O1O1N101N2O1O1N2O0O2O1O1N2]d1"),
    ([59.2, 33.5, 66.9, 56.7, 28.5, 65.6, 14.7, 43.3, 13.4, 22.9, 18.6, 11, 28.2, 14.3,
      34.2, 19.4, 59.3, 7.5],
     "Si01h1b0_O7I4K5L3O2O0O2N2O0O2N10O001O001O1O1O1O0000O100O100O100O10000O100O100O10"
     "0O100O100O010O100j0UO4M3M3M3M3L4M3Mef0"),
]  # fmt: skip


@pytest.mark.parametrize(("flat", "counts"), POLYGONS)
def test_polygons_as_pycocotools_fills_them_up_to_their_border(flat, counts) -> None:
    """Which pixels of the border belong is each program's own; all others must agree."""
    theirs = decode_rle(counts, 60, 80).astype(np.uint8)
    ours = fill_polygon(list(zip(flat[::2], flat[1::2], strict=True)), (60, 80))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    assert ours[cv2.erode(theirs, cross) > 0].all()
    assert not ours[cv2.dilate(theirs, cross) == 0].any()
    assert (ours != theirs).mean() < 0.002


def test_masks_in_colours_and_with_a_palette(tmp_path: Path) -> None:
    masks, images = tmp_path / "masks", tmp_path / "images"
    ids = np.array([[0, 1, 15], [255, 20, 0]], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[1:256] = voc_palette(255)
    for name in "abc":
        picture(images / f"{name}.jpg", ids.shape)
    masks.mkdir()
    file = Image.fromarray(ids)
    file.putpalette(palette.ravel().tolist())
    file.save(masks / "a.png")
    Image.fromarray(palette[ids]).save(masks / "b.png")
    Image.fromarray(ids).save(masks / "c.png")
    make_masks(masks, tmp_path / "out", images=images)
    for name in "abc":
        np.testing.assert_array_equal(label_of(tmp_path / "out", name)[0], ids[0])
    assert label_of(tmp_path / "out", "b")[1].tolist() == [255, 20, 0]  # VOC's border is 255
    assert len(read_class_list(tmp_path / "out" / "classes.txt").names) == 21


def test_black_and_white_masks(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    picture(tmp_path / "i" / "a.png", (1, 3))
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save(tmp_path / "m" / "a.png")
    classes = tmp_path / "list"
    classes.write_text("sound #000000\ncrack #ffffff\n")
    make_masks(tmp_path / "m", tmp_path / "out", images=tmp_path / "i", classes=classes)
    assert label_of(tmp_path / "out", "a").tolist() == [[0, 1, 0]]


def test_the_command_makes_what_the_doctor_calls_healthy(tmp_path: Path, capsys) -> None:
    for i in range(4):
        labelme(tmp_path / "in", f"s{i}", SQUARE)
    out = str(tmp_path / "out")
    assert main(["make-masks", str(tmp_path / "in"), out]) == 0
    assert main(["split", out, "--val", "0.5"]) == 0
    assert "crack" in capsys.readouterr().out
    health = check_data("folder", out, progress=False)
    assert health.healthy, health.text()
    assert health.splits == {"train": (2, 2, 2), "val": (2, 2, 2)}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    labelme(tmp_path / "in", "a", SQUARE)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="is there already; choose another folder"):
        make_masks(tmp_path / "in", mine)
    with pytest.raises(UserError, match="which is read here"):
        make_masks(tmp_path / "in", tmp_path / "in" / "out")
    make_masks(tmp_path / "in", mine, split="train")
    with pytest.raises(UserError, match=r"images.train: is there already"):
        make_masks(tmp_path / "in", mine, split="train")
    labelme(tmp_path / "in", "b", polygon("moss", [0, 0], [4, 0], [0, 4]))
    with pytest.raises(UserError, match="has other classes than these"):
        make_masks(tmp_path / "in", mine, split="val")
    assert {p.name for p in mine.iterdir()} == {"thesis.tex", "images", "labels", "classes.txt"}
    assert {p.name for p in tmp_path.iterdir()} == {"in", "mine"}  # no half of anything


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    labelme(tmp_path / "in", "a", SQUARE)
    labelme(tmp_path / "in", "b", SQUARE, imageHeight=H + 1)
    with pytest.raises(UserError, match=r"b.json: made for an image of 7x8, and .*b.jpg has 6x8"):
        make_masks(tmp_path / "in", tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


BAD_LABELME = [
    ({"imagePath": "..\\..\\shadow"}, "is no name of an image"),
    ({"imagePath": "/etc/b.png"}, "b.png is not there; give --images DIR"),
    ({"imagePath": 5}, "is no name of an image"),
    ({"imageHeight": "six"}, "height and width are"),
    ({"imageHeight": 10**30}, "height and width are"),
    ({"shapes": None}, "not as labelme writes it"),
    ({"shapes": [5]}, "not as labelme writes it"),
    ({"shapes": [SQUARE | {"label": "a\x1b[2J"}]}, "is no name of a class"),
    ({"shapes": [SQUARE | {"label": ""}]}, "is no name of a class"),
    ({"shapes": [SQUARE | {"points": [[0, 0], [1, 1]]}]}, "3 or more pairs"),
    ({"shapes": [SQUARE | {"points": [[0, 1e300]] * 3}]}, "pairs of numbers"),
    ({"shapes": [SQUARE | {"points": [[0, float("nan")]] * 3}]}, "pairs of numbers"),
    ({"shapes": [SQUARE | {"shape_type": "line"}]}, "has no area"),
    ({"shapes": [SQUARE | {"shape_type": "mask", "mask": "!!"}]}, "cannot be read as an image"),
    ({"shapes": [SQUARE | {"shape_type": "mask", "mask": 5}]}, "not as labelme"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_LABELME)
def test_labelme_files_that_cannot_be_used(tmp_path: Path, changes: dict, said: str) -> None:
    path = labelme(tmp_path / "in", "a", **changes)
    with pytest.raises(UserError) as caught:
        make_masks(tmp_path / "in", tmp_path / "out")
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "out").exists()


BAD_COCO = [
    ({"images": [{"id": 7, "file_name": "../c.png", "height": 1, "width": 1}]}, "is no name of"),
    ({"images": [{"id": [], "file_name": "p/1.jpg", "height": H, "width": W}]}, "not as COCO"),
    ({"images": []}, "not as COCO"),
    ({"images": [], "annotations": []}, "names no image"),
    ({"categories": []}, "is in no category"),
    ({"categories": [{"id": 9, "name": "dog"}, {"id": "x", "name": "cat"}]}, "is in no category"),
    ({"categories": 7}, "not as COCO"),
    *(({"annotations": [{"image_id": 7, "category_id": 9, "segmentation": region}]}, said)
      for region, said in (
          ([[0, 0, 1]], "polygons or run lengths"), ("abc", "polygons or run lengths"),
          ([0, 1], "not as COCO"), ({"size": 5}, "run lengths of size 5"),
          ({"size": [H, W]}, "do not add up"), ({"size": [H, W], "counts": "\ud800"}, "not add up"),
          ({"size": [H, W], "counts": "o" * 50}, "do not add up"),
          ({"size": [H, W], "counts": [-1, H * W + 1]}, "do not add up"),
          ({"size": [H, W], "counts": [1.5]}, "do not add up"),
          ({"size": [1 << 40, 1 << 40], "counts": [1 << 80]}, "run lengths of size"))),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), BAD_COCO)
def test_coco_files_that_cannot_be_used(tmp_path: Path, changes: dict, said: str) -> None:
    path = coco(tmp_path / "c.json", **changes)
    with pytest.raises(UserError) as caught:
        make_masks(path, tmp_path / "out")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_damaged_json_is_one_line_at_worst(tmp_path: Path) -> None:
    """Bytes exchanged, cut, doubled: an answer, or a UserError, nothing else."""
    path, dice = coco(tmp_path / "c.json"), random.Random(0)
    whole, ends = path.read_bytes(), set()
    for i in range(150):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            k = dice.randrange(len(data))
            data[k : k + dice.choice((0, 1, 1, 9))] = dice.choice((b"", b"9", b"-", b"[]", b"\xff"))
        path.write_bytes(data)
        try:
            make_masks(path, tmp_path / f"out{i}")
            ends.add("made")
        except UserError:
            ends.add("refused")
    assert ends == {"made", "refused"}


def test_mistakes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    labelme(source, "a", SQUARE)
    classes = tmp_path / "list"
    classes.write_text("crac\n")
    with pytest.raises(UserError, match=r"'background' is no class.*--background ignore"):
        make_masks(source, tmp_path / "out", classes=classes)
    with pytest.raises(UserError, match=r"'crack' is no class of the list; did you mean 'crac'"):
        make_masks(source, tmp_path / "out", classes=classes, background="ignore")
    with pytest.raises(UserError, match=r"a file of labelme; give the folder"):
        make_masks(source / "a.json", tmp_path / "out")
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(UserError, match=r"holds masks, no JSON; give --images DIR"):
        make_masks(masks, tmp_path / "out")
    rgb = np.zeros((H, W, 3), np.uint8)
    rgb[0, 0] = 1, 2, 3
    Image.fromarray(rgb).save(masks / "a.png")
    with pytest.raises(UserError, match=r"a.png: is in colours, and the list .*`NAME #rrggbb`"):
        make_masks(masks, tmp_path / "out", images=source, classes=classes)
    with pytest.raises(UserError, match=r"1 pixels have the colour #010203, which no class"):
        make_masks(masks, tmp_path / "out", images=source)
    picture(source / "a.png")
    with pytest.raises(UserError, match=r"a.png: has the name of .*a.jpg"):
        make_masks(masks, tmp_path / "out", images=source)
