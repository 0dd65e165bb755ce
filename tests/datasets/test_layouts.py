"""Readers of the data sets: folders written here by hand, every kind of mistake, the stream."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torch.utils.data import DataLoader

from setr_lite import toytown
from setr_lite.config import DataConfig
from setr_lite.datasets import (
    ADE20K,
    DATASETS,
    CamVid,
    Cityscapes,
    PascalContext,
    PascalContext59,
    TrainStream,
    load_dataset,
    rank_counters,
    read_image,
    read_label,
)
from setr_lite.datasets import images as reading
from setr_lite.datasets.folder import Folder, read_classes
from setr_lite.datasets.images import as_image, image_of_bytes, image_size, orientation
from setr_lite.errors import UserError
from setr_lite.evaluate.scores import file_ids
from setr_lite.transforms import TrainTransform

SIZE = (4, 6)
ROWS = np.repeat(np.arange(4, dtype=np.uint8)[:, None], 6, axis=1)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def gradient(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def camvid(root: Path, count: int = 3, split: str = "train") -> Path:
    for i in range(count):
        save(root / split / f"{i:02d}.png", gradient(i))
        save(root / f"{split}annot" / f"{i:02d}.png", ROWS + i)
    return root


def cityscapes(root: Path, mask: np.ndarray, kind: str = "labelIds") -> Path:
    stem = "ulm/ulm_000000_000019"
    save(root / "leftImg8bit/train" / f"{stem}_leftImg8bit.png", gradient())
    save(root / "gtFine/train" / f"{stem}_gtFine_{kind}.png", mask)
    return root


def ade20k(root: Path, mask: np.ndarray) -> Path:
    save(root / "images/validation/ADE_val_00000001.jpg", gradient())
    save(root / "annotations/validation/ADE_val_00000001.png", mask)
    return root


# Tables of classes


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "count", "picked"),
    [
        ("cityscapes", 19, {0: ("road", (128, 64, 128)), 18: ("bicycle", (119, 11, 32))}),
        ("ade20k", 150, {0: ("wall", (120, 120, 120)), 7: ("bed", (204, 5, 255))}),
        ("pascal_context", 60, {0: ("background", (120, 120, 120)), 59: ("wood", None)}),
        ("camvid", 11, {5: ("tree", (128, 128, 0)), 10: ("bicyclist", (0, 128, 192))}),
    ],
)
def test_classes_and_colours(name: str, count: int, picked: dict) -> None:
    kind = DATASETS[name]
    assert len(kind.classes) == len(set(kind.classes)) == count
    assert kind.palette.shape == (count, 3)
    assert kind.palette.dtype == np.uint8
    for label, (word, colour) in picked.items():
        assert kind.classes[label] == word
        assert colour is None or tuple(kind.palette[label]) == colour


@pytest.mark.smoke
def test_pascal_names_are_alphabetical_behind_background() -> None:
    """The masks number the classes by name; the list in the authors' code follows VOC instead."""
    assert list(PascalContext.classes[1:]) == sorted(PascalContext.classes[1:])


# Reading


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("image_ending", "inner"), [(".png", "."), (".jpg", "."), (".png", "CamVid")]
)
def test_camvid(tmp_path: Path, image_ending: str, inner: str) -> None:
    root = tmp_path / inner
    save(root / f"val/a{image_ending}", gradient())
    save(root / "val/._a.png", gradient())  # as macOS leaves them
    save(root / "valannot/a.png", np.array([[0, 5, 10, 11, 11, 255]] * 4, dtype=np.uint8))
    data = CamVid(tmp_path, split="val")
    assert len(data) == 1
    image, label, name = data[0]
    assert name == "a"
    assert (image.dtype, image.shape) == (torch.uint8, (3, *SIZE))
    assert label.dtype == torch.uint8
    assert label.tolist() == [[0, 5, 10, 255, 255, 255]] * 4
    if image_ending == ".png":
        assert torch.equal(image, torch.from_numpy(gradient()).permute(2, 0, 1))


@pytest.mark.smoke
def test_cityscapes_label_ids(tmp_path: Path) -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(SIZE) + 10  # ids 10..33
    data = Cityscapes(cityscapes(tmp_path, mask), "train")
    expected = [2, 3, 4, 0, 0, 0, 5, 0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 0, 16, 17, 18]
    ignored = {14, 15, 16, 18, 29, 30}
    wanted = [255, *(255 if 11 + i in ignored else k for i, k in enumerate(expected))]
    assert data[0].label.flatten().tolist() == wanted
    assert data[0].name == "ulm_000000_000019"


@pytest.mark.smoke
def test_cityscapes_low_ids(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 6, 7, 8, 9]] * 4, dtype=np.uint8)
    label = Cityscapes(cityscapes(tmp_path, mask), "train")[0].label
    assert label[0].tolist() == [255, 255, 255, 0, 1, 255]


