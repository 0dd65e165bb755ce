"""The live figures in a real browser, from files: the engine against PyTorch, the page's answers.

Needs Chromium; the built book is not needed, since what it would hold is laid out here.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import re
import time

import numpy as np
import pytest
import torch
from conftest import SLOW
from figures.interactive import Pane
from figures.live import Live
from figures.live.layout import HEADS, ROOT, place, stamps, write
from PIL import Image
from torch.nn import functional as F

from setr_lite import SETR, Cityscapes, ConfusionMatrix
from setr_lite.errors import UserError
from setr_lite.inside.stages import catch
from setr_lite.web.pages import as_script, engine_part, kernel, read_source

LOGITS, ATTENTION, LABELS = 1e-3, 1e-4, 0.9999
"""How near the engine must come to PyTorch: largest differences, and share of equal labels."""
SPARSE = 7  # logits of every so many pixels are compared, labels of all
ROAD, SKY = (80, 66), (100, 20)
FIRST_PICTURE = 4.0  # seconds of a cold load; the best of five
FORWARD = 400  # milliseconds; the best of twenty
STALL = 100  # milliseconds of one task on the page's thread; the best of five drags
LOOK = 100  # milliseconds from a patch to its attention; the best of six

FIGURES = (
    ("ask", "stamps", "heads", "positions", "own"),
    ("look", "stamps", "look"),
    ("ablate", "heads", "positions", "attend", "bits", "measure"),
    ("walk", "walk"),
    ("units", "stamps", "stages"),
    ("turned", "heads", "positions"),
    ("parked", "stamps"),
)
"""The figures of the page: (name, tools)."""
ATTENDS = "What the patch attends to: block 3"
"""The still of the figure ``look``, named like a panel of it."""

UNITS = ("head.norm", "head.convs.0.0", "head.convs.0.up", "head.convs.1.0", "head.convs.1.up",
         "head.convs.2.0")  # fmt: skip
"""What the three units of PUP take in and put out, in turns."""

MUTATIONS = {
    "the scale before the softmax": ("naive", "1 / Math.sqrt(d)", "1 / d"),
    "the corners of MLA": ("mla", "this.upsample(x, 4, true,", "this.upsample(x, 4, false,"),
    "the order of the streams": ("mla", "this.add(streams[i], streams[i + 1])",
                                 "this.add(streams[i + 1], streams[i])"),
    "the class token": ("pup", "this.t[\"encoder.cls_token\"].data.forEach",
                        "[].forEach"),
}  # fmt: skip
"""Mistakes that a port of SETR may make: (model in which it shows, right text, wrong text)."""


# --- what PyTorch says ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town():
    streets = Cityscapes(ROOT / "data/sample/toytown_cityscapes", "val")
    return [streets[i] for i in range(len(streets))]


@pytest.fixture(scope="module")
def models():
    return {head: SETR.from_pretrained(ROOT / f"data/runs/toytown_{head}/model") for head in HEADS}


def attention_of(model, image):
    """(blocks, heads, N, N)."""
    maps = []

    def read(module, _, out):
        q, k, _ = out.unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)[0])

    hooks = [b.attn.qkv.register_forward_hook(read) for b in model.encoder.blocks]
    model(image)
    for hook in hooks:
        hook.remove()
    return torch.stack(maps)


@pytest.fixture(scope="module")
def probes():
    """Classifiers drawn at random of what PUP's units take in and put out, in 16 bits."""
    torch.manual_seed(0)
    found = {name: torch.nn.Conv2d(144 if "norm" in name else 64, 19, 1) for name in UNITS}
    for probe in found.values():
        probe.weight.data = probe.weight.data.half().float()
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory, town, models, probes):
    """The live figures' files with PyTorch's answers beside them, and two pages."""
    root = tmp_path_factory.mktemp("site")
    live = root / "_static/live"
    write(live)
    with torch.no_grad():
        for head, model in models.items():
            batch = torch.cat([model.preprocess(s.image) for s in town])
            logits = model.logits(batch)
            flat = logits.flatten(2)[..., ::SPARSE].contiguous()
            maps = attention_of(model, batch[:1])[..., ::SPARSE, :].contiguous()
            answer = {"logits": text(flat), "labels": text(logits.argmax(1).to(torch.uint8)),
                      "attention": text(maps)}  # fmt: skip
            (live / f"ref-{head}.js").write_text(as_script(f"ref-{head}", answer))
    pictures = [text(s.image.permute(1, 2, 0).contiguous()) for s in town]
    (live / "pictures.js").write_text(as_script("pictures", pictures))
    pages = {"bare": "<script src='../_static/live/live.js'></script>"}
    options = {"look": {"title": ATTENDS}, "units": {"probes": probes}, "turned": {"head": "naive"},
               "parked": {"stamp": ("car", *ROAD)}}
    pages["figure"] = "".join(
        figure(name, town, *tools, **options.get(name, {})) for name, *tools in FIGURES)
    (root / "book").mkdir()
    for name, body in pages.items():
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>live</title><h1>Live</h1>"
        (root / "book" / f"{name}.html").write_text(head + body, "utf-8")
    return root


