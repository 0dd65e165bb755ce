"""A checkpoint as a page: what is packed, what is refused, and the page in a browser."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from conftest import CHROMIUM, SLOW
from PIL import Image
from safetensors.torch import load

from setr_lite import SETR, cli
from setr_lite.config import ModelConfig, RunConfig
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.timm_encoder import TimmEncoder
from setr_lite.toytown import render_scene
from setr_lite.web import export, wat
from setr_lite.web.pages import kernel, read_source

PUP = "data/runs/toytown_pup/model"


# --- the assembler --------------------------------------------------------------------------------


def test_the_kernel_is_assembled_from_its_text():
    raw = kernel()
    assert raw[:8] == b"\x00asm\x01\x00\x00\x00"
    assert len(raw) < 600
    # sections in order, and nothing behind the last
    numbers, at = [], 8
    while at < len(raw):
        numbers.append(raw[at])
        size, shift, at = 0, 0, at + 1
        while True:
            size |= (raw[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if raw[at - 1] < 128:
                break
        at += size
    assert numbers == [1, 2, 3, 7, 10]
    assert at == len(raw)


@pytest.mark.parametrize(("value", "encoded"), [
    (0, "00"), (63, "3f"), (64, "c000"), (-1, "7f"), (-64, "40"), (-65, "bf7f"), (624485, "e58e26"),
])  # fmt: skip
def test_signed_numbers_are_those_of_the_specification(value, encoded):
    assert wat._signed(value).hex() == encoded


def test_what_the_assembler_does_not_know_is_refused():
    text = read_source("kernel.wat")
    with pytest.raises(ValueError, match=r"no instruction 'i32\.rem_u'"):
        wat.assemble(text.replace("i32.mul", "i32.rem_u"))
    with pytest.raises(ValueError, match="expected"):
        wat.assemble("(module (func) (func))")


# --- what is packed -------------------------------------------------------------------------------


def test_layer_scale_and_positions_are_folded_in(spread):
    """Packed weights of a timm ViT, in our own encoder, give timm's tokens on another grid."""
    sizes = {"depth": 5, "embed_dim": 48, "num_heads": 3}
    theirs = TimmEncoder.from_name(
        "vit_tiny_patch16_224", img_size=(64, 64), init_values=0.5, **sizes)
    model = SETR(3, "naive", "toy", img_size=(64, 64), aux=False)
    model.encoder = spread(theirs)
    model.eval()
    tensors = export.page_tensors(model, (3, 5))
    assert not [name for name in tensors if "gamma" in name or "vit" in name]
    ours = VisionTransformer((48, 80), 16, 48, 5, 3, taps=model.encoder.taps).eval()
    packed = {name.partition(".")[2]: t for name, t in tensors.items() if name[:8] == "encoder."}
    ours.load_state_dict(packed)
    image = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        for a, b in zip(ours(image), model.encoder(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_the_page_does_not_need_stays_out():
    model = SETR(3, "pup", "toy", img_size=(96, 192), taps=(0, 1, 2, 3))
    names = set(export.page_tensors(model, (12, 24)))
    unused = ("aux_heads", "encoder.blocks.4")
    assert not [name for name in names if name.startswith(unused) or "batches" in name]
    assert "encoder.blocks.3.norm1.weight" in names


def test_eight_bits_are_off_by_half_a_step(spread):
    tensors = {"a.weight": torch.randn(4, 6), "b.bias": torch.randn(4), "pos": torch.randn(1, 3, 2)}
    stored = export.in_bits(tensors, 8)
    assert {name: t.dtype for name, t in stored.items()} == {
        "a.weight": torch.int8, "a.weight.scale": torch.float32, "b.bias": torch.float32,
        "pos": torch.float16,
    }  # fmt: skip
    step = stored["a.weight.scale"][:, None]
    assert ((stored["a.weight"] * step - tensors["a.weight"]).abs() <= step * 0.5001).all()
    assert export.in_bits(tensors, 16)["a.weight"].dtype == torch.float16


# --- what is refused ------------------------------------------------------------------------------


def on_meta(**settings):
    config = RunConfig(model=ModelConfig(num_classes=3, aux=False, **settings))
    with torch.device("meta"):
        model = SETR.from_config(config.model)
    model.config = config
    return model


@pytest.mark.parametrize(("settings", "words"), [
    ({"dialect": "mmseg", "encoder": "vit_tiny_patch16"}, "dialect mmseg"),
    ({"encoder": "hybrid_base"}, "no ResNet"),
    ({"encoder": "timm:vit_small_patch14_reg4_dinov2.lvd142m"}, "register"),
    ({"encoder": "timm:vit_small_patch16_dinov3.lvd1689m"}, "rotary"),
    ({"encoder": "toy", "channels": 20}, "width of 10"),
])  # fmt: skip
def test_what_the_engine_cannot_do_is_one_line(settings, words):
    with pytest.raises(UserError, match=words) as caught:
        export.check_model(on_meta(head="pup", img_size=(224, 224), **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2.lvd142m"])
def test_plain_models_of_timm_are_taken(name):
    export.check_model(on_meta(head="naive", encoder=f"timm:{name}", img_size=(224, 224)))


@pytest.mark.parametrize(("options", "words"), [
    ({"bits": 7}, "--bits 7: choose from 8, 16, 32"),
    ({"size": (100, 192)}, "--size 100x192: no whole patches of 8; try 96x192"),
])
def test_bad_options_are_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        export.export_page(PUP, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_bits_go_with_a_page_only(capsys):
    assert cli.main(["export", PUP, "--format", "torch", "--bits", "8"]) == 2
    assert "--bits 8 goes with --format web" in capsys.readouterr().err


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        export.export_page(PUP, tmp_path / "file")


# --- the page in a browser ------------------------------------------------------------------------


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize(("head", "bits", "size", "equal"), [
    ("pup", 16, None, 0.999), ("mla", 8, None, 0.97), ("naive", 32, (64, 160), 0.9999),
])  # fmt: skip
def test_the_page_labels_a_picture(browser, tmp_path, head, bits, size, equal):
    folder, checkpoint = tmp_path / "page", f"data/runs/toytown_{head}/model"
    said = ["export", checkpoint, "--format", "web", "--out", str(folder), "--bits", str(bits)]
    assert cli.main(said + (["--size", f"{size[0]}x{size[1]}"] if size else [])) in (0, None)
    picture, _ = render_scene(5, size or (96, 192))
    Image.fromarray(picture).save(tmp_path / "street.png")
    context = browser.new_context()
    context.set_default_timeout(SLOW)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.on("request", lambda r: r.url[:5] in ("file:", "data:", "blob:") or problems.append(r.url))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("[data-state=ready]")
    page.locator("#file").set_input_files(tmp_path / "street.png")
    page.wait_for_selector("#save:not([disabled])")
    names = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}
    assert page.title().endswith(f"SETR-{names[head]}, 19 classes")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "street_labels.png"
    found = np.asarray(Image.open(download.value.path()).convert("L"))
    model = SETR.from_pretrained(checkpoint)
    data = model.normalization(model.config.data)
    image = torch.from_numpy(picture).permute(2, 0, 1).float()
    image = (image - torch.tensor(data.mean)[:, None, None]) / torch.tensor(data.std)[:, None, None]
    with torch.no_grad():
        want = model(image[None]).label()[0].numpy()
    assert found.shape == want.shape
    assert (found == want).mean() >= equal
    assert "road" in page.locator("#legend").inner_text()
    (tmp_path / "words.png").write_text("no image")
    page.locator("#file").set_input_files(tmp_path / "words.png")
    page.wait_for_function("document.querySelector('#said').innerText.includes('is no image')")
    assert problems == []
    context.close()


def test_packed_bytes_are_read_back():
    """What a page holds is a safetensors file in base64."""
    model = SETR.from_pretrained(PUP)
    tensors = export.page_tensors(model, (12, 24))
    from safetensors.torch import save

    from setr_lite.web.pages import model_part

    part = model_part({"a": 1}, save(export.in_bits(tensors, 16)))
    back = load(base64.b64decode(part["weights"]))
    assert set(back) == set(tensors)
