"""The command line: verbs end to end on the committed sample, mistakes in one line, exit code 2."""

import gc
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import setr_lite
from setr_lite import checkpoint
from setr_lite.cli import main
from setr_lite.datasets import DATASETS
from setr_lite.errors import lasting_outputs
from setr_lite.recipes import RECIPES

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "toytown_cityscapes"
SHORT = (
    f"data.root={SAMPLE}", "train.steps=2", "train.batch_size=2", "train.workers=0",
    "data.crop_size=32x48", "eval.limit=2", "model.channels=8", "train.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "pup"
    assert main(["train", "toytown_pup", f"train.out={out}", *SHORT]) == 0
    return out / "last"


@pytest.mark.smoke
def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["recipes", "toytown_mla"]) == 0
    assert "model.head=mla" in capsys.readouterr().out


def test_a_dry_run_says_what_would_happen_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--dry-run", "toytown_mla", *SHORT, "train.steps=100"]
    assert main([*command, "train.batch_size=auto"]) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    for line in (
        r"^toytown_mla: \d+\.\d\d M parameters, 24 training and 12 validation images, 100 steps of",
        r"^train.batch_size=auto: 2 images a step, as they are: \d+ MiB estimated, .* free$",
        r"^precision   float32",
        r"^a crop takes .* to make: to keep up takes train.workers=\d+, and 0 would start$",
        r"^parameters  encoder \d+\.\d\d M, neck \d+\.\d\d M, head \d+\.\d\d M, auxiliary heads ",
        r"^memory      \d+ MiB estimated; largest part: .* % of the peak$",
        r"^arithmetic  [\d.e-]+ TFLOP a step; matrix products on cpu run at [\d.]+ TFLOP/s$",
        r"^duration    at least .* for 100 steps at that rate \(MFU 100 %\)$",
        r"^one batch read in .*, first step .*, second .* \(MFU \d+%\), loss \d\.\d+ and \d\.\d+$",
        r"^100 steps would take .*, evaluation and saving not counted$",
        r"taken at the highest, by the whole process; nothing was written into runs/toytown_mla$",
    ):
        assert re.search(line, printed, flags=re.M), line
    assert main([*command, "--resume"]) == 2
    assert "no checkpoint here" in capsys.readouterr().err


