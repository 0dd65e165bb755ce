"""What serves the book's build: its Sphinx extensions, and the box at the top of each notebook."""

import ast
import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image

from setr_lite.datasets import DATASETS
from setr_lite.encoder import PRESETS

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/someone/setr-book"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load(ROOT / "book" / "_ext" / "book_reference.py")
boxes = load(ROOT / "book" / "_tools" / "run_boxes.py")
words = load(ROOT / "book" / "_ext" / "book_words.py")
paper = load(ROOT / "book" / "_ext" / "book_paper.py")
bibliography = load(ROOT / "book" / "_ext" / "book_bibliography.py")


# --- the repository's address -------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One notebook's page by our extension and the book's theme, with an address and without."""
    folder = tmp_path_factory.mktemp("site")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Page")])
    nbformat.write(notebook, folder / "index.ipynb")
    (folder / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_nb', 'book_pages']\n"
        "html_theme, nb_execution_mode = 'sphinx_book_theme', 'off'\n"
    )
    code = "import sys; from sphinx.cmd.build import build_main\n" + "".join(
        "assert not build_main(['-q', '-E', sys.argv[1], sys.argv[1] + "
        f"'/{name}', '-D', 'html_theme_options.repository_url={address}'])\n"
        for name, address in (("with", ADDRESS), ("without", "")))
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        name: BeautifulSoup((folder / name / "index.html").read_text("utf-8"), "html.parser")
        for name in ("with", "without")
    }


@pytest.mark.slow
def test_with_an_address_there_are_launch_buttons(pages):
    links = [a["href"] for a in pages["with"].find_all("a", href=True)]
    assert ADDRESS in links
    for host in ("https://mybinder.org/", "https://colab.research.google.com/"):
        assert [link for link in links if link.startswith(host) and "index.ipynb" in link]


def test_without_an_address_there_are_none(pages):
    for word in ("mybinder", "colab.research", "github.com/someone"):
        assert word not in str(pages["without"])


# --- the box ------------------------------------------------------------------------------------


def test_the_box_names_the_address_and_comes_once(monkeypatch, tmp_path):
    monkeypatch.setattr(boxes, "ROOT", tmp_path)
    (tmp_path / "_config.yml").write_text(f'repository:\n  url: "{ADDRESS}"\n')
    path = ROOT / "book" / "intro.ipynb"
    notebook = nbformat.read(path, as_version=4)
    once = boxes.with_box(notebook, path)
    assert boxes.with_box(once, path) == once
    assert f"git clone --depth 1 {ADDRESS} setr" in once.cells[1].source
    assert [c.source for c in once.cells if c.cell_type == "code"] == [
        c.source for c in notebook.cells if c.cell_type == "code"]


def test_without_an_address_the_box_says_how_to_do_without(monkeypatch, tmp_path):
    monkeypatch.setattr(boxes, "ROOT", tmp_path)
    (tmp_path / "_config.yml").write_text('repository:\n  url: ""\n')
    text = boxes.box(ROOT / "book" / "intro.ipynb")
    assert "git clone" not in text
    assert "ADDRESS" not in text
    assert "git archive -o setr.zip HEAD" in text
    assert "!unzip -q setr.zip -d setr\n%cd setr/book\n%pip install -q .." in text


def test_the_address_goes_into_the_citation(monkeypatch, tmp_path):
    before = (ROOT / "CITATION.cff").read_text("utf-8")
    assert boxes.cited(before) == before, "python book/_tools/run_boxes.py"
    monkeypatch.setattr(boxes, "ROOT", tmp_path)
    (tmp_path / "_config.yml").write_text(f'repository:\n  url: "{ADDRESS}"\n')
    after = boxes.cited(before)
    assert yaml.safe_load(after) == yaml.safe_load(before) | {"repository-code": ADDRESS}
    assert boxes.cited(after) == after
    (tmp_path / "_config.yml").write_text('repository:\n  url: ""\n')
    assert "repository-code" not in boxes.cited(after)


def test_every_notebook_has_its_box():
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        assert boxes.with_box(notebook, path) == notebook, "python book/_tools/run_boxes.py"


# --- the reference ------------------------------------------------------------------------------


def test_docstrings_become_markdown():
    text = reference.markdown("""Find $x.

    Takes ``a < b`` and *args.

        code [1] < 2

    Args:
        image: (B, 3, H, W),
            normalised.

    =====  =====
    a      b,
           ``c|d``
    =====  =====

    Returns:
        Numbers that sum to
        1. A list for a list.
    """)
    assert r"Find \$x." in text
    assert r"``a < b`` and \*args" in text
    assert "```text\ncode [1] < 2\n```" in text
    assert "- **image**: (B, 3, H, W),\n  normalised." in text
    assert "\n|  |  |\n| --- | --- |\n| a | b, ``c\\|d`` |\n" in text
    assert "  1\\. A list for a list." in text
    headed = reference.table(["==  ==", "x   y", "==  ==", "1   2", "==  =="])
    assert headed == ["| x | y |", "| --- | --- |", "| 1 | 2 |"]


