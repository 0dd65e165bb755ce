"""Mistakes that run: a few characters of the library each, no error, a plausible score.

Most have been made in published code, in ports of it, or by people who asked why their score was a
little low. ``bites`` says where a user would meet one:

``training``    the trained weights are others
``evaluation``  healthy weights give other labels, or another score
``conversion``  weights of another program come in wrong
``ranks``       only several processes together
"""

from __future__ import annotations

from typing import NamedTuple

TRAINING, EVALUATION, CONVERSION, RANKS = "training", "evaluation", "conversion", "ranks"
BOTH = (TRAINING, EVALUATION)


class Bug(NamedTuple):
    """One change to the library."""

    id: str
    name: str
    what: str
    file: str
    """Below setr_lite."""
    before: str
    """Occurs once in the file."""
    after: str
    bites: tuple[str, ...]
    head: str = "pup"
    """Of the models that it is looked for in, and trained in."""
    settings: tuple[str, ...] = ()
    """Overrides without which evaluation does not meet it; its control has them, too."""
    untrained: str = ""
    """Why nothing is to be trained; for a bug that does not bite in training."""


BUGS = (
    Bug("qk_swapped", "q and k swapped",
        "The first third of the qkv rows is taken for the keys, the second for the queries.",
        "encoder.py", "q, k, v = (part", "k, q, v = (part", BOTH),
    Bug("softmax_scale", "Softmax scaled by the model's width",
        "Scores are divided by the root of all channels instead of those of one attention head.",
        "encoder.py", "scaled_dot_product_attention(q, k, v)",
        "scaled_dot_product_attention(q, k, v, scale=c**-0.5)", BOTH),
    Bug("grid_transposed", "Tokens laid out column by column",
        "Tokens come in reading order and are put back on the grid column by column.",
        "model.py", ".unflatten(2, (h, w))", ".unflatten(2, (w, h)).mT", BOTH),
    Bug("patch_bias", "Patch projection without its bias",
        "The bias is in the checkpoint, is loaded, and is never added.",
        "encoder.py", "return self.proj(image).flatten(2)",
        "return F.conv2d(image, self.proj.weight, stride=self.patch_size).flatten(2)", BOTH),
    Bug("gelu_tanh", "GELU by its tanh approximation",
        "The default of other frameworks in place of the exact erf.",
        "encoder.py", "nn.GELU()", 'nn.GELU("tanh")', BOTH),
    Bug("layer_norm_eps", "PyTorch's LayerNorm epsilon",
        "1e-5, PyTorch's default, where ViT has 1e-6.",
        "encoder.py", "EPS = 1e-6", "EPS = 1e-5", BOTH),
    Bug("head_norm", "Head without its LayerNorm",
        "The encoder is taken to end in a norm, so the head's own looks superfluous.",
        "heads.py", "x = self.norm(features[-1])", "x = features[-1]", BOTH),
    Bug("pup_corners", "align_corners in PUP's steps",
        "Each 2x step of the decoder aligns the corners, which this head does not.",
        "heads.py", "align_corners: bool = False", "align_corners: bool = True", BOTH),
    Bug("mla_reversed", "MLA's streams deep first",
        "The four depths of the encoder come to the neck in the opposite order.",
        "heads.py", "zip(self.proj, self.norm, features, strict=True)",
        "zip(self.proj, self.norm, features[::-1], strict=True)", BOTH, "mla"),
    Bug("position_shift", "Position table with the wrong row left out",
        "MLA has no class token; the table's last row is cut off in place of its first.",
        "encoder.py", "patches.contiguous() + pos_embed[:, 1:]",
        "patches.contiguous() + pos_embed[:, :-1]", BOTH, "mla"),
    Bug("labels_twice", "Labels reduced twice",
        "Ids are brought to 0..K-1 by the reader and lowered by one once more: the first class "
        "becomes 255 and is ignored, in training and in the score.",
        "datasets/base.py", "cv2.LUT(ids, self.table_of(path))",
        "cv2.LUT(ids, self.table_of(path)) - 1", BOTH),
    Bug("flip_image_only", "Image mirrored without its label",
        "Half of the crops have a label that is the wrong way round.",
        "transforms.py", "_own(image, mirror), _own(label, mirror)",
        "_own(image, mirror), _own(label, False)", (TRAINING,)),
    Bug("label_bilinear", "Labels resized bilinearly",
        "Between ids 2 and 10 lies class 6: borders of resized labels get classes of their own.",
        "transforms.py", "_resize(label, size, cv2.INTER_NEAREST)",
        "_resize(label, size, cv2.INTER_LINEAR)", (TRAINING,)),
    Bug("label_padding", "Labels padded with 0",
        "What is padded is no longer ignored, it is labelled as the first class, road.",
        "transforms.py", "F.pad(label, border, value=IGNORE)", "F.pad(label, border)",
        (TRAINING,)),
    Bug("train_255", "Training images divided by 255",
        "Training subtracts the mean and divides by 255, evaluation by the standard deviation.",
        "transforms.py", ".div_(self.std)", ".div_(255)", (TRAINING,)),
    Bug("bn_momentum", "BatchNorm momentum 0.99",
        "Another framework's 0.99, which PyTorch calls 0.01: the running statistics are those of "
        "the last batch.",
        "heads.py", "nn.BatchNorm2d(outputs)", "nn.BatchNorm2d(outputs, momentum=0.99)",
        (TRAINING,)),
    Bug("zero_grad", "Gradients never cleared",
        "Each step adds its gradients to those of all steps before.",
        "step.py", "    optimizer.zero_grad(set_to_none=True)\n", "", (TRAINING,)),
    Bug("poly_integer", "Schedule in whole numbers",
        "An integer division: the learning rate never falls.",
        "optim.py", "(step - warmup) / max(divisor, 1)", "(step - warmup) // max(divisor, 1)",
        (TRAINING,)),
    Bug("upstream", "Hand-written backward drops the upstream gradient",
        "A hand-written backward pass returns its own gradient without the factor of what follows "
        "it, here the mean over pixels.",
        "losses/cross_entropy.py", "return gradient * upstream.to(gradient.dtype), None",
        "return gradient, None", (TRAINING,)),
    Bug("bgr", "Evaluated in BGR",
        "Training reads RGB; the transform of the test images has the channels reversed.",
        "transforms.py", "enumerate(cv2.split(image))", "enumerate(cv2.split(image)[::-1])",
        (EVALUATION,), untrained="training takes the batch's normalisation, which is healthy"),
    Bug("argmax_first", "Classes decided before the resize",
        "The coarse map is turned into classes, and those are enlarged.",
        "logits.py", "x = x.to(torch.promote_types(x.dtype, torch.float32))",
        "x = (x == x.amax(-1, keepdim=True)).to(torch.promote_types(x.dtype, torch.float32))",
        (EVALUATION,), "naive", untrained="the loss resizes by other code, which is healthy"),
    Bug("eval_mode", "Validation in training mode",
        "BatchNorm normalises each validation image by its own statistics, and keeps them.",
        "inference/tiles.py", "    model.eval()\n    try:", "    try:",
        (EVALUATION,), untrained="what validation does to BatchNorm's statistics, training "
        "with no validation in between never sees"),
    Bug("window_count", "Windows added up, not averaged",
        "Where windows overlap, their logits are not divided by how many there are.",
        "inference/tiles.py", "return total.div_(count)", "return total", (EVALUATION,), "pup",
        ("eval.mode=slide", "eval.window=96x96", "eval.stride=64x64"),
        "training knows no windows"),
    Bug("quarter_score", "Scored at a quarter of the size",
        "Validation labels are shrunk to save time, and the labels are predicted at that size.",
        "evaluate/loop.py", "image_views(sample.image, self.config), sample.label",
        "image_views(sample.image, self.config), sample.label[::4, ::4]", (EVALUATION,),
        untrained="validation alone"),
    Bug("class_token_48", "Class token cut off by a guess",
        "The class token is cut off where the number of tokens is no multiple of 48, and left in "
        "where it is one: published code has this test.",
        "encoder.py", "outputs.append(x[:, prefix:])",
        "outputs.append(x[:, prefix:] if x.shape[1] % 48 else x)", (EVALUATION,),
        untrained="on a grid of 12 x 24 it cuts off what is to be cut off: the bits are the same"),
    Bug("position_transposed", "Position table resized the wrong way round",
        "Before it is resized to another grid the table is read column by column.",
        "encoder.py", "unflatten(2, old_grid)", "unflatten(2, old_grid[::-1]).mT",
        (EVALUATION, CONVERSION), "pup", ("eval.base_size=120x240",),
        "at the size of the table nothing is resized: the bits are the same"),
    Bug("mla_conversion", "MLA's streams converted in reverse",
        "The authors' p2 .. p5 are taken for deep to shallow; reading and writing agree on it.",
        "weights/tables.py", '"{p}": i + 2', '"{p}": 5 - i', (CONVERSION,), "mla",
        untrained="training from random weights converts nothing"),
    Bug("distilled_row", "DeiT's second row taken for a patch",
        "The distillation token's row stays in the position table and the last patch's goes.",
        "weights/read.py", "[rows[:, :1], rows[:, 2:]]", "[rows[:, :1], rows[:, 1:-1]]",
        (CONVERSION,), untrained="training from random weights converts nothing"),
    Bug("mean_of_means", "Mean of means over ranks",
        "Each rank divides by its own valid pixels; the mean of these means is not the mean.",
        "losses/cross_entropy.py",
        "        dist.all_reduce(count)\n        world = dist.get_world_size()\n",
        "        pass\n", (RANKS,), untrained="one process has one mean"),
    Bug("own_batch_norm", "BatchNorm of each rank's own images",
        "The switch that synchronises BatchNorm over ranks is the wrong way round.",
        "distributed/parallel.py", "    if sync_bn:\n", "    if not sync_bn:\n", (RANKS,), "mla",
        untrained="one process has all images"),
)  # fmt: skip
"""In the order of the page's table: the forward pass, data, optimisation, evaluation, conversion,
ranks."""
BY_ID = {bug.id: bug for bug in BUGS}


def planted(text: str, before: str, after: str, where: str = "") -> str:
    """`text` with the change.

    Raises:
        SystemExit: `before` is not there exactly once, or nothing changes.
    """
    if text.count(before) != 1 or before == after:
        raise SystemExit(f"{where}: {before!r} is there {text.count(before)} times")
    return text.replace(before, after)
