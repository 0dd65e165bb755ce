"""Files that are complete or absent, whatever stops the program; folders by other names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


FINDERS: list[Callable[[str], Path | None]] = []
"""Asked in turn for the folder of what is no path. The package adds `weights`' own, which lies
further up than those who ask."""


def find_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: a path as it is, else what one of `FINDERS` makes of the word.

    A word that none of them knows comes back as the path that it is.

    Raises:
        UserError: what the download of a known name raises.
    """
    path = Path(source)
    if not path.exists() and not path.with_name(f"{path.name}.old").exists():  # see `checkpoint`
        for find in FINDERS:
            found = find(str(source))
            if found is not None:
                return found
    return path
