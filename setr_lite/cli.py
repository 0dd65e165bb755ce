"""The command line: each verb is one public function with its arguments read from text."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .config import LARGEST_SIDE
from .errors import UserError, lasting_outputs, nearest, one_line, out_of_memory, printable

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["_Parser"]

EPILOG = """\
examples:
  setr-lite toytown toytown                          draw the built-in data set
  setr-lite train toytown_pup                        train on it, five minutes on two cores
  setr-lite check-data folder DIR                    is anything wrong with my files?
  setr-lite train finetune_mla data.root=DIR model.num_classes=5 model.pretrained=FILE
  setr-lite doctor runs/toytown_pup                  what went wrong in this training?
  setr-lite eval runs/toytown_pup/last               table of scores per class
  setr-lite predict runs/toytown_pup/last photo.jpg --out pictures
  setr-lite convert setr_pup_ade20k.pth pup          from mmsegmentation or the authors
  setr-lite export runs/toytown_pup/last             to ONNX, or --format torch
  torchrun --standalone --nproc_per_node=8 -m setr_lite train toytown_pup train.batch_size=64

Settings are written section.key=value; `setr-lite recipes NAME` lists them all.
A mistake in the input, a disk that fails or too little memory: one line, exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code.

    0 done, or a training that was asked to stop and saved first; 1 `check-data` or `doctor` found
    something; 2 a mistake in the input, a disk that fails, or too little memory; 130 Ctrl-C; 141
    pipe closed. Where standard output or error cannot be written the work goes on, and is saved.
    """
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if words.count("--") > 1:  # argparse takes away only one, and then hands out empty lists
        parser.error("-- stands more than once")
    options, rest = parser.parse_known_args(words)
    # argparse gives up on settings that follow an option, `train NAME --resume train.steps=9`
    if any(word.startswith("-") or "=" not in word for word in rest) or (
        rest and "settings" not in options
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings += rest
    options.words = words
    with lasting_outputs() as (out, _):
        code = _run(options)
        out.flush()
        if isinstance(out.failed, BrokenPipeError):  # who reads has seen enough, as `head` does
            return 141
        if out.failed and code == 0:
            lost = f"standard output: {one_line(out.failed)}; the rest of the work is done"
            return _mistake(options.verb, lost)
        return code


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options) or 0
    except UserError as error:
        return _mistake(options.verb, one_line(error))
    except KeyboardInterrupt:
        print(f"setr-lite {options.verb}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if out_of_memory(error):
            return _mistake(options.verb, f"{_MEMORY} ({one_line(error)[:200]})")
        if isinstance(error, OSError):  # a disk, a permission: the system's word on a path
            return _mistake(options.verb, one_line(error))
        raise  # a fault of the program, with its traceback


_MEMORY = (
    "out of memory; take a smaller train.batch_size, data.crop_size, eval.window or "
    "eval.window_batch, a smaller model, or more train.accumulate"
)


def _mistake(verb: str, message: str) -> int:
    if "tqdm" in sys.modules:  # a bar that the error has left open would share its line
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
    print(f"setr-lite {verb}: {message}", file=sys.stderr)
    return 2


def run_recipes(options: argparse.Namespace) -> None:
    """List the recipes, or print one in full."""
    if options.name:
        from .recipes.describe import describe_recipe

        for section in describe_recipe(options.name):
            print(section, flush=True)
        return
    from .recipes.named import recipe_table

    print(recipe_table())
    print(
        "\nmIoU as published. `setr-lite recipes NAME` prints one in full; `setr-lite download` "
        "lists\nthe weights that can be had, trained models and encoders.")


def run_toytown(options: argparse.Namespace) -> None:
    """Draw ToyTown."""
    from .toytown.scenes import write_toytown

    write_toytown(
        options.out, train=options.train, val=options.val, size=options.size, seed=options.seed,
        layout=options.layout, workers=os.cpu_count() or 1,
    )


def run_check_data(options: argparse.Namespace) -> int:
    """Look for faults in a data set."""
    from .datasets.doctor import check_data

    health = check_data(options.name, options.root, classes=options.classes, fast=options.fast)
    files = health.write(options.out or f"runs/check_{options.name}")
    print(health.text(most=10))
    print(f"written: {', '.join(map(printable, files))}")
    return 0 if health.healthy else 1


def run_make_masks(options: argparse.Namespace) -> None:
    """Annotations of other programs to a folder data set."""
    from .datasets.make_masks import make_masks

    print(printable(make_masks(
        options.source, options.out, images=options.images, classes=options.classes,
        background=options.background, split=options.split,
    )))  # fmt: skip


def run_split(options: argparse.Namespace) -> None:
    """Deal the images of a folder data set to train, val and test."""
    from .datasets.split import split_data

    print(split_data(
        options.root, val=options.val, test=options.test, group=options.group, seed=options.seed,
        classes=options.classes,
    ))  # fmt: skip


def run_train(options: argparse.Namespace) -> int:
    """Train a recipe; under torchrun, on all its processes."""
    from . import distributed
    from .recipes.named import get_recipe
    from .train import rehearse, train

    try:
        config = get_recipe(options.recipe).override(*options.settings)
        if options.dry_run:
            rehearse(config, resume=options.resume)
            return 0
        result = train(config, resume=options.resume)
        if distributed.rank() == 0 and result["confusion"] is not None:
            print(result["confusion"].table(result["classes"]))
        if distributed.rank() == 0 and not result["finished"]:
            print(f"to go on:\n  {_resume_command(options.words)}")
        return 0
    finally:
        distributed.stop()


def _resume_command(words: Sequence[str]) -> str:
    """The command that continues the training which `words` started."""
    import shlex

    words = [*words, *["--resume"] * ("--resume" not in words)]
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return shlex.join(["setr-lite", *words])
    count = os.environ["LOCAL_WORLD_SIZE"]
    where = "--standalone"
    if os.environ.get("WORLD_SIZE") != count:
        where = "(as before)"  # several machines: their names stand in the first command
    return f"torchrun {where} --nproc_per_node={count} -m setr_lite {shlex.join(words)}"


def run_eval(options: argparse.Namespace) -> None:
    """Score a checkpoint on a split."""
    from . import distributed
    from .evaluate.scores import score_checkpoint, summary, worst_table, write_csv, write_json

    try:
        confusion, scores = score_checkpoint(
            options.checkpoint, options.settings, split=options.split, images=options.images,
            worst=options.worst, save_predictions=options.save_predictions, progress=True,
        )
        if distributed.rank() == 0:
            if options.json:
                write_json(scores, options.json)
            if options.csv:
                write_csv(scores, options.csv)
            if scores["pixels"]:
                print(confusion.table(scores["names"]))
            print(worst_table(scores), end="")
            print(summary(scores))
            if options.save_predictions:
                print(f"predictions written: {printable(options.save_predictions)}")
    finally:
        distributed.stop()


def run_predict(options: argparse.Namespace) -> None:
    """Segment image files."""
    from .evaluate.files import predict_files, summary

    settings = [word for word in options.images if _is_setting(word)]
    done = predict_files(
        options.checkpoint, [word for word in options.images if word not in settings],
        options.out, settings=[*settings, *options.settings], alpha=options.alpha,
    )
    print(printable(summary(done, options.out)))


def _is_setting(word: str) -> bool:
    """Among names of files; ``a=b.jpg`` is a file if it is there."""
    return "=" in word and not os.path.exists(word)


def run_compare(options: argparse.Namespace) -> None:
    """Two logs beside each other."""
    from .running.compare import compare_logs, write_overlay

    print(compare_logs(options.log, options.other))
    if options.out:
        write_overlay(options.log, options.other, options.out)
        print(f"written: {options.out}")


def run_doctor(options: argparse.Namespace) -> int:
    """Likely causes of what went wrong in a training."""
    from .running.doctor import report

    said, well = report(options.run_folder, options.scores)
    print(said)
    return 0 if well else 1


def run_download(options: argparse.Namespace) -> None:
    """Fetch published weights, or list them."""
    from .weights.published_files import download, table

    if not options.name:
        print(table())
    for line in download(options.name) if options.name else ():
        print(line, flush=True)


def run_convert(options: argparse.Namespace) -> None:
    """Weights of other programs to a checkpoint, or back."""
    from .weights.convert import convert, convert_vit2mmseg

    if options.source == "vit2mmseg" and options.store:
        print(convert_vit2mmseg(options.out, options.store, allow_pickle=options.unsafe_pickle))
        return
    if options.store:
        raise UserError(f"one argument too many: {options.store}; give SOURCE OUT")
    print(convert(
        options.source, options.out, to=options.to, img_size=options.img_size, taps=options.taps,
        num_heads=options.num_heads, aux=not options.no_aux, changed_config=options.changed_config,
        allow_missing_patch_bias=options.zero_patch_bias, allow_pickle=options.unsafe_pickle,
    ))


def run_export(options: argparse.Namespace) -> None:
    """A checkpoint as one file for other programs, or as a page."""
    if options.format == "web":
        from .web.export import export_page

        print(export_page(
            options.checkpoint, options.out, size=options.size, bits=options.bits or 16))
        return
    from .weights.export import export_checkpoint

    if options.bits:
        raise UserError(f"--bits {options.bits} goes with --format web")
    print(export_checkpoint(
        options.checkpoint, options.format, options.out, size=options.size,
        dynamic=options.dynamic, announce=lambda line: print(line, flush=True),
    ))


def run_bench(options: argparse.Namespace) -> None:
    """Measure rows, print and save them."""
    import shlex

    from .bench.rows import bench, describe, describe_setting, of_recipe, save_row
    from .bench.what import Bench

    settings = {name: getattr(options, name) for name in ("kind", *_bench_flags())}
    command = shlex.join(["setr-lite", *options.words])
    if options.recipe:
        if options.kind != "memory":
            raise UserError(f"{options.kind}: takes no recipe; bench memory {options.recipe} does")
        common = {name: settings[name] for name in ("batch", "turns", "threads", "device")}
        rows = [of_recipe(options.recipe, options.settings, **common)]
    else:
        rows = [Bench(**settings | {"head": head}) for head in options.head.split(",")]
    for what in rows:
        row = bench(what, against=options.against, python=options.python)
        print(f"{describe(row)}\n  {describe_setting(row)}\n  {command}", flush=True)
        if options.save:
            save_row(row, options.save, command)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest verb where there is none of that name."""

    def error(self, message: str) -> NoReturn:
        said = printable(" ".join(message.splitlines()))
        if found := re.match(r"argument VERB: invalid choice: '(.*)' \(choose from (.*)\)", said):
            said = f"no verb {found[1]!r}{nearest(found[1], re.findall(r'[a-z-]+', found[2]))}"
        self.exit(2, f"{self.prog}: {said}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="setr-lite", description="SETR: segment images with a plain vision transformer.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"setr_lite {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _verb(
        verbs, "toytown", run_toytown,
        "draw ToyTown, the built-in data set of street scenes")
    verb.add_argument("out", metavar="OUT", help="folder to write")
    verb.add_argument(
        "--train", type=int, default=1500, metavar="N", help="training scenes (default 1500)")
    verb.add_argument(
        "--val", type=int, default=100, metavar="N", help="validation scenes (default 100)")
    verb.add_argument(
        "--size", type=_size, default=(96, 192), metavar="HEIGHTxWIDTH",
        help="size of a scene in pixels (default 96x192)")
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="another seed draws another town (default 0)")
    verb.add_argument(
        "--layout", default="cityscapes", metavar="cityscapes|ade20k|pascal_context",
        help="write the folders and ids of this data set (default cityscapes)")

    verb = _verb(
        verbs, "check-data", run_check_data,
        "read a data set and report what is wrong with it; exit code 0 if nothing is, else 1")
    verb.add_argument(
        "name", metavar="NAME",
        help="data set: cityscapes, ade20k, pascal_context, pascal_context_59, camvid, "
        "camvid_unseen, or folder for your own")
    verb.add_argument(
        "root", nargs="?", default="", metavar="ROOT",
        help="its folder (default $SETR_DATA/NAME or data/NAME)")
    verb.add_argument("--classes", default="", metavar="FILE", help="list of classes, for folder")
    verb.add_argument("--fast", action="store_true", help="read only 200 images, evenly spaced")
    verb.add_argument(
        "--out", metavar="FOLDER",
        help="where to write the report and its images (default runs/check_NAME)")

    _add_own_data(verbs)

    verb = _verb(verbs, "recipes", run_recipes, "list the recipes, or print one in full")
    verb.add_argument(
        "name", nargs="?", metavar="NAME",
        help="recipe to show in full; without it all are listed, with mIoU as published")

    verb = _verb(verbs, "train", run_train, "train a recipe")
    verb.add_argument("recipe", metavar="RECIPE", help="a name that `setr-lite recipes` lists")
    _add_settings(verb, "such as train.steps=100 or data.flip=0")
    verb.add_argument("--resume", action="store_true", help="continue the run in train.out")
    verb.add_argument(
        "--dry-run", action="store_true",
        help="build everything, read one batch, take two steps and report what a run would need; "
        "nothing is written")

    verb = _verb(
        verbs, "compare", run_compare,
        "compare the logs of two runs and report where the first falls behind")
    verb.add_argument("log", metavar="RUN", help="folder of a run, or its log.csv")
    verb.add_argument(
        "--with", dest="other", required=True, metavar="LOG",
        help="another run, or mmsegmentation's .log.json or scalars.json")
    verb.add_argument("--out", metavar="FILE", help="draw the curves of both into this image file")

    verb = _verb(
        verbs, "doctor", run_doctor,
        "diagnose a run from its files: likely causes of what went wrong, each with the check that "
        "would prove it; exit code 0 if there are none, else 1")
    verb.add_argument("run_folder", metavar="RUN", help="folder of a run, or a checkpoint in it")
    verb.add_argument(
        "--scores", default="", metavar="FILE",
        help="scores written by eval --json (default RUN/scores.json, from the last evaluation in "
        "training)")

    verb = _verb(verbs, "eval", run_eval, "score a checkpoint: IoU per class and mIoU")
    verb.add_argument(
        "checkpoint", metavar="CHECKPOINT",
        help="checkpoint folder, such as runs/toytown_pup/last")
    _add_settings(verb)
    verb.add_argument(
        "--split", default="val", metavar="train|val|test", help="split to score (default val)")
    verb.add_argument("--json", metavar="FILE", help="write all scores to this file as well")
    verb.add_argument("--csv", metavar="FILE", help="write one line per class to this file")
    verb.add_argument(
        "--images", type=int, default=0, metavar="N",
        help="score only N images, drawn with a fixed seed, and give a confidence interval")
    verb.add_argument(
        "--worst", type=int, default=0, metavar="N",
        help="name the N images of the lowest mIoU, and the class that each misses most")
    verb.add_argument(
        "--save-predictions", default="", metavar="DIR",
        help="write one label file per image, with the ids that the data set's server expects; a "
        "test split then needs no masks")

    verb = _verb(
        verbs, "predict", run_predict,
        "segment image files or folders of them; write class ids, colours and an overlay with "
        "legend")
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder")
    verb.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    _add_settings(verb)
    verb.add_argument(
        "--out", default="pictures", metavar="FOLDER", help="folder to write (default pictures)")
    verb.add_argument(
        "--alpha", type=float, default=0.5, metavar="SHARE",
        help="opacity of the overlay's colours, 0 to 1 (default 0.5)")

    verb = _verb(
        verbs, "export", run_export,
        "write a checkpoint as ONNX, a PyTorch program or a web page",
        "Write a checkpoint as one ONNX or PyTorch file and check it against PyTorch, or as a "
        "folder with a page that runs it in a browser. The file maps a normalised image (RGB in "
        "0..255, minus mean, over std; both are in the file) to full-size logits.")
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint folder")
    verb.add_argument(
        "--format", default="onnx", metavar="onnx|torch|web",
        help="`onnx` (default), `torch` for a program of torch.export, or `web` for a page that "
        "opens by double-click; mmseg, official and timm are the same as convert --to")
    verb.add_argument(
        "--out", default="", metavar="FILE",
        help="file to write (default CHECKPOINT/model.onnx or model.pt2); for web a folder "
        "(default CHECKPOINT/web)")
    verb.add_argument(
        "--size", type=_size, metavar="HEIGHTxWIDTH",
        help="size of the images (default: the run's crop)")
    verb.add_argument(
        "--dynamic", action=argparse.BooleanOptionalAction, default=True,
        help="accept all image sizes that are multiples of the patch (default), or only --size; "
        "the batch size is always free")
    verb.add_argument(
        "--fixed", dest="dynamic", action="store_false", help="the same as --no-dynamic")
    verb.add_argument(
        "--bits", type=int, default=0, metavar="8|16|32",
        help="for web: bits per weight in the page (default 16)")

    verb = _verb(
        verbs, "download", run_download,
        "fetch published weights, convert and keep them in $SETR_HOME")
    verb.add_argument(
        "name", nargs="?", default="", metavar="NAME",
        help="a name from the list, or all; without it the list is printed")

    _add_convert(verbs)
    _add_bench(verbs)
    return parser


