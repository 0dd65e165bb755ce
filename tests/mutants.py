"""Do the tests notice when the library is wrong? Plant mutants at random, and see which ones live.

    .venv/bin/python tests/mutants.py [--count 200] [--seed 1] [--record runs/mutants.jsonl]
    .venv/bin/python tests/mutants.py --planted

A mutant is the library with one small change in a core module: a comparison turned, an operator
exchanged, a whole number one off, another constant, a statement left out, two arguments swapped.
The tests that can see the module run against a scratch copy with the change and stop at the first
failure. A mutant that they let pass is a survivor: it needs a test, or a line in
``mutants_equivalent.txt`` that says why nobody could tell; those are counted and not tried.

A test that kills is asked again without the change: one that fails there, too, would kill anything,
and ends the run. The record has a line for each mutant that was tried, so an interrupted run goes
on where it was; ``--survivors`` tries again those that lived. ``--planted`` takes the silent bugs
of ``book/_tools/silent/planted.py`` in place of random changes; their record is
data/runs/silent_bugs/mutants.jsonl.
"""

import argparse
import ast
import copy
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.txt")
SEEN_BY = {
    "encoder.py": "test_encoder test_model",
    "heads.py": "test_heads_golden test_model",
    "model.py": "test_model test_heads_golden test_checkpoint evaluate/test_predictions",
    "logits.py": "test_logits inference test_model",
    "metrics.py": "test_metrics losses/test_losses_golden evaluate/test_scores",
    "optim.py": "test_optim test_checkpoint test_train",
    "step.py": "test_train running/test_memory distributed/test_parallel",
    "transforms.py": "test_transforms",
    "checkpoint.py": "test_checkpoint test_bad_input distributed/test_parallel",
    "files.py": "test_files test_checkpoint",
    "errors.py": "test_errors test_cli",
    "losses/cross_entropy.py": "losses card",
    "inference/tiles.py": "inference evaluate/test_loop",
    "inference/windows.py": "inference evaluate/test_loop",
    "evaluate/loop.py": "evaluate test_cli test_train test_bad_input",
    "evaluate/protocols.py": "evaluate",
    "evaluate/scores.py": "evaluate",
    "running/guard.py": "running/test_guard test_train card",
    "running/lock.py": "running/test_lock",
    "datasets/base.py": "datasets",
    "datasets/images.py": "datasets test_bad_input",
    "weights/account.py": "weights/test_read weights/test_convert weights/test_untrusted_files",
    "weights/read.py": "weights/test_read weights/test_untrusted_files",
    "weights/tables.py": "weights/test_read weights/test_convert",
    "weights/write.py": "weights/test_convert weights/test_read",
}
"""Core modules, and the tests that can see them: the mirror first, it is asked first."""
OPPOSITE = {
    ast.Lt: (ast.GtE, ast.LtE), ast.LtE: (ast.Gt, ast.Lt), ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,),
    ast.Or: (ast.And,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,),
}  # fmt: skip
EITHER_WAY = {"min", "max", "isinstance", "getattr", "hasattr", "torch.promote_types"}
"""Functions to which the order says nothing, or which fail at once."""
NOT_RUN = {"annotation", "returns", "decorator_list"}
LIMIT = 900
"""Seconds that the tests of one mutant may take; one that makes them hang is killed by it."""


class Mutant(NamedTuple):
    """One change: where it is, in words that survive lines above it, and where in the text."""

    file: str
    place: str
    kind: str
    before: str
    after: str
    nth: int
    """Of equal changes in one place."""
    line: int
    span: tuple[int, int]
    """In bytes of the file."""

    @property
    def key(self) -> str:
        """Its name in the record and in the list of equivalent ones."""
        return " :: ".join((self.file, self.place, self.before, self.after, str(self.nth)))


# ---- the changes ---------------------------------------------------------------------------------


