"""What every tensor is called elsewhere: one literal table per published layout, ours -> theirs.

``{i}`` and ``{k}`` stand for a number, and ``*`` for what follows (``weight``, ``bias``, a
BatchNorm's statistics). Two more numbers follow from ``{i}``: ``{r}`` is 3 - i, for layouts that
count the MLA streams from deep to shallow, and ``{p}`` is i + 2, for the authors' p2 .. p5.

Tables of what is left behind give the reason in place of a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from torch import Tensor

TIMM = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj.*": "patch_embed.proj.*",
    "blocks.{i}.norm1.*": "blocks.{i}.norm1.*",
    "blocks.{i}.attn.qkv.*": "blocks.{i}.attn.qkv.*",
    "blocks.{i}.attn.proj.*": "blocks.{i}.attn.proj.*",
    "blocks.{i}.norm2.*": "blocks.{i}.norm2.*",
    "blocks.{i}.mlp.fc1.*": "blocks.{i}.mlp.fc1.*",
    "blocks.{i}.mlp.fc2.*": "blocks.{i}.mlp.fc2.*",
}
"""A plain ViT of timm, of its forerunner (the ``jx_vit`` files) and of DeiT; our own names."""

MMSEG_VIT = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj.*": "patch_embed.projection.*",
    "blocks.{i}.norm1.*": "layers.{i}.ln1.*",
    "blocks.{i}.attn.qkv.weight": "layers.{i}.attn.attn.in_proj_weight",
    "blocks.{i}.attn.qkv.bias": "layers.{i}.attn.attn.in_proj_bias",
    "blocks.{i}.attn.proj.*": "layers.{i}.attn.attn.out_proj.*",
    "blocks.{i}.norm2.*": "layers.{i}.ln2.*",
    "blocks.{i}.mlp.fc1.*": "layers.{i}.ffn.layers.0.0.*",
    "blocks.{i}.mlp.fc2.*": "layers.{i}.ffn.layers.1.*",
}
"""mmsegmentation's ViT. Rows of ``in_proj`` are q, k, v as in ``qkv``: nothing is permuted."""

VIT2MMSEG = {
    **MMSEG_VIT,
    "norm.*": "ln1.*",
    "dist_token": "dist_token",
    "pre_logits.*": "pre_logits.*",
}
"""What mmsegmentation's ``vit2mmseg.py`` writes. The last three find no place in its SETR."""

_SUB = "Transformer/encoderblock_{i}"
AUGREG = {
    "cls_token": "cls",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
    "patch_embed.proj.weight": "embedding/kernel",
    "patch_embed.proj.bias": "embedding/bias",
    "blocks.{i}.norm1.weight": f"{_SUB}/LayerNorm_0/scale",
    "blocks.{i}.norm1.bias": f"{_SUB}/LayerNorm_0/bias",
    "blocks.{i}.attn.qkv.weight": f"{_SUB}/MultiHeadDotProductAttention_1/query+key+value/kernel",
    "blocks.{i}.attn.qkv.bias": f"{_SUB}/MultiHeadDotProductAttention_1/query+key+value/bias",
    "blocks.{i}.attn.proj.weight": f"{_SUB}/MultiHeadDotProductAttention_1/out/kernel",
    "blocks.{i}.attn.proj.bias": f"{_SUB}/MultiHeadDotProductAttention_1/out/bias",
    "blocks.{i}.norm2.weight": f"{_SUB}/LayerNorm_2/scale",
    "blocks.{i}.norm2.bias": f"{_SUB}/LayerNorm_2/bias",
    "blocks.{i}.mlp.fc1.weight": f"{_SUB}/MlpBlock_3/Dense_0/kernel",
    "blocks.{i}.mlp.fc1.bias": f"{_SUB}/MlpBlock_3/Dense_0/bias",
    "blocks.{i}.mlp.fc2.weight": f"{_SUB}/MlpBlock_3/Dense_1/kernel",
    "blocks.{i}.mlp.fc2.bias": f"{_SUB}/MlpBlock_3/Dense_1/bias",
}
"""A Flax ``.npz`` of "How to train your ViT" (AugReg), its q, k and v joined and its kernels
turned to PyTorch's order by `weights.files.read_weight_file`."""

