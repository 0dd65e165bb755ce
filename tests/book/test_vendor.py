"""The browser libraries come by npm or by the CDN, with the same bytes or not at all."""

import functools
import hashlib
import http.server
import importlib.util
import tarfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = {
    "mathjax@9.9.9/es5/tex.js": b"formulas",
    "mathjax@9.9.9/es5/fonts/a.woff": b"\0letters",
    "@jupyter-widgets/html-manager@1.2.3/dist/embed.js": b"widgets",
}
PLACED = {
    "mathjax/tex.js": b"formulas", "mathjax/fonts/a.woff": b"\0letters",
    "widgets/embed.js": b"widgets",
}  # fmt: skip


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    def __init__(self, *args, asked, **kwargs):
        self.asked = asked
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def cdn(tmp_path):
    """The files behind an address of this machine, and what was asked for."""
    for name, content in FILES.items():
        file = tmp_path / "cdn" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    asked = []
    handler = functools.partial(Handler, directory=tmp_path / "cdn", asked=asked)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])  # looks whether to stop
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture
def vendor(tmp_path, monkeypatch, cdn):
    """The script, with three small files to fetch and no npm."""
    module = load(ROOT / "book" / "_web" / "vendor.py")
    sums = "".join(f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in FILES.items())
    (tmp_path / "vendor.sha256").write_text(sums)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name, value in (("LIST", tmp_path / "vendor.sha256"), ("OUT", tmp_path / "static/vendor"),
                        ("CDN", cdn[0])):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    return module


def there(vendor):
    files = [f for f in vendor.OUT.rglob("*") if f.is_file()]
    return {f.relative_to(vendor.OUT).as_posix(): f.read_bytes() for f in files}


def npm(tmp_path, script):
    program = tmp_path / "bin" / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_without_npm_the_cdn_serves(vendor, cdn, capsys):
    vendor.main()
    assert there(vendor) == PLACED
    assert sorted(cdn[1]) == sorted(f"/{name}" for name in FILES)
    assert "3 browser files" in capsys.readouterr().out


def test_npm_comes_first(vendor, cdn, tmp_path):
    for package in ("mathjax@9.9.9", "@jupyter-widgets/html-manager@1.2.3"):
        name = package.replace("@", "_").replace("/", "-")
        with tarfile.open(tmp_path / f"{name}.tgz", "w:gz") as archive:
            archive.add(tmp_path / "cdn" / package, "package")
    npm(tmp_path, f"""for last; do :; done
/bin/cp "{tmp_path}/$(echo "$last" | /usr/bin/tr '@/' '_-').tgz" "$4" """)
    vendor.main()
    assert there(vendor) == PLACED
    assert cdn[1] == []


def test_where_npm_gets_nowhere_the_cdn_serves(vendor, cdn, tmp_path):
    npm(tmp_path, "exit 1")
    vendor.main()
    assert there(vendor) == PLACED
    assert cdn[1]


def test_another_file_than_the_one_listed_is_refused(vendor, tmp_path):
    vendor.main()
    before = there(vendor)
    (tmp_path / "cdn" / "mathjax@9.9.9/es5/tex.js").write_bytes(b"malware!")
    with pytest.raises(SystemExit, match=r"mathjax@9\.9\.9/es5/tex\.js: SHA-256 is "):
        vendor.main()
    assert there(vendor) == before


def test_without_either_the_pages_use_their_cdns(vendor, tmp_path, capsys):
    (tmp_path / "cdn" / "mathjax@9.9.9/es5/tex.js").unlink()
    vendor.main()
    assert there(vendor) == {}
    assert "the pages will use CDNs" in capsys.readouterr().out


def test_the_pages_fall_back_on_what_is_listed():
    script = load(ROOT / "book" / "_web" / "vendor.py")
    pages = load(ROOT / "book" / "_ext" / "book_pages.py")
    package, path = next((p, path) for p, paths in script.wanted().items() for path in paths
                         if path.endswith("embed.js"))  # fmt: skip
    assert f"{script.CDN}/{package}/{path}" == pages.EMBEDDER_CDN


def test_what_is_there_is_what_is_listed():
    script = load(ROOT / "book" / "_web" / "vendor.py")
    if not script.OUT.exists():
        pytest.skip("no browser files: make setup")
    listed = {script.place(package, path, script.OUT): sha
              for package, paths in script.wanted().items() for path, sha in paths.items()}
    found = {f: hashlib.sha256(f.read_bytes()).hexdigest()
             for f in script.OUT.rglob("*") if f.is_file()}  # fmt: skip
    assert found == listed
