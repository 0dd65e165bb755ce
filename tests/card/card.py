"""Builds the pretended card and runs Python with it; see `card.cpp` for what it is.

    .venv/bin/python tests/card/card.py [--cards N] -m setr_lite train toytown_pup ...
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SITE = Path(sysconfig.get_paths()["purelib"])
OURS = re.compile(r"__cuda|cuda|cu[A-Z]|cublas|cudnn|cufft|cusolver|cusparse|nccl|nvshmem")
"""How the names of the functions begin that a card's own libraries would answer."""
LAUNCHES = ("kernel", "matmul", "convolution", "copy", "fill")
"""What the host hands to the card one by one."""


def why_not() -> str | None:
    """What is missing here for a pretended card."""
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is no CUDA build"
    if torch.cuda.is_available():
        return "a real card is here"
    missing = [tool for tool in ("g++", "nm") if not shutil.which(tool)]
    return f"no {missing[0]}" if missing else None


def build(cache: Path) -> Path:
    """The folder with the library, made at the first call for this source and this PyTorch."""
    source = HERE / "card.cpp"
    key = hashlib.sha256(source.read_bytes() + f"{torch.__version__} {SITE}".encode()).hexdigest()
    folder = cache / key[:16]
    if not folder.exists():
        beside = folder.with_name(f"{folder.name}.{os.getpid()}")
        beside.mkdir(parents=True)
        _compile(source, beside)
        try:
            beside.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(beside)
    return folder


def _compile(source: Path, folder: Path) -> None:
    headers = SITE / "triton" / "backends" / "nvidia" / "include"
    cudnn = f"-DCUDNN_VERSION={torch.backends.cudnn.version()}"
    subprocess.run(["g++", "-std=c++17", "-O1", "-fPIC", f"-I{headers}", cudnn, "-c", source,
                    "-o", folder / "card.o"], check=True)  # fmt: skip
    rest = sorted(_imported() - _names("--defined-only", folder / "card.o"))
    text = "\n".join(f'int {name}(void) {{ card_note("{name}"); return 0; }}' for name in rest)
    (folder / "rest.c").write_text(f"void card_note(const char*);\n{text}\n")
    subprocess.run(["gcc", "-O1", "-fPIC", "-w", "-fno-builtin", "-c", folder / "rest.c",
                    "-o", folder / "rest.o"], check=True)  # fmt: skip
    subprocess.run(  # under the driver's name: who opens libcuda.so.1 finds it loaded
        ["g++", "-shared", "-Wl,-soname,libcuda.so.1", folder / "card.o", folder / "rest.o",
         "-o", folder / "libcuda.so.1", "-ldl"], check=True)  # fmt: skip
    (folder / "libcuda.so").symlink_to("libcuda.so.1")


def _imported() -> set[str]:
    """All that PyTorch's libraries, and what they load, want from a card's."""
    torchs = [*(SITE / "torch" / "lib").glob("libtorch*.so"), SITE / "torch/lib/libc10_cuda.so"]
    names = {name for library in torchs for name in _names("--undefined-only", library)}
    starting = {  # called while the other libraries are loaded
        name for library in SITE.glob("nvidia/*/lib/*.so*") if library.is_file()
        for name in _names("--undefined-only", library) if name.startswith("__cuda")
    }  # fmt: skip
    return {name for name in names if OURS.match(name)} | starting


def _names(which: str, library: Path) -> set[str]:
    table = ["-D"] if ".so" in library.name else []
    done = subprocess.run(["nm", *table, which, library], capture_output=True, text=True)
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if line.strip()}


def environment(folder: Path, cards: int = 1) -> dict[str, str]:
    """What a process needs to find `cards` pretended cards."""
    return os.environ | {
        "LD_PRELOAD": str(folder / "libcuda.so.1"), "LD_LIBRARY_PATH": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder), "CARDS": str(cards), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), str(ROOT / "book")]),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",  # the pretended cuDNN has no plans for attention
    }  # fmt: skip


class Listen:
    """What the card is asked while the block runs: ``counts`` by kind, ``rows`` in order.

    For processes that have the card. A wait is whatever makes the host stand still: for the
    stream, for the device, for a copy that is not asynchronous or whose host side is pageable.
    """

    library = ctypes.CDLL(None)

    def __enter__(self) -> Listen:
        self.library.card_listen()
        return self

    def __exit__(self, *error: object) -> None:
        path = Path(f"/tmp/card.{os.getpid()}.log")
        self.library.card_write(str(path).encode())
        self.rows = [tuple(line.split("\t")) for line in path.read_text().splitlines()]
        path.unlink()
        self.counts = Counter(kind for kind, *_ in self.rows)

    @property
    def launches(self) -> int:
        return sum(self.counts[kind] for kind in LAUNCHES)

    @property
    def waits(self) -> list[str]:
        return [what for kind, what, _ in self.rows
                if kind == "wait" or (kind == "copy" and "pageable" in what)]  # fmt: skip

    def sent(self, what: str) -> int:
        """Bytes of an NCCL collective."""
        return sum(int(size) for kind, name, size in self.rows if (kind, name) == ("nccl", what))


def cache_folder() -> Path:
    """Where the built library stays; `SETR_CARD` names another place."""
    return Path(os.environ.get("SETR_CARD") or ROOT / ".make" / "card")


def main(arguments: list[str]) -> None:
    """Run Python with the card."""
    if reason := why_not():
        sys.exit(f"no pretended card: {reason}")
    cards = 1
    if arguments[:1] == ["--cards"]:
        cards, arguments = int(arguments[1]), arguments[2:]
    os.execve(sys.executable, [sys.executable, *arguments],
              environment(build(cache_folder()), cards))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
