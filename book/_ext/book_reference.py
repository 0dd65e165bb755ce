"""Sphinx extension: the reference pages, written anew from the source at every build.

* ``<!-- reference: MODULE.NAME ... -->`` in a page becomes these names, signature and docstring.
  The source is read, not imported: no torch, no GPU, less than a second. Names in `single
  backticks` become links if a page documents them, and every entry has one to its source. Above
  its words stands the shortest import.
* ``<!-- example: MODULE.NAME -->`` and what follows, up to ``<!-- end -->``, moves into that entry,
  below its docstring.
* ``<!-- names at the top -->`` becomes a table of what ``from setr_lite import ...`` finds.
* ``<!-- modules: MODULE ... -->`` becomes a line for each module: what it is for, and its other
  public names. ``the rest`` stands for all modules that no other page lists.
* ``<!-- settings: SECTION -->`` becomes a table of them: default, values, the recipes that differ,
  and why one would; each leads to its entry. Entries read as on the command line:
  ``section.key = default``, what it means, what it takes, and what recipes have instead.
* ``<!-- recipes -->`` becomes a table of them.
* ``<!-- command-line reference -->`` becomes what ``setr-lite --help`` prints, and of every verb
  its usage and its options, each with an anchor such as ``setr-lite-train-dry-run``, and the
  example that ``book/_tools/cli_examples.py`` has run.
* The first mention of each documented name or setting in a chapter or on the page of settings
  becomes a link to its entry, among the settings that of each row of a table.
* Below each promise of promises.md stands its test's name in small letters, with date and result of
  the last run where ``book/_tools/promises.py`` has recorded one; ``<!-- last run -->`` in a row of
  the overview sums up those of its section.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

from book_words import in_prose
from docutils import nodes
from sphinx import addnodes
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "setr_lite"
COLUMNS = "74"  # argparse leaves two of them free
SECTIONS = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
ENTRIES = re.compile(r"<!-- reference: (.*?) -->", re.S)
EXAMPLE = re.compile(r"<!-- example: ([\w.]+) -->\n(.*?)<!-- end -->\n+", re.S)
MODULES = re.compile(r"<!-- modules: (.*?) -->", re.S)
HELP = "<!-- command-line reference -->"
SETTINGS = re.compile(r"<!-- settings: (\w+) -->")
RECIPES = "<!-- recipes -->"
TOP = "<!-- names at the top -->"
LAST = "<!-- what it said last -->"
OVERVIEW = re.compile(r"^(\| \[[^]]+\]\(#([\w-]+)\) \| \d+ \|) <!-- last run --> \|$", re.M)
PROMISE = re.compile(r"^  <br>`(tests/[^`]+)`$", re.M)
EXAMPLES = ROOT / "book" / "examples"
PROMISES = ROOT / "data" / "promises.json"
NOT_SHOWN = {
    "SegmentationDataset":
        "roots markers table folder layout never_255 find_root wanted list_files table_of",
    "SETROutput": "main padded lazy heads",
    "MemoryEstimate": "weights gradients buckets optimizer batch activations at_peak saved step",
    "Report": "path source notes",
}
"""Class -> members that only the library itself needs, and pages leave out."""
SPECIAL = ("__call__", "__getitem__", "__len__")
"""Methods that pages describe although their names begin with an underscore."""
BRIEF = 30  # characters of a sentence before a colon, below which what follows is shown, too
WIDE_VALUE = 86  # columns, above which a value is shown as the source breaks it
LONG_VALUE = 12  # lines of a value that are shown
WHEN = {
    "recipes": "[Train a SETR](11_five_minutes.ipynb) starts with one.",
    "toytown": "Before the first training on [ToyTown](11_five_minutes.ipynb).",
    "check-data": "Before training on [your own images](09b_your_pictures.ipynb), and after a "
    "download.",
    "make-masks": "For [your own images](09b_your_pictures.ipynb), once they are annotated.",
    "split": "For [your own images](09b_your_pictures.ipynb), where they are not divided yet.",
    "train": "[Train a SETR](11_five_minutes.ipynb) follows a run; [Settings](api_settings.md) "
    "explains every setting.",
    "eval": "See [Measuring](10_measuring.ipynb) for the numbers and "
    "[Protocols](10b_protocols.ipynb) for how a score is defined.",
    "predict": "See [Your own images](09b_your_pictures.ipynb).",
    "convert": "See [Weight conversion](12_weight_conversion.ipynb).",
    "compare": "For two runs that should agree and do not.",
    "doctor": "After a training that has gone wrong; see [Silent bugs](18b_silent_bugs.ipynb).",
    "download": "See [Weight conversion](12_weight_conversion.ipynb).",
    "bench": "See [Speed and memory](19_speed.ipynb).",
    "export": "A page that runs a model is [shown here](07b_alive.ipynb).",
}
"""Verb -> when one wants it, and the chapter about it."""
BELOW = {
    "eval": "The table is in fractions; the last lines are in percent. Ten of twelve images are a "
    "quick look.",
    "compare": "Each pair of columns is this run, then the run of `--with`.",
    "download": "The second column says `here` if the weights are downloaded already.",
}
"""Verb -> what to know of its example's output."""
VALUES = {
    "bool": "`true` `false`", "int": "int", "float": "number", "str": "text", "None": "`none`",
    "Size": "`int,int`", "Colour": "`R,G,B`",
}  # fmt: skip
"""Annotated type of a setting -> what its entry calls it."""
LISTED = ("data.name", "train.device")
"""Settings of type text whose words name every value."""
NAMED = {
    "model.encoder": "name", "model.pretrained": "`none`, file, folder, `timm:NAME`, name",
    "data.root": "folder", "data.classes": "file", "train.out": "folder",
    "train.feature_cache": "folder",
}
"""Setting of type text -> what it names."""
ALSO = {"train.batch_size": ", `auto`"}
"""Setting -> what it takes beside its type."""
FAMILIES = {
    "toytown": r"toytown_", "camvid": r"camvid_(?!dinov2)", "dinov2": r"camvid_dinov2_",
    "finetune": r"finetune_", "ade20k": r".*_ade20k_", "cityscapes": r".*_cityscapes_",
    "pascal": r".*_pascal_",
}  # fmt: skip
"""What the tables of settings call a family of recipes -> how the names of its recipes begin."""
CHANGE_IT_TO = {
    "model.encoder": "train a smaller ViT, or one of timm's",
    "model.pretrained": "start from trained weights",
    "model.head": "compare the decoders",
    "model.dialect": "build the heads as mmsegmentation does",
    "model.num_classes": "match your data set",
    "model.patch_size": "have more tokens, or fewer",
    "model.embed_dim": "build an encoder of your own",
    "model.depth": "build an encoder of your own",
    "model.num_heads": "build an encoder of your own",
    "model.mlp_ratio": "build an encoder of your own",
    "model.patch_bias": "build mmsegmentation 1.x's encoder",
    "model.img_size": "follow the crop",
    "model.odd": "treat odd sizes as mmsegmentation does",
    "model.channels": "make the decoder lighter",
    "model.taps": "let the decoder read other depths",
    "model.aux": "train without auxiliary heads",
    "model.aux_units": "repeat a config of mmsegmentation",
    "model.drop_path": "regularise the encoder",
    "data.name": "train on another data set",
    "data.root": "say where the images are",
    "data.classes": "read the class names elsewhere",
    "data.base_size": "train on larger or smaller images",
    "data.crop_size": "save memory, or show more context",
    "data.ratio_range": "vary the scale more or less",
    "data.cat_max_ratio": "allow crops of one class",
    "data.flip": "tell left from right",
    "data.distort": "keep the colours",
    "data.mean": "match an encoder's training",
    "data.std": "match an encoder's training",
    "loss.aux_weight": "weigh the auxiliary losses",
    "loss.normalize": "leave ignored pixels out of the mean",
    "loss.class_weights": "favour rare classes",
    "optim.name": "train with AdamW",
    "optim.lr": "suit another batch or encoder",
    "optim.head_multiplier": "set the heads' rate apart",
    "optim.neck_multiplier": "speed up MLA's new neck",
    "optim.layer_decay": "change shallow blocks less than deep ones",
    "optim.momentum": "average gradients over more steps, or fewer",
    "optim.beta2": "let AdamW adapt sooner in a short run",
    "optim.weight_decay": "keep weights small",
    "optim.warmup": "begin with a low rate",
    "optim.power": "let the rate fall sooner, or later",
    "optim.poly_steps": "end as mmsegmentation 1.x does",
    "optim.min_lr": "train below a rate of 0.0001",
    "optim.clip_norm": "limit rare large gradients",
    "train.steps": "train longer, or try a run out",
    "train.batch_size": "fit the memory",
    "train.fit": "have the batch fitted into memory",
    "train.accumulate": "split the batch, with its BatchNorm",
    "train.micro_batch": "split the batch in the encoder alone",
    "train.grad_checkpointing": "trade time for memory",
    "train.seed": "see how far runs scatter",
    "train.out": "keep runs apart",
    "train.device": "choose a GPU",
    "train.amp": "train in float32, as published",
    "train.parallel": "share a model among GPUs",
    "train.sync_bn": "keep BatchNorm to each process",
    "train.compile": "try for faster blocks",
    "train.freeze_encoder": "train the decoder alone",
    "train.feature_cache": "compute frozen tokens once",
    "train.workers": "use more cores, or one",
    "train.eval_every": "follow the score",
    "train.save_every": "lose less if a run breaks off",
    "train.keep_last": "keep earlier checkpoints",
    "train.log_every": "see the loss more often, or less",
    "train.on_bad_image": "train in spite of damaged files",
    "eval.mode": "test whole images",
    "eval.protocol": "score as a publication does",
    "eval.window": "follow the crop",
    "eval.stride": "overlap windows more, or less",
    "eval.window_batch": "save memory, or use it",
    "eval.base_size": "test at another size than the training's",
    "eval.ratios": "average over scales",
    "eval.flip": "average with the mirror image",
    "eval.amp": "test in bfloat16",
    "eval.limit": "take a quick look",
}
"""Setting -> why one would, in the tables of settings."""
ENCODERS = {
    "toy": "toy, 5 blocks", "vit_tiny_patch16": "ViT-Ti/16", "vit_base_patch16": "ViT-B/16",
    "vit_large_patch16": "ViT-L/16", "hybrid_base": "ResNet + ViT-B",
    "timm:vit_small_patch14_dinov2": "DINOv2 ViT-S/14",
}
"""Encoder of a recipe -> how the table of recipes calls it."""
SCORES = """The scores are those of the authors' README, from which the paper differs in some rows
([All the numbers](20_results.ipynb)); for `pup_base_*`, `mla_base_*`, `pup_random_*` and `hybrid_*`
those of the paper alone, and for `*_mmseg` those of mmsegmentation. None was reproduced
here. Scores of `toytown_*` and `camvid_*`, measured here, are in the README.
"""
SECTIONS_OF_A_RUN = {
    "model": "ModelConfig", "data": "DataConfig", "loss": "LossConfig", "optim": "OptimConfig",
    "train": "TrainConfig", "eval": "EvalConfig",
}  # fmt: skip
RULE = re.compile(r"=+( +=+)+$")  # above and below a table of reStructuredText


