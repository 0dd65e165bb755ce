"""The licences of everything that constraints.txt installs, from the packages' own words.

    .venv/bin/python tests/licences.py        writes tests/licences.csv

Says what each package's metadata say (License-Expression, else a classifier, else License), and
who brings it: this project's extra, or another package.
"""

import csv
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
TABLE = HERE / "licences.csv"
EXTRAS = ("", "book", "export", "test")
OF_CUDA = re.compile(r"(nvidia|cuda)[-_]|triton$")
"""What a CUDA build of PyTorch brings along, and a CPU build does not."""


def licence(metadata):
    """One short text."""
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    kinds = [c.rsplit(" :: ", 1)[1] for c in metadata.get_all("Classifier") or ()
             if c.startswith("License :: ") and c != "License :: OSI Approved"]  # fmt: skip
    words = (metadata.get("License") or "").strip().splitlines() or [""]
    return " and ".join(kinds) or words[0][:60]


def needs(name, extras=("",)):
    """Names that an installed package requires on this machine."""
    for line in distribution(name).requires or ():
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
            yield canonicalize_name(need.name), tuple(need.extras) or ("",)


def installed():
    """Every package that this project with its extras needs -> what needs it, without CUDA's."""
    found, todo = {}, [("setr-lite", EXTRAS)]
    while todo:
        name, extras = todo.pop()
        for need, own in needs(name, extras):
            if need in found or need == "setr-lite" or OF_CUDA.match(need):
                continue
            try:
                distribution(need)
            except PackageNotFoundError:
                continue
            found[need] = name
            todo.append((need, own))
    return dict(sorted(found.items()))


def rows():
    """(name, licence, needed by) of each."""
    return [(n, licence(distribution(n).metadata), by) for n, by in installed().items()]


def read():
    """The rows of the committed table."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


if __name__ == "__main__":
    with open(TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["package", "licence", "needed by"])
        table.writerows(rows())
    print(TABLE, len(read()), "packages")