def test_signatures_are_those_of_the_source():
    text = reference.library_reference("model.SETR model.count_parameters config.OptimConfig")
    assert "{py:class} SETR(num_classes: int=150, " in text
    assert "{py:function} count_parameters(" in text
    assert '{py:attribute} lr\n:no-contents-entry:\n:value: "0.001"\n' in text
    assert "{py:property} device\n:no-contents-entry:\n:type: torch.device" in text
    assert text.count(":no-contents-entry:") > 20
    assert "{py:class} SETR(num_classes" in text.partition(":no-contents-entry:")[0]
    assert "{py:attribute} classes\n:no-contents-entry:\n:type: tuple[str, ...]\n\nNames" in text
    assert "{py:attribute} neck\n:no-contents-entry:\n\nThe {py:obj}`Multi" in text
    assert reference.target("model.palette", ()) == "setr_lite.model.SETR.palette"


def test_constants_have_their_words_and_their_value():
    assert "| `toy` | 8 | 144 | 5 | 3 | 0.06 |" in reference.entry("encoder.PRESETS")
    assert "| ours | theirs |" in reference.entry("weights.tables.MMSEG_VIT")
    assert "| `norm.*` | `ln1.*` |" in reference.entry("weights.tables.VIT2MMSEG")
    assert "| for | ours | theirs |" in reference.entry("weights.tables.OFFICIAL")
    assert "| mla | `head.classifier.*` | `dec" in reference.entry("weights.tables.OFFICIAL")
    assert "| all | `encoder.cls_token` | `back" in reference.entry("weights.tables.OFFICIAL")
    assert "| naive, pup | `head.norm.*` | `decode" in reference.entry("weights.tables.MMSEG")
    assert "lambda" not in reference.entry("recipes.named.RECIPES")
    assert "{f.__name__" not in reference.entry("recipes.named.RECIPES")
    for computed in ("recipes.named.RECIPES", "toytown.scenes.PALETTE", "toytown.scenes.CLASSES"):
        assert "```python" not in reference.entry(computed)


@pytest.mark.smoke
def test_every_name_of_a_table_is_shown():
    from setr_lite.weights import tables

    for name in ("TIMM", "MMSEG_VIT", "VIT2MMSEG", "AUGREG", "MMSEG", "OFFICIAL"):
        value, shown = getattr(tables, name), reference.entry(f"weights.tables.{name}")
        assert reference.constants_of("weights.tables")[name] == value
        layouts = value if isinstance(next(iter(value.values())), dict) else {"": value}
        for head, table in layouts.items():
            for ours, theirs in table.items():
                (where,) = re.findall(
                    rf"\|([^|]*)\| {re.escape(f'`{ours}` | `{theirs}` |')}", f"\n|{shown}")
                assert head in where or where == " all ", (name, ours)


def test_classes_are_shown_as_one_uses_them():
    """With the constructor they inherit, plain defaults, and no method twice."""
    text = reference.entry("datasets.layouts.Cityscapes")
    assert "{py:class} Cityscapes(root: str | Path, split: str='train'" in text
    assert "list_files" not in text
    assert "field(" not in reference.entry("config.RunConfig")
    bench = reference.entry("bench.what.Bench")
    assert '{py:attribute} classes\n:type: int\n:value: "150"\n\nNumber of classes.' in bench
    assert "_asked" not in bench


@pytest.mark.parametrize(("name", "scope", "full"), [
    ("heads.LinearHead", ("model",), "setr_lite.heads.LinearHead"),
    ("count_parameters", ("model",), "setr_lite.model.count_parameters"),
    ("scores", ("logits", "SETROutput"), "setr_lite.logits.SETROutput.scores"),
    ("data.mean", ("encoder",), "setr_lite.config.DataConfig.mean"),
    ("image", ("model",), None),  # an argument
    ("no.such_name", (), None),
])
def test_names_lead_to_what_they_name(name, scope, full):
    assert reference.target(name, scope) == full