# --- docstrings as Markdown ---------------------------------------------------------------------


def plain(text: str, scope: tuple[str, ...] = ()) -> str:
    """Words of a docstring for MyST: what is no code must not become markup by accident.

    `scope`: the module, and the class in it, where a name is looked up first.
    """
    parts = re.split(r"(``.+?``|(?<!`)(?::\w+:)?`[^`]+`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([$<*_|{}\[\]])", r"\\\1", parts[i])
    for i in range(1, len(parts), 2):
        if not parts[i].startswith("``"):
            parts[i] = link(parts[i].rpartition("`")[0].partition("`")[2], scope)
    return "".join(parts)


def link(name: str, scope: tuple[str, ...]) -> str:
    """A name in backticks as a link, if the library has it."""
    found = target(name, scope)
    return f"{{py:obj}}`{name} <{found}>`" if found else f"`{name}`"


def target(name: str, scope: tuple[str, ...]) -> str | None:
    """The full name of what a docstring calls `name`: near first, then anywhere if it is unique."""
    wanted = name.removesuffix("()").removeprefix("setr_lite.")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", wanted):
        return None
    known = names()
    for depth in range(len(scope), 0, -1):
        near = ".".join((*scope[:depth], wanted))
        if near in known:
            return f"setr_lite.{near}"
    section, _, field = wanted.partition(".")
    if field and f"config.{SECTIONS_OF_A_RUN.get(section)}.{field}" in known:
        return f"setr_lite.config.{SECTIONS_OF_A_RUN[section]}.{field}"
    # a bare word in lower case may be an argument
    if "." in wanted or not wanted.islower() or "_" in wanted:
        ends = [full for full in known if full == wanted or full.endswith(f".{wanted}")]
        room, _, last = wanted.rpartition(".")
        ends = ends or [f for f in known if room and f.startswith(f"{room}.") and
                        f.endswith(f".{last}") and f.count(".") == wanted.count(".") + 1]
        return f"setr_lite.{ends[0]}" if len(ends) == 1 else None
    return None