def test_a_dry_run_that_diverges_writes_nothing_either(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dry-run", "toytown_mla", *SHORT, "optim.lr=1e30"]) == 2
    assert "at step 2: training would stop there; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_eval_prints_a_table_and_writes_json(trained, tmp_path, capsys):
    file = tmp_path / "scores.json"
    assert main(["eval", str(trained), "--json", str(file), "eval.limit=3"]) == 0
    printed = capsys.readouterr().out
    assert "road" in printed
    assert "mIoU" in printed
    scores = json.loads(file.read_text())
    assert f"{100 * scores['miou']:.2f}" in printed or f"{scores['miou']:.3f}" in printed


def test_predict_keeps_size_and_folders(trained, tmp_path):
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    grey = np.arange(50 * 70).reshape(50, 70).astype(np.uint8)
    Image.fromarray(grey).save(photos / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(photos / "deep" / "a photo.jpg")
    out = tmp_path / "out"
    assert main(["predict", str(trained), str(photos), "--out", str(out)]) == 0
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert written == [
        "deep/a photo_ids.png", "deep/a photo_labels.png", "deep/a photo_overlay.png",
        "grey_ids.png", "grey_labels.png", "grey_overlay.png",
    ]  # fmt: skip
    with Image.open(out / "grey_labels.png") as labels:
        assert labels.size == (70, 50)


def test_toytown_in_three_layouts(tmp_path):
    for layout in ("cityscapes", "ade20k", "pascal_context"):
        out = tmp_path / layout
        command = ["toytown", str(out), "--train", "2", "--val", "1", "--layout", layout]
        assert main(command) == 0
        assert len(list(out.rglob("*.png"))) >= 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train toytown_pub", "no recipe 'toytown_pub'; did you mean 'toytown_pup'?"),
        ("train toytown_pup train.step=3", "no setting 'train.step'; did you mean 'train.steps'?"),
        ("train toytown_pup data.root=nowhere", "nowhere"),
        ("train toytown_pup data.name=cityscape", "did you mean 'cityscapes'?"),
        ("train toytown_pup train.device=tpu", "train.device=tpu: give auto, cpu, cuda or cuda:N"),
        ("eval nowhere", "nowhere: no checkpoint here"),
        ("predict nowhere pictures", "pictures: no such file or folder"),
        ("toytown {tmp}/t --layout cityscope", "did you mean 'cityscapes'?"),
        ("toytown {tmp}/t --train -3", "-3"),
        ("recipes toytown", "no recipe 'toytown'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.format(tmp=tmp_path).split()) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert list(tmp_path.iterdir()) == []  # nothing begun


def spoil(root, name, change):
    """A copy of the sample's layout with one spoilt file."""
    image = next((root / "leftImg8bit" / "train").rglob("*.png"))
    label = next((root / "gtFine" / "train").rglob("*.png"))
    change(image if name == "image" else label)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("label", lambda p: p.unlink(), "label"),
        ("label", lambda p: Image.fromarray(np.full((96, 192), 77, np.uint8)).save(p), "77"),
        ("label", lambda p: Image.fromarray(np.zeros((9, 9), np.uint8)).save(p), "9"),
        ("label", lambda p: Image.new("RGB", (192, 96)).save(p), "RGB"),
        ("image", lambda p: p.write_bytes(p.read_bytes()[:200]), "leftImg8bit"),
    ],
)
def test_bad_data_ends_training_with_the_files_name(tmp_path, capsys, file, change, message):
    town = tmp_path / "town"
    main(["toytown", str(town), "--train", "2", "--val", "1"])
    spoil(town, file, change)
    capsys.readouterr()
    settings = [*SHORT[1:], f"data.root={town}", f"train.out={tmp_path / 'run'}"]
    assert main(["train", "toytown_naive", *settings]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("setr-lite train: ")
    assert message in error
    assert "toytown_00000" in error


def test_a_reader_that_stops_reading_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "setr_lite", "recipes"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "toytown_pup", "--stepz", "3"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --stepz" in capsys.readouterr().err


def test_two_double_dashes_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["make-masks", "folder", "--", "--"])
    assert caught.value.code == 2
    assert "-- stands more than once" in capsys.readouterr().err


def test_no_traceback_from_the_shell(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(  # the verb that imports least
        [sys.executable, "-m", "setr_lite", "toytown", str(tmp_path / "file")],
        capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("setr-lite toytown: ")
    assert "Traceback" not in done.stderr


@pytest.mark.smoke
@pytest.mark.parametrize("verb", ["", "recipes", "toytown", "train", "eval", "predict"])
def test_help_is_there(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"] if verb else ["--help"])
    assert caught.value.code == 0
    assert "usage: setr-lite" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["recipe"], "setr-lite: no verb 'recipe'; did you mean 'recipes'?; see setr-lite --help"),
    (["zzz"], "setr-lite: no verb 'zzz'; choose from toytown, check-data, make-masks, split"),
    (["predict", "x"], "setr-lite predict: the following arguments are required: IMAGE; see"),
    (["eval", "x", "--images", "two"], "setr-lite eval: argument --images: invalid int value"),
])  # fmt: skip
def test_what_cannot_be_parsed_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


def test_the_bare_program_shows_its_help(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: setr-lite ")
    assert "examples:" in shown.err


def test_names_and_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"setr_lite {setr_lite.__version__}\n"
    with pytest.raises(SystemExit):
        main(["check-data", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    names = re.search("data set: (.*) for your own", told)[1]
    assert set(re.findall(r"[a-z]\w+", names)) - {"or"} == set(DATASETS)


class Full(io.StringIO):
    """A disk without room, or a pipe that nobody reads, from some write on."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


# what is thrown away in the end is flushed once more, and finds no room either
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [0, 1])
def test_outputs_that_cannot_be_written_stop_no_work(tmp_path, monkeypatch, capsys, after):
    full, broken = OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")
    words = ["toytown", str(tmp_path / "town"), "--train=1", "--val=1", "--size=48x64"]
    for error, code in ((full, 2), (broken, 141), (ValueError("I/O operation on closed file"), 2)):
        monkeypatch.setattr("sys.stdout", Full(error, after))
        assert main(["recipes"]) == code
        said = capsys.readouterr().err
        assert said.count("\n") == (code == 2)
        assert code != 2 or "setr-lite recipes: standard output: " in said
        assert "the rest of the work is done" in said or code != 2
    for error in (full, broken):
        monkeypatch.setattr("sys.stderr", Full(error, after))
        assert main(["recipes", "none"]) == 2
        assert main(words) in (0, 2, 141)
        assert len(list((tmp_path / "town").rglob("*_leftImg8bit.png"))) == 2
    monkeypatch.setattr("sys.stdout", None)
    assert main(["recipes"]) == 0
    monkeypatch.setattr("sys.stderr", None)
    assert main(["recipes"]) == 0
    assert main(["recipes", "none"]) == 2
    assert sys.stdout is None
    gc.collect()  # here, where that is expected: an error holds on to what it came from


def test_a_training_is_saved_where_its_messages_find_no_room(tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("sys.stdout", Full(full))
    monkeypatch.setattr("sys.stderr", Full(full))
    assert main(["train", "toytown_naive", *SHORT, f"train.out={tmp_path}", "train.steps=1"]) == 2
    assert checkpoint.read_state(tmp_path / "last")["finished"]


def test_an_encoding_without_the_characters_spells_them_out(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    with lasting_outputs():
        print("ü \udcff")
    out.flush()
    assert out.buffer.getvalue() == b"\\xfc \\udcff\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_closed_and_full_outputs_of_a_real_process():
    """The end of Python flushes, too, and libraries in C write to numbers 1 and 2."""
    for redirect, code in ((">/dev/full", 2), (">&- 2>&-", 0)):
        done = subprocess.run(
            f"{sys.executable} -m setr_lite recipes {redirect}", shell=True, capture_output=True,
            text=True)
        assert done.returncode == code, redirect
        assert "Traceback" not in done.stderr
        assert "ignored" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_the_next_file_does_not_become_an_output(closed):
    """Or it would get what libraries in C have to say."""
    script = ("import os; from setr_lite.errors import lasting_outputs\n"
              "with lasting_outputs(): os._exit(os.open(os.devnull, os.O_RDONLY))")
    done = subprocess.run(f"{sys.executable} -c '{script}' {closed}", shell=True)
    assert done.returncode > 2
