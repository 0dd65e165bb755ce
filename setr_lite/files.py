"""Files that are complete or absent, whatever stops the program."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """A path of the same name to write to; when the block ends well, the file becomes `path`.

    Files that the block writes next to it come along. If it fails, nothing stays, and what was
    at `path` before is untouched. Missing folders above `path` are made::

        with written_beside("out/photo.png") as part:
            picture.save(part)

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside, since a rename is one step only on the same disk; readers skip names with a dot
    with TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
