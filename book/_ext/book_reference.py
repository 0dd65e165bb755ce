"""Sphinx extension: the reference pages, written anew from the source at every build.

* ``<!-- library reference: MODULE ... -->`` in a page becomes every public name of these modules
  with its signature and docstring; ``the rest`` stands for all that no other page names. The source
  is read, not imported: no torch, no GPU, less than a second.
* ``<!-- command-line reference -->`` becomes what ``setr-lite --help`` prints, for every verb.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "setr_lite"
COLUMNS = "74"  # argparse leaves two of them free
SECTIONS = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
MODULES = re.compile(r"<!-- library reference: (.*?) -->")
HELP = "<!-- command-line reference -->"
RULE = re.compile(r"=+( +=+)+$")  # above and below a table of reStructuredText


# --- docstrings as Markdown ---------------------------------------------------------------------


def plain(text: str) -> str:
    """Words of a docstring for MyST: what is no code must not become markup by accident."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([$<*_|{}\[\]])", r"\\\1", parts[i])
    return "".join(parts)


def fields(lines: list[str]) -> Iterator[str]:
    """``name: words``, perhaps on several lines, as a list; other words stay as they are."""
    base = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    for line in lines:
        found = re.match(r"([\w*, .]+): (.*)", line[base:])
        if found and not line[base:].startswith(" "):
            yield f"- **{plain(found[1])}**: {plain(found[2])}"
        else:
            yield f"  {plain(line.strip())}" if line.strip() else ""


def markdown(docstring: str) -> str:
    """A docstring of the library (Google's sections, tables and code as in Sphinx) for MyST."""
    out: list[str] = []
    lines = cleandoc(docstring).splitlines()
    while lines:
        line = lines.pop(0)
        if SECTIONS.match(line):
            block = []
            while lines and (not lines[0].strip() or lines[0].startswith(" ")):
                block.append(lines.pop(0))
            out += ["", f"**{line}**", "", *fields(block), ""]
        elif RULE.match(line):
            block = [line]
            while lines and (lines[0].strip()):
                block.append(lines.pop(0))
            out += ["", "```text", *block, "```", ""]
        elif line.startswith("    ") and (not out or not out[-1]):
            block = [line]
            while lines and (lines[0].startswith("    ") or not lines[0].strip()):
                block.append(lines.pop(0))
            out += ["```text", *cleandoc("\n" + "\n".join(block)).splitlines(), "```", ""]
        else:
            out.append(plain(re.sub(r"::$", ":", line.strip())))
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


def describe(node: ast.stmt, module: str) -> str:
    if isinstance(node, ast.ClassDef):
        return describe_class(node, module)
    if isinstance(node, ast.FunctionDef):
        title = f"{module}.{node.name}{signature(node)}"
        return directive("function", title, markdown(ast.get_docstring(node) or ""), 5)
    return directive("data", f"{module}.{constant(node)}", "", 5)


def describe_class(node: ast.ClassDef, module: str) -> str:
    methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
    title = f"{module}.{node.name}"
    if "__init__" in methods:
        title += signature(methods["__init__"], skip_self=True).removesuffix(" -> None")
    parts = [markdown(ast.get_docstring(node) or ""), ""]
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
            text = getattr(getattr(after, "value", None), "value", "")
            text = markdown(text) if isinstance(text, str) else ""
            default = f"\n:value: {ast.unparse(field.value)}" if field.value else ""
            options = f":type: {ast.unparse(field.annotation)}{default}"
            parts.append(directive("attribute", field.target.id, text, 5, options))
    for method in public(list(methods.values())):
        decorators = {ast.unparse(d) for d in method.decorator_list}
        kind = "property" if "property" in decorators else "method"
        title_of = method.name + ("" if kind == "property" else signature(method, True))
        static = [f":{d}:" for d in ("classmethod", "staticmethod") if d in decorators]
        parts.append(
            directive(kind, title_of, markdown(ast.get_docstring(method) or ""), 5, *static))
    return directive("class", title, "\n".join(parts), 6)


def library_reference(modules: list[str]) -> str:
    """MyST of all public names, module by module."""
    pages = []
    for name in modules:
        tree = ast.parse((LIBRARY / f"{name.replace('.', '/')}.py").read_text("utf-8"))
        pages += [f"## {name}", "", markdown(ast.get_docstring(tree) or ""), ""]
        pages += [describe(node, f"setr_lite.{name}") for node in public(tree.body)]
    return "\n".join(pages)


def modules_of(words: str) -> list[str]:
    """The modules that a marker names."""
    if words != "the rest":
        return words.split()
    named = {
        name for page in (ROOT / "book").glob("api*.md")
        for found in MODULES.findall(page.read_text("utf-8")) for name in found.split()
    }
    there = (path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("[a-z]*.py"))
    return sorted({".".join(path.parts) for path in there} - named)


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
    return "\n".join(f"## {name}\n\n```text\n{text}```\n" for name, text in helps.items())


# --- Sphinx -------------------------------------------------------------------------------------


def fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = MODULES.sub(lambda found: library_reference(modules_of(found[1])), source[0])
    if HELP in source[0]:
        source[0] = source[0].replace(HELP, command_line_reference())


def always_anew(app: Any, env: Any, added: set, changed: set, removed: set) -> list[str]:
    """The pages that hold a marker: what they are made of is not among their own files."""
    return [
        page for page in env.found_docs
        if (path := Path(env.doc2path(page))).suffix == ".md" and "<!-- " in path.read_text("utf-8")
    ]


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", fill)
    app.connect("env-get-outdated", always_anew)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
