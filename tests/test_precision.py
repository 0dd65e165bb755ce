"""What ``auto`` means, and that bfloat16 changes no label but near ties."""

import pytest
import torch

from setr_lite import precision
from setr_lite.datasets.layouts import load_dataset
from setr_lite.evaluate import evaluate, predictor
from setr_lite.model import SETR
from setr_lite.precision import in_words, uses_bf16
from setr_lite.recipes import get_recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """A processor with these flags, which has not been asked yet."""

    def of(flags):
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor : 0\nflags\t\t: fpu sse2 {flags}\nprocessor : 1\n")
        flags = precision._cpu_flags(info)
        monkeypatch.setattr(precision, "_cpu_flags", lambda: flags)
        precision._made_for_bf16.cache_clear()

    yield of
    monkeypatch.undo()
    precision._made_for_bf16.cache_clear()


@pytest.mark.parametrize(("flags", "fast"), [
    ("avx2 avx512f", False), ("avx512_bf16", True), ("amx_tile amx_bf16 amx_int8", True),
    ("amx_tile", False),
])  # fmt: skip
def test_auto_asks_the_processor(processor, flags, fast):
    processor(flags)
    assert uses_bf16("auto", CPU) == fast
    assert uses_bf16("bf16", CPU)
    assert not uses_bf16("off", CPU)
    assert ("train.amp=bf16 would be faster" in in_words("off", CPU)) == fast


def test_elsewhere_nobody_knows_the_flags(tmp_path):
    assert precision._cpu_flags(tmp_path / "none") == set()


def test_auto_asks_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported in (True, False):
        precision._made_for_bf16.cache_clear()
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, yes=supported: yes)
        assert uses_bf16("auto", CUDA) == supported
    precision._made_for_bf16.cache_clear()


def test_the_words_say_what_was_published():
    assert in_words("bf16", CPU, published=True) == (
        "bfloat16 autocast: matrix products of 8 significant bits instead of 24, weights and "
        "updates in float32; published in float32, which "
        "train.amp=off takes")
    assert in_words("off", torch.device("cpu")).startswith("float32")


def test_bf16_changes_near_ties_only():
    """A model of any weights; a pixel may change if its two best scores differ by little."""
    config = get_recipe("toytown_pup").override("data.root=data/sample/toytown_cityscapes")
    data, model = load_dataset(config.data, "val"), SETR.from_config(config.model).eval()
    image = data[0].image
    exact = model.predict(image, config=config)
    rounded = predictor(model, config.override("eval.amp=bf16"))(image)
    scores = model(model.preprocess(image)).full()[0].topk(2, dim=0).values
    gap, spread = scores[0] - scores[1], scores.std()
    changed = exact != rounded
    assert gap[changed].max() < 0.05 * spread
    assert changed.float().mean() < 0.05
    assert changed.any()  # else it was not bfloat16


def test_evaluation_takes_its_own_setting(monkeypatch):
    config = get_recipe("toytown_pup").override("data.root=data/sample/toytown_cityscapes")
    data, model = load_dataset(config.data, "val"), SETR.from_config(config.model).eval()
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for amp in ("off", "bf16"):
        evaluate(model, data, config.override(f"eval.amp={amp}"), indices=range(1))
    assert seen == [torch.float32, torch.bfloat16]
