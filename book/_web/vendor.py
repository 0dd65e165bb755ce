"""Bring the browser libraries of the built book into book/_web/static/vendor.

    python book/_web/vendor.py

``vendor.sha256`` lists their files, PACKAGE@VERSION/PATH, each with the SHA-256 that it must have;
nothing of them is run. npm fetches the packages where it is installed, by its own settings. Where
it is not, or gets nowhere, the files come from the CDN that the pages fall back on. If that does
not answer either, one line says so and the script succeeds: the pages then load the same libraries
from their CDNs, and need a network.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIST = HERE / "vendor.sha256"
OUT = HERE / "static" / "vendor"
CDN = "https://cdn.jsdelivr.net/npm"
"""Serves the files of a package as they are, under PACKAGE@VERSION/PATH."""
FOLDERS = {"@jupyter-widgets/html-manager": ("widgets", "dist/"), "mathjax": ("mathjax", "es5/")}
"""Package -> folder below OUT, and what of a file's path in the package is left out there."""


def wanted() -> dict[str, dict[str, str]]:
    """PACKAGE@VERSION -> path in the package -> SHA-256."""
    found: dict[str, dict[str, str]] = {}
    for line in LIST.read_text("utf-8").splitlines():
        sha, name = line.split("  ")
        package, path = re.fullmatch(r"(.[^@]*@[^/]+)/(.+)", name).groups()
        found.setdefault(package, {})[path] = sha
    return found


def by_npm(package: str, paths: dict[str, str]) -> dict[str, bytes]:
    """Path -> content, out of the package's archive. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, package]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            raw = next(Path(folder).glob("*.tgz")).read_bytes()
            with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
                return {path: archive.extractfile(f"package/{path}").read() for path in paths}
        except (subprocess.SubprocessError, StopIteration, tarfile.TarError, KeyError) as error:
            raise OSError(f"npm pack {package}: {error}") from error


def by_cdn(package: str, paths: dict[str, str]) -> dict[str, bytes]:
    """Path -> content, each from its address. Raises OSError."""
    found = {}
    for path in paths:
        try:
            with urllib.request.urlopen(f"{CDN}/{package}/{path}", timeout=60) as answer:
                found[path] = answer.read()
        except http.client.HTTPException as error:  # cut off on the way
            raise OSError(f"{package}/{path}: {error}") from error
    return found


def fetch(package: str, paths: dict[str, str]) -> dict[str, bytes]:
    """Path -> content, as vendor.sha256 wants it.

    Raises:
        OSError: neither npm nor the CDN gave them.
        SystemExit: a file is not the one that is listed.
    """
    try:
        found = by_npm(package, paths)  # no npm is an OSError, too
    except OSError:
        found = by_cdn(package, paths)
    for path, content in found.items():
        got = hashlib.sha256(content).hexdigest()
        if got != paths[path]:
            raise SystemExit(f"{package}/{path}: SHA-256 is {got}, expected {paths[path]}")
    return found


def place(package: str, path: str, out: Path) -> Path:
    """Where a file of a package goes."""
    folder, left_out = FOLDERS[package.rpartition("@")[0]]
    return out / folder / path.removeprefix(left_out)


def main() -> None:
    files: dict[Path, bytes] = {}
    fresh = OUT.with_name("vendor.new")
    for package, paths in wanted().items():
        try:
            found = fetch(package, paths)
        except OSError as error:
            print(f"warning: no {package} ({error}); the pages will use CDNs")
            return
        files |= {place(package, path, fresh): content for path, content in found.items()}
    shutil.rmtree(fresh, ignore_errors=True)
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shutil.rmtree(OUT, ignore_errors=True)
    fresh.rename(OUT)  # all or nothing
    print(f"{len(files)} browser files, {sum(map(len, files.values())) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
