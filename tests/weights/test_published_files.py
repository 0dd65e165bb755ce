"""Published weights by name, from a server on this machine that has stand-ins for the real files.

None of the real files has been seen here. A stand-in has the layout that mmsegmentation publishes:
its keys, its ``meta``, the older kind of pickle, the first digits of its SHA-256 in its name; its
encoder is narrow, so that it weighs megabytes and not a gigabyte.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from test_heads_golden import KEYS

from setr_lite import checkpoint, encoder
from setr_lite.cli import main
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.recipes import RECIPES, get_recipe
from setr_lite.recipes.downloads import ENCODERS, SETRS, Download
from setr_lite.weights import published_files, write
from setr_lite.weights.first import load_first_weights
from setr_lite.weights.published_files import find_checkpoint, find_encoder, home

NARROW = {"patch_size": 16, "embed_dim": 16, "depth": 24, "num_heads": 1}
NAIVE = "naive_ade20k_512_160k_mmseg"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("SETR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(encoder.PRESETS, "vit_large_patch16", NARROW)


class Server(http.server.ThreadingHTTPServer):
    """Serves the bytes in `files` by name, and counts what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def put(self, name: str, data: bytes, digits: str = "") -> Download:
        """Serve `data`, its digits in its name; where it can be had."""
        digits = digits or hashlib.sha256(data).hexdigest()[:8]
        file = f"{name}-{digits}.pth"
        self.files[file] = data
        return Download(f"http://127.0.0.1:{self.server_port}/{file}")


class Answer(http.server.BaseHTTPRequestHandler):
    """Whole files, cut ones, and 404."""

    def do_GET(self) -> None:
        """One file."""
        name, server = self.path[1:], self.server
        server.asked.append(name)
        if name not in server.files:
            return self.send_error(404)
        data = server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        self.wfile.flush()
        server.gate.wait(60)
        if name not in server.cut:
            self.wfile.write(data[half:])
        return None

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


def stand_in(name: str, path: Path) -> tuple[SETR, bytes]:
    """A model of a recipe with random weights, and the file that mmsegmentation would publish."""
    config = get_recipe(name).model
    model = SETR.from_config(config)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 0.9)
    state = write.to_mmseg(model.state_dict(), config)
    meta = {"mmseg_version": "0.14.1", "config": "model = dict(...)", "epoch": 127, "iter": 160000,
            "CLASSES": None, "PALETTE": None}  # fmt: skip
    content = {"meta": meta, "state_dict": state, "optimizer": None}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return model.eval(), path.read_bytes()


def kept() -> list[str]:
    """What lies in the home folder, locks apart."""
    return sorted(str(p.relative_to(home())) for p in home().rglob("*")
                  if p.is_file() and not p.name.endswith(".lock"))  # fmt: skip


# ---- the table ---------------------------------------------------------------------------------


def test_the_table_says_what_can_be_had(capsys):
    assert [len(SETRS), len(ENCODERS)] == [7, 3]
    for name, it in {**SETRS, **ENCODERS}.items():
        assert re.fullmatch(r"https://[\w./-]+-[0-9a-f]{8}\.pth", it.url)
        assert it.digits == it.url[-12:-4]
        assert (name in RECIPES) == name.endswith("_mmseg") == it.log.endswith(".log.json")
    assert {n for n in RECIPES if n.endswith("_mmseg") and "deit" not in n} >= set(SETRS)
    assert main(["download"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed and it.url in listed
               for name, it in {**SETRS, **ENCODERS}.items())
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"_mmseg .* yes *$", shown, re.M)) == 7
    assert len(re.findall(r" yes *$", shown, re.M)) == 7


# ---- from the server to the model --------------------------------------------------------------


QUICK = ("naive_ade20k_512_160k_mmseg", "mla_cityscapes_768_80k_mmseg")
"""Those that `make test` asks; `make test-long` asks the others."""


