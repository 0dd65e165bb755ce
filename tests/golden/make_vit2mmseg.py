"""Make ``vit2mmseg.json``: what mmsegmentation 1.2.2's ``vit2mmseg.py`` writes.

Run ``DIR/bin/python tests/golden/make_vit2mmseg.py`` in the environment that ``sh
tests/oracle/setup.sh DIR`` makes. The script lies in mmsegmentation's wheel, under
``mmseg/.mim/tools/model_converters``, and is run as it is, with its two arguments, on the two
files of :func:`write_source`.

The file holds ``{case: [[key, dtype, shape, CRC-32 of the values], ...]}`` in the order of the
keys.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import zlib
from pathlib import Path

import torch

try:  # run as a script, or imported by the tests
    from make_heads import draw
except ModuleNotFoundError:
    from golden.make_heads import draw

OUT = Path(__file__).with_name("vit2mmseg.json")
WIDTH, DEPTH, PATCH, ROWS = 8, 2, 4, 9
CASES = ("vit", "deit")


def shapes(case: str) -> dict[str, tuple[int, ...]]:
    """Keys of a tiny ViT of timm's forerunner, or of a tiny distilled DeiT, in their order."""
    d = WIDTH
    found = {"cls_token": (1, 1, d), "pos_embed": (1, 1 + ROWS, d)}
    if case == "deit":
        found = {"cls_token": (1, 1, d), "dist_token": (1, 1, d), "pos_embed": (1, 2 + ROWS, d)}
    found |= {"patch_embed.proj.weight": (d, 3, PATCH, PATCH), "patch_embed.proj.bias": (d,)}
    layers = {
        "norm1": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d), "norm2": (d,),
        "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d),
    }  # fmt: skip
    for i in range(DEPTH):
        for name, shape in layers.items():
            found |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    heads = ("head", "head_dist") if case == "deit" else ("pre_logits.fc", "head")
    for name in ("norm", *heads):
        shape = {"norm": (d,), "pre_logits.fc": (d, d)}.get(name, (5, d))
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def write_source(case: str, path: Path) -> None:
    """The file to convert: a flat dict in the older file format, or one under ``model``."""
    dtype = {"vit": torch.float32, "deit": torch.float16}[case]
    state = {name: draw(f"{case}/{name}", s).to(dtype) for name, s in shapes(case).items()}
    state["pos_embed"] = state["pos_embed"].float()  # a file may mix them
    content = {"model": state} if case == "deit" else state
    torch.save(content, path, _use_new_zipfile_serialization=case == "deit")


def describe(state: dict[str, torch.Tensor]) -> list[list]:
    """Key, dtype, shape and CRC-32 of every tensor, in order."""
    return [
        [key, str(value.dtype), list(value.shape), zlib.crc32(value.contiguous().numpy().tobytes())]
        for key, value in state.items()
    ]


if __name__ == "__main__":
    import mmseg

    script = Path(mmseg.__file__).parent / ".mim/tools/model_converters/vit2mmseg.py"
    golden = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, f"{case}.pth"), Path(folder, "out", f"{case}.pth")
            write_source(case, source)
            sys.argv = [str(script), str(source), str(target)]
            runpy.run_path(str(script), run_name="__main__")
            golden[case] = describe(torch.load(target, weights_only=True))
    text = json.dumps(golden).replace("[[", "[\n[").replace("], [", "],\n[")
    OUT.write_text(text.replace("]], ", "]],\n") + "\n")
    print(OUT.name, {case: len(entries) for case, entries in golden.items()})