def test_every_setting_is_explained_once():
    from setr_lite.config import RunConfig

    for section, settings in RunConfig().to_dict().items():
        for key in settings if isinstance(settings, dict) else ():
            full = f"config.{reference.SECTIONS_OF_A_RUN[section]}.{key}"
            assert full in reference.names()
            assert reference.target(f"{section}.{key}", ()) == f"setr_lite.{full}"
            default = reference.as_written(getattr(getattr(RunConfig(), section), key))
            shown = default if default == "(empty)" else f"`{default}`"
            row = f"| {{py:obj}}`{section}.{key} <setr_lite.{full}>` | {shown} | "
            assert reference.settings_of(section).count(row) == 1
            said = reference.entry(full.rpartition(".")[0])
            assert said.count(f"{{py:attribute}} {key}\n:value: ") == 1
    page = (ROOT / "book" / "api_settings.md").read_text("utf-8")
    assert reference.SETTINGS.findall(page) == [*reference.SECTIONS_OF_A_RUN]
    settings = {f"{s}.{key}" for s, part in RunConfig().to_dict().items()
                if isinstance(part, dict) for key in part}  # fmt: skip
    assert {*reference.LISTED, *reference.NAMED, *reference.ALSO} <= settings
    assert {*reference.CHANGE_IT_TO} == settings


@pytest.mark.smoke
def test_what_belongs_together_does():
    from setr_lite import RECIPES, UserError, get_recipe

    page = (ROOT / "book" / "api_settings.md").read_text("utf-8")
    rows = page.partition("## What belongs together")[2].partition("## model")[0]
    known = {f"{section}.{key}" for section, part in get_recipe("toytown_pup").to_dict().items()
             if isinstance(part, dict) for key in part}  # fmt: skip
    assert set(re.findall(r"`(\w+\.\w+)`", rows)) <= known
    wishes = page.partition("| to | set |")[2].partition("## What belongs together")[0]
    assert set(re.findall(r"`(\w+\.\w+)`", wishes)) <= known
    get_recipe("toytown_pup").override(*re.findall(r"`(\w+\.\w+=[^`]+)`", wishes))
    runs = [recipe() for recipe in RECIPES.values()]
    assert all(run.model.img_size == run.data.crop_size for run in runs)
    for run in (run for run in runs if run.eval.mode == "slide"):
        assert run.eval.window == run.data.crop_size
        assert all(abs(a / b - 2 / 3) < 0.01
                   for a, b in zip(run.eval.stride, run.eval.window, strict=True))
    assert {(run.optim.name, run.optim.min_lr) for run in runs} == {("sgd", 1e-4), ("adamw", 1e-6)}
    with pytest.raises(UserError, match=r"train\.accumulate"):
        get_recipe("toytown_pup").override("train.accumulate=3").train.local_batch(1)


@pytest.mark.smoke
def test_the_families_of_recipes_are_those_that_there_are():
    """Each recipe is in one of them, and what an entry gives a family its recipes have."""
    from setr_lite import RECIPES, RunConfig

    families = {name: [family for family, begins in reference.FAMILIES.items()
                       if re.match(begins, name)] for name in RECIPES}  # fmt: skip
    assert all(len(found) == 1 for found in families.values()), families
    runs = [(families[name][0], make()) for name, make in RECIPES.items()]
    for section in reference.SECTIONS_OF_A_RUN:
        for key in getattr(runs[0][1], section).__dataclass_fields__:
            told = reference.other_values(section, key)
            for family, run in runs:
                values = told.get(family, (reference.as_written(
                    getattr(getattr(RunConfig(), section), key)),))
                setting = [f"{section}.{key}={value.replace('(empty)', '')}" for value in values]
                assert run in [run.override(word) for word in setting], (section, key, family)
    assert reference.where("train", "steps") == "all but ade20k"
    assert reference.where("eval", "base_size") == "pascal"
    assert reference.in_recipes("optim", "lr").startswith("\n\nRecipes: toytown `0.0015`; dinov2 ")
    page = " ".join((ROOT / "book" / "api_settings.md").read_text("utf-8").split())
    named = page.partition("Families are ")[2].partition(". ")[0]
    assert [family for family in reference.FAMILIES if family not in named] == []
    first = RECIPES["pup_ade20k_512_160k"]().to_dict()
    differ = {f"{section}.{key}" for section, part in RunConfig().to_dict().items()
              if isinstance(part, dict) for key in part if part[key] != first[section][key]}
    assert differ == {"model.taps", "model.pretrained", "train.save_every", "train.log_every"}


@pytest.mark.smoke
def test_the_examples_of_the_settings_are_settings():
    from setr_lite import get_recipe

    page = (ROOT / "book" / "api_settings.md").read_text("utf-8")
    blocks = re.findall(r"```{code-block} (\w+)\n(.*?)```", page, re.S)
    assert [kind for kind, _ in blocks] == ["bash", "python", "bash", "python", *["bash"] * 3]
    words = [word for _, block in blocks for word in re.findall(r"[a-z]+\.\w+=[^\s\"]+", block)]
    config = get_recipe("toytown_pup").override(*words)
    assert len(words) == 11
    assert config.data.crop_size == config.model.img_size == (96, 96)
    assert config.train.out == "runs/third"