def figure(name, town, *tools, title="The street", **options):
    pane = Pane(town[0].image, title, "A drawn street")
    live = Live(*tools, name=name, panes=[pane], caption="A caption.", **options)
    return live._repr_mimebundle_()["text/html"]


def text(array):
    return base64.b64encode(np.asarray(array).tobytes()).decode()


# --- a page ---------------------------------------------------------------------------------------


def open_page(browser, site, name, *scripts):
    """A page from its file, with the network cut; complaints land in ``.problems``."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(SLOW)
    for script in scripts:
        context.add_init_script(script)
    page = context.new_page()
    page.problems = problems = []

    def gate(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            return route.continue_()
        problems.append(f"asked for {route.request.url[:200]}")
        return route.abort()

    page.route("**/*", gate)
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda m: m.type == "error" and problems.append(f"console: {m.text}"))
    page.goto((site / "book" / f"{name}.html").as_uri())
    return page


COMPARE = """async ({ head, streets, plain, changes, sparse }) => {
    const { source, kernel } = await SetrClient.part("engine"), model = await SetrClient.part(head);
    const right = await SetrClient.part(`ref-${head}`);
    const pictures = await SetrClient.part("pictures");
    const text = changes.reduce((all, [from, to]) => all.replace(from, to), source);
    if (changes.length && text === source) throw new Error("nothing was changed");
    const { Setr, readSafetensors, fromBase64 } =
        new Function(`${text}; return { Setr, readSafetensors, fromBase64 };`)();
    const floats = (name) => new Float32Array(fromBase64(right[name]).buffer);
    const logits = floats("logits"), labels = fromBase64(right.labels), maps = floats("attention");
    const setr = new Setr(readSafetensors(fromBase64(model.weights).buffer), model.about,
                          plain ? null : fromBase64(kernel));
    const K = model.about.classes.length, size = setr.size[0] * setr.size[1];
    const few = Math.ceil(size / sparse), found = { logits: 0, attention: 0, equal: 0, ms: [] };
    for (let s = 0; s < streets; s++) {
        const rgb = fromBase64(pictures[s]), rgba = new Uint8Array(4 * size);
        for (let i = 0; i < size; i++) rgba.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
        const began = performance.now();
        const answer = setr.forward(rgba, { logits: true, keep: s === 0 });
        found.ms.push(performance.now() - began);
        for (let k = 0; k < K; k++) for (let i = 0; i < few; i++) {
            const want = logits[(s * K + k) * few + i];
            const off = Math.abs(answer.logits[k * size + i * sparse] - want);
            if (!(off <= found.logits)) found.logits = off;
        }
        for (let i = 0; i < size; i++) found.equal += answer.label[i] === labels[s * size + i];
        if (s) continue;
        let at = 0;
        for (const map of answer.attention.flat()) {
            const n = Math.sqrt(map.length);
            for (let r = 0; r < n; r += sparse) for (let c = 0; c < n; c++, at++) {
                const off = Math.abs(map[r * n + c] - maps[at]);
                if (!(off <= found.attention)) found.attention = off;
            }
        }
        if (at !== maps.length) throw new Error(`${at} numbers of attention, not ${maps.length}`);
    }
    found.equal /= streets * size;
    found.bytes = setr.memory.buffer.byteLength;
    return found;
}"""


@pytest.fixture(scope="module")
def bare(browser, site):
    page = open_page(browser, site, "bare")
    yield page
    page.context.close()


def compare(page, head, streets=12, plain=False, changes=()):
    arguments = {"head": head, "streets": streets, "plain": plain, "changes": list(changes)}
    return page.evaluate(COMPARE, {**arguments, "sparse": SPARSE})


# --- the engine -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_street(bare):
    return functools.cache(functools.partial(compare, bare))


@pytest.mark.parametrize("head", HEADS)
def test_engine_equals_pytorch(every_street, head):
    found = every_street(head)
    assert found["logits"] <= LOGITS
    assert found["attention"] <= ATTENTION
    assert found["equal"] >= LABELS


@pytest.mark.parametrize("head", HEADS)
def test_engine_needs_no_webassembly(bare, head):
    found = compare(bare, head, streets=1, plain=True)
    assert found["logits"] <= LOGITS
    assert found["equal"] >= LABELS


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_is_seen(bare, name):
    head, *change = MUTATIONS[name]
    found = compare(bare, head, streets=1, changes=[change])
    assert found["logits"] > LOGITS or found["equal"] < LABELS


@pytest.mark.parametrize("head", HEADS)
def test_a_forward_pass_is_short(bare, every_street, head):
    times = every_street(head)["ms"]
    while min(times) > FORWARD and len(times) < 20:
        times = times + compare(bare, head, streets=4)["ms"]
    assert min(times) <= FORWARD


def test_kernel_multiplies(bare):
    """Against float64, in shapes that are no multiples of each other."""
    raw, generator = base64.b64encode(kernel()).decode(), np.random.default_rng(0)
    rows, inner, columns = 12, 5, 24
    a, w = generator.normal(size=(rows, inner)), generator.normal(size=(inner, columns))
    bias = generator.normal(size=columns)
    panels = w.reshape(inner, columns // 8, 8).transpose(1, 0, 2)
    got = bare.evaluate(
        """([raw, rows, inner, columns, ...parts]) => {
            const bytes = Uint8Array.from(atob(raw), (c) => c.charCodeAt(0));
            const memory = new WebAssembly.Memory({ initial: 1 });
            const module = new WebAssembly.Module(bytes);
            const { exports } = new WebAssembly.Instance(module, { env: { memory } });
            const at = [];
            let free = 64;
            for (const part of parts) {
                new Float32Array(memory.buffer, free, part.length).set(part);
                at.push(free);
                free += 4 * part.length;
            }
            exports.matmul(...at, free, rows, inner, columns);
            return [...new Float32Array(memory.buffer, free, rows * columns)];
        }""",
        [raw, rows, inner, columns, *(list(map(float, p.ravel())) for p in (a, panels, bias))],
    )
    np.testing.assert_allclose(np.reshape(got, (rows, columns)), a @ w + bias, atol=1e-5)


def test_what_is_loaded_is_light(site):
    parts = {path.stem: path.stat().st_size for path in (site / "_static/live").glob("*.js")}
    assert len(read_source("setr.js")) <= 25_000
    assert all(parts[head] <= 4.5e6 for head in HEADS)
    assert parts["streets"] + parts["engine"] + parts["live"] <= 1e6
    assert set(engine_part()) == {"source", "kernel"}


# --- the figures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(browser, site):
    page = open_page(browser, site, "figure")
    settled(page, "ask")
    yield page
    page.context.close()


def part(page, name):
    return page.locator(f"#{name} .setr-live")


def settled(page, name):
    """Wait until the figure has answered the last question."""
    part(page, name).scroll_into_view_if_needed()
    state = f"document.querySelector('#{name} .setr-live').dataset.state"
    page.wait_for_function(f"{state} === 'ready'")


def said(page, name):
    return part(page, name).locator(".setr-street ~ [role=status]").inner_text()


def add_heads(page, name, heads=("SETR-Naive", "SETR-MLA")):
    for head in heads:
        button = part(page, name).get_by_role("button", name=f"add {head}")
        if button.is_visible():
            button.click()
            settled(page, name)


def answers(page, name):
    """{head: share of pixels right} and {head: what its canvas shows}."""
    found = page.evaluate(
        """(name) => Object.entries(document.querySelector(`#${name} .setr-live`).live.answers)
            .map(([head, { right, canvas }]) => [head, right, canvas.toDataURL()])""", name)
    return {h: right for h, right, _ in found}, {h: picture for h, _, picture in found}


def click(page, name, x, y):
    canvas = part(page, name).locator(".setr-street canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    across, down = box["width"] / 192, box["height"] / 96
    page.mouse.click(box["x"] + (x + 0.5) * across, box["y"] + (y + 0.5) * down)
    settled(page, name)


@pytest.mark.alone
def test_first_picture_comes_soon(browser, site):
    best = 1e9
    for _ in range(5):
        began = time.monotonic()
        page = open_page(browser, site, "figure")
        settled(page, "ask")
        best = min(best, time.monotonic() - began)
        assert page.problems == []
        page.context.close()
        if best <= FIRST_PICTURE:
            break
    assert best <= FIRST_PICTURE


def test_a_car_belongs_on_the_road(page):
    add_heads(page, "ask")
    part(page, "ask").get_by_role("button", name="car").click()
    shares = {}
    for where, spot in (("road", ROAD), ("sky", SKY)):
        click(page, "ask", *spot)
        words = said(page, "ask")
        shares[where] = {h: int(p) / 100 for h, p in re.findall(r"SETR-(\w+) (\d+) % car", words)}
        part(page, "ask").get_by_role("button", name="undo").click()
        settled(page, "ask")
    assert min(shares["road"].values()) >= 0.8
    assert len(shares["road"]) == 3
    assert max(shares["sky"]["Naive"], shares["sky"]["MLA"]) <= 0.2
    click(page, "ask", *SKY)
    positions = part(page, "ask").get_by_label("Positions")
    positions.select_option("none")
    settled(page, "ask")
    assert int(re.search(r"SETR-Naive (\d+) % car", said(page, "ask"))[1]) >= 50
    positions.select_option("learned")
    part(page, "ask").get_by_role("button", name="undo").click()
    settled(page, "ask")
    assert page.problems == []


def test_the_page_puts_stamps_where_python_does(page, town):
    """And everything taken back leaves the same pixels."""
    first = answers(page, "ask")
    spots = (50, 70), (30, 70), (150, 40), (4, 3), (190, 90)
    for stamp, (x, y) in zip(stamps(), spots, strict=True):
        button = part(page, "ask").get_by_role("button", name=stamp.name)
        if button.get_attribute("aria-pressed") == "false":
            button.click()
        click(page, "ask", x, y)
        url = part(page, "ask").locator(".setr-street canvas").evaluate("c => c.toDataURL()")
        raw = base64.b64decode(url.partition(",")[2])
        got = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        want, seen = place(town[0].image.permute(1, 2, 0).numpy(), stamp, x, y)
        assert seen.sum() > 10
        np.testing.assert_array_equal(got, want)
        part(page, "ask").get_by_role("button", name="undo").click()
        settled(page, "ask")
    assert answers(page, "ask") == first


def test_a_stamp_may_stand_there_from_the_start(page, town):
    settled(page, "parked")
    assert said(page, "parked").startswith("The car at 80, 66 by class: SETR-PUP")
    url = part(page, "parked").locator(".setr-street canvas").evaluate("c => c.toDataURL()")
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))
    want, _ = place(town[0].image.permute(1, 2, 0).numpy(), stamps()[0], *ROAD)
    np.testing.assert_array_equal(got, want)
    part(page, "parked").get_by_role("combobox", name="Street", exact=True).select_option("1")
    page.wait_for_function("document.querySelector('#parked .setr-live').live.chosen.street === 1")
    settled(page, "parked")
    assert said(page, "parked").startswith("Patch row")


def test_the_street_answers_to_keys(page):
    street = part(page, "ask").locator(".setr-street")
    street.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    before = said(page, "ask")
    page.keyboard.press("ArrowUp")
    assert said(page, "ask") != before
    part(page, "ask").get_by_role("button", name="tree").click()
    street.focus()
    page.keyboard.press("Enter")
    settled(page, "ask")
    put = said(page, "ask")
    assert put.startswith("The tree at")
    page.keyboard.press("ArrowLeft")
    settled(page, "ask")
    assert said(page, "ask").startswith("The tree at")
    assert said(page, "ask") != put
    page.keyboard.press("Delete")
    settled(page, "ask")
    assert said(page, "ask").startswith("Patch row")


def test_a_still_is_behind_the_panel_that_it_is_named_like(page):
    settled(page, "look")
    stages = part(page, "look").locator(".setr-stage[style*='data:image/']")
    (panel,) = stages.locator("xpath=..").all()
    assert panel.locator(".setr-title").inner_text() == "What the patch attends to"


def test_a_look_at_a_patch_runs_no_model(page):
    settled(page, "look")
    figure, street = part(page, "look"), part(page, "look").locator(".setr-street")
    heat = figure.locator("canvas[aria-label^='Attention']")
    answered, best = figure.get_attribute("data-answered"), 1e9
    street.focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowUp", "ArrowLeft", "ArrowUp", "ArrowLeft"):
        before, words = heat.evaluate("c => c.toDataURL()"), said(page, "look")
        street.evaluate("s => { s.down = performance.now(); }")
        page.keyboard.press(key)
        drawn = float(figure.get_attribute("data-heat"))
        best = min(best, drawn - street.evaluate("s => s.down"))
        assert heat.evaluate("c => c.toDataURL()") != before
        assert said(page, "look") != words
    assert 0 < best <= LOOK
    assert figure.get_attribute("data-answered") == answered
    for block in ("0", "all"):
        before = heat.evaluate("c => c.toDataURL()")
        figure.get_by_label("Block").select_option(block)
        assert heat.evaluate("c => c.toDataURL()") != before


def test_a_row_is_summed_by_class(page, town, models):
    """And the overview of all blocks and heads chooses among them."""
    settled(page, "look")
    figure = part(page, "look")
    overview = figure.get_by_role("img", name="overview of all 15")
    before = overview.evaluate("c => c.toDataURL()")
    click(page, "look", 80, 66)
    assert overview.evaluate("c => c.toDataURL()") != before
    overview.scroll_into_view_if_needed()
    box = overview.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    chosen = figure.locator("select").evaluate_all("all => all.slice(-2).map(s => s.value)")
    assert chosen == ["2", "1"]
    with torch.no_grad():
        image = models["pup"].preprocess(town[0].image)
        label = models["pup"](image).label()[0, 4::8, 4::8].flatten()
        row = attention_of(models["pup"], image)[2, 1, 1 + 8 * 24 + 10, 1:]
    row, words = row / row.sum(), figure.inner_text()
    road = label == town_classes().index("road")
    assert f"road {row[road].sum():.0%} (its area {road.float().mean():.0%})" in (
        words.replace(" %", "%"))
    count = re.search(r"about (\d+) patches count", words)
    assert int(count[1]) == pytest.approx(float(torch.exp(-(row * row.log()).sum())), abs=0.6)


def town_classes():
    return Cityscapes(ROOT / "data/sample/toytown_cityscapes", "val").classes


def test_a_stamp_takes_the_patch_along(page):
    settled(page, "look")
    part(page, "look").get_by_role("button", name="car").click()
    heat = part(page, "look").locator("canvas[aria-label^='Attention']")
    for spot, patch in (((44, 76), "row 9, column 5"), ((100, 20), "row 2, column 12")):
        click(page, "look", *spot)
        assert f"patch at {patch}." in heat.get_attribute("aria-label")
        part(page, "look").get_by_role("button", name="undo").click()
        settled(page, "look")
    part(page, "look").get_by_role("button", name="car").click()


def test_units_are_read_as_pytorch_reads_them(page, town, models, probes):
    settled(page, "units")
    got = page.evaluate(
        """(sparse) => document.querySelector("#units .setr-live").live.answers.pup.stages
            .flatMap(({ before, after }) => [before, after]).map(({ grid, scores, label }) => ({
                grid, scores: [...scores].filter((_, i) => i % sparse === 0), label: [...label],
            }))""", SPARSE)
    for name, found in zip(UNITS, got, strict=True):
        want = read_by(probes[name], unit_maps(models["pup"], town[0].image)[name])
        assert found["grid"] == list(want.shape[-2:])
        flat = want.movedim(0, -1).flatten()[::SPARSE].numpy()
        np.testing.assert_allclose(found["scores"], flat, atol=LOGITS, rtol=0)
        label = F.interpolate(want[None], (96, 192), mode="bilinear").argmax(1).flatten()
        assert np.mean(np.array(found["label"]) == label.numpy()) >= LABELS
    crooked = read_by(
        probes["head.convs.0.up"], unit_maps(models["pup"], town[0].image, True)["head.convs.0.up"])
    wrong = crooked.movedim(0, -1).flatten()[::SPARSE].numpy()
    assert np.abs(wrong - got[2]["scores"]).max() > LOGITS


@torch.no_grad()
def read_by(probe, features):
    return probe(features)[0]


@torch.no_grad()
def unit_maps(model, image, corners=False):
    units = [f"head.convs.{i}" for i in range(3)]
    maps = catch(model, model.preprocess(image), ["head.norm", *units])
    maps |= {f"{unit}.0": maps.pop(unit) for unit in units}
    for i in (0, 1):
        maps[f"head.convs.{i}.up"] = F.interpolate(
            maps[f"head.convs.{i}.0"], scale_factor=2, mode="bilinear", align_corners=corners)
    return maps


def test_a_unit_is_judged_by_the_truth(page, town, models, probes):
    """IoU of a class before and after, as a confusion matrix has it."""
    settled(page, "units")
    figure, truth = part(page, "units"), town[0].label
    figure.get_by_role("combobox", name="Unit").select_option("2")
    for side, name in (("before", UNITS[4]), ("after", UNITS[5])):
        scores = read_by(probes[name], unit_maps(models["pup"], town[0].image)[name])
        label = F.interpolate(scores[None], truth.shape, mode="bilinear").argmax(1)[0]
        panel = figure.locator(f"[data-stage={side}]")
        for k in (town_classes().index("road"), town_classes().index("building")):
            figure.get_by_role("combobox", name="Read").select_option(str(k))
            hits, seen = (label == k) & (truth == k), (label == k) & (truth != 255)
            iou = float(hits.sum() / (seen | (truth == k)).sum())
            assert f"IoU {iou:.2f}" in panel.inner_text()
            assert f"of its {int((truth == k).sum())} pixels" in panel.inner_text()
        figure.get_by_role("combobox", name="Read").select_option("")
        right = (label == truth)[truth != 255].float().mean()
        assert f"{100 * right:.1f} % of the pixels right" in panel.inner_text()


def test_another_model_may_come_first(page):
    settled(page, "turned")
    assert "SETR-Naive predicts" in said(page, "turned")
    part(page, "turned").get_by_label("Positions").select_option("upside down")
    settled(page, "turned")
    add_heads(page, "turned", ("SETR-MLA", "SETR-PUP"))
    right, _ = answers(page, "turned")
    assert right["naive"] < 0.5 < 0.7 < right["pup"]
    heads = part(page, "turned").locator("[data-head]")
    assert heads.evaluate_all("all => all.map(p => p.dataset.head)") == list(HEADS)


def choose(page, **values):
    for label, value in values.items():
        words = {"positions": "Positions", "attend": "Attention in", "bits": "Weights of"}[label]
        part(page, "ablate").get_by_label(words).select_option(value)
    settled(page, "ablate")


def test_what_is_taken_away_is_missed_and_comes_back(page):
    settled(page, "ablate")
    add_heads(page, "ablate")
    whole = answers(page, "ablate")
    choose(page, positions="upside down")
    turned, _ = answers(page, "ablate")
    assert turned["naive"] < 0.5
    assert turned["pup"] > 0.7
    choose(page, positions="learned", attend="0")
    alone, _ = answers(page, "ablate")
    assert max(alone.values()) < 0.45
    choose(page, attend="5")
    assert answers(page, "ablate") == whole


@pytest.mark.slow
def test_measures_equal_pytorch(page, town, models):
    """All ablations at once: a turned table, attention in three blocks, four bits."""
    settled(page, "ablate")
    add_heads(page, "ablate")
    choose(page, positions="upside down", attend="3", bits="4")
    part(page, "ablate").get_by_role("button", name="measure").click()
    page.wait_for_function("document.querySelectorAll('#ablate tbody td').length === 3 && "
                           "!document.querySelector('#ablate .setr-measure button').disabled")
    got = [float(cell) for cell in part(page, "ablate").locator("tbody td").all_inner_texts()]
    want = [100 * ablated(model, town) for model in models.values()]
    assert got == pytest.approx(want, abs=0.15)  # a decimal is shown
    choose(page, positions="learned", attend="5", bits="32")


def ablated(model, town):
    model = SETR.from_pretrained(ROOT / f"data/runs/toytown_{model.config.model.head}/model")
    n = torch.arange(12 * 24)
    for name, p in model.named_parameters():
        if p.dim() > 1 and name.endswith("weight"):
            rows = p.data.flatten(1)
            step = rows.abs().amax(1, keepdim=True) / 7
            p.data = ((rows / step).round() * step).view_as(p)
    table = model.encoder.pos_embed.data
    table[:, 1:] = table[:, 1:][:, (11 - n // 24) * 24 + n % 24]
    for block in model.encoder.blocks[3:]:
        block.attn.register_forward_hook(lambda module, _, out: torch.zeros_like(out))
    matrix = ConfusionMatrix(19)
    with torch.no_grad():
        batch = torch.cat([model.preprocess(s.image) for s in town])
        matrix.update(model(batch).label(), torch.stack([s.label for s in town]))
    return matrix.miou()


def test_the_walk_shows_the_forward_pass(page, town, models):
    """What a number is computed from gives the number shown, and that is PyTorch's."""
    settled(page, "walk")
    walk = part(page, "walk").locator(".setr-walk")
    right, seen = walked(models["pup"], town[0].image, 7 * 24 + 12), {}
    titles = walk.get_by_label("Stop").locator("option").all_inner_texts()
    for i in range(len(titles)):
        walk.get_by_label("Stop").select_option(str(i))
        page.wait_for_function(f"document.querySelector('.setr-walk').dataset.shown === '{i}'")
        value, total, how = walk.evaluate("w => [w.dataset.value, w.dataset.sum, w.dataset.how]")
        assert bool(total) != bool(how)
        if how:
            formula = how.replace("−", "-").replace("×", "*")
            found = eval(formula, {"exp": math.exp})
            assert float(value) == pytest.approx(found, rel=1e-2, abs=1e-3), how
        else:
            relu = max(0.0, float(total)) if "unit" in titles[i] else float(total)
            assert float(value) == pytest.approx(relu, abs=1e-4)
        seen[titles[i].partition(". ")[2]] = walk.evaluate(
            "w => [...document.querySelector('#walk .setr-live').live.walk.values]")
    for name, values in right.items():
        np.testing.assert_allclose(seen[name], values, rtol=1e-3, atol=2e-4, err_msg=name)


