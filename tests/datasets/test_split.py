"""Lists of the images to learn from and to score on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setr_lite.datasets import Folder
from setr_lite.datasets.split import deal, group_of, split_data
from setr_lite.errors import UserError


def data(root: Path, names: list[str], labels: list[list[int]]) -> Path:
    for name, label in zip(names, labels, strict=True):
        for kind, ending in (("images", "jpg"), ("labels", "png")):
            path = root / kind / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([label], np.uint8)).save(path)
    (root / "classes.txt").write_text("road\ncar\npole\n")
    return root


def drives(root: Path) -> Path:
    """Twelve drives of 3 to 6 images; poles in two of them."""
    names = [f"d{d:02}_{i}" for d in range(12) for i in range(3 + d % 4)]
    return data(root, names, [[0, 1, 2 if n[:3] in ("d03", "d08") else 255] for n in names])


def parts(root: Path) -> dict[str, list[str]]:
    return {p.stem: p.read_text().split() for p in sorted((root / "splits").glob("*.txt"))}


def test_a_group_stays_together_and_every_class_is_on_both_sides(tmp_path: Path) -> None:
    root = drives(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    said = split_data(root, val=0.25, group=r"^(d\d+)_")
    found = parts(root)
    groups = {name: {n[:3] for n in rows} for name, rows in found.items()}
    assert not groups["train"] & groups["val"]
    assert sum(map(len, found.values())) == 54
    assert 0.2 < len(found["val"]) / 54 < 0.35
    assert len(groups["val"] & {"d03", "d08"}) == 1  # of two drives with poles one each
    assert "note" not in said
    assert re.search(r"^images +(\d+) +(\d+)$", said, flags=re.M)
    added = {p.name for p in set(tmp_path.rglob("*")) - set(before)}
    assert added == {"splits", "train.txt", "val.txt"}
    train = Folder(root, "train")
    assert [train[i].name for i in range(len(train))] == found["train"]
    assert train[0].label.tolist()[0][:2] == [0, 1]


def test_reproducible_by_seed(tmp_path: Path) -> None:
    names = [f"{i:02}" for i in range(20)]
    found = []
    for i, seed in enumerate((0, 0, 1)):
        root = data(tmp_path / str(i), names, [[0]] * 20)
        split_data(root, val=0.2, test=0.1, seed=seed)
        found.append(parts(root))
    assert found[0] == found[1] != found[2]
    assert {name: len(rows) for name, rows in found[0].items()} == {
        "train": 14, "val": 4, "test": 2}  # fmt: skip


def test_by_folder_and_images_in_folders_are_read(tmp_path: Path) -> None:
    names = [f"patient{p}/day{d}/scan" for p in range(5) for d in range(2)]
    root = data(tmp_path, names, [[0, 1]] * 10)
    split_data(root, group="folder")
    found = parts(root)
    assert {n.partition("/")[0] for n in found["val"]}.isdisjoint(
        n.partition("/")[0] for n in found["train"])  # fmt: skip
    assert len(found["val"]) == 2
    assert len(Folder(root, "val")) == 2


@pytest.mark.parametrize("seed", range(5))
def test_rare_classes_are_dealt_by_their_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.concatenate([np.ones((200, 1)), rng.random((200, 3)) < [0.5, 0.1, 0.05]], axis=1)
    part = deal(counts.astype(int), [0.8, 0.2], seed)
    share = counts[part == 1].sum(0) / counts.sum(0)
    np.testing.assert_allclose(share, 0.2, atol=0.06)
    chance = rng.permutation(part)  # as many images, without looking
    by_chance = counts[chance == 1].sum(0) / counts.sum(0)
    assert np.abs(share - 0.2).max() <= np.abs(by_chance - 0.2).max()


def test_a_class_that_cannot_be_on_both_sides_is_noted(tmp_path: Path) -> None:
    root = data(tmp_path, ["a", "b", "c"], [[0, 1], [0, 1], [0, 2]])
    assert re.search(r"note: no image of (train|val) has pole", split_data(root, val=0.34))
    assert {len(rows) for rows in parts(root).values()} == {1, 2}


def test_names_of_groups() -> None:
    assert group_of("a/b_1", "") == "a/b_1"
    assert group_of("a/b_1", "folder") == "a"
    assert group_of("a/b_1", "b_.") == "b_1"
    assert group_of("a/b_1", "(b)_(.)") == "b"


def test_mistakes(tmp_path: Path) -> None:
    root = data(tmp_path, ["a_1", "b_1"], [[0, 1]] * 2)
    for words, said in (
        ({"val": 0}, "give shares"), ({"val": 0.7, "test": 0.3}, "give shares"),
        ({"val": float("nan")}, "give shares"), ({"seed": -1}, "--seed -1: give 0 or more"),
        ({"group": "folder"}, "lies in no folder"), ({"group": "("}, "no regular expression"),
        ({"group": "c"}, "does not match the image a_1"),
        ({"group": "_1"}, "1 groups cannot fill 2 parts"),
        ({"val": 0.3, "test": 0.3}, "2 groups cannot fill 3 parts"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            split_data(root, **words)
    assert not (root / "splits").exists()
    split_data(root)
    with pytest.raises(UserError, match="is there already; remove it to split anew"):
        split_data(root)
    (root / "splits" / "val.txt").write_text("../../secret\n")
    with pytest.raises(UserError, match=r"no image '../../secret' in"):
        Folder(root, "val")
    (root / "labels" / "a_1.png").unlink()
    (root / "splits").rename(root / "old")
    with pytest.raises(UserError, match="image without label"):
        split_data(root)
    with pytest.raises(UserError, match="holds no image"):
        split_data(tmp_path / "nowhere")
