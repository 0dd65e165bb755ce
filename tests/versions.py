"""The library's tests with the oldest packages that pyproject.toml allows, and with the newest.

    .venv/bin/python tests/versions.py [oldest] [newest] [3.12] [3.13]

Each set gets an environment of its own in _build/versions, with every requirement of
pyproject.toml at its lower bound (the Python at its own, too) or at the newest release that there
is, and runs all tests of the library; not the notebooks and the book, which constraints.txt pins.
`3.12` and `3.13` are the newest packages under that Python, left out where it is not installed.
Takes about ten minutes and some gigabytes for each; not a part of CI.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "_build" / "versions"
UV = Path(sys.executable).with_name("uv")
SETS = {
    "oldest": ("3.11", "lowest-direct"), "newest": ("3.11", "highest"),
    "3.12": ("3.12", "highest"), "3.13": ("3.13", "highest"),
}  # fmt: skip
NAMES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "safetensors",
         "matplotlib", "tensorboard")  # fmt: skip
LEFT_OUT = ("book", "faults", "test_environment.py", "test_project.py", "test_readme.py")
"""Tests of the pages, of what is installed with constraints.txt, and the drills."""
SHOW = ("import platform, importlib.metadata as m, sys; print('python', platform.python_version(),"
        " *(f'{n} {m.version(n)}' for n in sys.argv[1:]))")  # fmt: skip


def install(name: str) -> Path | None:
    """Make the environment of a set; its Python, or None where there is none of that version."""
    version, resolution = SETS[name]
    home = PLACE / name
    shutil.rmtree(home, ignore_errors=True)
    make = [UV, "venv", "--quiet", "--no-python-downloads", "--python", version, home]
    if subprocess.run(make).returncode:
        return None
    python = home / "bin" / "python"
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", python, "--resolution", resolution, "-e",
         f"{ROOT}[test]", *(["setuptools==80.9.0"] if name == "oldest" else [])],
        check=True,  # TensorBoard of that time looks for what setuptools has dropped since
    )  # fmt: skip
    return python


def test(name: str, python: Path) -> int:
    """Run the tests; the exit code."""
    options = [f"--ignore={ROOT}/tests/{name}" for name in LEFT_OUT]
    if name == "oldest":  # what later releases of others made of them is not our fault
        options += ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning",
                    "-W", "ignore::UserWarning"]  # fmt: skip
    command = [python, "-m", "pytest", "-q", "--durations=20", *options, ROOT / "tests"]
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    """Run the sets asked for; 0 if all pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", default=list(SETS),
                        help=f"{', '.join(SETS)}; all by default")
    sets, codes = parser.parse_args().sets, {}
    if unknown := set(sets) - set(SETS):
        parser.error(f"no set {min(unknown)!r}; choose from {', '.join(SETS)}")
    for name in sets:
        started = time.monotonic()
        python = install(name)
        if python is None:
            print(f"== {name}: no Python {SETS[name][0]} here", flush=True)
            continue
        print(f"== {name}:", subprocess.check_output([python, "-c", SHOW, *NAMES], text=True),
              flush=True)  # fmt: skip
        codes[name] = test(name, python)
        print(f"== {name}: exit code {codes[name]}, {time.monotonic() - started:.0f} s", flush=True)
        shutil.rmtree(PLACE / name, ignore_errors=True)
    return max(codes.values(), default=1)


if __name__ == "__main__":
    sys.exit(main())