def walked(model, image, patch):
    """Some of the stops, by PyTorch."""
    kept = {}
    with torch.no_grad():
        hooks = [
            module.register_forward_hook(lambda m, i, out, name=name: kept.update({name: out}))
            for name, module in model.named_modules()
        ]
        model(model.preprocess(image))
        for hook in hooks:
            hook.remove()
    token, r, c = patch + 1, patch // 24, patch % 24
    at = (4 * r + 2, 4 * c + 2)
    qkv = kept["encoder.blocks.0.attn.qkv"][0]
    scores = qkv[:, 144:192] @ qkv[token, :48] / 48**0.5
    return {
        "Its token": kept["encoder.patch_embed.proj"].flatten(2)[0, :, patch],
        "Its query": qkv[token, :48], "Scores": scores, "Softmax": scores.softmax(0),
        "MLP, wide": kept["encoder.blocks.0.mlp.fc1"][0, token],
        "After the block": kept["encoder.blocks.0"][0, token],
        "First 3 x 3 unit": kept["head.convs.0"][0, :, r, c],
        "Third unit, four times as fine": kept["head.convs.2"][0, :, at[0], at[1]],
        "Logits": kept["head.classifier"][0, :, at[0], at[1]],
    }  # fmt: skip


def test_a_page_without_webassembly_gives_the_same_labels(browser, site, page):
    settled(page, "look")
    plain = open_page(browser, site, "figure", "delete self.WebAssembly")
    settled(plain, "look")
    assert part(plain, "look").get_attribute("data-kernel") == "JavaScript"
    assert part(page, "look").get_attribute("data-kernel") == "WebAssembly"
    assert answers(plain, "look") == answers(page, "look")
    assert plain.problems == []
    plain.context.close()


