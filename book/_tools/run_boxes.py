"""Write the box "Run this page" into every notebook, below its title.

    python book/_tools/run_boxes.py            # write
    python book/_tools/run_boxes.py --check    # exit code 1 if a file is not as it would be written

The box is a Markdown cell with the tag ``run-box``; its words stand here. The repository's address
comes from _config.yml, the one place that has it, and goes into the boxes and CITATION.cff. Without
an address the boxes say how to do without. Nothing runs, and no output changes.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
TAG = "run-box"

BOX = """\
<details class="run-box"><summary>Run this page</summary>

It is the notebook `book/{name}` of the repository, and finds its data beside it. On your own
machine, from the root of a clone, once:

```bash
make setup
.venv/bin/pip install jupyterlab
.venv/bin/jupyter lab book/{name}
```

{alone}
%cd setr/book
%pip install -q ..
```

No GPU is needed. Cells that want one, or files of yours, say so.

</details>"""
CLONE = """\
In Colab, or wherever else a notebook opens alone, run this in a cell at the top first:

```text
!git clone --depth 1 {address} setr"""
UPLOAD = """\
In Colab, or wherever else a notebook opens alone, it needs the rest of the repository. Pack your
clone with `git archive -o setr.zip HEAD`, upload that file, and run this in a cell at the top:

```text
!unzip -q setr.zip -d setr"""


def address() -> str:
    """The repository's, as _config.yml has it; empty if it has none yet."""
    found = re.search(
        r'^repository:\n\s+url: "?([^"\n]*)"?$', (ROOT / "_config.yml").read_text("utf-8"), re.M)
    return found[1]


def box(path: Path) -> str:
    alone = CLONE.format(address=address()) if address() else UPLOAD
    return BOX.format(name=path.name, alone=alone)


def cited(text: str) -> str:
    """CITATION.cff with the address, or without the line for it."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f'repository-code: "{address()}"\n' if address() else ""
    return re.sub(r"^(license: .*\n)", lambda found: found[1] + line, text, flags=re.M)


def with_box(notebook, path: Path):
    """The notebook with the box as its second cell."""
    cells = [c for c in notebook.cells if TAG not in c.metadata.get("tags", [])]
    new = nbformat.v4.new_markdown_cell(box(path), id=TAG, metadata={"tags": [TAG]})
    return nbformat.from_dict({**notebook, "cells": [cells[0], new, *cells[1:]]})


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(words)
    citation = ROOT / "CITATION.cff"
    before = citation.read_text("utf-8")
    stale = [citation.name] if cited(before) != before else []
    if stale and not options.check:
        citation.write_text(cited(before), "utf-8")
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        new = with_box(notebook, path)
        if new == notebook:
            continue
        stale.append(path.name)
        if not options.check:
            nbformat.write(new, path)
    print(f"{'not as written here' if options.check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
