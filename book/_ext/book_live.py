"""Sphinx extension: what the live figures load is laid beside the built pages.

Engine, models, streets and stamps as scripts in ``_static/live``, from the repository's source and
checkpoints. After the build, because Jupyter Book loads every script that it finds below
``_static`` on every page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def lay_out(app: Any, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    book = str(Path(app.srcdir) / "book")
    if book not in sys.path:
        sys.path.insert(0, book)
    from figures.live.layout import write  # imports torch: only where pages are built

    write(Path(app.outdir) / "_static" / "live")


def setup(app: Any) -> dict[str, Any]:
    app.connect("build-finished", lay_out)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
