"""`setr-lite eval`: what it prints and writes, quick looks, files for the servers, ranks."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_ranks

from setr_lite import distributed
from setr_lite.checkpoint import save_checkpoint
from setr_lite.cli import main
from setr_lite.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from setr_lite.datasets import ADE20K, CamVid, Cityscapes, PascalContext
from setr_lite.datasets.doctor import check_data
from setr_lite.datasets.folder import voc_palette
from setr_lite.errors import UserError
from setr_lite.evaluate import predict_files, scores
from setr_lite.evaluate.scores import file_ids, score_checkpoint, summary, write_prediction
from setr_lite.metrics import ConfusionMatrix, bootstrap_miou
from setr_lite.model import SETR

DATA = Path(__file__).parents[2] / "data"
TRAINED = DATA / "runs" / "toytown_pup" / "model"
SAMPLE = DATA / "sample" / "toytown_cityscapes"
SETTINGS = (f"data.root={SAMPLE}", "train.device=cpu", "train.workers=0")


@pytest.mark.smoke
def test_eval_prints_and_saves_everything(tmp_path, capsys):
    table, file = tmp_path / "a" / "new" / "scores.csv", tmp_path / "a" / "new" / "scores.json"
    command = ["eval", str(TRAINED), "--json", str(file), "--csv", str(table), *SETTINGS]
    assert main([*command, "eval.limit=3", "eval.protocol=official"]) == 0
    printed, scores = capsys.readouterr().out, json.loads(file.read_text())
    sha = hashlib.sha256((TRAINED / "model.safetensors").read_bytes()).hexdigest()
    assert scores["sha256"] == sha
    assert f"sha256 {sha}" in printed
    assert "protocol official: ratios 1.0 (base), no mirror images, whole images" in printed
    means = [scores[key] for key in ("miou", "mean_accuracy", "pixel_accuracy")]
    assert "mIoU {:.2f}  mAcc {:.2f}  aAcc {:.2f}".format(*(100 * m for m in means)) in printed
    total = scores["protocol"]
    assert (total["name"], total["ratios"], total["flip"]) == ("official", [1.0], False)
    assert (scores["images"], scores["quick_look"], scores["processes"]) == (3, False, 1)
    assert 0 < scores["seconds_per_image"] < 60
    assert "QUICK" not in printed
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["class"] for row in rows[:19]] == list(Cityscapes.classes)
    for row in rows[:19]:
        iou = scores["classes"][row["class"]]["iou"]
        assert row["iou"] == ("" if iou is None else str(iou))
    assert (rows[19]["iou"], rows[19]["accuracy"]) == (str(means[0]), str(means[1]))
    assert rows[20]["accuracy"] == str(means[2])
    assert rows[21]["accuracy"] == sha
    matrix = torch.tensor(scores["matrix"])
    assert matrix.sum() == scores["pixels"] == int(rows[20]["pixels"])


def test_a_quick_look_says_what_it_is(capsys):
    assert main(["eval", str(TRAINED), "--images", "3", *SETTINGS]) == 0
    printed = capsys.readouterr().out
    count = len(Cityscapes(SAMPLE, "val"))
    assert f"QUICK LOOK at 3 of {count} images, not a score to report: mIoU" in printed
    first, second = (score_checkpoint(TRAINED, SETTINGS, images=3)[1] for _ in range(2))
    assert capsys.readouterr().err == ""  # no bar, where nobody asked for one
    low, high = first["interval"]
    assert 0 < low <= first["miou"] <= high < 1
    assert second["interval"] == first["interval"]
    assert second["matrix"] == first["matrix"]
    interval = f"95% interval {100 * low:.2f} to {100 * high:.2f} (bootstrap over images"
    assert f"{interval}, too narrow of so few)" in printed
    assert summary(first | {"images": 9}).startswith("QUICK LOOK at 9 of")
    assert f"{interval}, too narrow of so few)" in summary(first | {"images": 9})
    assert f"{interval})" in summary(first | {"images": 10})


def test_a_quick_look_is_at_the_same_images_everywhere(tmp_path):
    score_checkpoint(TRAINED, SETTINGS, images=3, save_predictions=tmp_path / "out")
    names = [path.name for path, _ in Cityscapes(SAMPLE, "val").files]
    assert sorted(names.index(path.name) for path in (tmp_path / "out").iterdir()) == [0, 5, 8]


def test_the_worst_images_are_named(tmp_path, capsys):
    """Against the labels that are written, image by image, class by class."""
    command = ["eval", str(TRAINED), "--worst", "2", "--save-predictions", str(tmp_path / "out")]
    assert main([*command, "--json", str(tmp_path / "scores.json"), *SETTINGS]) == 0
    printed, worst = capsys.readouterr().out, json.loads(
        (tmp_path / "scores.json").read_text())["worst"]
    dataset, expected = Cityscapes(SAMPLE, "val"), []
    for image, mask in dataset.files:
        label = np.asarray(dataset.table)[np.array(Image.open(mask))]
        given = np.array(Image.open(tmp_path / "out" / f"{image.stem}.png"))
        ious, missed = [], []
        for k, number in enumerate(file_ids(dataset)):
            true, found = label == k, (given == number) & (label != 255)
            missed.append(int((true & ~found).sum()))
            if (true | found).any():
                ious.append((true & found).sum() / (true | found).sum())
        most = int(np.argmax(missed))
        expected.append((float(np.mean(ious)), str(image), dataset.classes[most], missed[most]))
    expected.sort()
    assert len(worst) == 2
    for one, (miou, image, missed, pixels) in zip(worst, expected, strict=False):
        assert one == {"image": image, "miou": pytest.approx(miou, rel=1e-12), "missed": missed,
                       "pixels": pixels}
        line = f"{100 * miou:6.2f}  {image}  misses {pixels} pixels of {missed}\n"
        assert line in printed
    assert expected[2][1] not in printed


def test_images_without_a_label_are_not_the_worst():
    sums = torch.tensor([[[2, 0], [4, 0], [3, 1]], [[0, 0], [0, 0], [5, 1]],
                         [[0, 1], [3, 1], [0, 4]]], dtype=torch.float64)
    dataset = SimpleNamespace(classes=("a", "b"), files=[(Path(n), None) for n in "xyz"])
    found = scores.worst_images(sums, dataset, [0, 1, 2])
    assert found == [{"image": "z", "miou": 0.125, "missed": "a", "pixels": 3},
                     {"image": "x", "miou": 0.2, "missed": "a", "pixels": 2}]
    assert score_checkpoint(TRAINED, (*SETTINGS, "eval.limit=1"))[1]["worst"] == []


def test_the_time_of_an_image(monkeypatch):
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(scores, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    _, found = score_checkpoint(TRAINED, (*SETTINGS, "eval.limit=3"))
    assert found["seconds_per_image"] == 2.0


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_shows_the_bar(monkeypatch, capsys, rank):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    score_checkpoint(TRAINED, (*SETTINGS, "eval.limit=2"), progress=True)
    assert ("evaluate" in capsys.readouterr().err) == (rank == 0)


def test_settings_are_checked_before_anything_is_looked_for():
    with pytest.raises(UserError, match="--worst -1: "):
        score_checkpoint(TRAINED, (), worst=-1)
    settings = ("eval.mode=slide", "eval.window=16x16", "eval.stride=17x17", "data.root=nowhere")
    with pytest.raises(UserError, match="a stride above the size leaves gaps"):
        score_checkpoint(TRAINED, settings)


def test_the_interval_by_hand():
    """Two classes: images all right or all wrong make mIoU a share of images."""
    right = torch.tensor([[4.0, 4.0], [4.0, 4.0], [4.0, 4.0]])
    wrong = torch.tensor([[0.0, 0.0], [4.0, 4.0], [4.0, 4.0]])
    assert bootstrap_miou(torch.stack([right] * 5)) == (1.0, 1.0)
    mixed = torch.stack([right, wrong] * 50)  # 100 images, each counts 1/100 of the hits
    low, high = bootstrap_miou(mixed)
    # with x of 100 images right, a class has I = 4x, U = 800 - 4x, so mIoU = x / (200 - x);
    # x is binomial with mean 50 and deviation 5, its 95% interval 40..60
    assert low == pytest.approx(40 / 160, abs=0.012)
    assert high == pytest.approx(60 / 140, abs=0.012)
    assert bootstrap_miou(mixed) == (low, high)
    counts = torch.rand(7, 3, 2) + torch.tensor([[0.0], [1.0], [1.0]])  # no two draws are alike
    assert bootstrap_miou(counts) == bootstrap_miou(counts, draws=2000, level=0.95, seed=0)
    few = {bootstrap_miou(mixed, draws=10, seed=seed) for seed in range(5)}
    assert len(few) > 1
    # half of the draws: 0.674 deviations about the mean, 46.6 to 53.4
    half = pytest.approx((46.6 / 153.4, 53.4 / 146.6), abs=0.006)
    assert bootstrap_miou(mixed, level=0.5) == half
    wider = bootstrap_miou(mixed, level=0.99)
    assert wider[0] < low
    assert wider[1] > high
    with pytest.raises(UserError, match=r"interval of 1 image\(s\): give two or more"):
        bootstrap_miou(mixed[:1])
    assert bootstrap_miou(torch.stack([right] * 2)) == (1.0, 1.0)


def test_absent_classes_stay_out_of_the_interval():
    counts = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    assert bootstrap_miou(torch.stack([counts] * 3)) == (1.0, 1.0)


def test_sums_of_images_are_the_sums_of_the_matrix():
    torch.manual_seed(3)
    whole, parts = ConfusionMatrix(5), []
    for _ in range(4):
        one, pair = ConfusionMatrix(5), torch.randint(5, (2, 6, 7))
        one.update(*pair)
        whole.update(*pair)
        parts.append(one.sums())
    assert torch.equal(sum(parts), whole.sums())


def test_ids_of_the_servers():
    assert file_ids(ADE20K).tolist() == list(range(1, 151))
    assert file_ids(Cityscapes).tolist() == [
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
    ]  # fmt: skip
    assert file_ids(PascalContext).tolist() == list(range(60))
    assert file_ids(CamVid).tolist() == list(range(11))


def test_predictions_are_written_for_the_server(tmp_path):
    out = tmp_path / "predictions"
    _, scores = score_checkpoint(
        TRAINED, (*SETTINGS, "eval.limit=2"), save_predictions=out)
    streets = Cityscapes(SAMPLE, "val")
    names = [path.name for path, _ in streets.files[:2]]
    assert sorted(path.name for path in out.iterdir()) == names
    assert all(name.endswith("_leftImg8bit.png") for name in names)
    model = SETR.from_pretrained(TRAINED)
    again = ConfusionMatrix(19)
    for index, name in enumerate(names):
        with Image.open(out / name) as file:
            assert file.mode == "L"
            label_ids = np.array(file)
        label = torch.from_numpy(Cityscapes.table[label_ids])  # read back as a mask would be
        assert torch.equal(label, model.predict(streets[index].image))
        again.update(label, streets[index].label)
    assert again.matrix.tolist() == scores["matrix"]


def test_ade20k_files_are_one_up(tmp_path):
    class Two:
        table, classes, ignore_index = ADE20K.table, ADE20K.classes, 255
        files = ((Path("images/validation/ADE_val_00000007.jpg"), None),)

    path = write_prediction(tmp_path, Two(), 0, torch.tensor([[0, 149]], dtype=torch.uint8))
    assert path.name == "ADE_val_00000007.png"
    with Image.open(path) as file:
        assert np.array(file).tolist() == [[1, 150]]
    with pytest.raises(UserError, match=r"\.png: cannot be written \("):
        write_prediction(path, Two(), 0, torch.tensor([[0, 149]], dtype=torch.uint8))


def test_two_processes_count_as_one(tmp_path):
    """Three images on two ranks: the same matrix, the same interval, every file once."""
    options = ["--images", "3", *SETTINGS, "eval.protocol=official+ms"]
    _, alone = score_checkpoint(TRAINED, options[2:], images=3, worst=3)
    file, out = tmp_path / "two.json", tmp_path / "labels"
    words = ["eval", str(TRAINED), "--json", str(file), "--save-predictions", str(out), *options,
             "--worst", "3"]
    printed = run_ranks(2, main, words, logs=tmp_path)
    assert "QUICK LOOK" in printed[0]
    assert printed[1] == ""
    two = json.loads(file.read_text())
    assert two["processes"] == 2
    assert two["matrix"] == alone["matrix"]
    assert two["interval"] == pytest.approx(alone["interval"], rel=1e-12)
    assert two["worst"] == alone["worst"]
    assert len(list(out.iterdir())) == 3


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    blocked = str(tmp_path / "file" / "x.json")
    for options, message in (
        (["--images", "1"], "--images 1: a confidence interval needs two or more images"),
        (["--images", "-2"], "--images -2"),
        (["--save-predictions", f"{tmp_path}/file"], f"{tmp_path}/file: cannot be made"),
        (["--json", blocked, "eval.limit=1"], "cannot be made"),
        (["eval.protocol=papr"], "eval.protocol=papr: expected none or paper"),
        (["eval.protocol=paper", "eval.flip=true"], "has ratios and flip of its own"),
    ):
        assert main(["eval", str(TRAINED), *options, *SETTINGS]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("setr-lite eval: ")
        assert message in error


def test_summary_of_no_pixels():
    """The dummy labels of a test split: no score, but no crash either."""
    scores = ConfusionMatrix(2).to_dict(["a", "b"]) | {
        "protocol": {"name": "none", "ratios": [1.0], "flip": False, "sizing": "base",
                     "odd": "crop", "window": [4, 6], "stride": [2, 3]},
        "quick_look": False, "images": 1, "of": 1, "split": "test", "checkpoint": "c",
        "sha256": "0", "seconds_per_image": 1.0, "device": "cpu", "processes": 1,
    }  # fmt: skip
    text = summary(scores)
    assert text.startswith("nothing to score: no pixel of the split 'test' has a label\n")
    assert "windows of 4x6 every 2x3" in text


def tiny(folder, name, classes):
    """A checkpoint of an untrained model for a data set of that name."""
    config = RunConfig(
        model=ModelConfig(
            encoder="toy", head="naive", num_classes=len(classes), img_size=(16, 16), channels=4),
        data=DataConfig(name=name, base_size=(16, 32)),
        eval=EvalConfig(window=(16, 16), stride=(16, 16)),
    )  # fmt: skip
    return save_checkpoint(folder, SETR.from_config(config.model), config, classes=classes)


@pytest.mark.parametrize(("name", "classes", "image", "label"), [
    ("folder", ("sky", "road"), "images/test/1.jpg", "labels/test/1.png"),
    ("ade20k", ADE20K.classes, "images/testing/ADE_test_1.jpg",
     "annotations/testing/ADE_test_1.png"),
    ("cityscapes", Cityscapes.classes, "leftImg8bit/test/ulm/ulm_1_leftImg8bit.png",
     "gtFine/test/ulm/ulm_1_gtFine_labelIds.png"),
])  # fmt: skip
def test_a_test_split_without_masks_is_predicted_for_a_server(
    tmp_path, capsys, name, classes, image, label
):
    root, out, file = tmp_path / "data", tmp_path / "out", tmp_path / "scores.json"
    for place, grey in ((image, 0), (image.replace("1", "2"), 99)):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), (grey, grey, grey)).save(root / place)
    (root / "classes.txt").write_text("sky\nroad\n")
    checkpoint = tiny(tmp_path / "run" / "last", name, classes)
    words = ["eval", str(checkpoint), f"data.root={root}", "--split", "test", *SETTINGS[1:]]
    assert main(words) == 2
    assert "image without label" in capsys.readouterr().err
    words += ["--save-predictions", str(out), "--json", str(file)]
    for more in ([], ["--images", "2"]):
        assert main([*words, *more]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("nothing to score: no pixel of the split 'test' has a label\n")
        assert printed.endswith(f"predictions written: {out}\n")
        assert json.loads(file.read_text(), parse_constant=pytest.fail)["miou"] is None
    names = {Path(image).stem, Path(image).stem.replace("1", "2")}
    assert {path.name for path in out.iterdir()} == {f"{stem}.png" for stem in names}
    with Image.open(out / f"{Path(image).stem}.png") as picture:
        assert picture.size == (20, 12)
    (root / label).parent.mkdir(parents=True)
    Image.new("L", (20, 12), 7 if name == "cityscapes" else 1).save(root / label)
    assert main(words) == 2  # one mask of two is missing, which is a mistake
    assert "1 of 2 images have none" in capsys.readouterr().err


@pytest.mark.parametrize("fast", [False, True])
def test_the_doctor_takes_a_test_split_without_masks(tmp_path, fast):
    own_data(tmp_path, ["sky", "road", "tree"])
    (tmp_path / "images" / "test").mkdir()
    Image.new("RGB", (20, 12), (9, 9, 9)).save(tmp_path / "images" / "test" / "c.png")
    health = check_data("folder", tmp_path, fast=fast)
    assert health.healthy, health.text()
    assert "no image has a label" in health.text()
    assert health.splits["test"] == (1, 0, 0)


def own_data(root, names):
    """One image of three classes; the list in the order of `names`."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "images" / "val" / "a.png")
    Image.fromarray(pixels[:, :, 0] % 3).save(root / "labels" / "val" / "a.png")
    (root / "classes.txt").write_text("\n".join(names))
    return root