def test_a_picture_of_ones_own(page, tmp_path):
    """Cut in its middle to two by one; a file that is no picture is named, and nothing breaks."""
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 100:300] = (200, 30, 60)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "words.png").write_text("no picture")
    chooser = part(page, "ask").locator("input[type=file]")
    chooser.set_input_files(tmp_path / "wide.png")
    page.wait_for_function("document.querySelector('#ask .setr-live').live.baseTruth === null")
    settled(page, "ask")
    colors = page.evaluate("[...document.querySelector('#ask .setr-live').live.base.slice(0, 3)]")
    assert np.abs(np.array(colors) - (200, 30, 60)).max() <= 2
    assert "the right answer is unknown" in part(page, "ask").inner_text()
    chooser.set_input_files(tmp_path / "words.png")
    page.wait_for_function("document.querySelector('#ask').innerText.includes('no picture that')")
    part(page, "ask").get_by_role("combobox", name="Street", exact=True).select_option("0")
    settled(page, "ask")
    assert page.problems == []


def test_only_the_newest_question_waits(page):
    """Ten moves in a row: the first and the last are answered, what lay between is dropped."""
    count = page.evaluate("""async () => {
        const live = document.querySelector("#ask .setr-live").live;
        const engine = SetrClient.engine("pup");
        const all = Array.from({ length: 10 }, () => engine.ask(live, { rgba: live.picture }));
        return (await Promise.all(all)).filter((answer) => answer).length;
    }""")
    assert 1 <= count <= 2