def run_examples(page, scope, tmp_path, monkeypatch):
    """Code blocks of a page in turn; what those that print have printed, and what the page says."""
    text = (ROOT / "book" / f"{page}.md").read_text("utf-8")
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    printed = []
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, scope)
        printed += [out.getvalue()] * ("print(" in block)
    return printed, re.findall(r"```text\n(.*?)```", text, re.S)


@pytest.mark.slow
def test_the_examples_of_the_reference_run(monkeypatch, tmp_path):
    scope = {}
    printed, told = run_examples("api", scope, tmp_path, monkeypatch)
    assert len(printed) == 3
    assert printed == told
    assert scope["found"].shape == scope["label"].shape
    assert scope["confusion"].miou() > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("page", ["api_model", "api_data", "api_runs", "api_weights", "api_tools"])
def test_the_examples_of_each_part_run(page, monkeypatch, tmp_path):
    monkeypatch.delitem(PRESETS, "speck", raising=False)  # the fault drills add it
    printed, told = run_examples(page, {}, tmp_path, monkeypatch)
    assert printed
    assert printed == told
    text = (ROOT / "book" / f"{page}.md").read_text("utf-8")
    for name in re.findall(r"\]\(examples/(\w+\.png)\)", text):  # but for the letters, as drawn
        shown, drawn = (np.asarray(Image.open(folder / name).convert("RGB"), dtype=int)
                        for folder in (ROOT / "book" / "examples", tmp_path))  # fmt: skip
        assert shown.shape == drawn.shape
        assert np.abs(shown - drawn).mean() < 5


@pytest.mark.smoke
def test_every_class_and_function_of_the_model_has_an_example():
    page = (ROOT / "book" / "api_model.md").read_text("utf-8")
    examples = dict(reference.EXAMPLE.findall(page))
    wanted = [full for found in reference.ENTRIES.findall(page) for full in found.split()]
    assert set(wanted) - set(examples) == {"encoder.PRESETS"}
    assert set(examples) <= set(wanted)
    for full, text in examples.items():
        returned = full in ("logits.SETROutput", "running.memory.MemoryEstimate")
        called = re.search(rf"\b{full.rpartition('.')[2]}(\.from_\w+)?\(", text)
        assert called or returned, full
        said = reference.library_reference(full, examples)
        head = re.split(r"(?m)^(?=`{5}\{py:(?:attribute|method|property)\})", said)[0]
        assert f"**Example:**\n\n{text}" in head, full
        assert said.count("`````{py:") == reference.library_reference(full).count("`````{py:")


@pytest.mark.slow
def test_every_example_of_an_entry_runs_by_itself(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "book" / "api_model.md").read_text("utf-8")
    for full, text in reference.EXAMPLE.findall(page):
        code, told = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1]
                      for kind in ("python", "text"))  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, {})
        assert out.getvalue() == told, full


@pytest.mark.smoke
@pytest.mark.parametrize("shape", ["wide", "narrow"])
def test_every_box_of_the_calls_leads_to_an_entry(shape):
    drawing = (ROOT / "book" / "figures" / "drawn" / f"calls-{shape}.svg").read_text("utf-8")
    links = re.findall(r'href="(api_\w+)\.html#setr_lite\.([\w.]+)"', drawing)
    assert len(links) == drawing.count("<a ") == drawing.count('class="d-box')
    for page, full in links:
        text = (ROOT / "book" / f"{page}.md").read_text("utf-8")
        assert full in reference.names()
        assert any(full == name or full.startswith(f"{name}.")
                   for found in reference.ENTRIES.findall(text) for name in found.split()), full