@cache
def names() -> set[str]:
    """Every name that a page documents, with its members, without ``setr_lite.``."""
    found = set()
    for full in documented():
        module, _, name = full.rpartition(".")
        found.add(full)
        if isinstance(node := nodes_of(module)[name][0], ast.ClassDef):
            shown = [m.target.id for m, _ in fields_of(node)] + [m.name for m in methods_of(node)]
            shown += [name for name, _, _ in attributes_of(node, module)]
            found |= {f"{full}.{member}" for member in shown}
    return found


@cache
def documented() -> tuple[str, ...]:
    """``model.SETR`` and all other names that a page documents."""
    return tuple(name for text in pages() for found in ENTRIES.findall(text)
                 for name in found.split())  # fmt: skip


def pages() -> list[str]:
    return [path.read_text("utf-8") for path in sorted((ROOT / "book").glob("api*.md"))]


def all_modules() -> list[str]:
    """``encoder``, ``datasets.base``: the modules of the library that have a page."""
    there = (path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("[a-z]*.py"))
    return sorted(".".join(path.parts) for path in there)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((LIBRARY / f"{module.replace('.', '/')}.py").read_text("utf-8"))


def fields(lines: list[str], scope: tuple[str, ...] = ()) -> Iterator[str]:
    """``name: words``, perhaps on several lines, as a list; other words stay as they are."""
    base = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    lines = list(lines)
    while lines:
        line = lines.pop(0)
        if RULE.match(line.strip()):  # a table among them
            block = [line]
            while lines and lines[0].strip():
                block.append(lines.pop(0))
            yield from ("", *table([row[base:] for row in block], scope), "")
            continue
        found = re.match(r"([\w*, .]+): (.*)", line[base:])
        if found and not line[base:].startswith(" "):
            yield f"- **{plain(found[1])}**: {plain(found[2], scope)}"
        else:
            words = re.sub(r"^(\d+)\. ", r"\1\\. ", plain(line.strip(), scope))  # no list
            yield f"  {words}" if line.strip() else ""


def table(lines: list[str], scope: tuple[str, ...] = ()) -> list[str]:
    """A simple table of reStructuredText for MyST; a row without a first cell goes on."""
    starts = [found.start() for found in re.finditer(r"=+", lines[0])]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    head = sum(bool(RULE.match(line)) for line in lines) > 2
    for line in lines:
        if RULE.match(line):
            continue
        cells = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        if not cells[0] and rows:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    said = [[re.sub(r"(?<!\\)\|", r"\|", plain(cell, scope)) for cell in row] for row in rows]
    first = said.pop(0) if head else [""] * len(starts)
    rule = ["---"] * len(starts)
    return [f"| {' | '.join(cells)} |" for cells in (first, rule, *said)]


def markdown(docstring: str, scope: tuple[str, ...] = ()) -> str:
    """A docstring of the library (Google's sections, tables and code as in Sphinx) for MyST."""
    out: list[str] = []
    lines = cleandoc(docstring).splitlines()
    while lines:
        line = lines.pop(0)
        if SECTIONS.match(line):
            block = []
            while lines and (not lines[0].strip() or lines[0].startswith(" ")):
                block.append(lines.pop(0))
            out += ["", f"**{line}**", "", *fields(block, scope), ""]
        elif RULE.match(line):
            block = [line]
            while lines and (lines[0].strip()):
                block.append(lines.pop(0))
            out += ["", *table(block, scope), ""]
        elif line.startswith("    ") and (not out or not out[-1]):
            block = [line]
            while lines and (lines[0].startswith("    ") or not lines[0].strip()):
                block.append(lines.pop(0))
            out += ["```text", *cleandoc("\n" + "\n".join(block)).splitlines(), "```", ""]
        else:
            out.append(plain(re.sub(r"::$", ":", line.strip()), scope))
    return "\n".join(out)


# --- the library --------------------------------------------------------------------------------


def public(body: list[ast.stmt]) -> list[ast.stmt]:
    """Functions and classes without an underscore, and constants in capitals."""
    found = []
    for node in body:
        name = getattr(node, "name", None) or constant(node) or "_"
        if not name.startswith("_") or (name in SPECIAL and ast.get_docstring(node)):
            found.append(node)
    return found


def constant(node: ast.stmt) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    name = target.id if isinstance(target, ast.Name) else ""
    return name if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) else None