def _add_own_data(verbs: Verbs) -> None:
    verb = _verb(
        verbs, "make-masks", run_make_masks,
        "turn labelme or COCO annotations, or colour masks, into a folder data set")
    verb.add_argument(
        "source", metavar="SOURCE",
        help="folder of labelme's JSON files, COCO's JSON file, or a folder of masks")
    verb.add_argument(
        "out", metavar="OUT", help="folder to write: images/, labels/, classes.txt")
    verb.add_argument(
        "--images", default="", metavar="DIR",
        help="folder of the images (default: as the JSON says)")
    verb.add_argument(
        "--classes", default="", metavar="FILE",
        help="file with one class name per line, for RGB masks NAME #rrggbb (default: the names "
        "that occur)")
    verb.add_argument(
        "--background", default="background", metavar="NAME",
        help="class of the pixels outside all regions (default background); ignore leaves them "
        "unlabelled")
    verb.add_argument(
        "--split", default="", metavar="train|val|test",
        help="put all of them into this split")

    verb = _verb(
        verbs, "split", run_split,
        "divide the images of a folder data set into train, val and test")
    verb.add_argument(
        "root", metavar="ROOT", help="folder with images/, labels/ and classes.txt")
    verb.add_argument(
        "--val", type=float, default=0.2, metavar="SHARE",
        help="share of the images for val (default 0.2)")
    verb.add_argument(
        "--test", type=float, default=0.0, metavar="SHARE",
        help="share of the images for test (default 0)")
    verb.add_argument(
        "--group", default="", metavar="folder|EXPRESSION",
        help="keep images of one scene, patient or drive together: those of one folder of "
        "images/, or those whose names give the same match for a regular expression (the same "
        "first group, if it has one), such as `^([^_]+)_`")
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="another seed draws another split (default 0)")
    verb.add_argument("--classes", default="", metavar="FILE", help="list of classes")


