"""Bring the browser libraries of the built book into book/_web/static/vendor.

    python book/_web/vendor.py

Two archives of the npm registry, by exact version and SHA-256; nothing of them is run. npm
fetches them where it is installed (and so honours its own settings), else this script does. When
neither gets through it says so in one line and succeeds: the pages then load the same libraries
from their CDNs, and need a network.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

OUT = Path(__file__).resolve().parent / "static" / "vendor"
REGISTRY = "https://registry.npmjs.org"
ARCHIVES = {
    # (package, version): (SHA-256 of the archive, {file in it: folder below OUT})
    ("@jupyter-widgets/html-manager", "1.0.15"): (
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        {
            "package/dist/embed.js": "widgets",
            "package/dist/*.woff2": "widgets",
            "package/dist/embed.js.LICENSE.txt": "widgets",
        },
    ),
    ("mathjax", "3.2.2"): (
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        {
            "package/es5/tex-chtml.js": "mathjax",
            "package/es5/output/chtml/fonts/woff-v2/*.woff": "mathjax/output/chtml/fonts/woff-v2",
            "package/LICENSE": "mathjax",
        },
    ),
}


def by_npm(package: str, version: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{package}@{version}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return next(Path(folder).glob("*.tgz")).read_bytes()


def by_http(package: str, version: str) -> bytes:
    url = f"{REGISTRY}/{package}/-/{package.rpartition('/')[2]}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def fetch(package: str, version: str) -> bytes:
    """The archive, from npm if there is one, else over HTTPS. Raises OSError."""
    if shutil.which("npm"):
        try:
            return by_npm(package, version)
        except (OSError, subprocess.SubprocessError, StopIteration):
            pass
    return by_http(package, version)


def unpack(raw: bytes, wanted: dict[str, str], out: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive.getmembers():
            for pattern, folder in wanted.items():
                if member.isfile() and fnmatch.fnmatchcase(member.name, pattern):
                    target = out / folder / Path(member.name).name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())


def main() -> None:
    fresh = OUT.with_name("vendor.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for (package, version), (sha, wanted) in ARCHIVES.items():
        try:
            raw = fetch(package, version)
        except OSError as error:
            print(f"warning: no {package} {version} ({error}); the pages will use CDNs")
            return
        got = hashlib.sha256(raw).hexdigest()
        if got != sha:
            raise SystemExit(f"{package} {version}: SHA-256 is {got}, expected {sha}")
        unpack(raw, wanted, fresh)
    shutil.rmtree(OUT, ignore_errors=True)
    fresh.rename(OUT)  # all or nothing
    files = [f for f in OUT.rglob("*") if f.is_file()]
    print(f"{len(files)} browser files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