def patterns(names) -> set[str]:
    return {re.sub(r"layers\.\d+", "layers.N", name) for name in names}


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SETRS])
@torch.no_grad()
def test_a_name_becomes_a_model(tmp_path, monkeypatch, server, name):
    model, data = stand_in(name, tmp_path / "x.pth")
    head = get_recipe(name).model.head
    names = {k for k in torch.load(tmp_path / "x.pth")["state_dict"] if "num_batches" not in k}
    if name != "naive_cityscapes_768_80k_mmseg":  # with fewer units in its auxiliary heads
        assert patterns(names) == patterns(KEYS["mmseg"][f"model_{head}"])
    monkeypatch.setitem(SETRS, name, server.put(f"setr_{name}", data))
    loaded = SETR.from_pretrained(name)
    state = loaded.state_dict()
    assert {k for k in state if not torch.equal(state[k], model.state_dict()[k])} == set()
    recipe = get_recipe(name)
    assert (loaded.config.data, loaded.config.eval) == (recipe.data, recipe.eval)
    assert loaded.config.recipe == name
    info = checkpoint.read_info(name)
    assert len(info["classes"]) == loaded.config.model.num_classes
    assert checkpoint.read_state(name)["sha256"] == hashlib.sha256(data).hexdigest()
    SETR.from_pretrained(name)
    assert len(server.asked) == 1
    assert kept() == [f"checkpoints/{name}/{file}" for file in
                      ("config.json", "model.safetensors", "state.json")]  # fmt: skip


def test_verbs_take_the_name(tmp_path, monkeypatch, server, capsys):
    _, data = stand_in(NAIVE, tmp_path / "x.pth")
    monkeypatch.setitem(SETRS, NAIVE, server.put("setr", data))
    monkeypatch.chdir(tmp_path)
    assert main(["download", NAIVE]) == 0
    assert capsys.readouterr().out == f"{NAIVE}: {home() / 'checkpoints' / NAIVE}\n"
    assert main(["convert", NAIVE, "back.pth", "--to", "mmseg"]) == 0
    there = torch.load(tmp_path / "back.pth")["state_dict"]
    sent = torch.load(tmp_path / "x.pth")["state_dict"]
    assert {k for k in sent if not torch.equal(there[k], sent[k])} == set()
    new = SETR(3, "mla", "vit_large_patch16", img_size=(64, 64), channels=8)
    (report,) = load_first_weights(new.encoder, NAIVE)
    assert report.resized == {"encoder.pos_embed": "32 x 32 -> 4 x 4, bilinear"}
    assert main(["download", "pup_ade20k"]) == 2
    assert "nothing to download for 'pup_ade20k'; did you mean" in capsys.readouterr().err


def test_an_encoder_by_its_name_or_its_files(tmp_path, monkeypatch, server):
    vit = encoder.VisionTransformer.from_preset("vit_large_patch16", img_size=(384, 384))
    torch.save({**vit.state_dict(), "norm.weight": torch.ones(16), "norm.bias": torch.ones(16),
                "head.weight": torch.ones(9, 16), "head.bias": torch.ones(9)},
               tmp_path / "x.pth", _use_new_zipfile_serialization=False)  # fmt: skip
    it = server.put("jx_vit_large_p16_384", (tmp_path / "x.pth").read_bytes())
    monkeypatch.setitem(ENCODERS, "jx_vit_large_p16_384", it)
    for name in ("jx_vit_large_p16_384", it.file):
        model = SETR(3, "naive", "vit_large_patch16", img_size=(384, 384), channels=8)
        (report,) = load_first_weights(model.encoder, name)
        assert len(report.used) == len(vit.state_dict())
        assert torch.equal(model.encoder.pos_embed, vit.pos_embed)
    assert len(server.asked) == 1
    assert kept() == [f"files/{it.file}"]
    assert find_encoder("jx_vit_huge") is None


def test_a_file_put_there_by_hand_is_used_and_left(tmp_path, monkeypatch, server):
    model, data = stand_in(NAIVE, tmp_path / "x.pth")
    it = server.put("setr", data)
    monkeypatch.setitem(SETRS, NAIVE, it)
    file = home() / "files" / it.file
    file.parent.mkdir(parents=True)
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{it.file}: is not the file of that name, its SHA-256 "
                                        rf"does not begin with {it.digits}; delete it"):
        find_checkpoint(NAIVE)
    assert kept() == [f"files/{it.file}"]
    file.write_bytes(data)
    assert torch.equal(SETR.from_pretrained(NAIVE).head.classifier.weight,
                       model.head.classifier.weight)  # fmt: skip
    assert file.exists()
    assert server.asked == []


def test_another_model_under_the_name_is_refused(tmp_path, monkeypatch, server):
    _, data = stand_in(NAIVE, tmp_path / "x.pth")
    name = "pup_ade20k_512_160k_mmseg"
    monkeypatch.setitem(SETRS, name, server.put("setr", data))
    with pytest.raises(UserError, match=rf"is not the model of {name} but SETR-Naive of mmseg"):
        SETR.from_pretrained(name)
    assert not (home() / "checkpoints" / name).exists()


# ---- faults ------------------------------------------------------------------------------------

BYTES = bytes(range(256)) * 9000