@pytest.mark.smoke
def test_every_data_set_is_named_with_its_classes():
    page = (ROOT / "book" / "api_data.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, dataset in DATASETS.items():
        row = next(row for row in rows if f"`{name}`" in row)
        assert f"`{dataset.__name__} <.{dataset.__name__}>`" in row
        assert str(len(getattr(dataset, "classes", ""))) in row or name == "folder"


@pytest.mark.smoke
def test_every_name_and_module_that_a_page_lists_is_there():
    for full in reference.documented():
        module, _, name = full.rpartition(".")
        assert name in reference.nodes_of(module), full
    assert len(set(reference.documented())) == len(reference.documented()) > 80
    modules = [name for text in reference.pages() for words in reference.MODULES.findall(text)
               for name in reference.modules_of(words)]  # fmt: skip
    assert sorted(modules) == reference.all_modules()


@pytest.mark.smoke
def test_what_pages_leave_out_is_there():
    for full in reference.documented():
        module, _, name = full.rpartition(".")
        if hidden := reference.NOT_SHOWN.get(name, ""):
            node = reference.nodes_of(module)[name][0]
            there = {m.name for m in reference.methods_in(node)}
            there |= {f.target.id for f in node.body if isinstance(f, ast.AnnAssign)}
            assert set(hidden.split()) <= there, name
            assert not any(f"`{{py:attribute}} {word}\n" in reference.entry(full)
                           or f"`{{py:method}} {word}(" in reference.entry(full)
                           for word in hidden.split()), name
    assert set(reference.NOT_SHOWN) <= {full.rpartition(".")[2] for full in reference.documented()}


@pytest.mark.smoke
def test_what_the_package_hands_on_is_documented():
    import setr_lite

    short = {full.rpartition(".")[2] for full in reference.documented()}
    assert set(setr_lite.__all__) | {"train", "evaluate"} <= short


@pytest.mark.smoke
def test_every_public_name_is_documented_or_listed():
    for module in reference.all_modules():
        lines = reference.module_list(module)
        for name, (node, _) in reference.nodes_of(module).items():
            if not reference.constant(node) and f"{module}.{name}" not in reference.documented():
                assert f"`{name}`" in lines, f"{module}.{name}"


def test_no_rule_of_a_table_is_left():
    for full in reference.documented():
        assert "=====" not in reference.entry(full), full
    assert "| ``step`` | steps taken so far |" in reference.entry("train.train")


def test_help_is_that_of_the_program():
    page = reference.command_line_reference()
    for verb in ((), ("predict",)):
        done = subprocess.run(
            [sys.executable, "-m", "setr_lite", *verb, "--help"], capture_output=True, text=True,
            env={"COLUMNS": reference.COLUMNS, "PATH": ""}, cwd=ROOT)
        shown = done.stdout.partition("\n\n")[0] + "\n" if verb else done.stdout
        assert shown.startswith(f"usage: {' '.join(('setr-lite', *verb))} ")
        assert f"```text\n{shown}```" in page
    for word in re.findall(r"\[(--[a-z]+) ", shown):
        assert f"(setr-lite-predict-{word[2:]})=\n```{{option}} {word} " in page


def test_every_option_has_an_anchor_and_every_verb_a_place_in_the_index():
    from setr_lite.cli import _parser

    verbs = next(a.choices for a in _parser()._actions if a.choices)
    page = reference.command_line_reference()
    anchors = re.findall(r"^\((.*)\)=$", page, re.M)
    assert len(set(anchors)) == len(anchors) == page.count("```{option} ")
    assert len(anchors) == sum(len(verb._actions) - 1 for verb in verbs.values())
    assert "setr-lite-train-dry-run" in anchors
    index = (ROOT / "book" / "cli.md").read_text("utf-8")
    assert re.findall(r"\(#setr-lite-([a-z-]+)\)", index) == list(verbs)
    assert " --" not in re.sub(r"`[^`]*`|^```.*?^```", "", page, flags=re.M | re.S)  # a dash


def test_entries_say_how_to_import_them():
    for full in reference.documented():
        scope = {}
        exec(reference.import_of(full), scope)
        name = full.rpartition(".")[2]
        assert name in scope
        assert f"`{reference.import_of(full)}`" in reference.entry(full)
    assert reference.import_of("visualize.pictures.overlay") == "from setr_lite import overlay"
    assert reference.import_of("train.train") == "from setr_lite.train import train"


def test_the_tables_of_the_reference_are_complete():
    import setr_lite

    top = reference.names_at_the_top()
    assert re.findall(r"^\| \{py:obj\}`(\w+) <", top, re.M) == sorted(
        setr_lite.__all__, key=str.lower)
    recipes = reference.recipes_table()
    assert re.findall(r"^\| `(\w+)`", recipes, re.M) == list(setr_lite.RECIPES)
    assert recipes.count("| download |") == 7


def test_settings_say_what_they_take_and_what_their_default_means():
    told = {
        f"{section}.{key}": (default, words, values)
        for section, name in reference.SECTIONS_OF_A_RUN.items()
        for key, default, words, values in re.findall(
            r'^`{5}\{py:attribute\} (\w+)\n:value: "(.*?)"\n\n(.*?)\n\nValues: ([^\n]*)$',
            reference.entry(f"config.{name}"), re.M | re.S)}  # fmt: skip
    assert told["model.head"][::2] == ("pup", "`naive` `pup` `mla` `linear`")
    assert told["train.steps"][::2] == ("160000", "int ≥ 1")
    assert told["model.drop_path"][2] == "number 0..0.99"
    assert told["model.num_heads"][::2] == ("none", "int 1..1024, `none`")
    assert told["train.batch_size"][2] == "int ≥ 1, `auto`"
    assert told["optim.lr"][2] == "number > 0"
    assert told["train.device"][2] == "`auto` `cpu` `cuda` `cuda:N`"
    assert told["loss.class_weights"][2] == "`number,...` 0..10⁶ `auto` `none`"
    assert told["model.img_size"][2] == "`int,int` 1..16384"
    assert told["train.out"][0] == "(empty)"
    assert "``none`` takes the rule" in told["model.taps"][1]


@pytest.mark.smoke
def test_every_promise_has_its_test_below_it():
    text = (ROOT / "book" / "promises.md").read_text("utf-8")
    assert len(reference.PROMISE.findall(text)) == text.count("\n  <br>`tests/") > 30


def test_a_promise_is_shown_with_the_worst_of_its_cases():
    tool = load(ROOT / "book" / "_tools" / "promises.py")
    report = """<testsuites><testsuite>
      <testcase classname="tests.test_a" name="test_x[1]"/>
      <testcase classname="tests.test_a" name="test_x[2]"><failure/></testcase>
      <testcase classname="tests.book.test_b" name="test_y"/>
      <testcase classname="tests.book.test_b" name="test_y"><skipped/></testcase>
    </testsuite></testsuites>"""
    tests = tool.named("`tests/test_a.py::test_x`, `tests/book/test_b.py::test_y`")
    found = tool.results(report, tests)
    assert found == {"tests/test_a.py::test_x": "failed", "tests/book/test_b.py::test_y": "passed"}
    date = "2026-01-02"
    results = tool.merged({"tests/test_gone.py::test_z": {}}, found, tests, date)
    assert results == {test: {"outcome": found[test], "date": date} for test in tests}
    earlier = {tests[1]: {"outcome": "failed", "date": "2026-01-01"}}
    assert tool.merged(earlier, {}, tests, date) == earlier
    record = {"results": results}
    page = f"## A b, c\n- x\n  <br>`{tests[0]}`\n- y\n  <br>`{tests[1]}`\n## D"
    assert reference.last_run("a-b-c", page, record) == "1 passed, 1 not passed (2026-01-02)"
    assert reference.last_run("a-b-c", page, {"results": earlier}) == (
        "0 passed, 1 not passed, 1 not recorded (2026-01-01)")
    assert reference.last_run("a-b-c", page, {"results": {}}) == "-"
    shown = reference.test_below("tests/test_a.py::test_x", record)
    assert shown.startswith("  <br><small")  # in the item of its promise
    assert '<code title="tests/test_a.py::test_x">test_<wbr>x</code> (failed)</small>' in shown
    assert reference.result_of("tests/test_a.py::test_x", record) == " (failed)"
    since = {"results": earlier | {tests[0]: results[tests[0]]}}
    assert reference.result_of(tests[1], since) == " (failed, 2026-01-01)"
    assert reference.result_of("tests/test_c.py::test_z", record) == ""


# --- how to cite --------------------------------------------------------------------------------


@pytest.mark.smoke
def test_citation_file_agrees_with_the_rest():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] in (ROOT / "pyproject.toml").read_text("utf-8").split('"')
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert cited["title"] == config["title"]
    page = (ROOT / "book" / "cite.md").read_text("utf-8")
    assert f"{{{cited['title']}}}" in page
    assert f"{{Version {cited['version']}}}" in page
    assert f"prints `setr_lite {cited['version']}`." in page
    released = cited["date-released"]
    month = f"{released:%b}".lower()
    assert f"year   = {{{released.year}}},\n  month  = {month}," in page
    entries = re.findall(r"```bibtex\n(.*?)```", page, re.S)
    assert len(entries) == 2
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(entry in readme for entry in entries)
    paper = cited["references"][0]
    names = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    for file in ("references.bib", "cite.md"):
        text = (ROOT / "book" / file).read_text("utf-8")
        entry = " ".join(text.partition("{zheng2021setr,")[2].partition("\n}")[0].split())
        assert f"{{{paper['title']}}}" in entry
        assert f"{{{' and '.join(names)}}}" in entry