def test_without_scripts_there_is_a_still(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "book/figure.html").as_uri())
    stills = page.locator(".setr-live-still img").all()
    assert len(stills) == len(FIGURES)
    for still in stills:
        assert still.is_visible()
        assert still.get_attribute("alt")
    assert page.locator("figcaption").count() == len(FIGURES)
    context.close()


@pytest.mark.alone
@pytest.mark.parametrize("name", ["ask", "look", "units"])
def test_the_page_never_stalls(page, name):
    """While a stamp is dragged across the street no task holds the page's thread for long."""
    settled(page, name)
    car = part(page, name).get_by_role("button", name="car")
    if car.get_attribute("aria-pressed") == "false":
        car.click()
    longest = []
    for _ in range(5):
        page.evaluate("""() => {
            self.longest = 0;
            self.tasks = new PerformanceObserver((list) => {
                for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
            });
            tasks.observe({ type: "longtask" });
        }""")
        click(page, name, 40, 70)
        part(page, name).locator(".setr-street").focus()
        for _ in range(6):
            page.keyboard.press("ArrowRight")
            settled(page, name)
        page.wait_for_timeout(100)  # entries come a moment later
        longest.append(page.evaluate("() => { tasks.disconnect(); return longest; }"))
        part(page, name).get_by_role("button", name="undo").click()
        settled(page, name)
        if longest[-1] <= STALL:
            break
    assert min(longest) <= STALL


def test_an_unknown_tool_is_refused(town):
    with pytest.raises(UserError, match="no tool 'hammer'"):
        Live("hammer", name="x", panes=[Pane(town[0].image, "a", "b")])
