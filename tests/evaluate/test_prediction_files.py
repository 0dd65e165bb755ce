"""`setr-lite predict`: what is written, under which names, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from setr_lite.checkpoint import save_checkpoint
from setr_lite.cli import main
from setr_lite.config import ModelConfig, RunConfig
from setr_lite.datasets.images import read_label
from setr_lite.errors import UserError
from setr_lite.evaluate import find_images, predict_files
from setr_lite.evaluate.files import is_output
from setr_lite.model import SETR

NAMES, COLOURS = ("sky", "road"), [[0, 0, 255], [128, 64, 128]]


def folder_of(place: Path, classes: int, names=(), palette=()) -> Path:
    torch.manual_seed(0)
    config = RunConfig(model=ModelConfig(
        encoder="toy", head="naive", num_classes=classes, img_size=(16, 16), channels=4))
    config = config.override("data.base_size=16x64", "eval.window=16x16", "eval.stride=16x16")
    model = SETR.from_config(config.model)
    with torch.no_grad():  # so wide that labels vary
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return save_checkpoint(place / "model", model, config, classes=names, palette=palette)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("run"), 2, NAMES, COLOURS)


def photo(path: Path, height=20, width=30, seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def written(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def of(*names: str) -> list[str]:
    return sorted(f"{n}_{kind}.png" for n in names for kind in ("ids", "labels", "overlay"))


def test_ids_colours_and_an_overlay_with_a_legend(checkpoint, tmp_path):
    path = photo(tmp_path / "a.png")
    assert predict_files(checkpoint, path, tmp_path / "out", progress=False).images == 1
    assert written(tmp_path / "out") == of("a")
    wanted = SETR.from_pretrained(checkpoint).predict(path)
    assert len(wanted.unique()) == 2
    for kind, mode in (("ids", "L"), ("labels", "P")):  # both are masks to a data set of ours
        assert torch.equal(read_label(tmp_path / f"out/a_{kind}.png"), wanted)
        with Image.open(tmp_path / f"out/a_{kind}.png") as picture:
            assert picture.mode == mode
    with Image.open(tmp_path / "out/a_labels.png") as picture:
        colours = np.asarray(picture.convert("RGB"))
    assert (colours == np.array(COLOURS, np.uint8)[wanted]).all()
    with Image.open(tmp_path / "out/a_overlay.png") as picture, Image.open(path) as image:
        shown, pixels = np.asarray(picture), np.asarray(image)
    assert np.abs(shown[:20, :30] - (pixels / 2 + colours / 2)).max() <= 0.5
    for colour in COLOURS:
        assert (shown[20:] == colour).all(axis=2).sum() > 50  # a swatch of each
    assert (shown[20:] == 0).all(axis=2).any()  # and words


def test_names_are_kept_apart(checkpoint, tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.png", "a.jpg", "a.jpg.png", "b.png", "deep/a.png", "ünï cödé.png"):
        photo(photos / name)
    done = predict_files(checkpoint, photos, tmp_path / "out", progress=False)
    assert done.images == 6
    assert written(tmp_path / "out") == of(
        "a.png", "a.jpg", "a.jpg.png", "b", "deep/a", "ünï cödé")
    several = [photos / "a.png", photos / "deep" / "a.png", photos / "a.png"]
    assert predict_files(checkpoint, several, tmp_path / "two", progress=False).images == 2
    assert written(tmp_path / "two") == of("a", "deep/a")


def test_it_leaves_its_own_outputs_alone(checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    photo(photos / "a.png")
    photo(photos / "b_labels.png")  # an image that happens to be called so
    for out in (photos / "first", photos / "second", photos / "first"):
        predict_files(checkpoint, photos, out, progress=False)
        assert written(out) == of("a", "b_labels")
    assert main(["predict", str(checkpoint), *map(str, sorted((photos / "first").iterdir())),
                 "--out", str(tmp_path / "out")]) == 2  # fmt: skip
    assert "outputs of an earlier run only" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds the images to segment"):
        predict_files(checkpoint, photos, photos, progress=False)


def test_it_leaves_other_peoples_masks_alone(checkpoint, tmp_path):
    path, mask = photo(tmp_path / "a.png"), tmp_path / "a_labels.png"
    Image.new("L", (30, 20), 3).save(mask)
    before = mask.read_bytes()
    with pytest.raises(UserError, match=r"a_labels.png: is there already and comes from elsewhere"):
        predict_files(checkpoint, path, tmp_path, progress=False)
    assert mask.read_bytes() == before
    assert not (tmp_path / "a_ids.png").exists()
    mask.unlink()
    predict_files(checkpoint, path, tmp_path, progress=False)
    predict_files(checkpoint, path, tmp_path, progress=False)  # over its own
    assert all(map(is_output, tmp_path.glob("a_*.png")))
    assert not is_output(path)


def test_broken_files_do_not_stop_the_others(checkpoint, tmp_path):
    for i in range(12):
        photo(tmp_path / "photos" / f"{i:02}.png", seed=i)
    for i in (0, 7):
        (tmp_path / "photos" / f"{i:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"2 of 12 images cannot be read, the other 10 are in .*"
                                        r"the first is .*00.png: cannot be read"):
        predict_files(checkpoint, tmp_path / "photos", tmp_path / "out", progress=False)
    good = [f"{i:02}" for i in range(12) if i not in (0, 7)]
    assert written(tmp_path / "out") == of(*good)
    model = SETR.from_pretrained(checkpoint)
    for name in good:  # each image has its own labels, none those of a neighbour
        label = model.predict(tmp_path / "photos" / f"{name}.png")
        assert torch.equal(read_label(tmp_path / "out" / f"{name}_ids.png"), label)


def test_files_folders_and_settings_in_one_command(checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    first, second = photo(photos / "a.png"), photo(photos / "b=c.png", seed=1)
    (photos / "a.HEIC").touch()
    (photos / "notes.txt").touch()
    (photos / "._a.png").touch()
    out = tmp_path / "out"
    assert main(["predict", str(checkpoint), str(first), "eval.flip=true", str(second),
                 "--out", str(out), "eval.mode=whole"]) == 0  # fmt: skip
    assert capsys.readouterr().out == f"2 images in {out}\n"
    assert written(out) == of("a", "b=c")
    model = SETR.from_pretrained(checkpoint)
    config = model.config.override("eval.flip=true", "eval.mode=whole")
    assert torch.equal(
        read_label(out / "a_ids.png"), model.predict(first, config=config))
    assert main(["predict", str(checkpoint), str(photos), "--out", str(out)]) == 0
    assert "2 images in" in (said := capsys.readouterr().out)
    assert "left out, no images by their names: 1 .HEIC, 1 .txt" in said
    for words, message in (
        ([str(first), "eval.flop=true"], "no setting 'eval.flop'"),
        ([str(first), "nowhere.png"], "nowhere.png: no such file or folder"),
        (["eval.flip=true"], "give images"),
    ):
        assert main(["predict", str(checkpoint), *words, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


def test_many_classes_and_none_with_a_name(tmp_path):
    path = photo(tmp_path / "a.png")
    predict_files(folder_of(tmp_path / "many", 300), path, tmp_path / "out", progress=False)
    wanted = SETR.from_pretrained(tmp_path / "many" / "model").predict(path)
    assert wanted.max() > 255
    with Image.open(tmp_path / "out" / "a_ids.png") as picture:
        assert picture.mode.startswith("I;16")
        assert (np.asarray(picture) == wanted.numpy()).all()
    with Image.open(tmp_path / "out" / "a_labels.png") as picture:
        assert picture.mode == "RGB"
    predict_files(folder_of(tmp_path / "two", 2), path, tmp_path / "two", progress=False)
    assert set(of("a")) <= set(written(tmp_path / "two"))


def test_find_images_says_what_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image below it"):
        find_images([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UserError, match="give images"):
        find_images([], tmp_path / "out")
