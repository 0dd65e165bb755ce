"""Checkpoints on the Hugging Face hub, in the folder format of this library."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..checkpoint import read_config, read_info, save_checkpoint, sha256
from ..errors import UserError
from ..evaluate.scores import summary
from ..model import SETR

FILES = ("model.safetensors", "config.json", "state.json")
"""Of a checkpoint, what the hub gets: not the optimiser's state."""


def find_checkpoint(name: str) -> Path | None:
    """The folder of ``user/name``, downloaded the first time and kept where the hub keeps it.

    Returns:
        Its folder; None for a word of another form, and where ``user`` is a folder here: then it
        is a path with a slip in it.

    Raises:
        UserError: no network, or no such model.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or Path(name).parent.exists():
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # hub, network, cache: each raises its own kind
        raise UserError(
            f"{name}: no folder here, and not to be had from the Hugging Face hub "
            f"({_in_short(error)}); give the folder of a checkpoint"
        ) from error


def push_to_hub(
    model: SETR,
    name: str,
    *,
    license: str,
    data: str,
    scores: Mapping[str, Any] | None = None,
    private: bool = False,
) -> str:
    """Upload a model to the Hugging Face hub; `SETR.from_pretrained(name)` loads it.

    Its settings and a model card go with it.

    Args:
        model: loaded by `SETR.from_pretrained`, or with ``model.config`` set.
        name: ``user/name``, made where there is none.
        license: of the weights, an identifier of the hub such as ``cc-by-nc-4.0``; that of the
            data they were trained on counts.
        data: what it was trained on, in a sentence, with its terms.
        scores: as `evaluate.scores.score_checkpoint` gives them, or ``eval --json`` writes them;
            the card shows them with their protocol.
        private: of a new repository.

    Returns:
        The address of the commit.

    Raises:
        UserError: a model without settings; scores of other weights; no network, or no right to
            write there (``hf auth login``).
    """
    if model.config is None:
        raise UserError("push_to_hub: this model has no settings; load it with from_pretrained")
    with TemporaryDirectory() as place:
        folder = save_checkpoint(
            Path(place) / "model", model, model.config, classes=model.classes,
            palette=model.palette,
        )
        card = model_card(folder, name, license=license, data=data, scores=scores)
        return _upload(folder, name, card, private)


def model_card(
    folder: str | Path,
    name: str,
    *,
    license: str,
    data: str,
    scores: Mapping[str, Any] | None = None,
) -> str:
    """The ``README.md`` of a checkpoint on the hub, Markdown with YAML before it.

    Arguments and Raises as `push_to_hub`.
    """
    if scores and scores.get("sha256") != sha256(folder):
        raise UserError(
            f"{folder}: the scores are of other weights, their SHA-256 differs; score this very "
            "checkpoint with `setr-lite eval ... --json FILE`"
        )
    config, classes = read_config(folder), read_info(folder)["classes"]
    facts = {"license": license, "library_name": "setr-lite", "pipeline_tag": "image-segmentation",
             "tags": ["setr", "semantic-segmentation"]}  # fmt: skip
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in facts.items())
    model, size = config.model, "{} x {}".format(*config.model.img_size)
    lines = [
        f"---\n{front}\n---", f"# {name.rpartition('/')[2]}",
        f"SETR-{model.head} (arXiv 2012.15840) with the encoder {model.encoder}, position table "
        f"for {size}, {model.num_classes} classes.",
        f"Trained on: {data}", f"Licence of the weights: {license}",
        "```python\nfrom setr_lite import SETR\n\n"
        f"model = SETR.from_pretrained({name!r})\n"
        'label = model.predict("photo.jpg")     # (H, W), the class of every pixel\n```',
        "## Scores", summary(dict(scores)) if scores else "None were handed on with the weights.",
        "## Classes", ", ".join(classes) or "Their names are not known.",
        "## Settings", f"```json\n{json.dumps(config.to_dict(), indent=1)}\n```",
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def _upload(folder: Path, name: str, card: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [CommitOperationAdd(file, str(folder / file)) for file in FILES]
    files.append(CommitOperationAdd("README.md", card.encode()))
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, files, commit_message="SETR, its settings and its card")
        return str(done.commit_url)
    except Exception as error:  # hub, network: each raises its own kind
        raise UserError(
            f"{name}: could not be uploaded ({_in_short(error)}); log in with `hf auth login`, and "
            "give user/name"
        ) from error


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