def signature(node: ast.FunctionDef, skip_self: bool = False) -> str:
    arguments = ast.unparse(node.args)
    if skip_self:
        arguments = re.sub(r"^(self|cls)(, )?(/, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


@cache
def exported(package: str) -> dict[str, str]:
    """Name -> module, of what the ``__init__.py`` of a room imports; of the top, what it loads."""
    body = ast.parse((LIBRARY / package / "__init__.py").read_text("utf-8")).body
    if not package:
        homes = next(n.value for n in body if isinstance(n, ast.Assign)
                     and ast.unparse(n.targets[0]) == "_HOMES")  # fmt: skip
        return {name: home for home, names in ast.literal_eval(homes).items() for name in names}
    return {alias.name: f"{package}.{node.module}" for node in body
            if isinstance(node, ast.ImportFrom) and node.level == 1 for alias in node.names}


def import_of(full: str) -> str:
    """The shortest import of a documented name."""
    module, _, name = full.rpartition(".")
    room = module.partition(".")[0]
    if name in exported(""):
        return f"from setr_lite import {name}"
    if room != module and exported(room).get(name) == module:
        module = room
    return f"from setr_lite.{module} import {name}"


def names_at_the_top() -> str:
    """MyST of what ``from setr_lite import ...`` finds: name and first sentence."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, home in sorted(exported("").items(), key=lambda item: item[0].lower()):
        full = next(f for f in documented() if f.startswith(home) and f.endswith(f".{name}"))
        module = full.rpartition(".")[0]
        node, after = nodes_of(module)[name]
        words = string_below(after) if constant(node) else ast.get_docstring(node) or ""
        first = re.split(r"(?<=[.;:]) ", " ".join(words.partition("\n\n")[0].split()))[0]
        rows.append(f"| {{py:obj}}`{name} <setr_lite.{full}>` "
                    f"| {plain(first.rstrip('.;:'), (module,))} |")
    return "\n".join(rows)


def directive(kind: str, title: str, body: str, ticks: int, *options: str) -> str:
    fence = "`" * ticks
    return "\n".join([f"{fence}{{py:{kind}}} {title}", *options, "", body, fence, ""])


@cache
def nodes_of(module: str) -> dict[str, tuple[ast.stmt, ast.stmt | None]]:
    """Public name -> where it is defined, and what follows there."""
    body = tree_of(module).body
    return {getattr(node, "name", None) or constant(node) or "": (node, after)
            for node, after in zip(body, [*body[1:], None], strict=True)
            if node in public([node])}  # fmt: skip


def entry(full: str, example: str = "") -> str:
    """MyST of one name, such as ``model.SETR``; the example stands above the members."""
    module, _, name = full.rpartition(".")
    said = describe(*nodes_of(module)[name], module)
    if example:
        head = said.index("\n") + 1
        at = head + re.search(r"^`{5,6}(\{py:.*)?$", said[head:], re.M).start()
        said = f"{said[:at]}\n**Example:**\n\n{example}\n{said[at:]}"
    return re.sub(r"\n\n", f"\n\n`{import_of(full)}`\n\n", said, count=1)  # behind the options


def describe(node: ast.stmt, after: ast.stmt | None, module: str) -> str:
    if isinstance(node, ast.ClassDef):
        return describe_class(node, module)
    if isinstance(node, ast.FunctionDef):
        text = markdown(ast.get_docstring(node) or "", (module,))
        return directive("function", f"{node.name}{signature(node)}", text, 5)
    return directive("data", constant(node), describe_constant(node, after, module), 5,
                     *(f":type: {ast.unparse(node.annotation)}" for _ in [0]
                       if isinstance(node, ast.AnnAssign)))


def string_below(after: ast.stmt | None) -> str:
    """The words of a constant or a field: the string that stands alone below it."""
    value = getattr(after, "value", None) if isinstance(after, ast.Expr) else None
    text = getattr(value, "value", "")
    return text if isinstance(text, str) else ""


def describe_constant(node: ast.stmt, after: ast.stmt | None, module: str) -> str:
    """Its words, then its value if that is known; a large one that is no table, its first lines."""
    words = markdown(string_below(after), (module,))
    value = constants_of(module).get(constant(node))
    if value is None:
        return words
    if rows := table_of(value, string_below(after), ast.get_docstring(tree_of(module)) or ""):
        head, *others = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([words, "", head, "|---" * len(rows[0]) + "|", *others])
    lines = ast.unparse(node.value).splitlines()
    source = (LIBRARY / f"{module.replace('.', '/')}.py").read_text("utf-8")
    if len(lines[0]) > WIDE_VALUE or len(lines) > 1:
        written = ast.get_source_segment(source, node.value, padded=True) or ""
        lines = cleandoc(written).splitlines()
    shown = lines[:LONG_VALUE] + ["..."] * (len(lines) > LONG_VALUE)
    return "\n".join([words, "", "```python", *shown, "```"])


@cache
def constants_of(module: str) -> dict[str, Any]:
    """Name -> value of what a module has in words and numbers; its functions and classes not."""
    with library():
        there = vars(import_module(f"setr_lite.{module}"))
    return {name: value for name, value in there.items() if is_data(value)}


def is_data(value: Any) -> bool:
    if type(value) is dict:
        return is_data((*value, *value.values()))
    if type(value) in (list, tuple, set, frozenset):
        return all(map(is_data, value))
    return value is None or isinstance(value, str | int | float)


def table_of(value: Any, words: str, about: str) -> list[tuple[str, ...]]:
    """The rows of a dictionary of names, or of dictionaries; none of any other value.

    Names (``ours -> theirs``, says the docstring) are pairs, one in a row, with the dictionaries
    that have it in front if there are several. Any other dictionaries are rows, their keys columns.
    """
    if not isinstance(value, dict):
        return []
    nested = all(isinstance(inner, dict) for inner in value.values())
    pairs: dict[tuple[str, Any], list[str]] = {}
    for name, inner in (value if nested else {"": value}).items():
        for pair in inner.items():
            pairs.setdefault(pair, []).append(name)
    sides = re.search(r"(\w+) -> (\w+)", f"{words} {about}")
    if sides and all(isinstance(theirs, str) for _, theirs in pairs):
        rows = [("for", *sides.groups())]
        for (ours, theirs), where in pairs.items():
            those = "all" if len(where) == len(value) else ", ".join(where)
            rows.append((those, f"`{ours}`", f"`{theirs}`"))
        return rows if nested else [row[1:] for row in rows]
    if not nested:
        return []
    keys = dict.fromkeys(key for inner in value.values() for key in inner)
    return [("name", *(f"`{key}`" for key in keys)),
            *((f"`{name}`", *(str(inner.get(key, "")) for key in keys))
              for name, inner in value.items())]  # fmt: skip


def base_of(node: ast.ClassDef) -> ast.ClassDef | None:
    """The class of the library from which a class derives."""
    wanted = {ast.unparse(base) for base in node.bases}
    return next((found for module in all_modules() for found in tree_of(module).body
                 if isinstance(found, ast.ClassDef) and found.name in wanted), None)


def fields_of(node: ast.ClassDef) -> list[tuple[ast.AnnAssign, str]]:
    """Fields with their words. One without words is told by its class, or inherits them."""
    found = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
            words = string_below(after) or asked(field)
            found += [(field, words)] if words and shown(node, field.target.id) else []
    return found


def attributes_of(node: ast.ClassDef, module: str) -> list[tuple[str, str, str]]:
    """Name, type and words of what ``__init__`` keeps with a comment ``#: words``, or below one."""
    made = next((m for m in node.body if getattr(m, "name", "") == "__init__"), None)
    lines = source_lines(module)
    found = []
    for statement in made.body if made else ():
        target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
        if isinstance(target, ast.Attribute):
            above = lines[statement.lineno - 2].strip()
            words = lines[statement.lineno - 1].partition("  #: ")[2] or (
                above[3:] if above.startswith("#: ") else "")
            kind = getattr(statement, "annotation", None)
            found += [(target.attr, ast.unparse(kind) if kind else "", words)] if words else []
    return found


@cache
def source_lines(module: str) -> list[str]:
    return (LIBRARY / f"{module.replace('.', '/')}.py").read_text("utf-8").splitlines()


def asked(field: ast.AnnAssign) -> str:
    """The help of a field that is an option of the command line, too."""
    call = field.value
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "_asked":
        return ""
    text = ast.literal_eval(call.args[1])
    return f"{text[0].upper()}{text[1:]}."


def shown(node: ast.ClassDef, member: str) -> bool:
    """Whether a page describes it."""
    return member not in NOT_SHOWN.get(node.name, "").split()


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Public methods, without those that only fill in what the base class describes."""
    base = base_of(node)
    told = {m.name for m in methods_in(base)} - {"__call__"} if base else set()
    return [m for m in methods_in(node) if m.name not in told and shown(node, m.name)]


def methods_in(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """All public ones."""
    methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}  # without overloads
    return public(list(methods.values()))


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    own = next((m for m in node.body if getattr(m, "name", "") == "__init__"), None)
    base = base_of(node)
    return own or (constructor(base) if base else None)


def default_of(field: ast.AnnAssign) -> str | None:
    """The default of a field as one would write it."""
    value = field.value
    if asked(field):
        value = value.args[0]
    said = ast.unparse(value) if value else None
    return None if said is None or said.startswith("field(") else said


def describe_class(node: ast.ClassDef, module: str) -> str:
    title, scope = node.name, (module, node.name)
    if made := constructor(node):
        title += signature(made, skip_self=True).removesuffix(" -> None")
    parts = [with_others(markdown(ast.get_docstring(node) or "", scope), made), ""]
    for field, words in fields_of(node):
        # in quotes of its own: the option is read as YAML, which would take off the value's
        if section := section_of(node):
            said = (f"{in_settings(markdown(words, scope))}\n\nValues: "
                    f"{takes(section, node, field, words)}"
                    f"{in_recipes(section, field.target.id)}")
            options = f":value: {json.dumps(as_written(ast.literal_eval(field.value)))}"
        else:
            default = default_of(field)
            value = f"\n:value: {json.dumps(default)}" if default else ""
            said, options = markdown(words, scope), f":type: {ast.unparse(field.annotation)}{value}"
        parts.append(directive("attribute", field.target.id, said, 5, options))
    for name, kind, words in attributes_of(node, module):
        options = [f":type: {kind}"] if kind else []
        said = plain(f"{words[0].upper()}{words[1:]}.", scope)
        parts.append(directive("attribute", name, said, 5, *options))
    for method in methods_of(node):
        decorators = {ast.unparse(d) for d in method.decorator_list}
        kind = "property" if "property" in decorators else "method"
        title_of = method.name + ("" if kind == "property" else signature(method, True))
        static = [f":{d}:" for d in ("classmethod", "staticmethod") if d in decorators]
        if kind == "property" and method.returns:
            static.append(f":type: {ast.unparse(method.returns)}")
        text = markdown(ast.get_docstring(method) or "", scope)
        parts.append(directive(kind, title_of, text, 5, *static))
    return directive("class", title, "\n".join(parts), 6)


def with_others(text: str, made: ast.FunctionDef | None) -> str:
    """The item "others" of arguments, which are settings of the model, as an item for each."""
    found = re.search(r"^- \*\*others\*\*: .*$", text, re.M)
    if not found or not made:
        return text
    fields = {f.target.id: words for f, words in fields_of(nodes_of("config")["ModelConfig"][0])}
    wanted = [a.arg for a in made.args.kwonlyargs]
    items = []
    for name, default in zip(wanted, made.args.kw_defaults, strict=True):
        said = in_short(fields[name], default)
        items.append(f"- **{name}**: {said[0].lower()}{said[1:]}.")
    return text.replace(found[0], "\n".join(items))


def in_short(words: str, default: ast.expr | None) -> str:
    """The first sentence of a setting, and the clause that says what its default means."""
    clauses = [""]
    for clause in re.split(r"(?<=[.;:]) ", " ".join(words.split())):
        last = clauses[-1]
        goes_on = last.count("(") > last.count(")") or (last.endswith(":") and len(last) < BRIEF)
        clauses[-1:] = [f"{last} {clause}"] if goes_on else [last, clause]
    _, first, *others = clauses
    value = ast.literal_eval(default) if default else ...
    signs = {"": "empty", "None": "None", "0": "0", "0.0": "0", "-1": "-1"}
    sign = signs.get(str(value))
    told = [c for c in others if sign and re.match(rf"{sign} \w", c, re.I)]
    said = "; ".join(c.rstrip(".;:") for c in [first, *told[:1]])
    return plain(said, ("config", "ModelConfig"))


def library_reference(words: str, examples: dict[str, str] | None = None) -> str:
    """MyST of the names that a marker lists; members are not in the contents beside the page."""
    said = []
    for full in words.split():
        first, *inside = re.split(
            r"(?m)^(?=`{5}\{py:)", entry(full, (examples or {}).get(full, "")))
        if first.strip():
            said += [f"```{{py:currentmodule}} setr_lite.{full.rpartition('.')[0]}\n```\n", first]
        else:
            said += [f"```{{py:currentmodule}} setr_lite.{full.rpartition('.')[0]}\n```\n"]
            first, *inside = inside
            said.append(first)
        said += [re.sub(r"^(`+\{py:\w+\} .*)$", r"\1\n:no-contents-entry:", text, count=1,
                        flags=re.M) for text in inside]  # fmt: skip
    return "\n".join(said)


def section_of(node: ast.ClassDef) -> str | None:
    """``model`` of ``ModelConfig``; None of a class that is no section of a run."""
    return {name: key for key, name in SECTIONS_OF_A_RUN.items()}.get(node.name)


def settings_of(section: str) -> str:
    """MyST of a table of a section's settings, each with a link to its entry."""
    name = SECTIONS_OF_A_RUN[section]
    node = nodes_of("config")[name][0]
    rows = ["| setting | default | values | differs in | change it to |", "|---|---|---|---|---|"]
    for field, words in fields_of(node):
        key = field.target.id
        setting, default = f"{section}.{key}", as_written(ast.literal_eval(field.value))
        cells = [f"{{py:obj}}`{setting} <setr_lite.config.{name}.{key}>`",
                 default if default == "(empty)" else f"`{default}`",
                 takes(section, node, field, words), where(section, key), CHANGE_IT_TO[setting]]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(["````{table}\n:class: setr-stack setr-settings\n", *rows, "````\n"])


@cache
def other_values(section: str, key: str) -> dict[str, tuple[str, ...]]:
    """Family of recipes -> what its recipes have, where one of them has not the default."""
    with library():
        from setr_lite.config import RunConfig
        from setr_lite.recipes.named import RECIPES as known
    default = getattr(getattr(RunConfig(), section), key)
    kind, found = type(default), {}
    for family, names_of in FAMILIES.items():
        runs = [make() for name, make in known.items() if re.match(names_of, name)]
        values = [getattr(getattr(run, section), key) for run in runs]
        # a rate of 1 is the rate 1.0
        texts = tuple(dict.fromkeys(
            as_written(kind(v) if kind is float and v is not None else v) for v in values))
        if texts != (as_written(default),):
            found[family] = texts
    return found


def where(section: str, key: str) -> str:
    """The families of recipes with another value than the default, in a few words."""
    found = other_values(section, key)
    others = [family for family in FAMILIES if family not in found]
    if len(found) > len(FAMILIES) - 2:
        return f"all but {others[0]}" if others else "all"
    return ", ".join(found) or "-"


def in_recipes(section: str, key: str) -> str:
    """What recipes have instead of the default: values, then the families that have them."""
    by_value: dict[tuple[str, ...], list[str]] = {}
    for family, values in other_values(section, key).items():
        by_value.setdefault(values, []).append(family)
    told = [f"{', '.join(families)} " + " ".join(
        "(empty)" if value == "(empty)" else f"`{value}`" for value in values)
            for values, families in by_value.items()]  # fmt: skip
    return f"\n\nRecipes: {'; '.join(told)}" if told else ""


def in_settings(words: str) -> str:
    """None, where a setting is written `none`."""
    return re.sub(r"\bNone (?=[a-z])", "``none`` ", words)


def takes(section: str, node: ast.ClassDef, field: ast.AnnAssign, words: str) -> str:
    """The values of a setting; of some they stand in its words."""
    setting = f"{section}.{field.target.id}"
    values = values_of(field.annotation, ranges_of(node).get(setting, ""))
    if setting in LISTED:
        values = " ".join(f"`{word}`" for word in re.findall("``(.+?)``", words))
    return f"{NAMED.get(setting, values)}{ALSO.get(setting, '')}"


def as_written(value: Any) -> str:
    """A default as one would write it behind ``section.key=``."""
    if value == "":
        return "(empty)"
    if isinstance(value, float) and 0 < abs(value) < 1e-4:
        return f"{value:.12f}".rstrip("0")
    several = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return several.lower() if value is None or isinstance(value, bool) else several


def values_of(kind: ast.expr, allowed: str = "") -> str:
    """What a setting of an annotated type takes; `allowed` is the range of a number."""
    if isinstance(kind, ast.BinOp):
        sides = [values_of(kind.left, allowed), values_of(kind.right)]
        return " ".join(sides) if sides[0].startswith("`") else ", ".join(sides)
    if isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if ast.unparse(kind.value) == "Literal":
            return " ".join(f"`{word.value}`" for word in inner)
        written = ["..." if isinstance(e, ast.Constant) else values_of(e) for e in inner]
        return f"`{','.join(written)}` {allowed}".strip()
    name = ast.unparse(kind)
    if name in VALUES:
        return f"{VALUES[name]} {allowed}".strip()
    alias = next(node.value for node in tree_of("config").body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)
    return values_of(alias)


def ranges_of(node: ast.ClassDef) -> dict[str, str]:
    """Setting -> the numbers that its section's ``__post_init__`` lets pass."""
    found = {}
    for call in ast.walk(node):
        if isinstance(call, ast.For) and ast.unparse(call.iter) == "MOST_IN_ENCODER.items()":
            with library():
                from setr_lite.config import MOST_IN_ENCODER
            found |= {f"model.{key}": f"1..{most}" for key, most in MOST_IN_ENCODER.items()}
        if isinstance(call, ast.For) and isinstance(call.iter, ast.Tuple):
            keys = [e.value for e in call.iter.elts if isinstance(e, ast.Constant)]
            for inner in ast.walk(call):
                if is_check(inner) and isinstance(inner.args[0], ast.JoinedStr):
                    section = inner.args[0].values[0].value
                    found |= {f"{section}{key}": range_of(inner) for key in keys}
        if isinstance(call, ast.If) and (above := re.fullmatch(
                r"self\.(\w+) <= (\d+)", ast.unparse(call.test))):  # fmt: skip
            section = next(key for key, name in SECTIONS_OF_A_RUN.items() if name == node.name)
            found[f"{section}.{above[1]}"] = f"> {above[2]}"
        if is_check(call) and isinstance(call.args[0], ast.Constant):
            found |= dict.fromkeys(call.args[0].value.split(" and "), range_of(call))
    return found


def is_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("within", "at_least")


def range_of(call: ast.Call) -> str:
    bounds = [as_number(bound) for bound in call.args[2:]]
    return f"≥ {bounds[0]}" if len(bounds) == 1 else "..".join(bounds)


def as_number(bound: ast.expr) -> str:
    """`16_384`, or the name that config.py gives to it, as `16384`; a million as a power."""
    with library():
        from setr_lite import config
    value = getattr(config, ast.unparse(bound), None) or ast.literal_eval(bound)
    return f"{'-' * (value < 0)}10⁶" if abs(value) == 1e6 else str(value)


def recipes_table() -> str:
    """MyST of all recipes, a row each, folded; mIoU is the published one."""
    with library():
        from setr_lite.recipes.downloads import SETRS
        from setr_lite.recipes.named import RECIPES as known
        from setr_lite.recipes.published import PUBLISHED
    rows = ["| recipe | published mIoU | multi-scale | weights | data | head | encoder |",
            "|---|--:|--:|---|---|---|---|"]  # fmt: skip
    for name, recipe in known.items():
        config, published = recipe(), PUBLISHED.get(name)
        scores = (published.miou, published.miou_ms) if published else (None, None)
        town = "ToyTown, as " if config.data.root == "toytown" else ""
        cells = [f"`{name}`", *(f"{score:.2f}" if score else "" for score in scores),
                 "download" if name in SETRS else "", f"{town}`{config.data.name}`",
                 config.model.head, ENCODERS[config.model.encoder.partition(".")[0]]]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(['<details class="setr-inside">\n<summary>'
                      f"All {len(known)} recipes</summary>\n", SCORES, *rows, "", "</details>\n"])


@contextmanager
def library() -> Iterator[None]:
    """The library can be imported, without PyTorch."""
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))