_CLASSIFIER = "classifies whole images"
_FINAL_NORM = "final norm: every SETR head has its own"
_DISTILLED = "DeiT's distillation token, which SETR has no use for"
TIMM_DROPPED = {
    "head.*": _CLASSIFIER,
    "pre_logits.*": _CLASSIFIER,
    "norm.*": _FINAL_NORM,
}
DEIT_DROPPED = {**TIMM_DROPPED, "head_dist.*": _CLASSIFIER, "dist_token": _DISTILLED}
MMSEG_VIT_DROPPED = {"ln1.*": _FINAL_NORM, "pre_logits.*": _CLASSIFIER, "dist_token": _DISTILLED}
AUGREG_DROPPED = {
    "head/*": _CLASSIFIER,
    "pre_logits/*": _CLASSIFIER,
    "Transformer/encoder_norm/*": _FINAL_NORM,
}

_MMSEG_BACKBONE = {f"encoder.{ours}": f"backbone.{theirs}" for ours, theirs in MMSEG_VIT.items()}
_MMSEG_UP = {
    "head.norm.*": "decode_head.norm.*",
    "head.convs.{i}.0.*": "decode_head.up_convs.{i}.0.conv.*",
    "head.convs.{i}.1.*": "decode_head.up_convs.{i}.0.bn.*",
    "head.classifier.*": "decode_head.conv_seg.*",
    "aux_heads.{k}.norm.*": "auxiliary_head.{k}.norm.*",
    "aux_heads.{k}.convs.{i}.0.*": "auxiliary_head.{k}.up_convs.{i}.0.conv.*",
    "aux_heads.{k}.convs.{i}.1.*": "auxiliary_head.{k}.up_convs.{i}.0.bn.*",
    "aux_heads.{k}.classifier.*": "auxiliary_head.{k}.conv_seg.*",
}
_MMSEG_MLA = {
    "neck.norm.{i}.*": "neck.norm.{i}.*",
    "neck.proj.{i}.0.*": "neck.mla.channel_proj.{i}.conv.*",
    "neck.proj.{i}.1.*": "neck.mla.channel_proj.{i}.bn.*",
    "neck.smooth.{i}.0.*": "neck.mla.feat_extract.{r}.conv.*",
    "neck.smooth.{i}.1.*": "neck.mla.feat_extract.{r}.bn.*",
    "head.branches.{i}.0.*": "decode_head.up_convs.{r}.0.conv.*",
    "head.branches.{i}.1.*": "decode_head.up_convs.{r}.0.bn.*",
    "head.branches.{i}.3.*": "decode_head.up_convs.{r}.1.conv.*",
    "head.branches.{i}.4.*": "decode_head.up_convs.{r}.1.bn.*",
    "head.classifier.*": "decode_head.conv_seg.*",  # its input channels, too, come deep first
    "aux_heads.{i}.classifier.*": "auxiliary_head.{r}.conv_seg.*",
}
MMSEG = {
    "naive": {**_MMSEG_BACKBONE, **_MMSEG_UP},
    "pup": {**_MMSEG_BACKBONE, **_MMSEG_UP},
    "mla": {**_MMSEG_BACKBONE, **_MMSEG_MLA},
}
"""mmsegmentation's SETR checkpoints, versions 0.x and 1.x, by head."""

