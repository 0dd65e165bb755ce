"""The pages speak the field's language: gradient, not slope; GPU, not card; you, not whoever.

A word of our own hides the one that a reader would search for. The list names each with the field's
word beside it, and where it may stand all the same. The second list holds sentences that were read
as translated; none of them may come back on any page.
"""

import html
import json
import re
from pathlib import Path

import pytest
import yaml

BOOK = Path(__file__).resolve().parents[2] / "book"
pytestmark = pytest.mark.smoke

WORDS = {
    r"slopes?": "gradient, derivative",
    r"bends?": "nonlinearity",
    r"linear readings?": "linear probe",
    r"cards?": "GPU",
    r"pictures?": "image",
    r"spreads?": "standard deviation, range, variance",
    r"hears?|heard|listen(s|ed|ing)?": "attends to, sees, receives",
    r"loud(er|est|ly|ness)?|shouts?|whispers?": "large, weight, score",
    r"whoever|nobody|somebody|anybody": "you, a user, no one",
    r"askers?|near-sighted|far-sighted": "query, local, global",
}
"""Pattern of a word of our own -> what the field says."""

ALLOWED = {
    "spread below": "dots of a plot",
    "bicyclist spread": "dots of a plot",
    "your own picture": "the title of a chapter and of its links",
}
"""Text around a word, in lower case -> why it may stand there."""

PHRASES = (
    "so-manieth", "pictures look well", "for who asks", "which many people met", "in small:",
    "the doing of the neck", "how loud a block", "carry no law", "is what is made smaller",
    "asked for it, the authors", "trained from nothing", "told below", "with us, ",
    "start anew", "masks cannot be saved", "bytes go round", "numbers round 0",
    "are shared out among", "does not begin at zero", "of the gpu are aims", "who ate four points",
    "the square takes over", "that nobody needed", "half is too small for",
)  # fmt: skip


def prose(markdown):
    """Without code, formulas, addresses and the names of directives; one space between words."""
    text = re.sub(r"^(`{3,})(?![^\n]*\{).*?^\1$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$|`[^`\n]*`", " ", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)|^\s*:\w+:.*$|<[^>]+>", " ", text, flags=re.M)
    return " ".join(text.replace("*", "").split())


def described(value, key=""):
    """Captions and texts for the blind in a cell's metadata."""
    if isinstance(value, dict):
        return [text for k, v in value.items() for text in described(v, k)]
    return [value] if key in ("alt", "caption") else []


def page_texts():
    """Name of a page -> its prose: cells, captions, exercises, plain pages and drawn figures."""
    pages = {path.stem: [path.read_text("utf-8")] for path in BOOK.glob("*.md")}
    for path in BOOK.glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        pages[path.stem] = [
            text for cell in cells
            for text in (["".join(cell["source"])] if cell["cell_type"] == "markdown" else [])
            + described(cell["metadata"])
        ]  # fmt: skip
    for path in BOOK.glob("exercises/*.yml"):
        text = yaml.dump(yaml.safe_load(path.read_text("utf-8")), width=1000)
        pages.setdefault(path.stem, []).append(text)
    for path in BOOK.glob("figures/drawn/*.svg"):
        found = re.findall(r">([^<>]+)<", path.read_text("utf-8"))
        pages[f"drawn {path.stem}"] = [html.unescape(" ".join(found))]
    return {name: [prose(text) for text in texts] for name, texts in pages.items()}


def private_words(text):
    """What a text has of our own words, each with its surroundings and the field's word."""
    found = []
    for pattern, better in WORDS.items():
        for match in re.finditer(rf"\b({pattern})\b", text, re.I):
            around = text[max(match.start() - 40, 0) : match.end() + 40]
            if not any(context in around.lower() for context in ALLOWED):
                found.append(f"... {around} ... ({better})")
    return found


@pytest.fixture(scope="module")
def pages():
    return page_texts()


def test_pages_use_the_words_of_the_field(pages):
    found = [f"{name}: {hit}" for name, texts in pages.items() for t in texts
             for hit in private_words(t)]  # fmt: skip
    assert not found, "\n".join(found)


def test_no_odd_sentence_comes_back(pages):
    found = [(name, phrase) for name, texts in pages.items() for phrase in PHRASES
             if any(phrase in text.lower() for text in texts)]  # fmt: skip
    assert not found


def test_what_is_allowed_stands_somewhere(pages):
    everything = " ".join(text.lower() for texts in pages.values() for text in texts)
    assert not [context for context in ALLOWED if context not in everything]


@pytest.mark.parametrize(
    "sentence",
    [
        "What slope reaches the parameter?",
        "Two linear layers with a bend between.",
        "One picture a card.",
        "divide by the table's own spread",
        "The car hears the road.",
        "*Whoever* wants it may ask [somebody](x.ipynb).",
    ],
)
def test_a_planted_word_is_found(sentence):
    assert private_words(prose(sentence))


def test_code_formulas_and_allowed_places_are_left_alone():
    text = "Call `spread(picture)` for $slope$.\n```python\ncard = 1  # nobody\n```\n"
    assert not private_words(prose(text))
    assert not private_words(prose("# Segment your own picture"))


def test_a_planted_sentence_is_found():
    text = prose("Nothing crashes, and the pictures\nlook **well**.").lower()
    assert any(phrase in text for phrase in PHRASES)


# --- a line that MyST takes for a comment ---------------------------------------------------------


def vanishing(markdown):
    """Lines that begin with %, outside of fenced code: the built page leaves them out. Below an
    address on the page of claims such a line is its heading."""
    markdown = re.sub(r"^(##+ \w[\w-]*)\n\n% ", r"\1\n\n", markdown, flags=re.M)
    text = re.sub(r"^(`{3,})(?![^\n]*\{).*?^\1`*$", "", markdown, flags=re.S | re.M)
    return re.findall(r"^[ \t]*%.*$", text, flags=re.M)


def test_no_line_of_a_page_vanishes():
    texts = {path.name: [path.read_text("utf-8")] for path in BOOK.glob("*.md")}
    for path in BOOK.glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts[path.name] = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert len(texts) > 30
    found = [(name, line) for name, parts in texts.items() for t in parts for line in vanishing(t)]
    assert not found, "wrap the paragraph anew"


def test_a_planted_line_vanishes():
    assert vanishing("ten times as much at 90\n%, and the end of the") == ["%, and the end of the"]
    assert not vanishing("```text\n%cd setr/book\n```\n90 % of them")
