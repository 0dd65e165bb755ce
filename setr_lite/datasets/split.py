"""Which images are learned from and which are scored: by share, by group, by class.

Images of one scene, patient or drive resemble each other, so a group stays together: a score on an
image whose neighbour was learned says little.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..errors import UserError, controls, printable
from ..files import PART
from .folder import pairs_below, read_class_list
from .images import read_label


def split_data(
    root: str | Path, *, val: float = 0.2, test: float = 0.0, group: str = "", seed: int = 0,
    classes: str | Path = "",
) -> str:  # fmt: skip
    """Write ``splits/train.txt``, ``val.txt`` and perhaps ``test.txt`` for `Folder` to read.

    No image or mask is moved or copied. Groups are dealt one by one, those with the rarest classes
    first, each to the part that it brings closest to its share: of the images, and of the images
    with each class. Ties are broken by `seed`; the same files and arguments give the same
    lists.

    Args:
        root: holds ``images/``, ``labels/`` and ``classes.txt``; images may lie in folders there.
        val, test: shares of the images, together below 1.
        group: ``folder``, the first part of an image's path in ``images/``; or a regular
            expression, whose first group in brackets, or all it matches, names the group. By
            default every image is one.
        seed: another one gives another split.
        classes: the list, if it is not ``classes.txt``.

    Returns:
        A table: groups, images, and images with each class by part.

    Raises:
        UserError: impossible shares, fewer groups than parts, a name that the expression does not
            match, masks that are missing or hold unknown ids, or a split that is there already.
    """
    root, place = Path(root), Path(root) / "splits"
    shares = _shares(val, test)
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or more")
    if place.exists():
        raise UserError(f"{place}: is there already; remove it to split anew")
    pairs = pairs_below(root)
    if not pairs:
        raise UserError(f"{root / 'images'}: holds no image")
    names = list(pairs)
    odd = next((name for name in names if controls(name)), None)
    if odd is not None:
        raise UserError(f"{odd!r}: a list cannot name this image; rename it")
    listed = read_class_list(classes or root / "classes.txt")
    has = _classes_in(pairs, listed.table, len(listed.names))
    members = _groups(names, group)
    if len(members) < len(shares):
        raise UserError(
            f"{len(members)} groups cannot fill {len(shares)} parts; give another --group, or"
            " label images of more scenes"
        )
    counts = np.array([has[rows].sum(axis=0) for rows in members.values()])
    part = deal(counts, list(shares.values()), seed)
    lists: dict[str, list[int]] = {name: [] for name in shares}
    for rows, k in zip(members.values(), part, strict=True):
        lists[list(shares)[k]] += rows
    _write(place, {name: [names[i] for i in sorted(rows)] for name, rows in lists.items()})
    groups = np.bincount(part, minlength=len(shares)).tolist()
    return _table(lists, groups, has, listed.names, place)


def _shares(val: float, test: float) -> dict[str, float]:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise UserError(
            f"--val {val} --test {test}: give shares of the images, val above 0, together below 1")
    shares = {"train": 1 - val - test, "val": val, "test": test}
    return {name: share for name, share in shares.items() if share}


def _classes_in(
    pairs: dict[str, tuple[Path, Path]], table: np.ndarray, classes: int
) -> np.ndarray:
    """(images, 1 + K) int: 1, and whether each class occurs."""

    def look(pair: tuple[Path, Path]) -> np.ndarray:
        if not pair[1].is_file():
            raise UserError(f"{pair[0]}: image without label, {pair[1]} is missing")
        label = table[np.unique(read_label(pair[1]).numpy())]
        return np.isin(np.arange(classes), label)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        has = np.array(list(pool.map(look, pairs.values())))
    return np.concatenate([np.ones((len(has), 1)), has], axis=1).astype(np.int64)


def _groups(names: list[str], group: str) -> dict[str, list[int]]:
    """Rows of the images by the name of their group."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        members[group_of(name, group)].append(i)
    return dict(members)


def group_of(name: str, group: str) -> str:
    """The group of an image's path without ending; see `split_data`.

    Raises:
        UserError: no regular expression, or one that does not match.
    """
    if not group:
        return name
    if group == "folder":
        if "/" not in name:
            raise UserError(f"{name}: lies in no folder of images/; give --group EXPRESSION")
        return name.partition("/")[0]
    try:
        found = re.search(group, name)
    except re.error as error:
        raise UserError(f"--group {group}: no regular expression ({error})") from None
    if not found:
        raise UserError(f"--group {group}: does not match the image {printable(name)}")
    return str(found[1] if found.re.groups else found[0])


def deal(counts: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    """(G,) the part that each group goes to.

    Args:
        counts: (G, F) how much of each feature a group has.
        shares: of each part; they add up to 1.
        seed: orders equal groups.
    """
    weight = counts / np.maximum(counts.sum(axis=0), 1)  # of each feature's whole
    mixed = np.random.default_rng(seed).permutation(len(counts))
    order = mixed[np.argsort(-weight[mixed].max(axis=1), kind="stable")]
    has = np.zeros((len(shares), counts.shape[1]))
    wanted, part = np.array(shares)[:, None], np.zeros(len(counts), dtype=np.int64)
    for place, g in enumerate(order):
        # what is missing is looked at in shares of the wanted, or a small part would wait for long
        after = (has + weight[g] - wanted) / wanted
        before = (has - wanted) / wanted
        cost = (wanted * (after**2 - before**2)).sum(axis=1)
        empty = [k for k in range(len(shares)) if not (part[order[:place]] == k).any()]
        left = len(order) - place
        choices = empty if len(empty) >= left else range(len(shares))
        part[g] = min(choices, key=lambda k: cost[k])
        has[part[g]] += weight[g]
    return part


def _write(place: Path, lists: dict[str, list[str]]) -> None:
    """All lists at once."""
    with TemporaryDirectory(prefix=".", suffix=PART, dir=place.parent) as folder:
        part = Path(folder) / place.name
        part.mkdir()
        for name, rows in lists.items():
            (part / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        part.rename(place)


def _table(
    lists: dict[str, list[int]], groups: list[int], has: np.ndarray, names: tuple[str, ...],
    place: Path,
) -> str:  # fmt: skip
    width = max(map(len, (*names, "images")))
    lines = [f"{'':<{width}}" + "".join(f"{name:>8}" for name in lists)]
    rows = {"groups": groups, "images": [len(part) for part in lists.values()]}
    rows |= {name: [int(has[part, 1 + k].sum()) for part in lists.values()]
             for k, name in enumerate(names)}  # fmt: skip
    lines += [f"{printable(name):<{width}}" + "".join(f"{n:>8}" for n in row)
              for name, row in rows.items()]  # fmt: skip
    for k, name in enumerate(names):
        gone = [part for part, row in lists.items() if not has[row, 1 + k].any()]
        if gone:
            lines.append(f"note: no image of {' or '.join(gone)} has {printable(name)}")
    return "\n".join([*lines, f"written: {place}"])