# --- the bibliography ---------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_bibliography_is_short_and_in_order():
    from pybtex.database import parse_file

    entries = parse_file(ROOT / "book" / "references.bib").entries
    listed = list(bibliography.Style().format_entries(entries.values()))
    shown = {entry.key: entry.text.render_as("text") for entry in listed}
    names = [entry.key for entry in listed]
    assert (names.index("luo2016receptive") < names.index("mmseg2020")
            < names.index("mottaghi2014context"))
    assert shown["oquab2024dinov2"].startswith("Oquab, M., Darcet, T., Moutakanni, T., et al. (2")
    assert shown["zhao2023fsdp"].startswith("Zhao, Y., Gu, A., Varma, R., et al. (2023)")
    assert shown["ba2016layernorm"].startswith("Ba, J. L., Kiros, J. R., and Hinton, G. E. (2016)")
    places = "arXiv|doi|CVF|github.com/"
    assert [key for key, text in shown.items() if not re.search(places, text)] == []


@pytest.mark.smoke
def test_the_bibliography_calls_pages_by_short_names():
    assert bibliography.short("book/03_position", "Position: a table tells") == "Position"
    assert bibliography.short("book/21_after_setr", "After SETR") == "After SETR"
    assert bibliography.short("book/intro", "SETR: an image") == "Introduction"
    assert {*bibliography.SHORT} <= {path.stem for path in (ROOT / "book").glob("*.ipynb")}


