"""The data-set doctor: every kind of fault is planted in a town, and a healthy town has none."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from setr_lite import toytown
from setr_lite.cli import main
from setr_lite.datasets import DATASETS, doctor, report
from setr_lite.datasets.doctor import check_data
from setr_lite.datasets.images import is_full_ade20k, not_all_read, read_image, read_label
from setr_lite.datasets.report import Health
from setr_lite.errors import UserError

SIZE = (48, 64)
LABELS = {
    "cityscapes": "gtFine/{}/toytown/toytown_{:06d}_000000_gtFine_labelIds.png",
    "ade20k": "annotations/{}/ADE_{}_{:08d}.png",
    "pascal_context": "VOCdevkit/VOC2010/SegmentationClassContext/{}_{:06d}.png",
}


@pytest.fixture(scope="module")
def towns(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("towns")
    for layout in toytown.LAYOUTS:
        toytown.write_toytown(
            root / layout, train=3, val=2, size=SIZE, seed=7, layout=layout, progress=False
        )
    return root


@pytest.fixture(params=toytown.LAYOUTS)
def town(towns: Path, tmp_path: Path, request) -> tuple[str, Path]:
    return request.param, Path(shutil.copytree(towns / request.param, tmp_path / "town"))


def check(name: str, root: Path, **options) -> Health:
    return check_data(name, root, progress=False, **options)


def second_pair(name: str, root: Path) -> tuple[Path, Path]:
    return DATASETS[name](root, "train").files[1]


def change_labels(root: Path, table: np.ndarray) -> list[Path]:
    files = sorted(p for p in root.rglob("*.png") if "leftImg8bit" not in p.name)
    for path in files:
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    return files


def run(capsys, *words: str | Path) -> tuple[int, str]:
    code = main(["check-data", *map(str, words)])
    return code, capsys.readouterr().out


def test_a_healthy_town(town, tmp_path: Path, capsys) -> None:
    name, root = town
    health = check(name, root)
    assert health.healthy
    assert health.splits == {"train": (3, 3, 3), "val": (2, 2, 2)}
    road = DATASETS[name].classes.index("road")
    labels = [DATASETS[name](root, split)[i].label for split, i in (("train", 0), ("val", 1))]
    assert health.pixels.sum() == 5 * SIZE[0] * SIZE[1]
    assert health.pixels[road] > sum(int((label == road).sum()) for label in labels) > 0
    assert health.images[road] == 5
    code, text = run(capsys, name, root, "--out", tmp_path / "out")
    assert code == 0
    assert "healthy" in text.splitlines()
    for file in ("histogram.png", "samples.png"):
        assert np.asarray(Image.open(tmp_path / "out" / file).convert("L")).std() > 10


@pytest.mark.smoke
def test_pixels_are_counted_by_label(towns: Path) -> None:
    """Against a count of the scenes themselves, which no mask file has gone through."""
    health = check("cityscapes", towns / "cityscapes")
    scenes = [("train", i) for i in range(3)] + [("val", i) for i in range(2)]
    seeds = [toytown.scene_seed(7, *scene) for scene in scenes]
    drawn = np.stack([toytown.render_scene(seed, SIZE)[1] for seed in seeds])
    for k, toy in enumerate(toytown.CLASSES):
        label = DATASETS["cityscapes"].classes.index(toy.name)
        assert health.pixels[label] == (drawn == k).sum()
        assert health.images[label] == (drawn == k).any(axis=(1, 2)).sum()


def remove_label(image: Path, label: Path) -> Path:
    label.unlink()
    return image


def add_label(image: Path, label: Path) -> Path:
    extra = label.with_name(label.name.replace("0000", "0009"))
    shutil.copy(label, extra)
    return extra


def cut_image(image: Path, label: Path) -> Path:
    image.write_bytes(image.read_bytes()[:300])
    return image


def cut_label(image: Path, label: Path) -> Path:
    label.write_bytes(label.read_bytes()[:60])
    return label


def shrink_label(image: Path, label: Path) -> Path:
    Image.open(label).crop((0, 0, 60, 48)).save(label)
    return label


def colour_label(image: Path, label: Path) -> Path:
    shutil.copy(image, label) if image.suffix == ".png" else Image.open(image).save(label)
    return label


def deepen_label(image: Path, label: Path) -> Path:
    Image.fromarray(np.asarray(Image.open(label)).astype(np.uint16) * 1000).save(label)
    return label


def spoil_label(image: Path, label: Path) -> Path:
    ids = np.array(Image.open(label))
    ids[0, :3] = 200
    Image.fromarray(ids).save(label)
    return label


@pytest.mark.parametrize(
    ("plant", "kind", "words"),
    [
        (remove_label, "image without label", "is missing"),
        (add_label, "label without image", "no image has this name"),
        (cut_image, "unreadable image", "cannot be read as an image"),
        (cut_label, "unusable label", "cannot be read as an image"),
        (shrink_label, "size mismatch", "label of 48x60 for an image of 48x64"),
        (colour_label, "unusable label", "colour-coded"),
        (deepen_label, "unusable label", "as instance ids do"),
        (spoil_label, "id out of range", "label id 200 (3 pixels out of range)"),
    ],
)
def test_a_planted_fault_is_found_and_named(town, plant, kind: str, words: str) -> None:
    name, root = town
    path = plant(*second_pair(name, root))
    health = check(name, root)
    assert [(fault.kind, fault.path) for fault in health.faults] == [(kind, path)]
    assert words in health.faults[0].text
    assert f"{kind} (1):\n  {health.faults[0].text}" in health.text()
    assert health.text().endswith("NOT healthy: 1 fault")
    assert len(health.samples) == (5 if kind == "label without image" else 4)


@pytest.mark.smoke
def test_pascal_image_that_only_the_list_knows(towns: Path, tmp_path: Path) -> None:
    root = shutil.copytree(towns / "pascal_context", tmp_path / "town")
    image, _ = second_pair("pascal_context", root)
    image.unlink()
    faults = check("pascal_context", root).faults
    assert [(fault.kind, fault.path) for fault in faults] == [("label without image", image)]


@pytest.mark.smoke
def test_label_ids_under_the_name_of_train_ids(towns: Path, tmp_path: Path) -> None:
    root = shutil.copytree(towns / "cityscapes", tmp_path / "town")
    for path in list(root.rglob("*_labelIds.png")):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    faults = check("cityscapes", root).faults
    assert {fault.kind for fault in faults} == {"labelIds taken for trainIds"}
    assert len(faults) == 5
    assert "if these are labelIds, name them so" in faults[0].text


@pytest.mark.smoke
def test_train_ids_under_the_name_of_label_ids(towns: Path, tmp_path: Path) -> None:
    root = shutil.copytree(towns / "cityscapes", tmp_path / "town")
    first = change_labels(root, DATASETS["cityscapes"].table)[0]
    health = check("cityscapes", root)
    assert [(f.kind, f.path) for f in health.faults] == [("trainIds taken for labelIds", first)]


@pytest.mark.parametrize("name", ["ade20k", "pascal_context", "pascal_context_59"])
def test_labels_reduced_before(towns: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(towns / name.removesuffix("_59"), tmp_path / "town")
    reduced = np.arange(256, dtype=np.int64) - 1
    reduced[0] = 255
    files = change_labels(root, reduced.astype(np.uint8))
    touched = sum((np.asarray(Image.open(path)) == 255).any() for path in files)
    if name == "ade20k":  # every pixel of a town has a class there: leave some out
        assert touched == 0
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(files[0])
        touched = 1
    faults = check(name, root).faults
    assert [fault.kind for fault in faults] == ["zero label reduced twice"]
    assert f"255 occurs in {touched} masks" in faults[0].text


@pytest.mark.smoke
def test_classes_that_do_not_occur_are_noted(towns: Path) -> None:
    health = check("cityscapes", towns / "cityscapes")
    note = next(note for note in health.notes if "do not occur" in note)
    assert note.startswith("8 classes do not occur in any image: wall, traffic light, rider")
    assert "wall" not in health.text(most=3).split("note:")[0]
    assert "wall" in health.text().split("note:")[0]


@pytest.mark.smoke
def test_fast_reads_some_and_lists_all(towns: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "FAST", 2)
    root = shutil.copytree(towns / "ade20k", tmp_path / "town")
    image, label = second_pair("ade20k", root)
    label.unlink()
    health = check("ade20k", root, fast=True)
    assert health.splits == {"train": (3, 2, 1), "val": (2, 2, 1)}
    assert [fault.path for fault in health.faults] == [image]
    assert health.notes[0] == "2 of 4 pairs were read; all were listed"
    assert "in the images read" in health.notes[2]  # behind that of a test split


@pytest.mark.smoke
def test_missing_and_empty_splits(towns: Path, tmp_path: Path) -> None:
    root = shutil.copytree(towns / "ade20k", tmp_path / "town")
    shutil.rmtree(root / "images/training")
    shutil.rmtree(root / "annotations/training")
    health = check("ade20k", root)
    assert health.healthy
    assert health.notes[0].startswith("split 'train' is not there: looked for ")
    (root / "images/training").mkdir()
    assert [fault.kind for fault in check("ade20k", root).faults] == ["empty split"]


@pytest.mark.smoke
def test_mistakes(tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match=r"no data set .*'camvit'; did you mean 'camvid'"):
        check("camvit", tmp_path)
    with pytest.raises(UserError, match="holds no CamVid train split"):
        check("camvid", tmp_path)
    assert main(["check-data", "camvid", str(tmp_path)]) == 2
    assert "holds no CamVid train split" in capsys.readouterr().err


def test_own_folder_from_the_command_line(towns: Path, tmp_path: Path, capsys) -> None:
    """Ids of ADE20K with a list that is too short: every mask has ids out of range."""
    root = tmp_path / "mine"
    for split, part in (("train", "training"), ("val", "validation")):
        shutil.copytree(towns / f"ade20k/images/{part}", root / f"images/{split}")
        shutil.copytree(towns / f"ade20k/annotations/{part}", root / f"labels/{split}")
    (tmp_path / "names.txt").write_text("\n".join(f"class {k}" for k in range(20)))
    words = ("folder", root, "--classes", tmp_path / "names.txt", "--out", tmp_path / "out")
    code, text = run(capsys, *words)
    assert code == 1
    assert "id out of range (5):" in text
    assert (tmp_path / "out/report.txt").read_text().endswith("NOT healthy: 5 faults\n")
    assert not (tmp_path / "out/samples.png").exists()  # no pair without fault
    (tmp_path / "names.txt").write_text("\n".join(f"class {k}" for k in range(100)))
    assert run(capsys, *words)[0] == 0


def folder_of(root: Path, ids: tuple[int, ...] = (0, 1, 2), classes: str = "a\nb\nc") -> Path:
    """Two images to learn from, one to score on; each its own."""
    dice = np.random.default_rng(0)
    for split, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name in names:
            pixels = dice.integers(0, 256, (4, 6, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{name}.png")
            labels = np.resize(np.array(ids, np.uint8), (4, 6))
            Image.fromarray(labels).save(root / "labels" / split / f"{name}.png")
    (root / "classes.txt").write_text(classes)
    return root


def test_an_image_in_two_splits(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    assert check("folder", root).healthy
    shutil.copy(root / "images/train/b.png", root / "images/train/a.png")  # no fault in one split
    assert check("folder", root).healthy
    with Image.open(root / "images/train/a.png") as picture:  # the same pixels in other bytes
        picture.save(root / "images/val/c.png", compress_level=0)
    health = check("folder", root)
    assert [fault.kind for fault in health.faults] == ["image in two splits"]
    assert "val/c.png: has the pixels of" in health.text()
    assert "train/a.png, which is in train" in health.text()


def test_ids_that_begin_with_1(tmp_path: Path) -> None:
    """Completing the list, as for an id too many, would shift all classes by one."""
    root = folder_of(tmp_path / "one", ids=(1, 2, 3))
    text = check("folder", root).text()
    assert "0 never occurs and the largest id is 3, for 3 classes: are their ids 1..3?" in text
    assert "say so in the list: `0 ignore`, `1 road`" in text
    (root / "classes.txt").write_text("1 a\n2 b\n3 c")
    assert check("folder", root).healthy
    for ids in ((0, 1, 2, 3), (1, 2), (1, 2, 4)):
        root = folder_of(tmp_path / str(ids), ids=ids)
        assert "0 never occurs" not in check("folder", root).text()


def test_images_that_a_tag_turns(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    for name, value in (("a", 3), ("b", 6)):
        exif = Image.Exif()
        exif[0x0112] = value
        with Image.open(root / "images/train" / f"{name}.png") as picture:
            picture.save(root / "images/train" / f"{name}.png", exif=exif)
    health = check("folder", root)
    assert [fault.kind for fault in health.faults] == ["size mismatch"]
    assert "label of 4x6 for an image of 6x4" in health.faults[0].text
    assert "the image is turned by its EXIF tag and the label was drawn before" in (
        health.faults[0].text)
    note = next(note for note in health.notes if "EXIF" in note)
    assert note.startswith("1 images are turned or mirrored by their EXIF tag, such as ")
    assert "a.png; their masks do not tell whether" in note
    assert health.samples[0][0].files[health.samples[0][1]][0].name == "a.png"


def test_two_images_with_one_label_and_files_that_are_no_images(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    with Image.open(root / "images/train/a.png") as picture:
        picture.save(root / "images/train/a.jpg")
    (root / "images/train/photo.HEIC").write_bytes(b"x")
    (root / "images/train/.hidden").write_bytes(b"x")
    health = check("folder", root)
    assert [fault.kind for fault in health.faults] == ["two images with one label"]
    assert "a.png: has the name of" in health.text()
    assert "train: 1 of .HEIC left out, read are .png .jpg .jpeg" in health.text()


def test_no_name_can_fake_a_line(tmp_path: Path) -> None:
    """A report that ends in `healthy` is healthy."""
    root = folder_of(tmp_path, ids=(0, 1, 9))
    for kind in ("images", "labels"):
        (root / kind / "train" / "a.png").rename(
            root / kind / "train" / "x\x1b[2J\n\nhealthy\n\udcff.png")
    text = check("folder", root).text()
    assert "\x1b" not in text
    assert "healthy" not in text.splitlines()[:-1]
    assert text.splitlines()[-1].startswith("NOT healthy")
    assert r"x\x1b[2J\n\nhealthy\n\udcff.png" in text
    assert check("folder", root).write(tmp_path / "out")[0].read_text()


def test_a_split_by_drive_counts_its_own_images(tmp_path, capsys):
    for name in ("0001TP_1", "0016E5_2", "0006R0_3"):
        for folder in ("train", "trainannot"):
            (tmp_path / folder).mkdir(exist_ok=True)
            grey = np.full((8, 8), len(list((tmp_path / folder).iterdir())), np.uint8)
            Image.fromarray(grey).save(tmp_path / folder / f"{name}.png")
    assert main(["check-data", "camvid_unseen", str(tmp_path), "--out", str(tmp_path / "r")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "2", "2", "2"] in rows
    assert ["val", "1", "1", "1"] in rows


def own(root: Path, images: list[Image.Image], labels: list[np.ndarray], names=None) -> Path:
    """A folder of one's own, the same images in train and val but for a pixel."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            name = (names or {}).get(i, f"{i}.png")
            image.putpixel((0, 0), 0)
            if split == "val":
                image.putpixel((0, 0), image.getpixel((1, 1)))
            image.save(root / "images" / split / name)
            Image.fromarray(label).save(root / "labels" / split / name)
    (root / "classes.txt").write_text("road\ncar\n")
    return root


RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8)
LABEL = (RAMP % 2).astype(np.uint8)


@pytest.mark.parametrize(("pixels", "said"), [
    (np.repeat(RAMP[..., None] * 5, 4, 2).astype(np.uint8), "have a fourth channel, such as tr"),
    (RAMP * 80, "have 16 bits, cut to the upper 8, which leaves them nearly black"),
    (RAMP * 1300, r"have 16 bits, cut to the upper 8; the first is"),
])  # fmt: skip
def test_images_that_are_not_read_as_they_are(tmp_path: Path, pixels, said: str) -> None:
    plain = Image.fromarray((RAMP * 5).astype(np.uint8))
    root = own(tmp_path, [plain, Image.fromarray(pixels)], [LABEL, LABEL])
    health = check("folder", root)
    assert health.healthy, health.text()
    (note,) = [n for n in health.notes if "fourth" in n or "16 bits" in n]
    assert note.startswith("2 images ")
    assert note.endswith("images/train/1.png")
    assert said in note


@pytest.mark.parametrize(("ending", "times", "dark"), [
    (".png", 80, True), (".png", 1300, False), (".tif", 80, True),
    (".png", 348, True), (".png", 349, False)])  # 47 x 349 is 64 of 255 and a bit # fmt: skip
def test_colours_of_16_bits_are_told(tmp_path: Path, ending: str, times: int, dark: bool) -> None:
    path = tmp_path / f"a{ending}"
    cv2.imwrite(str(path), np.repeat(RAMP[..., None] * times, 3, 2).astype(np.uint16))
    said = not_all_read(path)
    assert said.startswith("have 16 bits")
    assert ("nearly black" in said) == dark
    cv2.imwrite(str(path), np.repeat(RAMP[..., None], 3, 2).astype(np.uint8))
    assert not_all_read(path) == ""
    for opacity, news in ((255, False), (254, True)):
        Image.new("RGBA", (4, 4), (0, 0, 0, opacity)).save(tmp_path / "alpha.png")
        assert ("fourth channel" in not_all_read(tmp_path / "alpha.png")) == news
    Image.fromarray(RAMP.astype(np.float32) / 50).save(tmp_path / "f.tif")
    assert not_all_read(tmp_path / "f.tif").startswith("have fractions for values")


