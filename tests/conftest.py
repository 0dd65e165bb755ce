"""What several tests share."""

import contextlib
import gc
import os
import shutil
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# the first, Chromium without its windows, takes a sixth less time for a page
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
SLOW = int(os.environ.get("SLOW", 120_000))  # milliseconds: a busy machine is no reason to fail


LONGEST = (
    "test_drills", "test_parallel", "test_card", "test_published_files", "test_memory",
    "test_untrusted_files", "test_recompute", "test_readme", "test_export", "test_live",
    "test_machines", "test_hub", "test_cli_examples", "test_rows", "test_train", "test_book_ext",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The files that take longest come first: of two workers none is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def one_worker_each(paths):
    """Parameters by which `--dist loadgroup` gives each page to one worker, which reads it once."""
    return [
        pytest.param(path, marks=pytest.mark.xdist_group(path.stem), id=path.stem)
        for path in paths
    ]


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, timeout=SLOW
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def _no_rubbish():
    """What a file has left open is found before the next one begins: else a test fails of it that
    only happened to run when Python looked, as one does that imports much, and passes alone.

    What outlives a file, its imports above all, lives to the end: it is not looked at again, which
    took a second a file.
    """
    yield
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # libraries complain of what is left at the exit


@pytest.fixture(autouse=True)
def _fresh():
    """Every test begins alike, also behind one that ran a page which does without gradients."""
    torch.manual_seed(0)
    with torch.enable_grad():
        yield


@pytest.fixture
def no_waiting():
    """A context in which whatever makes the host wait for a card is an error.

    PyTorch warns that this way to find out is young, and warnings are errors here.
    """

    @contextlib.contextmanager
    def entered():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return entered


@pytest.fixture
def spread():
    """Overwrite all parameters with normal values of std 0.2, BatchNorm statistics too.

    At initialisation scale swapped q and k, a wrong LayerNorm eps or tanh-GELU all hide below
    1e-6, so comparisons with an oracle use these.
    """

    def fill(module):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if name.endswith("running_var"):
                    value.uniform_(0.5, 1.5, generator=generator)
                elif value.is_floating_point():
                    value.normal_(0, 0.2, generator=generator)
        return module

    return fill


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that operations make, in values."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return result


@pytest.fixture
def largest():
    return Largest
