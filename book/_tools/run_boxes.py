"""Write the box "Run this page" into every notebook, below its title.

    python book/_tools/run_boxes.py            # write
    python book/_tools/run_boxes.py --check    # exit code 1 if a notebook lacks it

The box is a Markdown cell with the tag ``run-box``. Its words, and the repository's address from
_config.yml, stand in this one place. Nothing runs, and no output changes.
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

In Colab, or wherever else a notebook opens alone, run this in a cell at the top first:

```text
!git clone --depth 1 {address} setr
%cd setr/book
%pip install -q ..
```

No GPU is needed. Cells that want one, or files of yours, say so.

</details>"""


def address() -> str:
    """The repository's, as _config.yml has it, or a word in its place."""
    found = re.search(
        r'^repository:\n\s+url: "?([^"\n]*)"?$', (ROOT / "_config.yml").read_text("utf-8"), re.M)
    return found[1] or "ADDRESS-OF-THE-REPOSITORY"


def box(path: Path) -> str:
    return BOX.format(name=path.name, address=address())


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
    stale = []
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        new = with_box(notebook, path)
        if new == notebook:
            continue
        stale.append(path.name)
        if not options.check:
            nbformat.write(new, path)
    print(f"{'without it' if options.check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