def test_an_opaque_fourth_channel_is_no_news(tmp_path: Path) -> None:
    pixels = np.dstack([np.repeat(RAMP[..., None], 3, 2), np.full_like(RAMP, 255)])
    image = Image.fromarray(pixels.astype(np.uint8))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        image.save(tmp_path / "images" / split / "a.png")
        Image.fromarray(LABEL).save(tmp_path / "labels" / split / "a.png")
        image.putpixel((3, 3), (9, 9, 9, 255))
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    assert not any("not read" in note for note in check("folder", tmp_path).notes)


def test_a_tiff_that_pillow_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), np.zeros((6, 8, 3), np.float32))
    with pytest.raises(UserError, match=r"a.tif: cannot be read .* save it as RGB of 8 bits"):
        read_image(path)


def test_full_ade20k_is_told_from_the_challenge_edition(tmp_path: Path) -> None:
    (tmp_path / "images" / "ADE" / "training").mkdir(parents=True)
    with pytest.raises(UserError, match=r"full form; .*challenge edition.*Data2016.zip"):
        check("ade20k", tmp_path)
    mask = tmp_path / "ADE_train_00000001_seg.png"
    Image.fromarray(np.dstack([LABEL * 70, LABEL * 5, LABEL])).save(mask)
    with pytest.raises(UserError, match=r"_seg.png: mask of mode RGB.*ADE20K's full form"):
        read_label(mask)
    assert is_full_ade20k("ADE_val_00000001_parts_2.png")
    assert not is_full_ade20k("ADE_val_00000001.png")