@pytest.mark.smoke
def test_cityscapes_train_ids_where_only_they_are_there(tmp_path: Path) -> None:
    mask = np.array([[0, 7, 18, 255, 1, 2]] * 4, dtype=np.uint8)
    root = cityscapes(tmp_path, mask, "labelTrainIds")
    assert Cityscapes(root, "train")[0].label[0].tolist() == [0, 7, 18, 255, 1, 2]
    cityscapes(tmp_path, np.full(SIZE, 7, np.uint8), "labelIds")
    assert Cityscapes(root, "train")[0].label.unique().tolist() == [0]  # both: the download's


@pytest.mark.smoke
@pytest.mark.parametrize("inner", [".", "ADEChallengeData2016"])
def test_ade20k_reduces_once(tmp_path: Path, inner: str) -> None:
    mask = np.array([[0, 1, 2, 149, 150, 255]] * 4, dtype=np.uint8)
    ade20k(tmp_path / inner, mask)
    assert ADE20K(tmp_path, "val")[0].label[0].tolist() == [255, 0, 1, 148, 149, 255]


@pytest.mark.smoke
@pytest.mark.parametrize("inner", [".", "VOCdevkit/VOC2010", "VOC2010"])
def test_pascal_context_follows_its_list(tmp_path: Path, inner: str) -> None:
    root = tmp_path / inner
    for stem in ("2008_000002", "2008_000003"):
        save(root / f"JPEGImages/{stem}.jpg", gradient())
        save(root / f"SegmentationClassContext/{stem}.png", ROWS * 19)
    lists = root / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2008_000003\n")
    data = PascalContext(tmp_path, "val")
    assert [sample.name for sample in data] == ["2008_000003"]
    assert data[0].label[:, 0].tolist() == [0, 19, 38, 57]


@pytest.mark.smoke
def test_pascal_context_59_ignores_background(tmp_path: Path) -> None:
    """One folder serves both protocols; a class has the next smaller label and the same name."""
    save(tmp_path / "JPEGImages/a.jpg", gradient())
    mask = np.array([[0, 1, 2, 58, 59, 255]] * 4, dtype=np.uint8)
    save(tmp_path / "SegmentationClassContext/a.png", mask)
    (tmp_path / "ImageSets/SegmentationContext").mkdir(parents=True)
    (tmp_path / "ImageSets/SegmentationContext/train.txt").write_text("a")
    data = PascalContext59(tmp_path)
    assert data[0].label[0].tolist() == [255, 0, 1, 57, 58, 255]
    whole = PascalContext(tmp_path)[0].label
    for label, full in zip(data[0].label[0, 1:5], whole[0, 1:5], strict=True):
        assert data.classes[label] == PascalContext.classes[full]
        assert (data.palette[label] == PascalContext.palette[full]).all()
    assert len(data.classes) == len(data.palette) == 59


def pascal_json(root: Path, regions: list[tuple[int, str]], size=(5, 7)) -> Path:
    image = {"image_id": 2008000002, "file_name": "2008_000002.jpg", "phase": "train"}
    other = {"image_id": 2008000003, "file_name": "2008_000003.jpg", "phase": "test"}
    parts = [
        {"image_id": 2008000002, "category_id": k, "segmentation": {"size": size, "counts": c}}
        for k, c in regions
    ]
    text = json.dumps({"images": [image, other], "annos_segmentation": parts})
    (root / "trainval_merged.json").write_text(text)
    picture = np.zeros((*size, 3), np.uint8)
    save(root / "JPEGImages/2008_000002.jpg", picture)
    return root


# A mask and how pycocotools 2.0 encodes it.
REGION = "3110001020O0N31M11O"
INSIDE = [
    [0, 1, 1, 1, 0, 0, 0],
    [0, 0, 0, 0, 1, 0, 1],
    [0, 1, 0, 0, 1, 1, 1],
    [1, 0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0, 0],
]


