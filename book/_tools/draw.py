"""Write every drawing of the book, or say which differ from what is committed.

    python book/_tools/draw.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import records

BOOK = Path(__file__).resolve().parents[1]
OUT = BOOK / "figures" / "drawn"


def drawings() -> dict[str, str]:
    """File name -> text of each drawing, wide and narrow."""
    from figures import journey
    from figures import map as setr_map
    from figures.schematics import SCHEMATICS

    made = [setr_map.draw(shape) for shape in ("wide", "narrow")]
    draws = [*SCHEMATICS.values(), *journey.DRAW.values()]
    made += [draw(shape) for draw in draws for shape in ("wide", "narrow")]
    return {f"{drawing.name}.svg": drawing.svg() for drawing in made}


def main(argv: Sequence[str] | None = None) -> int:
    parser = records.options(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    sys.path.insert(0, str(BOOK))
    OUT.mkdir(exist_ok=True)
    made = drawings()
    there = {path.name: path.read_text("utf-8") for path in OUT.glob("*.svg")}
    stale = sorted(name for name in made.keys() | there if made.get(name) != there.get(name))
    if check:
        print("\n".join(stale) or "all drawings are as the library says")
        return bool(stale)
    for name in stale:
        if name in made:
            (OUT / name).write_text(made[name], "utf-8")
        else:
            (OUT / name).unlink()
    print(f"{len(made)} drawings, {len(stale)} of them written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