@pytest.fixture
def small(tmp_path):
    """Data, and a run whose checkpoint knows its classes."""
    names = ("sky", "road", "=HYPERLINK(1)")
    data = own_data(tmp_path / "data", names)
    config = RunConfig(
        model=ModelConfig(encoder="toy", head="naive", num_classes=3, img_size=(16, 16),
                          channels=4),
        data=DataConfig(name="folder", root=str(data), base_size=(16, 24)),
        eval=EvalConfig(window=(16, 16), stride=(16, 16)),
    ).override("train.device=cpu", "train.workers=0")  # fmt: skip
    torch.manual_seed(0)
    for name in ("last", "best"):
        save_checkpoint(
            tmp_path / "run" / name, SETR.from_config(config.model), config, classes=names,
            palette=[[1, 2, 3]] * 3, state={"step": 1})
    (tmp_path / "run" / "log.csv").write_text("log")
    return data, tmp_path / "run"


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", [
    "data/labels/val", "data/labels/val/new", "data/images/val", "link/val", "link", "data",
    "data/labels", "data/images", "data/x/..", "run", "run/last", "run/last/new", "run/best",
])  # fmt: skip
def test_predictions_stay_away_from_data_and_checkpoints(tmp_path, small, place):
    """Named like the images, they once took the place of the ground truth."""
    data, run = small
    (tmp_path / "link").symlink_to(data / "labels")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"(is|lies in|holds) .*, which is read here; .* choose"):
        score_checkpoint(run / "last", save_predictions=tmp_path / place)
    assert contents(tmp_path) == before


