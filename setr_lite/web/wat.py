"""WebAssembly from its text, for the few instructions that ``kernel.wat`` uses.

A module of one function that imports a memory, in folded form: ``(i32.add (local.get $a) ...)``.
The encoding is that of the WebAssembly specification, 2.0 with 128-bit SIMD, chapter 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

Node: TypeAlias = Any
"""A word (str), or what stands between parentheses (list of nodes)."""

TYPES = {"i32": 0x7F, "v128": 0x7B}
"""Value types (5.3)."""

OPS = {
    "i32.add": b"\x6a", "i32.sub": b"\x6b", "i32.mul": b"\x6c",
    "f32x4.add": b"\xfd\xe4\x01", "f32x4.mul": b"\xfd\xe6\x01",
}  # fmt: skip
"""Instructions whose operands are all on the stack (5.4)."""

VARIABLES = {"local.get": b"\x20", "local.set": b"\x21", "local.tee": b"\x22"}
"""Instructions that name a local."""

MEMORY = {"v128.load": (b"\xfd\x00", 4), "v128.load32_splat": (b"\xfd\x09", 2),
          "v128.store": (b"\xfd\x0b", 4)}  # fmt: skip
"""Instructions that reach memory, with the logarithm of their natural alignment."""


class _Scope(NamedTuple):
    locals: dict[str, int]
    labels: tuple[str, ...] = ()


def assemble(text: str) -> bytes:
    """The binary of a module, as far as this file knows the language.

    Raises:
        ValueError: something else than one function over an imported memory.
    """
    head, memory, function = _parse(text)[0]
    if head != "module" or memory[0] != "import" or function[0] != "func":
        raise ValueError("expected (module (import ... (memory n)) (func (export ...) ...))")
    names = [part for part in function[1:] if part[0] in ("param", "local")]
    body = [part for part in function[2:] if part not in names]
    params = [part[2] for part in names if part[0] == "param"]
    scope = _Scope({part[1]: i for i, part in enumerate(names)})
    code = b"".join(_instruction(part, scope) for part in body) + b"\x0b"
    kinds = [part[2] for part in names[len(params) :]]
    runs = [(len(list(run)), kind) for kind, run in groupby(kinds)]
    locals_ = _vector([_unsigned(count) + bytes([TYPES[kind]]) for count, kind in runs])
    module, field, (_, pages) = memory[1:]
    sections = (
        (1, _vector([b"\x60" + _vector([bytes([TYPES[kind]]) for kind in params]) + b"\x00"])),
        (2, _vector([_name(module) + _name(field) + b"\x02\x00" + _unsigned(int(pages))])),
        (3, _vector([b"\x00"])),
        (7, _vector([_name(function[1][1]) + b"\x00\x00"])),
        (10, _vector([_sized(locals_ + code)])),
    )
    parts = (bytes([number]) + _sized(content) for number, content in sections)
    return b"\x00asm\x01\x00\x00\x00" + b"".join(parts)


def _parse(text: str) -> list[Node]:
    words = iter(re.findall(r'[()]|"[^"]*"|[^\s()"]+', re.sub(r";;.*", "", text)))
    return list(_nodes(words))


def _nodes(words: Iterator[str]) -> Iterator[Node]:
    for word in words:
        if word == ")":
            return
        yield list(_nodes(words)) if word == "(" else word


def _instruction(node: Node, scope: _Scope) -> bytes:
    op, *rest = node
    if op == "loop":
        inner = _Scope(scope.locals, (rest[0], *scope.labels))
        return b"\x03\x40" + b"".join(_instruction(n, inner) for n in rest[1:]) + b"\x0b"
    operands = b"".join(_instruction(n, scope) for n in rest if isinstance(n, list))
    return operands + _plain(op, [word for word in rest if isinstance(word, str)], scope)


def _plain(op: Node, words: list[str], scope: _Scope) -> bytes:
    if op == "i32.const":
        return b"\x41" + _signed(int(words[0]))
    if op == "br_if":
        return b"\x0d" + _unsigned(scope.labels.index(words[0]))
    if op in VARIABLES:
        return VARIABLES[op] + _unsigned(scope.locals[words[0]])
    if op in MEMORY:
        code, align = MEMORY[op]
        offset = int(words[0].removeprefix("offset=")) if words else 0
        return code + bytes([align]) + _unsigned(offset)
    if op in OPS:
        return OPS[op]
    raise ValueError(f"no instruction {op!r} here")


def _unsigned(value: int) -> bytes:
    """LEB128, seven bits a byte, low ones first."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _signed(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        done = value == (-1 if low & 0x40 else 0)
        out.append(low if done else low | 0x80)
        if done:
            return bytes(out)


def _vector(items: list[bytes]) -> bytes:
    return _unsigned(len(items)) + b"".join(items)


def _sized(content: bytes) -> bytes:
    return _unsigned(len(content)) + content


def _name(quoted: str) -> bytes:
    return _sized(quoted.strip('"').encode())