@pytest.mark.smoke
def test_pascal_context_from_its_json(tmp_path: Path) -> None:
    """458 is wood, the last class, and 59 is car; a later region covers an earlier one."""
    data = PascalContext(pascal_json(tmp_path, [(458, REGION)]), "train")
    assert (len(data), data[0].name) == (1, "2008_000002")
    assert data[0].label.tolist() == (59 * np.array(INSIDE)).tolist()
    everything = "0S1"  # no pixel outside, then 35 inside
    (tmp_path / "covered").mkdir()
    covered = pascal_json(tmp_path / "covered", [(458, REGION), (59, everything)])
    assert PascalContext(covered, "train")[0].label.unique().tolist() == [14]
    assert PascalContext.classes[14] == "car"
    assert PascalContext59(tmp_path)[0].label[0].tolist() == [255, 58, 58, 58, 255, 255, 255]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([(3, REGION)], "2008_000002: category 3 is none of Pascal Context's 60"),
        ([(458, REGION[:-1])], "run lengths do not add up to 5x7"),
        ([(458, "")], "run lengths do not add up"),
        ([], r"image without label, .*trainval_merged\.json.2008_000002 is missing"),
    ],
)
def test_pascal_json_damaged(tmp_path: Path, regions: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PascalContext(pascal_json(tmp_path, regions), "train")[0]


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/a.jpg", "a/b.jpg", "..", 7])
def test_pascal_json_stays_in_its_folder(tmp_path: Path, name: str | int) -> None:
    file = pascal_json(tmp_path, [(458, REGION)]) / "trainval_merged.json"
    file.write_text(file.read_text().replace('"2008_000002.jpg"', json.dumps(name)))
    with pytest.raises(UserError, match=r"not Pascal Context's trainval_merged\.json"):
        PascalContext(tmp_path, "train")


@pytest.mark.smoke
@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_pascal_json_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainval_merged.json").write_text(text)
    with pytest.raises(UserError, match=r"not Pascal Context's trainval_merged\.json"):
        PascalContext(tmp_path, "train")


# Your own folders


def folder(root: Path, masks: str = "labels", classes: str = "sky\nroad #804080\n\ncar\n") -> Path:
    for split in ("train", "val"):
        save(root / f"images/{split}/a.jpg", gradient())
        save(root / f"{masks}/{split}/a.png", np.array([[0, 1, 2, 255, 1, 0]] * 4, np.uint8))
    (root / "classes.txt").write_text(classes)
    return root


@pytest.mark.smoke
@pytest.mark.parametrize("masks", ["labels", "annotations"])
def test_folder(tmp_path: Path, masks: str) -> None:
    data = load_dataset(DataConfig(name="folder", root=str(folder(tmp_path, masks))), "val")
    assert data.classes == ("sky", "road", "car")
    assert data.palette.tolist() == [[128, 0, 0], [128, 64, 128], [128, 128, 0]]  # VOC's 1 and 3
    assert data[0].label[0].tolist() == [0, 1, 2, 255, 1, 0]
    (tmp_path / "list.txt").write_text("a\nb")
    config = DataConfig(name="folder", root=str(tmp_path), classes=str(tmp_path / "list.txt"))
    message = r"label id 2 \(4 pixels.*list of classes has 2, so masks hold 0\.\.1"
    with pytest.raises(UserError, match=message):
        load_dataset(config, "train")[0]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists 0 classes; give 1 to 254"),
        ("\n".join(map(str, range(255))), "lists 255 classes"),
        ("road\ncar\nroad", "'road' is listed twice"),
        ("road\ncar #80408", "line 2: 'car #80408' is no class; write NAME, NAME #rr"),
        ("#804080", "line 1: '#804080' is no class"),
    ],
)
def test_list_of_classes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Folder(folder(tmp_path, classes=text))


