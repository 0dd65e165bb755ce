"""Make ``recipes_mmseg.json``: the SETR configs of mmsegmentation 1.2.2, resolved.

Run ``DIR/bin/python tests/golden/make_recipes.py`` in the environment that ``sh
tests/oracle/setup.sh DIR`` makes. The configs lie in mmsegmentation's wheel, under
``mmseg/.mim/configs/setr``; mmengine resolves their ``_base_`` files. Scores, memory and weights
come from ``metafile.yaml`` beside them.

The file holds ``{name of the config: {what: value}}``, in mmsegmentation's own words where it has
one. Sizes are (height, width), except ``*_scale``, which are mmsegmentation's (long, short).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any


def facts(config: Any) -> dict[str, Any]:
    """What decides the result of a resolved mmengine config."""
    model, loader = config.model, config.train_dataloader
    train = {step.type: step for step in loader.dataset.pipeline}
    test = {step.type: step for step in config.test_dataloader.dataset.pipeline}
    (schedule,) = config.param_scheduler
    return {
        "backbone": dict(model.backbone),
        "neck": dict(model.get("neck") or {}),
        "decode_head": dict(model.decode_head),
        "auxiliary_head": [dict(head) for head in model.auxiliary_head],
        "mean": model.data_preprocessor.mean,
        "std": model.data_preprocessor.std,
        "dataset": loader.dataset.type,
        "reduce_zero_label": train["LoadAnnotations"].get("reduce_zero_label", False),
        "train_pipeline": list(train),
        "train_scale": train["RandomResize"].scale,
        "ratio_range": train["RandomResize"].ratio_range,
        "crop_size": train["RandomCrop"].crop_size,
        "cat_max_ratio": train["RandomCrop"].cat_max_ratio,
        "flip": train["RandomFlip"].prob,
        "batch_per_gpu": loader.batch_size,
        "optim_wrapper": dict(config.optim_wrapper),
        "schedule": dict(schedule),
        "max_iters": config.train_cfg.max_iters,
        "val_interval": config.train_cfg.val_interval,
        "save_interval": config.default_hooks.checkpoint.interval,
        "log_interval": config.default_hooks.logger.interval,
        "test_scale": test["Resize"].scale,
        "test_cfg": dict(model.test_cfg),
    }


def results(entry: dict[str, Any]) -> dict[str, Any]:
    """Scores, memory per card in GB and the weights' address of a metafile entry."""
    return {
        "metrics": entry["Results"]["Metrics"],
        "batch_size": entry["Metadata"]["Batch Size"],
        "memory_gb": entry["Metadata"]["Memory (GB)"],
        "weights": entry["Weights"],
    }


def lines(name: str, entry: dict[str, Any]) -> str:
    """An entry as JSON, one line for each of its values."""
    values = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry[key])}" for key in entry)
    return f" {json.dumps(name)}: {{\n{values}\n }}"


def main() -> None:
    """Write the file beside this script."""
    import yaml
    from mmengine.config import Config

    (package,) = importlib.util.find_spec("mmseg").submodule_search_locations
    folder = Path(package) / ".mim/configs/setr"
    published = {
        entry["Name"]: results(entry)
        for entry in yaml.safe_load((folder / "metafile.yaml").read_text("utf-8"))["Models"]
    }
    record = {
        path.stem: {**facts(Config.fromfile(path)), **published[path.stem]}
        for path in sorted(folder.glob("*.py"))
    }
    out = Path(__file__).with_name("recipes_mmseg.json")
    out.write_text("{\n" + ",\n".join(map(lines, record, record.values())) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