def changes(node):
    """``(kind, changed node)`` for all that can be done to a node itself."""
    if isinstance(node, ast.Compare):
        for op in OPPOSITE[type(node.ops[0])]:
            yield "comparison", changed(node, ops=[op(), *node.ops[1:]])
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPPOSITE:
        if not any(map(is_text, ast.iter_child_nodes(node))):  # a / of paths, a + of words
            yield "operator", changed(node, op=OPPOSITE[type(node.op)][0]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield "operator", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "off by one", changed(node, value=node.value + 1)
        yield "off by one", changed(node, value=node.value - 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "constant", changed(node, value=not node.value)
    elif isinstance(node, ast.Constant) and type(node.value) is float:
        yield "constant", changed(node, value=2 * node.value or 1.0)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) not in EITHER_WAY:
        for i in range(len(node.args) - 1):
            a, b = node.args[i : i + 2]
            if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
                yield "arguments", changed(node, args=[*node.args[:i], b, a, *node.args[i + 2 :]])
    if is_statement(node):
        yield "statement", ast.Pass()


def is_text(node):
    """Whether a node is a text, as source."""
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def changed(node, **fields):
    """A copy of a node with other fields."""
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def is_statement(node):
    """Whether it can be left out without a name going missing."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return all(isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets)
    return isinstance(node, (ast.Raise, ast.AugAssign, ast.Continue, ast.Break))


def sites(node, place=""):
    """``(node, name of the function it is in)`` of all code that runs and decides something."""
    yield node, place
    if isinstance(node, (ast.Raise, ast.JoinedStr)):  # texts
        return
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        place = f"{place}.{node.name}".lstrip(".")
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name not in NOT_RUN and isinstance(child, ast.AST):
                yield from sites(child, place)


def mutants_of(file, text):
    """All mutants of a module."""
    data, seen = text.encode(), Counter()
    starts = [0, *itertools.accumulate(len(line) for line in data.splitlines(keepends=True))]
    for node, place in sites(ast.parse(text)):
        for kind, other in changes(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            before, after = ast.unparse(node), ast.unparse(other)
            seen[place, before, after] += 1
            if before != after:
                yield Mutant(file, place, kind, before, after, seen[place, before, after],
                             node.lineno, (start, end))  # fmt: skip


def planted(text, mutant):
    """The module with the change; in brackets, since the text around it may bind more closely."""
    data, (start, end) = text.encode(), mutant.span
    whole = mutant.kind in ("statement", "planted")
    after = mutant.after if whole else f"({mutant.after})"
    return (data[:start] + after.encode() + data[end:]).decode()


def draw(seed):
    """All mutants in an order that the seed decides; each kind has its turn."""
    groups = defaultdict(list)
    for file in SEEN_BY:
        for mutant in mutants_of(file, (ROOT / "setr_lite" / file).read_text("utf-8")):
            groups[mutant.kind].append(mutant)
    for group in groups.values():
        random.Random(seed).shuffle(group)
    turns = itertools.zip_longest(*(groups[kind] for kind in sorted(groups)))
    return [mutant for turn in turns for mutant in turn if mutant]


def silent_bugs():
    """The list of the book as mutants."""
    sys.path.append(str(ROOT / "book" / "_tools"))
    from silent.planted import BUGS

    for bug in BUGS:
        text = (ROOT / "setr_lite" / bug.file).read_text("utf-8")
        start = len(text[: text.index(bug.before)].encode())
        line = text[: text.index(bug.before)].count("\n") + 1
        yield Mutant(bug.file, bug.id, "planted", bug.before, bug.after, 1, line,
                     (start, start + len(bug.before.encode())))


def equivalent():
    """key -> why nobody can tell."""
    lines = EQUIVALENT.read_text("utf-8").splitlines()
    return dict(line.rsplit(" # ", 1) for line in lines if " # " in line)


# ---- trying them ---------------------------------------------------------------------------------


def copied(folder):
    """A copy of the project to spoil."""
    unwanted = shutil.ignore_patterns(".git", ".venv", "_build", ".make", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=unwanted, symlinks=True)
    return folder


def tests_of(file):
    """Paths of the tests that see a module."""
    names = [f"tests/{name}" for name in SEEN_BY.get(file, file.split("/")[0]).split()]
    return [name if (ROOT / name).is_dir() else f"{name}.py" for name in names]


def outcome(folder, tests):
    """``passed``, ``failed`` or ``late``, and the test that failed; in a process of its own.

    A child of this process has PyTorch loaded already.
    """
    log = folder / "mutant.log"
    process = os.fork()
    if process == 0:
        os._exit(in_child(folder, tests, log))
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            failed = [line for line in log.read_text("utf-8", "replace").splitlines()
                      if line.startswith(("FAILED", "ERROR"))]
            test = (failed or [""])[0].split(" - ")[0].partition(" ")[2]
            return "failed" if status else "passed", test
        time.sleep(0.2)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "late", ""


def in_child(folder, tests, log):
    """Run the tests of a copy; the exit code."""
    os.setsid()
    number = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for output in (1, 2):
        os.dup2(number, output)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(folder), *(p for p in sys.path if p != str(ROOT / "tests"))]
    import pytest

    try:
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:anyio"]
        code = int(pytest.main([*options, tests]))
    except BaseException as error:  # a mutant may break anything
        print(f"ERROR {error!r}")
        code = 1
    sys.stdout.flush()
    return code


def attempt(folder, mutant):
    """Plant it, run the tests that see it, take it out; the outcome, and which test killed it."""
    path = folder / "setr_lite" / mutant.file
    text = path.read_text("utf-8")
    path.write_text(planted(text, mutant), "utf-8")
    try:
        for tests in tests_of(mutant.file):
            found, failed = outcome(folder, tests)
            if found != "passed":
                return "killed", failed
    finally:
        path.write_text(text, "utf-8")
    return "survived", ""


def control(folder, test, known):
    """SystemExit where a test fails without any mutant, too; each is asked once."""
    if test and test not in known:
        found, failed = outcome(folder, test)
        if found != "passed":
            raise SystemExit(f"{test}: {found} without any mutant: {failed}")
        known.add(test)


class Record:
    """A line of JSON for each thing that was tried; the last one of a key counts."""

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def add(self, **row):
        """Remember, on disk too."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def last(self):
        """key -> row of the mutants that were tried."""
        return {row["key"]: row for row in self.rows}


def report(record):
    """Print the survivors, and the rate among those that are not equivalent."""
    rows, known = record.last(), equivalent()
    lived = {key: row for key, row in rows.items() if row["outcome"] != "killed"}
    for key, row in lived.items():
        print(f"{'equivalent' if key in known else 'SURVIVED  '} line {row['line']}: {key}"
              + (f" # {known[key]}" if key in known else ""))
    left = [key for key in lived if key not in known]
    counted = len(rows) - (len(lived) - len(left))
    killed = counted - len(left)
    print(f"{len(rows)} mutants: {killed} killed, {len(lived) - len(left)} equivalent, "
          f"{len(left)} survived; {killed} of {counted}"
          + (f" = {killed / counted:.1%}" if counted else ""))
    return left


def main():
    """Try so many mutants; 0 if none survived that is not known as equivalent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants in all (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws others")
    parser.add_argument("--record", type=Path, help="default runs/mutants.jsonl")
    parser.add_argument("--planted", action="store_true", help="the book's silent bugs instead")
    parser.add_argument("--survivors", action="store_true", help="try again those that lived")
    parser.add_argument("--list", action="store_true", help="print them and try none")
    options = parser.parse_args()
    order = list(silent_bugs()) if options.planted else draw(options.seed)
    place = "data/runs/silent_bugs/mutants.jsonl" if options.planted else "runs/mutants.jsonl"
    record = Record(options.record or ROOT / place)
    if options.list:
        for mutant in order[: options.count]:
            print(f"{mutant.line:5} {mutant.kind:12}{mutant.key}")
        return 0
    tried, known = record.last(), equivalent()
    chosen = [m for m in order[: options.count] if m.key not in tried]
    if options.survivors:
        chosen = [m for m in order if m.key not in known
                  and tried.get(m.key, {}).get("outcome") == "survived"]
    os.nice(19)
    for name in ("cv2", "matplotlib.pyplot", "torch._dynamo"):  # once, for all children
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as place:
        folder = copied(Path(place) / "project")
        healthy = set()
        for mutant in chosen:
            started = time.monotonic()
            found, by = ("equivalent", "") if mutant.key in known else attempt(folder, mutant)
            control(folder, by, healthy)
            seconds = round(time.monotonic() - started)
            record.add(key=mutant.key, line=mutant.line, kind=mutant.kind, outcome=found, by=by,
                       seconds=seconds, seed=options.seed)  # fmt: skip
            print(f"{found:9} {seconds:4} s  {mutant.line:4} {mutant.key}  {by}", flush=True)
    return 1 if report(record) else 0


if __name__ == "__main__":
    sys.exit(main())