def test_black_and_white_masks_and_masks_in_colours_are_mended_as_the_doctor_says(
    tmp_path: Path, capsys
) -> None:
    plain = Image.fromarray((RAMP * 5).astype(np.uint8))
    white = own(tmp_path / "white", [plain], [LABEL * 255])
    colour = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)[LABEL]
    rgb = own(tmp_path / "rgb", [plain], [colour])
    classes = tmp_path / "colours.txt"
    classes.write_text("road #000000\ncar #ffffff\n")
    for i, root in enumerate((white, rgb)):
        texts = [fault.text for fault in check("folder", root).faults]
        (said,) = {re.search("`setr-lite ([^`]+)`", text)[1] for text in texts}
        for split in ("train", "val"):
            words = {"LABELS": root / "labels" / split, "IMAGES": root / "images" / split,
                     "OUT": tmp_path / f"out{i}", "FILE": classes}  # fmt: skip
            command = [str(words.get(word, word)) for word in said.split()]
            assert main([*command, "--split", split]) == 0
        health = check("folder", tmp_path / f"out{i}")
        assert health.healthy, health.text()
        assert health.pixels[:2].tolist() == [48, 48]


def test_the_pictures_of_a_report_can_be_read(tmp_path: Path) -> None:
    """Names below the samples, no white rows beside upright ones, an axis of round numbers."""
    for i, size in enumerate([(30, 60), (60, 30)] * 4):
        for kind, grey in (("images", 40 * i % 256), ("labels", i % 2)):
            place = tmp_path / kind / "train" / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            ids = np.full(size, grey, np.uint8)
            ids[:3, :3] = 255 if kind == "labels" else 9
            Image.fromarray(ids).convert("L" if kind == "labels" else "RGB").save(place)
    (tmp_path / "classes.txt").write_text("background\nroad\ntree\n")
    health = check_data("folder", tmp_path, progress=False)
    sheet, histogram = report._sheet(health), report._histogram(health)
    (names,) = sheet.legends
    assert [text.get_text() for text in names.get_texts()] == ["background", "road"]
    faces = [patch.get_facecolor()[:3] for patch in names.get_patches()]
    assert faces == [(0, 0, 0), (128 / 255, 0, 0)]
    shapes = [axes.images[0].get_array().shape[:2] for axes in sheet.axes]
    assert shapes == [(30, 60)] * 8 + [(60, 30)] * 8
    width, height = sheet.get_size_inches()
    assert height < width / 4 * (2 * 0.5 + 2 * 2) + 2.5  # four rows as high as the upright: 28
    axes = histogram.axes[0]
    histogram.canvas.draw()
    low, high = axes.get_xlim()
    assert (low, high) == (0.001, 1)
    assert {text.get_text() for text in axes.get_xticklabels()} >= {"0.1 %", "1 %", "10 %", "100 %"}
    assert not any(text.get_text() for text in axes.get_xticklabels(minor=True))