# --- links into the glossary --------------------------------------------------------------------


def linked(text, page):
    """What a paragraph links to the glossary: (the word, the entry)."""
    from docutils import nodes
    from docutils.utils import new_document

    doctree = new_document("page")
    doctree += nodes.paragraph("", "", nodes.Text(text))
    words.link_words(doctree, page)
    assert doctree.astext() == text
    return [(reference.astext(), reference["reftarget"])
            for reference in doctree.findall(words.addnodes.pending_xref)]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("01_segmentation", "Decide, then widen the view.", []),
        ("10b_protocols", "the size of the view", [("view", "view")]),
        ("04_encoding", "Per unit of the score", []),
        ("13_ade20k", "a unit is that many numbers", []),
        ("06_pup", "a unit, and its stage", [("unit", "unit"), ("stage", "stage")]),
        ("21_after_setr", "The first stage has many keys", []),
        ("04_encoding", "a key and a value", [("key", "key"), ("value", "value")]),
        ("09_data", "the value of a key", []),
        ("04_encoding", "Each head scores alone.", [("head", "attention head")]),
        ("02_patch_embedding", "A head predicts pixels.", [("head", "decoder, head")]),
        ("05_naive", "Memory is a block of memory.", []),
        ("05_naive", "Not a block of memory, a block.", [("block", "block")]),
        ("07b_alive", "the loss of mIoU, not the loss", [("mIoU", "IoU, mIoU"), ("loss", "loss")]),
        ("05_naive", "unit", [("unit", "unit")]),  # all of an emphasised text
        ("10_measuring", "the mask of the pixels, and an interval", [
            ("interval", "bootstrap, interval")]),
        ("07b_alive", "Two models label none of it as car.", []),
        ("02_patch_embedding", "A loss falls; the loss again.", [("loss", "loss")]),
    ],
)  # fmt: skip
def test_a_word_links_to_its_own_sense(page, text, expected):
    assert linked(text, page) == expected


@pytest.mark.smoke
def test_the_notation_calls_chapters_as_the_contents_do():
    text = words.titled("[x](06_pup.ipynb), [y](01_segmentation.ipynb), [model](api_model.md)")
    assert text == ("[PUP](06_pup.ipynb), [What a convolution sees, and what attention sees]"
                    "(01_segmentation.ipynb), [model](api_model.md)")
    assert words.titled("a\n| [Encoding](04_encoding.ipynb) |") == (
        "a\n| [Encoding](04_encoding.ipynb) |")


@pytest.mark.smoke
def test_the_symbols_of_single_pages_are_shown():
    assert words.MARKER in words.NOTATION.read_text("utf-8")
    shown = words.symbols_table()
    meanings = re.findall(r"^\| \$.*\[.*$", words.SYMBOLS.read_text("utf-8"), re.M)
    pages = re.findall(r"^Page: \[[^]]+\]\((\w+)\.ipynb\)$", shown, re.M)
    rows = [line for line in shown.splitlines() if line.startswith("| $")]
    assert len(pages) == len({*pages}) == shown.count("</details>")  # each page once
    assert len(rows) == sum(line.count(".ipynb)") for line in meanings) > len(meanings) > 80
    assert pages.index("08_auxiliary") < pages.index("11_five_minutes") < pages.index("09_data")
    patches = shown.partition("<b>Patch embedding</b>")[2].partition("</details>")[0]
    assert r"\(E\)</span>" in patches.partition("</summary>")[0]
    assert "| matrix of the patch embedding | $C \\times 3P^2$ = 1024 x 768 |" in patches
    assert "; shape" not in shown