def wrong(server, monkeypatch):
    return server.put("x", BYTES, "00000000"), "its SHA-256 begins with [0-9a-f]{8}, not 00000000"


def cut(server, monkeypatch):
    it = server.put("x", BYTES)
    server.cut.add(it.file)
    return it, "cut off after [0-9,]+ of 2,304,000 bytes|IncompleteRead"


def gone(server, monkeypatch):
    it = server.put("x", BYTES)
    return Download(it.url.replace("/x-", "/y-")), "the server answers 404 Not Found"


def full(server, monkeypatch):
    usage = published_files.shutil.disk_usage
    monkeypatch.setattr(
        published_files.shutil, "disk_usage", lambda path: usage(path)._replace(free=4_000_000))
    return server.put("x", BYTES), "No space left on device: 4,608,000 bytes are needed, 4,000,000"


def full_late(server, monkeypatch):
    def write_some(answer, file, path):
        file.write(answer.read(1000))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(published_files, "_receive", write_some)
    return server.put("x", BYTES), "No space left on device"


def closed(server, monkeypatch):
    with contextlib.closing(__import__("socket").socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Download(f"http://127.0.0.1:{port}/x-00000000.pth"), "no connection: .*refused"


def nowhere(server, monkeypatch):
    return Download("http://no.such.host.invalid/x-00000000.pth"), "no connection: "


def silent(server, monkeypatch):
    monkeypatch.setattr(published_files, "TIMEOUT", 0.3)
    server.gate.clear()
    return server.put("x", BYTES), "timed out|the server was silent"


@pytest.mark.parametrize("fault", [wrong, cut, gone, full, full_late, closed, nowhere, silent])
def test_a_fault_is_one_line_and_leaves_nothing(monkeypatch, server, capsys, fault):
    it, why = fault(server, monkeypatch)
    monkeypatch.setitem(SETRS, NAIVE, it)
    assert main(["download", NAIVE]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"setr-lite download: {re.escape(it.url)}: could not be downloaded \(.*{why}",
                     said), said  # fmt: skip
    assert f"nothing was kept. Try again, or get the file where there is a network and put it at " \
           f"{home() / 'files' / it.file}" in said  # fmt: skip
    assert kept() == []


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch, server):
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory.*set SETR_HOME to"):
        find_checkpoint(NAIVE)


CHILD = """
import json, sys
from setr_lite import encoder
from setr_lite.recipes.downloads import SETRS, Download
if sys.argv[3] == "without locks":
    import fcntl
    def no_locks(*_): raise OSError("no locks here")
    fcntl.flock = no_locks
encoder.PRESETS["vit_large_patch16"] = json.loads(sys.argv[1])
SETRS["naive_ade20k_512_160k_mmseg"] = Download(sys.argv[2])
from setr_lite import SETR
print("ready", flush=True)
sys.stdin.readline()
model = SETR.from_pretrained("naive_ade20k_512_160k_mmseg")
print(float(model.head.classifier.weight.detach().double().sum()), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_two_processes_at_once(tmp_path, server, locks):
    model, data = stand_in(NAIVE, tmp_path / "x.pth")
    it = server.put("setr", data)
    command = [sys.executable, "-c", CHILD, json.dumps(NARROW), it.url, locks]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for child in both:
        assert child.stdout.readline() == "ready\n"
    server.gate.clear()  # both are under way before either can end
    for child in both:
        child.stdin.write("go\n")
        child.stdin.flush()
    threading.Timer(3, server.gate.set).start()
    sums = [float(child.communicate()[0]) for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert sums == [float(model.head.classifier.weight.detach().double().sum())] * 2
    assert len(server.asked) == 1 or locks == "without locks"
    assert [name for name in kept() if "part" in name] == []
    assert checkpoint.exists(home() / "checkpoints" / NAIVE)


@pytest.mark.slow
def test_a_killed_download_leaves_no_file_of_that_name(tmp_path, server):
    model, data = stand_in(NAIVE, tmp_path / "x.pth")
    it = server.put("setr", data)
    server.gate.clear()
    command = [sys.executable, "-c", CHILD, json.dumps(NARROW), it.url, "with locks"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdin.write(b"\n")
    child.stdin.flush()
    while not list(home().rglob("*.part")):
        assert child.poll() is None
    child.kill()
    child.communicate()
    server.gate.set()
    assert not (home() / "files" / it.file).exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETRS, NAIVE, it)
        patch.setattr(published_files, "ABANDONED", -1)
        loaded = SETR.from_pretrained(NAIVE)
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)
    assert [name for name in kept() if name.endswith(".part")] == []
