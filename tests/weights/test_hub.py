"""A checkpoint goes to a hub and comes back; the hub is a server on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from processes import Child

from setr_lite.checkpoint import save_checkpoint, sha256
from setr_lite.config import DataConfig, ModelConfig, RunConfig
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.weights.hub import FILES, find_checkpoint, model_card

CONFIG = RunConfig(
    model=ModelConfig(encoder="toy", head="naive", num_classes=3, img_size=(24, 32), channels=8),
    data=DataConfig(crop_size=(24, 32)),
)
CLASSES = ("road", "sky", "tree")
COLOURS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
COMMIT = "c0ffee" * 6 + "abcd"


@pytest.fixture
def checkpoint(tmp_path, spread):
    model = spread(SETR.from_config(CONFIG.model))
    return save_checkpoint(tmp_path / "last", model, CONFIG, classes=CLASSES, palette=COLOURS)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as an upload and a download of small files ask for."""

    def do_POST(self) -> None:
        """Create, ask how to upload, commit."""
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "/commit/" in self.path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    server.files[entry["value"]["path"]] = base64.b64decode(
                        entry["value"]["content"])
        answers = {
            "/api/repos/create": {"url": f"{server.address}/me/toy", "id": "1"},
            "/api/validate-yaml": {"errors": [], "warnings": []},
            "/api/models/me/toy/preupload/main": {"files": [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body).get("files", [])]} if "preupload" in self.path else {},
            "/api/models/me/toy/commit/main": {
                "success": True, "commitOid": COMMIT, "hookOutput": "",
                "commitUrl": f"{server.address}/me/toy/commit/{COMMIT}"},
        }  # fmt: skip
        self.answer(json.dumps(answers[self.path]).encode())

    def do_GET(self) -> None:
        """What there is, and a file."""
        files = self.server.files
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/me/toy/tree/"):
            self.answer(json.dumps([
                {"type": "file", "path": n, "size": len(files[n]), "oid": f"{i:040}"}
                for i, n in enumerate(files)
            ]).encode())  # fmt: skip
        elif self.path.startswith("/api/models/me/toy"):
            self.answer(json.dumps({
                "id": "me/toy", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files],
            }).encode())  # fmt: skip
        elif self.path.startswith("/me/toy/resolve/") and name in files:
            self.answer(files[name], {"X-Repo-Commit": COMMIT,
                                      "ETag": hashlib.sha1(files[name]).hexdigest()})  # fmt: skip
        else:
            self.answer(b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, 404)

    do_HEAD = do_GET

    def answer(self, data: bytes, headers: dict[str, str] | None = None, code: int = 200) -> None:
        """Send it."""
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.address = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def elsewhere(function, *words) -> None:
    """Push or pull in the folder that the first word names."""
    os.chdir(words[0])
    function(*words[1:])


def push(checkpoint):
    model = SETR.from_pretrained(checkpoint)
    print(model.push_to_hub("me/toy", license="apache-2.0", data="A drawing."))


def pull(*names):
    for name in names:
        try:
            model = SETR.from_pretrained(name)
        except UserError as error:
            print(error)
            Path(name).parent.mkdir(exist_ok=True)  # from here on it is a path with a slip in it
        else:
            weight = model.head.classifier.weight.detach()
            print(model.classes, model.palette[1], float(weight.double().sum()))


def test_there_and_back(tmp_path, checkpoint, hub):
    environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"),
                   "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip

    def said(function, *words):
        child = Child(elsewhere, function, tmp_path, *words, log=tmp_path / "says.txt",
                      environment=environment)  # fmt: skip
        assert child.wait() == 0, child.text()
        return child.text().splitlines()

    assert said(push, checkpoint)[-1] == f"{hub.address}/me/toy/commit/{COMMIT}"
    assert sorted(hub.files) == sorted([*FILES, "README.md"])
    assert hub.files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    there, other, slip = said(pull, "me/toy", "me/other", "me/other")[-3:]
    weight = SETR.from_pretrained(checkpoint).head.classifier.weight.detach()
    assert there == f"{CLASSES} {tuple(COLOURS[1])} {float(weight.double().sum())}"
    assert other.startswith(
        "me/other: no folder here, and not to be had from the Hugging Face hub")
    assert slip.startswith("me/other: no checkpoint here")


def test_words_that_are_no_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("runs", "runs/toytown/last", "/tmp/x", "./x", "../x", "a b/c", "x/", "~/x"):
        assert find_checkpoint(word) is None


def test_a_card_has_scores_with_their_protocol(checkpoint):
    told = {"license": "cc-by-nc-4.0", "data": "Streets, for research only."}
    card = model_card(checkpoint, "me/toy", **told)
    assert card.startswith('---\nlicense: "cc-by-nc-4.0"\nlibrary_name: "setr-lite"\n')
    assert "\n\n# toy\n\n" in card
    assert "SETR.from_pretrained('me/toy')" in card
    assert "Trained on: Streets, for research only." in card
    assert "None were handed on" in card
    protocol = {"name": "none", "ratios": [1.0], "sizing": "keep", "flip": False, "odd": "crop",
                "base_size": [24, 32], "mode": "whole", "window": None, "stride": None}  # fmt: skip
    scores = {"checkpoint": "runs/x", "sha256": sha256(checkpoint), "split": "val", "images": 2,
              "of": 2, "quick_look": False, "protocol": protocol, "miou": 0.4321, "processes": 1,
              "mean_accuracy": 0.5, "pixel_accuracy": 0.9, "seconds_per_image": 0.1,
              "device": "cpu"}  # fmt: skip
    card = model_card(checkpoint, "me/toy", scores=scores, **told)
    assert "mIoU 43.21" in card
    assert "protocol none: ratios 1.0 (keep), no mirror images, whole images" in card
    with pytest.raises(UserError, match=r"last: the scores are of other weights"):
        model_card(checkpoint, "me/toy", scores={**scores, "sha256": "0" * 64}, **told)


def test_a_model_without_settings_is_refused():
    with pytest.raises(UserError, match=r"push_to_hub: this model has no settings"):
        SETR.from_config(CONFIG.model).push_to_hub("me/toy", license="mit", data="x")


def test_classes_and_colours_come_with_the_model(checkpoint):
    model = SETR.from_pretrained(checkpoint)
    assert model.classes == CLASSES
    assert model.palette == tuple(map(tuple, COLOURS))
    assert SETR.from_config(CONFIG.model).classes == ()
    assert torch.equal(model.head.classifier.weight,
                       SETR.from_pretrained(str(checkpoint)).head.classifier.weight)  # fmt: skip
