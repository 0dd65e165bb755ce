"""Values by their annotated types: read from text or JSON, checked, named in an error's words."""

from __future__ import annotations

import math
import numbers
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import UserError, nearest, shortly

LARGEST_NUMBER = 1 << 62
"""Of a setting that is a whole number; PyTorch counts with 64 bits."""
MIN_RATIO = 1e-6
"""Of the size of an image that is looked at, to its own."""
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""Words for them, in any case."""
Section = TypeVar("Section")


def value_of(name: str, text: str, kinds: dict[str, Any], shown: str | None = None) -> Any:
    """The value that `text` is for a setting.

    Args:
        name: of the setting, ``section.key``.
        text: as `parse` takes it.
        kinds: annotated types of the section's keys.
        shown: what to show of it in the error; None shows `text`.

    Raises:
        UserError: no such key (the nearest is offered), or a value of another type.
    """
    section, _, key = name.partition(".")
    if key not in kinds:
        raise UserError(f"no setting {name!r}{nearest(name, [f'{section}.{k}' for k in kinds])}")
    try:
        return parse(text, kinds[key])
    except (ValueError, TypeError):
        wanted = in_words(kinds[key])
        found = text if shown is None else shown
        raise UserError(f"{name}={_cut(found)}: expected {wanted}") from None


def from_json(section: str, kind: type[Section], values: Any) -> Section:
    """A dataclass `kind` of what JSON holds; missing keys take their defaults.

    Raises:
        UserError: no object, a key that `kind` does not have, or a value of another type.
    """
    kinds, parts = typing.get_type_hints(kind), {}
    for key, value in as_object(section, values).items():
        if kinds.get(key) is str and not isinstance(value, str):
            raise UserError(f"{section}.{key}={_cut(repr(value))}: expected {in_words(str)}")
        parts[key] = value_of(f"{section}.{key}", text_of(value), kinds, repr(value))
    return kind(**parts)


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def as_object(what: str, values: Any) -> dict[str, Any]:
    """`values`, where they are an object of JSON; else UserError."""
    if not isinstance(values, dict):
        raise UserError(f"{what}: a {type(values).__name__}, expected a JSON object of settings")
    return values


def text_of(value: Any) -> str:
    """A value as `parse` reads it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def parse(text: str, kind: Any) -> Any:
    """`text` as a value of the annotated type `kind`; ValueError if it is none."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # X | None, or X | words | None
        if text.lower() in ("none", "null"):
            return None
        words = [word for arg in args[1:] for word in typing.get_args(arg)]
        return text if text in words else parse(text, args[0])
    if origin is Literal:
        if text not in args:
            raise ValueError(text)
        return text
    if origin is tuple:
        items = [item for item in text.strip("()[]").replace("x", ",").split(",") if item.strip()]
        item_kinds = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        if len(items) == 1 and len(item_kinds) == 2:  # crop_size=512 is a square
            items *= 2
        return tuple(parse(i.strip(), k) for i, k in zip(items, item_kinds, strict=True))
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise ValueError(text)
        return BOOLEANS[text.lower()]
    if kind is float and not abs(float(text)) < float("inf"):
        raise ValueError(text)
    return kind(text)


def check_types(section: str, part: Any) -> None:
    """Values of the annotated types, in scripts as on the command line: 5.5 steps are none.

    Raises:
        UserError: the first that is not; numbers must be finite.
    """
    for key, kind in typing.get_type_hints(type(part)).items():
        value = getattr(part, key)
        if not fits(value, kind):
            raise UserError(f"{section}.{key}={_cut(repr(value))}: expected {in_words(kind)}")
        if kind is int:
            within(f"{section}.{key}", value, -LARGEST_NUMBER, LARGEST_NUMBER)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotated type; whole numbers are numbers, NaN is none."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return value is None or any(fits(value, arg) for arg in args if arg is not type(None))
    if origin is Literal:
        return value in args
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return (isinstance(value, (tuple, list)) and len(value) == len(kinds)
                and all(map(fits, value, kinds)))  # fmt: skip
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    if kind is int:
        return type(value) is int
    return isinstance(value, kind)


def in_words(kind: Any) -> str:
    """What to ask for where another type was given."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(args)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join([*map(in_words, args[:-1]), "none"])
    if origin is tuple:
        inner = in_words(args[0]).split(" ", 1)[1]
        count = "one or more" if args[-1] is Ellipsis else str(len(args))
        return f"{count} {inner}s, comma-separated"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")


def whole(name: str, value: Any, low: int = 0, high: int = LARGEST_NUMBER) -> None:
    """UserError unless an argument is a whole number, Python's or NumPy's, of that range."""
    fits = isinstance(value, numbers.Integral)
    if not fits or not low <= value <= high:
        upper = f" to {high}" if high < LARGEST_NUMBER else " up"
        raise UserError(f"{name}={shortly(value)}: give a whole number, {low}{upper}")


def number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """UserError unless an argument is a finite number of that range."""
    fits = isinstance(value, numbers.Real)
    if not fits or not low <= value <= high or math.isinf(value):
        upper = f" to {high:g}" if high < math.inf else " up"
        raise UserError(f"{name}={shortly(value)}: give a number, {low:g}{upper}")


def size_of(name: str, value: Any) -> tuple[int, int]:
    """An argument (height, width) in pixels; UserError if it is none."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise UserError(f"{name}={shortly(value)}: give (height, width)")
    for side in value:
        whole(f"{name}, a side", side, 1, 1 << 20)
    return value[0], value[1]


def path_of(value: Any) -> Path:
    """An argument that is a path; UserError for what no file can be called."""
    if not isinstance(value, (str, os.PathLike)):
        raise UserError(f"a path of type {type(value).__name__}: give a text or a pathlib.Path")
    path = Path(value)
    if "\0" in str(path) or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise UserError(f"{shortly(str(path))}: no file can have such a name; give a path")
    return path


def at_least(name: str, value: float, low: float) -> None:
    """UserError for a number below `low`, and for NaN."""
    if not value >= low:
        raise UserError(f"{name}={value}: must be at least {low}")


def within(name: str, value: float, low: float, high: float) -> None:
    """UserError for a number outside of `low` to `high`, and for NaN."""
    if not low <= value <= high:
        raise UserError(f"{name}={value}: must lie in {low}..{high}")