def test_predictions_stay_away_from_other_splits(small):
    data, run = small
    for kind in ("images", "labels"):
        shutil.copytree(data / kind / "val", data / kind / "train")
    place = data / "labels" / "train"
    with pytest.raises(UserError, match=r"train: is .*labels/train, which is read here"):
        score_checkpoint(run / "last", save_predictions=place)


def test_predictions_may_lie_beside_them(tmp_path, small):
    data, run = small
    for place in (run / "predictions", data / "predictions", tmp_path):
        score_checkpoint(run / "last", save_predictions=place)
        assert (place / "a.png").exists()


@pytest.mark.parametrize("name", [
    "last/model.safetensors", "last/config.json", "last/state.json", "log.csv", "link/config.json"])
def test_scores_do_not_replace_what_they_are_of(tmp_path, small, capsys, name):
    _, run = small
    (run / "link").symlink_to(run / "last")
    before = contents(run)
    for option in ("--json", "--csv"):
        assert main(["eval", str(run / "last"), option, str(run / name)]) == 2
        assert "is read here; writing there would spoil it" in capsys.readouterr().err
    assert contents(run) == before


def test_a_place_that_cannot_be_written(tmp_path, small, capsys):
    _, run = small
    (tmp_path / "a.csv").mkdir()
    for option in ("--json", "--csv"):
        assert main(["eval", str(run / "last"), option, str(tmp_path / "a.csv")]) == 2
        assert f"{tmp_path / 'a.csv'}: cannot be written" in capsys.readouterr().err