def _add_convert(verbs: Verbs) -> None:
    verb = _verb(
        verbs, "convert", run_convert,
        "turn a checkpoint of the authors or of mmsegmentation into a folder for eval and predict, "
        "or write weights in another program's format")
    verb.add_argument(
        "source", metavar="SOURCE", help="file to read; with --to also a checkpoint folder")
    verb.add_argument("out", metavar="OUT", help="folder to write; with --to the file")
    verb.add_argument(
        "store", metavar="STORE", nargs="?",
        help="only in `convert vit2mmseg PRETRAIN STORE`, which does what mmsegmentation's script "
        "of that name does: it reads the file PRETRAIN and writes the file STORE")
    verb.add_argument(
        "--to", metavar="mmseg|official|timm",
        help="format to write; timm takes the encoder alone")
    verb.add_argument(
        "--img-size", type=_size, metavar="HEIGHTxWIDTH",
        help="image size for which a position table that is not square was made")
    verb.add_argument(
        "--taps", type=_taps, metavar="A,B,C,D",
        help="blocks that the heads read, counted from 0 (default: as published)")
    verb.add_argument(
        "--num-heads", type=int, metavar="N",
        help="attention heads of an encoder that is not a preset; files do not record them")
    verb.add_argument("--no-aux", action="store_true", help="leave the auxiliary heads out")
    verb.add_argument(
        "--changed-config", action="store_true",
        help="allow a result that needs a changed mmsegmentation config, and print the changes")
    verb.add_argument(
        "--zero-patch-bias", action="store_true",
        help="set the patch bias, which mmsegmentation 1.x omits, to zero")
    verb.add_argument(
        "--unsafe-pickle", action="store_true",
        help="also open a pickle that can run its author's code; only for files you trust")