@pytest.mark.smoke
def test_folder_without_a_list(tmp_path: Path) -> None:
    (folder(tmp_path) / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt: no list .*give it as data\.classes=FILE"):
        Folder(tmp_path)
    with pytest.raises(UserError, match="camvid has its own classes; a list goes with"):
        load_dataset(DataConfig(name="camvid", root=str(tmp_path), classes="a.txt"), "train")


@pytest.mark.parametrize("kind", [Cityscapes, ADE20K, PascalContext])
def test_a_town_is_read_back_exactly(tmp_path: Path, kind: type) -> None:
    size = (48, 64)
    toytown.write_toytown(
        tmp_path, train=2, val=1, size=size, seed=5, layout=kind.name, progress=False
    )
    for split, count in (("train", 2), ("val", 1)):
        data = kind(tmp_path, split)
        assert len(data) == count
        for index, sample in enumerate(data):
            image, label = toytown.render_scene(toytown.scene_seed(5, split, index), size)
            for toy_id in np.unique(label):
                word = toytown.CLASSES[toy_id].name
                read = sample.label[torch.from_numpy(label == toy_id)].unique().tolist()
                assert [kind.classes[k] for k in read] == [NAMES[kind.name].get(word, word)]
            difference = sample.image.permute(1, 2, 0).int() - torch.from_numpy(image).int()
            assert difference.abs().float().mean() < (1 if kind is Cityscapes else 6)  # JPEG


NAMES = {
    "cityscapes": {},
    "ade20k": {
        "terrain": "grass", "vegetation": "tree", "traffic sign": "signboard",
    },
    "pascal_context": {
        "terrain": "grass", "vegetation": "tree", "traffic sign": "sign", "pole": "background",
    },
}  # fmt: skip


@pytest.mark.smoke
def test_image_is_a_view_of_an_array_of_pixels(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", gradient()))
    assert image.permute(1, 2, 0).is_contiguous()


@pytest.mark.smoke
def test_any_mode_becomes_rgb(tmp_path: Path) -> None:
    grey = gradient()[:, :, 0]
    wide = grey.astype(np.uint16) * 256 + 77
    with_alpha = np.dstack([gradient(), grey])
    three = np.repeat(grey[None], 3, axis=0)
    assert np.array_equal(read_image(save(tmp_path / "grey.png", grey)), three)
    assert np.array_equal(read_image(save(tmp_path / "wide.png", wide)), three)
    assert np.array_equal(
        read_image(save(tmp_path / "alpha.png", with_alpha)), gradient().transpose(2, 0, 1)
    )
    palette = Image.fromarray(ROWS)
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    image = read_image(tmp_path / "palette.png")
    assert image[:, :, 0].T.tolist() == [[0, 0, 0], [10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert torch.equal(read_label(tmp_path / "palette.png"), torch.from_numpy(ROWS))


@pytest.mark.smoke
def test_numbers_that_16_bits_do_not_hold_become_black_and_white(tmp_path: Path) -> None:
    values = np.array([[-70_000, -1, 0, 255, 256, 65_535, 65_536, 70_000]], dtype=np.int32)
    image = read_image(save(tmp_path / "a.tif", values))
    assert image[:, 0].tolist() == [[0, 0, 0, 0, 1, 255, 255, 255]] * 3


@pytest.mark.smoke
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, value: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / f"turned{ending}"
    Image.fromarray(gradient()).save(path, exif=exif)
    with Image.open(path) as file:
        shown = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    image = read_image(path)
    assert np.array_equal(image.permute(1, 2, 0), shown)
    assert image_size(path) == tuple(image.shape[1:])
    assert (image.shape[1:] == SIZE) == (value < 5)
    Image.fromarray(gradient()[:, :, 0]).save(path, exif=exif)
    if ending in (".png", ".tif"):
        assert read_label(path).shape == image.shape[1:]


@pytest.mark.smoke
def test_a_damaged_exif_tag_turns_nothing(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.png", torch.from_numpy(gradient()).permute(2, 0, 1)
    for value in (None, 0, 9, 77, b"Exif\0\0of no format"):
        exif: Image.Exif | bytes = value if isinstance(value, bytes) else Image.Exif()
        if isinstance(value, int):
            exif[0x0112] = value
        Image.fromarray(gradient()).save(path, exif=exif)
        assert torch.equal(read_image(path), plain)
        with Image.open(path) as file:
            assert orientation(file) == 1
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"Exif") + 6
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\xff" * 12 + data[at + 12 :])
    assert read_image(tmp_path / "a.jpg").shape == (3, *SIZE)


@pytest.mark.smoke
@pytest.mark.parametrize("settings", [
    {"quality": 95, "subsampling": 0}, {"quality": 60, "subsampling": 1},
    {"quality": 20, "subsampling": 2}, {"quality": 80, "progressive": True},
])  # fmt: skip
def test_jpeg_gives_the_bytes_of_pillow(tmp_path: Path, settings: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (67, 45, 3))
    picture = (np.arange(67 * 45 * 3).reshape(67, 45, 3) % 190 + noise).astype(np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture).save(path, **settings)
    expected = np.asarray(Image.open(path))
    assert np.array_equal(read_image(path).permute(1, 2, 0), expected)
    path.write_bytes(path.read_bytes() + b"0" * 40)  # what some programs leave behind
    assert np.array_equal(read_image(path).permute(1, 2, 0), expected)


@pytest.mark.smoke
def test_a_whole_jpeg_is_decoded_without_pillow(tmp_path: Path, monkeypatch) -> None:
    """In half the time; some programs add a few bytes behind its end."""
    path = save(tmp_path / "a.jpg", gradient())
    pixels = read_image(path)
    path.write_bytes(path.read_bytes() + b"0" * 8)

    def load(file: ImageFile.ImageFile) -> None:
        raise AssertionError("Pillow decodes it")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert torch.equal(read_image(path), pixels)


@pytest.mark.smoke
def test_a_jpeg_that_opencv_does_not_take_as_it_is_is_pillows(tmp_path: Path, monkeypatch) -> None:
    """CMYK, which OpenCV turns into other colours; what it refuses; what it gives another size."""
    ink = np.dstack([gradient(), gradient(1)[:, :, 0]]).tobytes()
    Image.frombytes("CMYK", SIZE[::-1], ink).save(tmp_path / "c.jpg")
    expected = Image.open(tmp_path / "c.jpg").convert("RGB")
    assert np.array_equal(read_image(tmp_path / "c.jpg").permute(1, 2, 0), expected)
    path = save(tmp_path / "a.jpg", gradient())
    pixels = read_image(path)
    for answer in (None, np.zeros((*SIZE[::-1], 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)):
        monkeypatch.setattr(reading.cv2, "imdecode", lambda data, flags, answer=answer: answer)
        taken = answer is not None and answer.shape[:2] == SIZE
        assert torch.equal(read_image(path), torch.zeros_like(pixels) if taken else pixels)


@pytest.mark.smoke
def test_half_a_jpeg_with_an_end_inside_is_refused(tmp_path: Path, monkeypatch) -> None:
    """As one with a thumbnail has it; OpenCV 4 gives grey for the half that is missing."""
    big = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.jpg"
    Image.fromarray(big).save(path, comment=b"\xff\xd9")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(reading.cv2, "imdecode", lambda data, flags: np.full_like(big, 128))
    with pytest.raises(UserError, match=r"half\.jpg: cannot be read as an image"):
        read_image(path)


# Mistakes


@pytest.mark.smoke
def test_unknown_name_and_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.name='camvit'; did you mean 'camvid'"):
        load_dataset(DataConfig(name="camvit"), "train")
    with pytest.raises(UserError, match=r"no split 'holdout'; choose from train, val, test"):
        ADE20K(tmp_path, "holdout")


@pytest.mark.smoke
@pytest.mark.parametrize("kind", DATASETS.values())
def test_wrong_folder(tmp_path: Path, kind: type) -> None:
    with pytest.raises(UserError, match=f"holds no {kind.__name__} val split: looked for .*data/"):
        kind(tmp_path, "val")
    with pytest.raises(UserError, match=r"nowhere' is no folder.*set data\.root"):
        kind(tmp_path / "nowhere", "val")
    with pytest.raises(UserError) as caught:
        kind(tmp_path, "val")
    assert (f"--layout {kind.name}`" in str(caught.value)) == (kind.name in toytown.LAYOUTS)


@pytest.mark.smoke
def test_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SETR_DATA", raising=False)
    camvid(tmp_path / "data/camvid", count=2)
    camvid(tmp_path / "elsewhere/camvid", count=3)
    assert len(load_dataset(DataConfig(name="camvid"), "train")) == 2
    monkeypatch.setenv("SETR_DATA", str(tmp_path / "elsewhere"))
    assert len(load_dataset(DataConfig(name="camvid"), "train")) == 3
    assert len(load_dataset(DataConfig(name="camvid", root="data/camvid"), "train")) == 2
    for name in ("pascal_context", "pascal_context_59"):
        with pytest.raises(UserError, match=r"elsewhere.pascal_context' is no folder"):
            load_dataset(DataConfig(name=name), "train")


@pytest.mark.smoke
def test_empty_split(tmp_path: Path) -> None:
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=r"train: empty split, expected images \(\.png \.jpg "):
        CamVid(tmp_path, "train")


@pytest.mark.smoke
def test_image_without_label(tmp_path: Path) -> None:
    camvid(tmp_path, count=5)
    for i in (1, 3):
        (tmp_path / f"trainannot/0{i}.png").unlink()
    with pytest.raises(UserError, match=r"train.01\.png: image without label, .*\(2 of 5 images"):
        CamVid(tmp_path)


@pytest.mark.smoke
def test_a_mask_is_a_png(tmp_path: Path) -> None:
    """Of a JPEG the ids would be blurred."""
    camvid(tmp_path, count=1)
    (tmp_path / "trainannot/00.png").rename(tmp_path / "trainannot/00.jpg")
    with pytest.raises(UserError, match=r"image without label, .*00\.png is missing"):
        CamVid(tmp_path)


@pytest.mark.smoke
def test_a_split_that_a_server_scores(tmp_path: Path) -> None:
    """It has no label at all; one that has some is incomplete."""
    camvid(tmp_path, count=2, split="test")
    assert not CamVid(tmp_path, "test", unlabelled=True).unlabelled
    (tmp_path / "testannot/00.png").unlink()
    for unlabelled in (False, True):
        with pytest.raises(UserError, match=r"00\.png: image without label, .*\(1 of 2 images"):
            CamVid(tmp_path, "test", unlabelled=unlabelled)
    some = CamVid(tmp_path, "test", strict=False, unlabelled=True)
    assert [sample.name for sample in some] == ["01"]
    (tmp_path / "testannot/01.png").unlink()
    with pytest.raises(UserError, match=r"\(2 of 2 images have none\)"):
        CamVid(tmp_path, "test")
    assert len(CamVid(tmp_path, "test", strict=False)) == 0
    data = CamVid(tmp_path, "test", unlabelled=True)
    assert data.unlabelled
    assert len(data) == 2
    image, label, name = data[1]
    assert name == "01"
    assert torch.equal(image, torch.from_numpy(gradient(1)).permute(2, 0, 1))
    assert label.dtype == torch.uint8
    assert label.tolist() == [[255] * 6] * 4
    shutil.rmtree(tmp_path / "test")
    assert not CamVid(tmp_path, "test", strict=False).listing.unlabelled  # no image either


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_image_without_label(tmp_path: Path, kind: str) -> None:
    root = cityscapes(tmp_path, ROWS, kind)
    for i in range(2):
        save(root / f"leftImg8bit/train/aachen/aachen_00000{i}_000019_leftImg8bit.png", gradient())
    with pytest.raises(UserError, match=rf"aachen_000000_000019_gtFine_{kind}.*\(2 of 3 images"):
        Cityscapes(root, "train")


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("make", "read", "message"),
    [
        (lambda r, m: cityscapes(r, m), Cityscapes, "labelIds hold 0..33"),
        (lambda r, m: cityscapes(r, m, "labelTrainIds"), Cityscapes, "if these are labelIds"),
        (lambda r, m: ade20k(r, m), ADE20K, "ADE20K masks hold 0..150, and 255 to ignore"),
        (lambda r, m: camvid(r) and save(r / "trainannot/00.png", m), CamVid, "hold 0..11"),
    ],
)
def test_label_id_out_of_range(tmp_path: Path, make, read: type, message: str) -> None:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[0, :2] = 201, 200
    make(tmp_path, mask)
    data = read(tmp_path, "val" if read is ADE20K else "train")
    where = r"\.png: label id 200 \(2 pixels out of range\); "
    with pytest.raises(UserError, match=f"{where}.*{message}"):
        data[0]


@pytest.mark.smoke
def test_label_ids_under_the_name_of_train_ids(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, np.full(SIZE, 26, np.uint8), "labelTrainIds")
    with pytest.raises(UserError, match=r"label id 26 .*if these are labelIds, name them so"):
        Cityscapes(root, "train")[0]


@pytest.mark.smoke
def test_label_of_another_size(tmp_path: Path) -> None:
    camvid(tmp_path)
    for label, size in ((ROWS[:, :5], "4x5"), (ROWS.T.copy(), "6x4")):
        save(tmp_path / "trainannot/01.png", label)
        with pytest.raises(UserError, match=(
            rf"trainannot.01\.png: label of {size} for an image of 4x6 "
            r"\(.*train.01\.png\); a label needs the size of its image")):  # fmt: skip
            CamVid(tmp_path)[1]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("mask", "mode", "remedy"),
    [
        (gradient(), "RGB", r"colour-coded \(24 colours\): `setr-lite make-masks"),
        (np.repeat(ROWS[:, :, None], 3, 2), "RGB", "three channels are equal: save one of them"),
        (np.repeat(ROWS[:, :, None], 4, 2), "RGBA", "three channels are equal"),
        (np.repeat(ROWS[:, :, None], 2, 2), "LA", "colour-coded"),
        (np.dstack([ROWS] * 3 + [ROWS * 0 + 255]), "RGBA", "three channels are equal"),
        (np.dstack([ROWS, ROWS, ROWS + 9]), "RGB", r"colour-coded \(4 colours\)"),
        (np.dstack([ROWS // 3 * 255] * 3), "RGB", r"colour-coded \(2 colours\)"),
        (np.dstack([np.array([0, 1, 255, 1], np.uint8)[ROWS]] * 3), "RGB", "channels are equal"),
        (ROWS.astype(np.uint16) + 252, "I;16", "its values fit in 8 bits"),
        (ROWS.astype(np.uint16) + 253, "I;16", "its values reach 256, as instance ids do"),
        (ROWS.astype(np.uint16), "I;16", "its values fit in 8 bits: save them as uint8"),
        (ROWS.astype(np.uint16) * 1000, "I;16", "its values reach 3000, as instance ids do"),
        (ROWS > 1, "1", "save it as 8-bit grey with 0 and 1"),
    ],
)
def test_mask_of_colours_or_16_bits(
    tmp_path: Path, mask: np.ndarray, mode: str, remedy: str
) -> None:
    camvid(tmp_path)
    save(tmp_path / "trainannot/02.png", mask)
    with pytest.raises(UserError, match=rf"02\.png: mask of mode {mode}, expected 8-bit.*{remedy}"):
        CamVid(tmp_path)[2]


@pytest.mark.smoke
@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0, 60, 0.7])
def test_damaged_files(tmp_path: Path, ending: str, keep: float) -> None:
    big = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"half{ending}", big)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(UserError, match=rf"half\{ending}: cannot be read as an image") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.smoke
def test_missing_and_damaged_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: no such file"):
        read_label(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png: cannot be read as an image"):
        read_label(tmp_path / "text.png")


# The stream of training crops


def stream(root: Path, seed: int = 0, count: int = 5) -> TrainStream:
    config = DataConfig(name="camvid", base_size=SIZE, crop_size=(4, 4))
    return TrainStream(CamVid(camvid(root, count)), TrainTransform(config, seed), seed)


@pytest.mark.smoke
def test_each_epoch_is_another_permutation(tmp_path: Path) -> None:
    crops = stream(tmp_path)

    def order(crops: TrainStream) -> list[tuple[int, ...]]:
        return [tuple(crops.index(5 * epoch + i) for i in range(5)) for epoch in range(6)]

    epochs = order(crops)
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 1
    assert epochs == order(stream(tmp_path))
    assert epochs != order(stream(tmp_path, seed=1))


@pytest.mark.smoke
def test_crops_do_not_depend_on_what_came_before(tmp_path: Path) -> None:
    forward = [stream(tmp_path)[c] for c in range(12)]
    crops = stream(tmp_path)
    for c in reversed(range(12)):
        assert all(torch.equal(a, b) for a, b in zip(crops[c], forward[c], strict=True))


def test_loader_gives_the_same_for_any_number_of_workers_and_ranks(tmp_path: Path) -> None:
    crops = stream(tmp_path)

    def images(workers: int, rank: int = 0, world: int = 1, start: int = 0) -> torch.Tensor:
        counters = rank_counters(start, 3, 4, rank, world)
        loader = DataLoader(crops, 4 // world, sampler=counters, num_workers=workers)
        return torch.stack([image for image, _ in loader])  # (steps, B / world, 3, 4, 4)

    whole = images(0)
    assert whole.shape == (3, 4, 3, 4, 4)
    assert torch.equal(images(2), whole)
    assert torch.equal(images(0, start=1), whole[1:])
    assert torch.equal(torch.cat([images(0, rank, 2) for rank in (0, 1)], dim=1), whole)


@pytest.mark.smoke
def test_counters_of_ranks() -> None:
    assert list(rank_counters(0, 2, 3)) == [0, 1, 2, 3, 4, 5]
    assert list(rank_counters(5, 7, 4, rank=1, world=2)) == [22, 23, 26, 27]
    with pytest.raises(UserError, match=r"train\.batch_size=6: not a multiple of 4 processes"):
        rank_counters(0, 1, 6, world=4)


@pytest.mark.smoke
def test_one_image_in_whatever_form(tmp_path: Path) -> None:
    array = gradient()
    path = save(tmp_path / "a.png", array)
    wanted = read_image(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for one in (str(path), path, Image.fromarray(array), array, tensor):
        assert torch.equal(as_image(one), wanted)
    assert torch.equal(as_image(array[:, ::-1]), wanted.flip(2))
    assert torch.equal(image_of_bytes(path.read_bytes(), "inside"), wanted)
    with pytest.raises(UserError, match="inside: cannot be read as an image"):
        image_of_bytes(b"x", "inside")
    grey = array[:, :, 0]
    three = torch.from_numpy(grey).expand(3, -1, -1)
    for one in (grey, grey[:, :, None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert torch.equal(as_image(one), three)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert torch.equal(as_image(picture), read_image(tmp_path / "a.jpg"))
    for bad, said in (
        (array.astype(np.float32), "type float32 is no image: values are bytes"),
        (array.astype(np.int8), "type int8 is no image"),
        (torch.from_numpy(array), r"a tensor of shape \(4, 6, 3\) and type uint8 is no single"),
        (torch.zeros(2, 3, 4, 6, dtype=torch.uint8), "is no single image; give a path, a PIL"),
        (array[None], "is no single image"), (array[:0], "is no single image"),
        (torch.zeros(4, 6, dtype=torch.uint8), "is no single image"),
        (None, "an image of type NoneType: give a path"), (7, "of type int"),
        ([[1]], "of type list"), (tmp_path / "none.png", "no such file"),
        ("", "cannot be read|no such file"),
        (array.transpose(2, 0, 1), r"shape \(3, 4, 6\) and type uint8 is no single image"),
    ):
        with pytest.raises(UserError, match=said):
            as_image(bad)


@pytest.mark.smoke
def test_lists_with_ids(tmp_path: Path) -> None:
    """LoveDA's: 0 is no data, classes count from 1."""
    root = tmp_path / "data"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    save(root / "images/train/a.png", gradient())
    ids = np.array([[0, 1, 2, 3, 7, 255]] * 4, dtype=np.uint8)
    save(root / "labels/train/a.png", ids)
    listing = root / "classes.txt"
    listing.write_text("0 ignore\n1 background\n2 building\n3 road #804080\n\n7 farm land\n")
    data = Folder(root, "train")
    assert data.classes == ("background", "building", "road", "farm land")
    assert data.palette[2].tolist() == [0x80, 0x40, 0x80]
    assert data[0].label[0].tolist() == [255, 0, 1, 2, 3, 255]
    assert file_ids(data).tolist() == [1, 2, 3, 7]
    listing.write_text("2 building\n1 background\n3 road\n0 IGNORE")
    with pytest.raises(UserError, match=r"label id 7 .*correct the masks, or add the id to the li"):
        Folder(root, "train")[0]
    listing.write_text("background\nbuilding\nroad\nfarm\n")
    with pytest.raises(UserError, match=r"label id 7 .* `0 ignore`, `1 road`, else correct the"):
        Folder(root, "train")[0]


@pytest.mark.smoke
@pytest.mark.parametrize(("text", "message"), [
    ("0: unlabeled\n1: person", r"line 1: '0: unlabeled' is of another program's list"),
    ("__ignore__\n_background_", r"line 1: '__ignore__' is labelme's mark for 255, and no class"),
    ("1 road\nsky", r"line 2: 'sky' has no id, and other lines have"),
    ("1 road\n1 sky", r"line 1: the id 1 is listed twice"),
    ("1 road\n2 road", r"'road' is listed twice"), ("255 road", "masks of 8 bits hold ids 0..254"),
    ("999999999999999 road", "masks of 8 bits hold ids 0..254"), ("0 ignore", "lists 0 classes"),
    ("road\x1b[31m", r"line 1: 'road\\x1b\[31m' holds control characters"),
])  # fmt: skip
def test_lists_of_other_programs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.smoke
def test_names_and_folders_as_people_have_them(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        save(tmp_path / kind / "a.png", gradient() if kind == "images" else gradient()[:, :, 0])
    (tmp_path / "classes.txt").write_text("x")
    with pytest.raises(UserError, match=r"images: holds the images themselves; `setr-lite split"):
        Folder(tmp_path, "train")
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir()
        (tmp_path / kind / "a.png").rename(tmp_path / kind / "train" / "a.PNG")
    save(tmp_path / "images" / "train" / "b.webp", gradient())
    save(tmp_path / "labels" / "train" / "b.png", gradient()[:, :, 0])
    data = Folder(tmp_path, "train")
    assert [(image.name, label.name) for image, label in data.files] == [
        ("a.PNG", "a.PNG"), ("b.webp", "b.png")]
    save(tmp_path / "labels" / "train" / "a.png", gradient()[:, :, 0])
    assert Folder(tmp_path, "train").files[0][1].name == "a.png"  # of two the usual one
    save(tmp_path / "images" / "train" / "b.jpg", gradient())
    with pytest.raises(UserError, match=r"b.webp: has the name of .*b.jpg, and both would have th"):
        Folder(tmp_path, "train")
    with pytest.raises(UserError, match=r"data.classes=FILE, to check-data as --classes FILE"):
        read_classes(tmp_path / "none.txt")


def test_pictures_of_others_are_opened_as_before(tmp_path: Path) -> None:
    """Importing the library leaves Python's warnings alone: only our own reader is strict."""
    path = tmp_path / "large.png"
    Image.new("L", (10_000, 9_500)).save(path)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path) as file:
        assert file.size == (10_000, 9_500)
    with pytest.raises(UserError, match=r"claims more than \d+ pixels"):
        read_image(path)


def test_threads_that_open_images_leave_the_filters_of_warnings_alone(tmp_path, monkeypatch):
    """Each exchanges them for a moment; the last one to go put back what another had put in."""
    path, gate, opened = tmp_path / "a.png", threading.Barrier(2), Image.open
    Image.new("RGB", (4, 3)).save(path)

    def meet(stream):
        with contextlib.suppress(threading.BrokenBarrierError):  # where one waits for the other
            gate.wait(0.1)
        assert ("error", None, Image.DecompressionBombWarning, None, 0) in warnings.filters
        return opened(stream)

    monkeypatch.setattr(reading.Image, "open", meet)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            assert [image.shape for image in pool.map(read_image, [path] * 2)] == [(3, 3, 4)] * 2
            gate.reset()
    assert warnings.filters == before


def test_colours_of_classes_that_name_none(tmp_path: Path) -> None:
    """A background does not tint the image, and no class is grey on grey."""
    names = ["sky", *(f"class {k}" for k in range(200)), "Background"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    _, palette = read_classes(tmp_path / "classes.txt")
    assert palette[-1].tolist() == [0, 0, 0]
    assert palette[0].tolist() == [128, 0, 0]
    assert len(np.unique(palette, axis=0)) == len(names)
    assert (palette[:-1].max(axis=1) > palette[:-1].min(axis=1)).all()