_OFFICIAL_BACKBONE = {f"encoder.{ours}": f"backbone.{theirs}" for ours, theirs in TIMM.items()}
_OFFICIAL_AUX = {
    "aux_heads.{k}.norm.*": "auxiliary_head.{k}.norm.*",
    "aux_heads.{k}.convs.0.0.*": "auxiliary_head.{k}.conv_0.*",
    "aux_heads.{k}.convs.0.1.*": "auxiliary_head.{k}.syncbn_fc_0.*",
    "aux_heads.{k}.classifier.*": "auxiliary_head.{k}.conv_1.*",
}
OFFICIAL = {
    "naive": {
        **_OFFICIAL_BACKBONE,
        "head.norm.*": "decode_head.norm.*",
        "head.convs.0.0.*": "decode_head.conv_0.*",
        "head.convs.0.1.*": "decode_head.syncbn_fc_0.*",
        "head.classifier.*": "decode_head.conv_1.*",
        **_OFFICIAL_AUX,
    },
    "pup": {
        **_OFFICIAL_BACKBONE,
        "head.norm.*": "decode_head.norm.*",
        "head.convs.{i}.0.*": "decode_head.conv_{i}.*",
        "head.convs.{i}.1.*": "decode_head.syncbn_fc_{i}.*",
        "head.classifier.*": "decode_head.conv_4.*",
        **_OFFICIAL_AUX,
    },
    "mla": {
        **_OFFICIAL_BACKBONE,
        "neck.norm.{i}.*": "backbone.norm_{i}.*",
        "neck.proj.{i}.0.*": "backbone.mla.mla_p{p}_1x1.0.*",
        "neck.proj.{i}.1.*": "backbone.mla.mla_p{p}_1x1.1.*",
        "neck.smooth.{i}.0.*": "backbone.mla.mla_p{p}.0.*",
        "neck.smooth.{i}.1.*": "backbone.mla.mla_p{p}.1.*",
        "head.branches.{i}.0.*": "decode_head.mlahead.head{p}.0.*",
        "head.branches.{i}.1.*": "decode_head.mlahead.head{p}.1.*",
        "head.branches.{i}.3.*": "decode_head.mlahead.head{p}.3.*",
        "head.branches.{i}.4.*": "decode_head.mlahead.head{p}.4.*",
        "head.classifier.*": "decode_head.cls.*",
        "aux_heads.{i}.classifier.*": "auxiliary_head.{i}.aux.*",
    },
}
"""The authors' SETR checkpoints, by head."""

_UNUSED = "made by the base class of the authors' heads and never called"
OFFICIAL_DROPPED = {"decode_head.conv_seg.*": _UNUSED, "auxiliary_head.{k}.conv_seg.*": _UNUSED}
AUX_DROPPED = {"auxiliary_head.*": "auxiliary heads, used in training only; this model has none"}


@cache
def _pattern(row: str) -> re.Pattern[str]:
    text = re.escape(row).replace(r"\*", "(?P<rest>.+)")
    return re.compile(re.sub(r"\\{([ik])\\}", r"(?P<\1>\\d+)", text))


def rename(table: Mapping[str, str], name: str) -> str | None:
    """What `name` is called in `table`'s layout (or the reason, in a table of reasons).

    Returns None when no row has it.
    """
    for ours, theirs in table.items():
        match = _pattern(ours).fullmatch(name)
        if match:
            found = match.groupdict()
            i = int(found.get("i", 0))
            numbers = {"{i}": i, "{k}": found.get("k"), "{r}": 3 - i, "{p}": i + 2}
            for mark, number in numbers.items():
                theirs = theirs.replace(mark, str(number))
            return theirs.replace("*", found.get("rest", "*"))
    return None


def reverse_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in mmsegmentation's MLA layout, the classifier's input the other way round.

    Its input channels are four blocks, one a stream, deep first there and shallow first here, so
    one function serves both directions. A classifier that is missing or not divisible by four
    stays as it is.
    """
    name = "decode_head.conv_seg.weight"
    value = tensors.get(name)
    if value is None or value.ndim != 4 or value.shape[1] % 4:
        return dict(tensors)
    return {**tensors, name: value.unflatten(1, (4, -1)).flip(1).flatten(1, 2)}