def module_list(words: str) -> str:
    """A line for each module: its first sentence, and the public names that no page documents."""
    lines = []
    for module in modules_of(words):
        told = " ".join((ast.get_docstring(tree_of(module)) or "").partition("\n\n")[0].split())
        others = [f"`{name}`" for name, (node, _) in nodes_of(module).items()
                  if not constant(node) and f"{module}.{name}" not in documented()]
        lines.append(f"- **{module}**: {plain(told)} {' '.join(others)}".rstrip())
    return "\n".join(['<details class="setr-inside">\n<summary>'
                      f"{len(lines)} modules</summary>\n", *lines, "", "</details>\n"])


def modules_of(words: str) -> list[str]:
    """The modules that a marker names."""
    if words != "the rest":
        return words.split()
    named = {name for text in pages() for found in MODULES.findall(text) for name in found.split()}
    return sorted(set(all_modules()) - named)


# --- the command line ---------------------------------------------------------------------------


def command_line_reference() -> str:
    """``setr-lite --help``, then of every verb what its ``--help`` says, as MyST."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with library():
            from setr_lite.cli import _parser
        parser = _parser()
        verbs = next(a for a in parser._actions if hasattr(a, "choices") and a.choices).choices
        said = [f"## setr-lite\n\n{box_of(examples_of_help(parser.epilog))}",
                '<details class="setr-inside">\n<summary>The help that it prints</summary>\n'
                f"\n```text\n{parser.format_help()}```\n\n</details>\n"]
        said += [describe_verb(name, verb) for name, verb in verbs.items()]
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join(said)


def examples_of_help(epilog: str) -> str:
    """The commands at the end of ``setr-lite --help``."""
    return cleandoc("\n" + epilog.partition("examples:\n")[2].partition("\n\n")[0])


def describe_verb(name: str, parser: Any) -> str:
    """A verb's section: what it does, when, usage, options, example."""
    said = [f"## setr-lite {name}\n", f"{option_words(parser.description)} {WHEN[name]}\n",
            f"```text\n{parser.format_usage()}```\n",
            f"```{{program}} setr-lite {name}\n```\n"]  # fmt: skip
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.dest == "help":
            continue
        metavar = "" if action.nargs == 0 else action.metavar or action.dest
        names = [f"{flag} {metavar}".strip() for flag in action.option_strings] or [metavar]
        anchor = (action.option_strings or [action.dest])[0].strip("-").replace("_", "-")
        words = option_words(formatter._expand_help(action))
        said.append(f"(setr-lite-{name}-{anchor})=\n```{{option}} {', '.join(names)}\n"
                    f"{words[0].upper()}{words[1:]}.\n```\n")  # fmt: skip
    return "\n".join([*said, example_of(name)])