def _add_bench(verbs: Verbs) -> None:
    verb = _verb(
        verbs, "bench", run_bench,
        "benchmark speed and memory, alone or against plain PyTorch or mmsegmentation")
    verb.add_argument(
        "kind", metavar="KIND",
        help="what to measure: forward, train, eval, data, loss or memory")
    verb.add_argument(
        "recipe", nargs="?", default="", metavar="RECIPE",
        help="for memory: measure a step of this recipe with --batch images, beside the estimate")
    _add_settings(verb, "of the recipe, such as train.amp=off")
    verb.add_argument(
        "--against", default="", metavar="plain|mmseg|FILE",
        help="compare with plain PyTorch (full-size logits), mmsegmentation, or a script")
    verb.add_argument(
        "--python", default="", metavar="PATH", help="Python interpreter that runs the other side")
    verb.add_argument("--save", metavar="FILE", help="add the results to this JSON list")
    for name, setting in _bench_flags().items():
        flag, text = f"--{name.replace('_', '-')}", setting.metadata["help"]
        if setting.type == "bool":
            verb.add_argument(flag, action="store_true", help=text)
            continue
        kind = {"int": int, "str": str}.get(str(setting.type), _size)
        default: Any = setting.default
        shown = "x".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "" if default in ("", None) else f" (default {shown})"
        verb.add_argument(
            flag, type=kind, default=setting.default, metavar=setting.metadata["metavar"],
            help=text + shown)


def _bench_flags() -> dict[str, dataclasses.Field]:
    """The settings of a benchmark that have a flag."""
    from .bench.what import Bench

    return {field.name: field for field in dataclasses.fields(Bench) if "help" in field.metadata}


def _verb(
    verbs: Verbs, name: str, run: Callable[..., Any], text: str, description: str = ""
) -> argparse.ArgumentParser:
    """A verb with its line in the list of all, which also opens its own help unless that says more.
    """
    description = description or text[0].upper() + text[1:] + "."
    verb = verbs.add_parser(name, help=text, description=description)
    verb.set_defaults(run=run)
    return verb


def _add_settings(
    verb: argparse.ArgumentParser, example: str = "such as eval.flip=true"
) -> None:
    verb.add_argument(
        "settings", nargs="*", default=[], metavar="section.key=value",
        help=f"change a setting, {example}")


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give HEIGHTxWIDTH, such as 96x192") from None
    if not 1 <= min(height, width) <= max(height, width) <= LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r}: give sides of 1 to {LARGEST_SIDE}")
    return height, width


def _taps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give blocks such as 2,5,8,11") from None
