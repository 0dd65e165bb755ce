"""Weights of other programs, in and out, every tensor accounted for. Imports up to recipes."""

from .read import (
    KINDS,
    LABELS,
    PLAIN,
    from_augreg,
    from_deit,
    from_mmseg,
    from_mmseg_vit,
    from_official,
    from_plain,
    from_timm,
    head_of,
    kind_of,
    load_pretrained,
    load_setr,
)

__all__ = [
    "KINDS",
    "LABELS",
    "PLAIN",
    "from_augreg",
    "from_deit",
    "from_mmseg",
    "from_mmseg_vit",
    "from_official",
    "from_plain",
    "from_timm",
    "head_of",
    "kind_of",
    "load_pretrained",
    "load_setr",
]