@pytest.mark.smoke
def test_each_letter_of_the_glossary_leads_to_its_first_word():
    page = words.NOTATION.read_text("utf-8")
    bar = page.partition("## Words\n\n")[2].partition("\n\n")[0]
    first = {}
    for entry in words.terms().values():
        first.setdefault(entry[0].upper(), entry)
    assert re.findall(r"{term}`(\w) <(.+?)>`", bar) == list(first.items())


def test_words_of_two_senses_are_in_the_glossary_and_their_pages_in_the_book():
    there = {path.stem for path in (ROOT / "book").glob("*.ipynb")}
    assert {*words.ONLY_ON} <= {*words.terms()}
    assert {page for pages in words.ONLY_ON.values() for page in pages.split()} <= there
    assert {*words.INSTEAD} <= there
    assert {entry for swap in words.INSTEAD.values() for entry in swap.values()} <= {
        *words.terms().values()}


# --- the contents -------------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_intro_lists_every_page():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    pages = [page["file"] for part in contents["parts"] for page in part["chapters"]]
    intro = nbformat.read(ROOT / "book" / "intro.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in intro.cells if cell.cell_type == "markdown")
    linked = [Path(page).name for page in pages if f"]({Path(page).name}." in text]
    assert linked == [Path(page).name for page in pages]


# --- pictures on white paper --------------------------------------------------------------------


def sheet_of(curves=0):
    """White paper with a word-like mark, two pictures side by side, a swatch, and thick curves."""
    pixels = np.full((120, 200, 3), 255, np.uint8)
    pixels[5:15, 10:12] = 0  # a letter
    pixels[30:90, 10:90] = np.random.default_rng(0).integers(0, 240, (60, 80, 3))
    pixels[30:90, 110:190] = (128, 64, 128)
    pixels[100:108, 20:40] = (0, 0, 142)
    for row in range(curves):
        pixels[92 + 2 * row, ::2] = (220, 20, 60)
    return pixels


def test_pictures_are_found_on_their_paper():
    pixels = sheet_of()
    assert paper.is_on_paper(pixels)
    boxes = [(10, 30, 90, 90), (110, 30, 190, 90), (20, 100, 40, 108)]
    assert paper.pictures(pixels) == boxes
    (shape,) = paper.shape_of([pixels])
    assert "5.00% 25.00%,45.00% 25.00%,45.00% 75.00%,5.00% 75.00%" in shape
    assert not paper.is_on_paper(pixels[30:90, 10:90])


def test_what_a_white_outline_encloses_stays_a_picture():
    pixels = sheet_of()
    found = paper.pictures(pixels)
    pixels[38:72, 120:164] = 255
    pixels[40:70, 122:162] = (220, 220, 0)
    assert paper.pictures(pixels) == found  # not one hole more: two of them would be paper again


@pytest.mark.parametrize("frames", [
    [np.full((120, 200, 3), 255, np.uint8)],  # no picture: a chart
    [sheet_of(curves=14)],  # much colour outside the pictures
    [sheet_of(), np.full((120, 200, 3), 255, np.uint8)],  # one figure does not change its paper
])  # fmt: skip
def test_paper_stays_white(frames):
    assert paper.shape_of(frames) == [""] * len(frames)


def test_figures_on_paper_are_marked(tmp_path):
    (tmp_path / "_images").mkdir()
    Image.fromarray(sheet_of()).save(tmp_path / "_images" / "a.png")
    Image.fromarray(sheet_of()[30:90, 10:90]).save(tmp_path / "_images" / "b.png")
    buffer = io.BytesIO()
    Image.fromarray(sheet_of(curves=14)).save(buffer, "PNG")
    data = f"data:image/png;base64,{paper.base64.b64encode(buffer.getvalue()).decode()}"
    page = (
        '<div class="cell docutils"><img alt="on paper" src="_images/a.png" /></div>'
        '<div class="cell docutils"><img alt="a picture" src="_images/b.png" /></div>'
        '<div class="cell tag_chart docutils"><img alt="a chart" src="_images/a.png" /></div>'
        f'{{"value": "<img class=\\"dark-light\\" alt=\\"frame\\" src=\\"{data}\\">"}}'
    )
    turned = paper.turn(page, tmp_path)
    assert paper.turn(turned, tmp_path) == turned
    soup = BeautifulSoup(turned.replace('\\"', '"'), "html.parser")
    assert {image["alt"]: image.parent.get("class") for image in soup.find_all("img")} == {
        "on paper": ["setr-paper"], "a picture": ["cell", "docutils"],
        "a chart": ["cell", "tag_chart", "docutils"], "frame": ["setr-card"],
    }  # fmt: skip
    assert "evenodd" in soup.select_one(".setr-paper")["style"]