def option_words(text: str) -> str:
    """Words of a help text; options in them are code, or their hyphens would become a dash."""
    return plain(re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", text))


def example_of(verb: str) -> str:
    """The example of a verb, as it was run."""
    path = EXAMPLES / f"{verb}.txt"
    below = f"\n{BELOW[verb]}\n" if verb in BELOW else ""
    return f"\nFor example:\n\n{box_of(path.read_text('utf-8'))}{below}" if path.exists() else ""


def box_of(text: str) -> str:
    """What one types, and what is printed."""
    return f"```{{code-block}} text\n:class: setr-output\n\n{text.rstrip()}\n```\n"


# --- Sphinx -------------------------------------------------------------------------------------


def fill(app: Any, page: str, source: list[str]) -> None:
    examples = dict(EXAMPLE.findall(source[0]))
    text = EXAMPLE.sub("", source[0])
    text = ENTRIES.sub(lambda found: library_reference(found[1], examples), text)
    text = MODULES.sub(lambda found: module_list(found[1]), text)
    text = SETTINGS.sub(lambda found: settings_of(found[1]), text)
    if RECIPES in text:
        text = text.replace(RECIPES, recipes_table())
    if TOP in text:
        text = text.replace(TOP, names_at_the_top())
    if HELP in text:
        text = text.replace(HELP, command_line_reference())
    if page.endswith("promises"):
        record = json.loads(PROMISES.read_text("utf-8")) if PROMISES.exists() else {"results": {}}
        text = OVERVIEW.sub(lambda row: f"{row[1]} {last_run(row[2], source[0], record)} |", text)
        text = PROMISE.sub(lambda found: test_below(found[1], record), text)
        ran = (" and how it last ended, on {day} unless another day is given (Python {python}, "
               "PyTorch {torch}, {system})")
        text = text.replace(LAST, ran.format(day=latest(record), **record)
                            if record["results"] else "")
    source[0] = text


def test_below(test: str, record: dict) -> str:
    """The second line of a promise: the test's name, which has its file in the title."""
    name = test.rpartition("::")[2].replace("_", "_<wbr>")  # on a phone it breaks between its words
    return (f'  <br><small class="setr-test"><code title="{test}">{name}</code>'
            f"{result_of(test, record)}</small>")


def result_of(test: str, record: dict) -> str:
    """What the test of a promise said last; the date where others have run since."""
    last = record["results"].get(test)
    if not last:
        return ""
    return f" ({last['outcome']}{'' if last['date'] == latest(record) else ', ' + last['date']})"


def latest(record: dict) -> str:
    """The last day on which any test of a promise ran."""
    return max(row["date"] for row in record["results"].values())


def last_run(address: str, page: str, record: dict) -> str:
    """What the record has of the tests of a section's promises, and when they ran."""
    sections = {re.sub(r"[^\w-]", "", text.partition("\n")[0].lower().replace(" ", "-")): text
                for text in re.split(r"^## ", page, flags=re.M)[1:]}  # fmt: skip
    tests = PROMISE.findall(sections[address])
    known = [last for test in tests if (last := record["results"].get(test))]
    if not known:
        return "-"
    first, latest = min(last["date"] for last in known), max(last["date"] for last in known)
    days = first if first == latest else f"{first} to {latest}"
    passed = sum(last["outcome"] == "passed" for last in known)
    counts = {"passed": passed, "not passed": len(known) - passed,
              "not recorded": len(tests) - len(known)}
    told = [f"{number} {what}" for what, number in counts.items() if number or what == "passed"]
    return f"{', '.join(told)} ({days})"


def link_code(app: Any, doctree: Any) -> None:
    """In a chapter, and among the settings, the first `name` of each entry becomes a link to it.

    Rows of a table are looked up one by one, so among the settings each has its own links.
    """
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb" and path.stem != "api_settings":
        return
    linked = set()
    for code in list(doctree.findall(nodes.literal)):
        found = target(code.astext().partition("=")[0], ())
        row = code.parent
        while row and not (isinstance(row, nodes.row) and path.stem == "api_settings"):
            row = row.parent
        if found and (found, row) not in linked and in_prose(code):
            linked.add((found, row))
            reference = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=found, refexplicit=True)
            code.replace_self(reference)
            reference += code


