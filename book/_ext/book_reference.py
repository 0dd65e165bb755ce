"""Sphinx extension: the reference pages, written anew from the source at every build.

* ``<!-- library reference: MODULE ... -->`` in a page becomes every public name of these modules
  with its signature and docstring, what the package itself exports first; ``the rest`` stands for
  all that no other page names. The source is read, not imported: no torch, no GPU, less than a
  second. Names in `single backticks` become links, and every entry has one to its source.
* ``<!-- command-line reference -->`` becomes what ``setr-lite --help`` prints, for every verb, with
  the examples that ``book/_tools/cli_examples.py`` has run.
* ``<!-- settings -->`` becomes a table of all settings.
* Each promise of promises.md gets date and result of its test's last run, where
  ``book/_tools/promises.py`` has recorded one.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any

from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "setr_lite"
COLUMNS = "74"  # argparse leaves two of them free
SECTIONS = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
MODULES = re.compile(r"<!-- library reference: (.*?) -->")
SETTINGS = "<!-- settings -->"
HELP = "<!-- command-line reference -->"
PROMISE = re.compile(r"^  <br>`(tests/[^`]+)`", re.M)
EXAMPLES = ROOT / "book" / "examples"
PROMISES = ROOT / "data" / "promises.json"
WIDE_VALUE = 86  # columns, above which a value is shown as the source breaks it
LONG_VALUE = 12  # lines of a value that are shown
LONG_SENTENCE = 110  # letters, above which a table has only the first clause of a sentence
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
    """Every public name of the library, and every module, without ``setr_lite.``."""
    found = set()
    for module in all_modules():
        found.add(module)
        for node in public(tree_of(module).body):
            name = getattr(node, "name", None) or constant(node)
            found.add(f"{module}.{name}")
            if isinstance(node, ast.ClassDef):
                found |= {f"{module}.{name}.{member}" for member in members(node)}
    return found


def members(node: ast.ClassDef) -> list[str]:
    fields = [m.target.id for m in node.body if isinstance(m, ast.AnnAssign)]
    methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
    return [name for name in fields + methods if not name.startswith("_")]


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
    for line in lines:
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
        if not name.startswith("_") or name == "__call__":
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


def directive(kind: str, title: str, body: str, ticks: int, *options: str) -> str:
    fence = "`" * ticks
    return "\n".join([f"{fence}{{py:{kind}}} {title}", *options, "", body, fence, ""])


def entries(module: str) -> dict[str, str]:
    """Public name -> MyST of its entry."""
    found, body = {}, tree_of(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if node in public([node]):
            name = getattr(node, "name", None) or constant(node)
            found[name] = describe(node, after, module)
    return found


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
    """Its words, then its value; of a large table its first lines."""
    lines = ast.unparse(node.value).splitlines()
    source = (LIBRARY / f"{module.replace('.', '/')}.py").read_text("utf-8")
    if len(lines[0]) > WIDE_VALUE or len(lines) > 1:
        written = ast.get_source_segment(source, node.value, padded=True) or ""
        lines = cleandoc(written).splitlines()
    shown = lines[:LONG_VALUE] + ["..."] * (len(lines) > LONG_VALUE)
    return "\n".join([markdown(string_below(after), (module,)), "", "```python", *shown, "```"])


def describe_class(node: ast.ClassDef, module: str) -> str:
    methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
    title, scope = node.name, (module, node.name)
    if "__init__" in methods:
        title += signature(methods["__init__"], skip_self=True).removesuffix(" -> None")
    parts = [markdown(ast.get_docstring(node) or "", scope), ""]
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
            text = markdown(string_below(after), scope)
            # in quotes of its own: the option is read as YAML, which would take off the value's
            default = f"\n:value: {json.dumps(ast.unparse(field.value))}" if field.value else ""
            options = f":type: {ast.unparse(field.annotation)}{default}"
            parts.append(directive("attribute", field.target.id, text, 5, options))
    for method in public(list(methods.values())):
        decorators = {ast.unparse(d) for d in method.decorator_list}
        kind = "property" if "property" in decorators else "method"
        title_of = method.name + ("" if kind == "property" else signature(method, True))
        static = [f":{d}:" for d in ("classmethod", "staticmethod") if d in decorators]
        text = markdown(ast.get_docstring(method) or "", scope)
        parts.append(directive(kind, title_of, text, 5, *static))
    return directive("class", title, "\n".join(parts), 6)


def exported() -> set[str]:
    """What the package hands on from its top: the names that scripts may rely on."""
    tree = ast.parse((LIBRARY / "__init__.py").read_text("utf-8"))
    homes = next(
        node.value for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES")
    top = {name for names in ast.literal_eval(homes).values() for name in names}
    return top | {"train", "evaluate"}


def library_reference(modules: list[str]) -> str:
    """MyST of all public names: first what the package exports, then the rest by module."""
    stable, inside = [], []
    for name in modules:
        module, here = f"setr_lite.{name}", entries(name)
        first = [text for entry, text in here.items() if entry in exported()]
        rest = [text for entry, text in here.items() if entry not in exported()]
        if first:
            stable += [f"```{{py:currentmodule}} {module}\n```\n", *first]
        inside += [f"### {name}", f"\n```{{py:module}} {module}\n```\n",
                   markdown(ast.get_docstring(tree_of(name)) or "", (name,)), "", *folded(rest)]
    top = ["## What scripts use", "", *stable] if stable else []
    return "\n".join([*top, "## Inside, by module" if top else "## By module", "", *inside])


def folded(entries: list[str]) -> list[str]:
    """Entries that open on request and are not in the list of contents beside the page."""
    quiet = [re.sub(r"^(`+\{py:\w+\} .*)$", r"\1\n:no-contents-entry:", text, flags=re.M)
             for text in entries]
    names = "1 name" if len(quiet) == 1 else f"{len(quiet)} names"
    opened = f'<details class="setr-inside">\n<summary>{names}</summary>\n'
    return [opened, *quiet, "</details>\n"] if quiet else []


def modules_of(words: str) -> list[str]:
    """The modules that a marker names."""
    if words != "the rest":
        return words.split()
    named = {
        name for page in (ROOT / "book").glob("api*.md")
        for found in MODULES.findall(page.read_text("utf-8")) for name in found.split()
    }
    return sorted(set(all_modules()) - named)


# --- the settings -------------------------------------------------------------------------------


def settings_reference() -> str:
    """Name, type, default and meaning of every setting, and what the recipes make of it."""
    sys.path.insert(0, str(ROOT))
    try:
        from setr_lite.config import RunConfig
        from setr_lite.recipes import RECIPES, get_recipe
    finally:
        sys.path.remove(str(ROOT))
    recipes = {name: get_recipe(name).to_dict() for name in RECIPES}
    defaults = RunConfig().to_dict()
    classes = {n.name: n for n in tree_of("config").body if isinstance(n, ast.ClassDef)}
    lines = []
    for section, cls in SECTIONS_OF_A_RUN.items():
        lines += [f"### {section}", "",
                  "| setting | what it sets | default | recipes change it to |",
                  "|---|---|---|---|"]
        body = classes[cls].body
        for field, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                key = field.target.id
                values = {name: recipe[section][key] for name, recipe in recipes.items()}
                said = first_sentence(markdown(string_below(after), ("config", cls)))
                lines.append(setting_row(section, cls, field, said, defaults[section][key], values))
        lines.append("")
    return "\n".join(lines)


def first_sentence(text: str) -> str:
    """Of a description in Markdown, for a cell of a table; of a long one its first clause."""
    text = " ".join(text.partition("\n\n")[0].split())
    text = re.split(r"(?<=[^.]\w[.)])\s+(?=[A-Z`{0-9])", text)[0]
    if len(text) > LONG_SENTENCE:  # if it does not end inside of backticks
        text = re.split(r"[:;] (?=[^`]*(?:`[^`]*`[^`]*)*$)", text)[0]
    return text.rstrip(".:").replace(" | ", " \\| ")


def setting_row(section: str, cls: str, field: ast.AnnAssign, said: str, default: object,
                values: dict[str, object]) -> str:
    """One line of the table; of the values that recipes give, the most frequent."""
    key = field.target.id
    name = f"{{py:obj}}`{section}.{key} <setr_lite.config.{cls}.{key}>`"
    kind = ast.unparse(field.annotation).replace("|", "or")
    changed = Counter(written(v) for v in values.values() if v != default)
    most = 5 if len(changed) == 5 else 4
    shown = [f"`{value}` ({count})" for value, count in changed.most_common(most)]
    more = f", {len(changed) - most} more values" if len(changed) > most else ""
    return (f"| {name}<br>`{kind}` | {said} | `{written(default)}` | {', '.join(shown)}{more} |")


def written(value: object) -> str:
    """A value as one writes it behind ``section.key=``."""
    if isinstance(value, list | tuple):
        return ",".join(map(written, value))
    return {True: "true", False: "false", None: "none", "": "(empty)"}.get(value, str(value)) if (
        not isinstance(value, int | float) or isinstance(value, bool)) else f"{value:g}"


# --- the command line ---------------------------------------------------------------------------


def command_line_reference() -> str:
    """What ``setr-lite --help`` and ``setr-lite VERB --help`` print, as MyST."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    sys.path.insert(0, str(ROOT))
    try:
        from setr_lite.cli import _parser

        parser = _parser()
        verbs = next(a for a in parser._actions if hasattr(a, "choices") and a.choices).choices
        helps = {"setr-lite": parser.format_help()}
        helps |= {f"setr-lite {name}": verb.format_help() for name, verb in verbs.items()}
    finally:
        sys.path.remove(str(ROOT))
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join(
        f"## {name}\n\n```text\n{text}```\n{example_of(name)}" for name, text in helps.items())


def example_of(command: str) -> str:
    """The example of ``setr-lite VERB``, as it was run."""
    path = EXAMPLES / f"{command.rpartition(' ')[2]}.txt"
    start = "\nFor example:\n\n```{code-block} text\n:class: setr-output\n\n"
    return f"{start}{path.read_text('utf-8')}```\n" if path.exists() else ""


# --- Sphinx -------------------------------------------------------------------------------------


def fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = MODULES.sub(lambda found: library_reference(modules_of(found[1])), source[0])
    if HELP in source[0]:
        source[0] = source[0].replace(HELP, command_line_reference())
    if SETTINGS in source[0]:
        source[0] = source[0].replace(SETTINGS, settings_reference())


    if page.endswith("promises") and PROMISES.exists():
        record = json.loads(PROMISES.read_text("utf-8"))
        source[0] = PROMISE.sub(lambda found: found[0] + result_of(found[1], record), source[0])


def result_of(test: str, record: dict) -> str:
    """When the test of a promise ran last, and what came out."""
    outcome = record["results"].get(test)
    return f" ({outcome}, {record['date']})" if outcome else ""


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
    app.connect("viewcode-find-source", find_source)
    app.connect("source-read", fill)
    app.connect("env-get-outdated", always_anew)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