def test_another_order_of_classes_is_not_scored(tmp_path, small):
    _, run = small
    other = own_data(tmp_path / "other", ("road", "sky", "=HYPERLINK(1)"))
    with pytest.raises(UserError, match="its class 0 is 'sky', that of folder is 'road'; a score"):
        score_checkpoint(run / "last", [f"data.root={other}"])


def test_spreadsheets_get_no_formulas(tmp_path, small):
    _, run = small
    assert main(["eval", str(run / "last"), "--csv", str(tmp_path / "a.csv")]) == 0
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == [
        "class", "sky", "road", "'=HYPERLINK(1)", "(mean)", "(all)", "(checkpoint)"]


def test_pictures_that_differ_in_their_endings_only(tmp_path, small, capsys):
    data, run = small
    photos, out = tmp_path / "photos", tmp_path / "photos" / "out"
    photos.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        with Image.open(data / "images" / "val" / "a.png") as picture:
            picture.save(photos / name)
    for _ in range(2):  # what was written is no image the second time
        assert main(["predict", str(run / "last"), str(photos), "--out", str(out)]) == 0
        assert "3 images in" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        f"{name}_{kind}.png"
        for name in ("a.png", "a.jpg", "b") for kind in ("ids", "labels", "overlay")}
    config = json.loads((run / "last" / "config.json").read_text())
    (run / "last" / "config.json").write_text(json.dumps(config | {"palette": []}))
    (photos / "folder.png").mkdir()
    (photos / "b.png").rename(photos / "b.PNG")
    assert main(["predict", str(run / "last"), str(photos), "--out", str(out)]) == 0
    assert "3 images in" in capsys.readouterr().out
    with Image.open(out / "b_labels.png") as labels, Image.open(out / "b_overlay.png") as over:
        found = np.unique(np.array(labels.convert("RGB")).reshape(-1, 3), axis=0).tolist()
        painted = np.array(labels.convert("RGB"), int)
        half = np.array(over.convert("RGB"), int)[: labels.height, : labels.width]  # then a legend
    assert {tuple(c) for c in found} <= {tuple(c) for c in voc_palette(3)}
    with Image.open(photos / "b.PNG") as picture:
        assert np.abs(2 * half - painted - np.array(picture, int)).max() <= 2
    by_command = (out / "b_overlay.png").read_bytes()
    predict_files(run / "last", photos, out, progress=False)  # the function has the same defaults
    assert (out / "b_overlay.png").read_bytes() == by_command
    assert main(["predict", str(run / "last"), str(photos), "--out", str(photos)]) == 2
    assert "holds the images to segment; choose another folder" in capsys.readouterr().err
    for alpha in ("-0.1", "1.5", "nan"):
        assert main(["predict", str(run / "last"), str(photos), f"--alpha={alpha}"]) == 2
        assert f"alpha={float(alpha)}: give a number, 0 to 1" in capsys.readouterr().err