def settings_are_one_word(app: Any, doctree: Any) -> None:
    """``section.key=value`` is no option with a value."""
    for value in list(doctree.findall(addnodes.desc_addname)):
        name = value.previous_sibling()
        if isinstance(name, addnodes.desc_name) and value.astext().startswith("="):
            name += nodes.Text(value.astext())
            value.parent.remove(value)


def settings_are_written_in_full(app: Any, doctree: Any) -> None:
    """``head`` of ``ModelConfig`` is shown as ``model.head``, as one writes it."""
    for signature in doctree.findall(addnodes.desc_signature):
        room = str(signature.get("class", ""))
        for section, name in SECTIONS_OF_A_RUN.items():
            if room == name and (said := next(signature.findall(addnodes.desc_name), None)):
                said.children = []
                said += nodes.Text(f"{section}.{signature['fullname'].rpartition('.')[2]}")


def find_source(app: Any, module: str) -> tuple[str, dict] | None:
    """The source of a module for the [source] links, read and not imported."""
    return source_of(module)  # which is asked for each of its names


@cache
def source_of(module: str) -> tuple[str, dict] | None:
    """Code and tags of a module of the library, None for any other."""
    name = module.removeprefix("setr_lite.")
    if name not in all_modules():
        return None
    code = (LIBRARY / f"{name.replace('.', '/')}.py").read_text("utf-8")
    analyzer = ModuleAnalyzer.for_string(code, module)
    analyzer.find_tags()
    return code, analyzer.tags


def always_anew(app: Any, env: Any, added: set, changed: set, removed: set) -> list[str]:
    """The pages that hold a marker: what they are made of is not among their own files."""
    return [
        page for page in env.found_docs
        if (path := Path(env.doc2path(page))).suffix == ".md" and "<!-- " in path.read_text("utf-8")
    ]


def setup(app: Any) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.viewcode")
    app.config.viewcode_follow_imported_members = False
    app.config.add_module_names = False  # the line below a signature says where it comes from
    app.connect("viewcode-find-source", find_source)
    app.connect("source-read", fill)
    app.connect("doctree-read", link_code)
    app.connect("doctree-read", settings_are_one_word)
    app.connect("doctree-read", settings_are_written_in_full)
    app.connect("env-get-outdated", always_anew)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
