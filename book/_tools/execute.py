"""Run notebooks in place and leave outputs that do not change when nothing changed.

    python book/_tools/execute.py                      # every notebook of the book
    python book/_tools/execute.py book/04_encoding.ipynb ...

A notebook that fails is left as it was. Written are: widget ids by order of creation, no default
fields of widgets, no times, no versions, joined streams, pictures packed tightly, execution counts
1..n. Cells tagged ``skip-execution`` keep their committed output.

To edit a notebook as text, which keeps cell ids and metadata, then run it here:

    jupytext --to py:percent book/04_encoding.ipynb -o /tmp/page.py
    jupytext --to ipynb --update -o book/04_encoding.ipynb /tmp/page.py
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import time
from pathlib import Path

BOOK = Path(__file__).resolve().parent.parent
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
MODEL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def stable_widgets(nb, stem: str) -> None:
    """Number the widget models of a notebook (ids are random) and drop their default fields."""
    saved = nb.metadata.get("widgets", {}).get(STATE)
    if not saved:
        nb.metadata.pop("widgets", None)
        return
    for model in saved["state"].values():
        if model["model_name"] in ("LayoutModel", "HTMLStyleModel"):
            fields = model["state"].items()
            model["state"] = {k: v for k, v in fields if v is not None and not k.endswith("_count")}
    # the order of the state is the order of creation, the same in every run
    names = {old: f"{stem}-{i:04d}" for i, old in enumerate(saved["state"])}
    text = MODEL_ID.sub(lambda found: names.get(found.group(), found.group()), json.dumps(saved))
    nb.metadata["widgets"] = {STATE: json.loads(text)}
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(VIEW)
            if view:
                view["model_id"] = names.get(view["model_id"], view["model_id"])


def drop_live_only(nb) -> None:
    """Do not commit code that ``show_source`` shows: it would be an old version one day."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            mark = output.get("metadata", {}).pop("setr_lite", None)
            if mark:
                output["data"][mark["live_only"]] = "```python\n# run this cell to read it\n```"


def join_streams(nb) -> None:
    """One output for neighbouring pieces of one stream: their number depends on timing."""
    for cell in nb.cells:
        joined: list = []
        for output in cell.get("outputs", []):
            last = joined[-1] if joined else {}
            if output.output_type == "stream" == last.get("output_type") and (
                output.name == last["name"]
            ):
                last["text"] += output.text
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined


def pack_pictures(nb) -> None:
    """Each PNG with the same pixels in fewer bytes, and without the version of its maker."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = packed_png(output["data"]["image/png"])


def packed_png(text: str) -> str:
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    dpi = picture.info.get("dpi")
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")  # matplotlib's fourth channel says only "opaque"
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, dpi=dpi)
    return base64.b64encode(buffer.getvalue()).decode()


def normalise(nb, stem: str) -> None:
    """Everything above, and the metadata that every notebook of the book carries."""
    stable_widgets(nb, stem)
    drop_live_only(nb)
    join_streams(nb)
    pack_pictures(nb)
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    nb.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    nb.metadata["language_info"] = {"name": "python"}
    nb.metadata.pop("jupytext", None)


def execute(path: Path, timeout: int) -> None:
    """Run one notebook in its own folder and write it back."""
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        nb, timeout=timeout, kernel_name="python3", resources=resources, record_timing=False
    ).execute()
    normalise(nb, path.stem)
    nb = nbformat.from_dict(nb)
    nbformat.validate(nb)
    nbformat.write(nb, path)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: book/*.ipynb")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    args = parser.parse_args(words)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment
    from nbclient.exceptions import CellExecutionError

    failed = 0
    for path in args.notebooks or sorted(BOOK.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            execute(path.resolve(), args.timeout)
        except CellExecutionError as error:
            print(f"{path}: failed, left as it was\n{error}", file=sys.stderr)
            failed += 1
            continue
        size = path.stat().st_size / 1000
        print(f"{path}  {time.perf_counter() - start:.1f} s  {size:.0f} kB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
