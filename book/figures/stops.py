"""Where the journey of one pixel stops: chapter -> the drawings there, and what is said with them.

The build reads this table only; `journey` draws.
"""

STOPS: dict[str, tuple[str, ...]] = {
    "01_segmentation": ("pixel",),
    "02_patch_embedding": ("patch",),
    "03_position": ("place",),
    "04_encoding": ("attention", "stream"),
    "05_naive": ("naive",),
    "06_pup": ("pup",),
    "07_mla": ("mla",),
    "10_measuring": ("score",),
}
TITLE = "One pixel, one journey"
FIRST = (
    "The framed pixel lies at the right edge of a lamp post in another street of ToyTown. Later "
    'chapters meet it again: next as part of a <a href="02_patch_embedding.html">patch</a>, then '
    "as a token, a row of attention, and a class."
)
AGAIN = "The pixel of the lamp post, from the first chapter, in the trained models of ToyTown."
