"""The page of claims: what the book concludes still stands, and its controls can win.

Each claim is a function of its record that returns the sentence's numbers and whether the claim
holds. For each there is a second function, which gives the control the better number in a copy of
the record: the claim has to fall then, or its test could not fail.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
import torch
from figures.silent_bugs import chosen_on_half, found_by_drawn, reads_a_run, seconds_of

from setr_lite import SETR, get_recipe
from setr_lite.model import count_parameters
from setr_lite.recipes.published import PAPER_PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "data" / "runs"
PAGE = (ROOT / "book" / "claims.md").read_text("utf-8")
SECTIONS = {name: " ".join(text.split()) for name, text in re.findall(
    r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)}
NOT_YET = set(re.findall(
    r"^### (.+)$", PAGE.partition("\n## Photographs, not fully controlled\n")[2], re.M))
"""Observations: they have a test, and no place in the table of claims."""

pytestmark = pytest.mark.smoke

Record = Any
Found = tuple[list[str], bool]
"""Numbers as the page prints them, and whether the claim holds."""


class Claim(NamedTuple):
    """A conclusion and how it could be lost."""

    record: str
    """Below data/runs."""
    holds: Callable[[Record], Found]
    spoil: Callable[[Record], None]
    """Gives the control the better number."""


def with_interval(table: dict[str, Any], *place: int, digits: int = 2, times: float = 1) -> str:
    """`0.09 (0.05 to 0.13)`."""
    return mean_and_interval(
        *(times * np.array(table[key])[place] for key in ("mean", "low", "high")), digits=digits)


def mean_and_interval(mean: float, low: float, high: float, digits: int = 2) -> str:
    """With `0.00` for what is rounded to nothing from below."""
    return f"{mean:z.{digits}f} ({low:z.{digits}f} to {high:z.{digits}f})"


# --- attention, influence, place -----------------------------------------------------------------

OWN_KIND = ((1, 1), (2, 1), (4, 1))
"""Block and head, from 0, of those that find their own kind."""


def own_kind(record: Record) -> Found:
    gap, (b, a) = record["own_minus_same_offset"], OWN_KIND[1]
    said = [with_interval(gap, *place, digits=1, times=100) for place in OWN_KIND]
    said += [f"{100 * record[key]['mean'][b][a]:.1f} %" for key in ("own", "same_offset")]
    rest = sorted(100 * mean for b, block in enumerate(gap["mean"]) for a, mean in enumerate(block)
                  if (b, a) not in OWN_KIND)
    said += [f"{rest[-3]:.1f} to {rest[-1]:.1f} points, the other nine by at most {rest[-4]:.1f}"]
    return said, all(gap["low"][b][a] > 0.10 for b, a in OWN_KIND)


def spoil_own_kind(record: Record) -> None:
    for key in ("mean", "low", "high"):
        record["own_minus_same_offset"][key][2][1] -= 0.2


def rollout(record: Record) -> Found:
    name = "distance from the mean colour"
    gap, each = record["rollout_minus"][name], record["correlation"]
    average = "rollout of the average token"
    strong = record["rollout_minus"][average]
    levels = [f"is {each['rollout']['mean'][0]:.2f}, and {each[name]['mean'][0]:.2f} for",
              f"{each[average]['mean'][0]:.2f}, with a difference of {with_interval(strong, 0)}"]
    return [with_interval(gap, 0), *levels], gap["low"][0] > 0 and strong["low"][0] > 0


def spoil_rollout(record: Record) -> None:
    gap = record["rollout_minus"]["distance from the mean colour"]
    gap["low"][0], gap["mean"][0] = -0.01, 0.02


def which_explanation(record: Record) -> Found:
    gaps = [record["rollout_minus"][name] for name in ("gradient", "rollout weighted by values")]
    said = [with_interval(gap, i) for gap in gaps for i in (0, 1)]
    return said, all(gap["low"][0] > 0 > gap["high"][1] for gap in gaps)


def spoil_which(record: Record) -> None:
    record["rollout_minus"]["gradient"]["high"][1] = 0.01


def heads(record: Record) -> Found:
    per_block = record["shape"][1]
    places = [b * per_block + a for b, a in OWN_KIND]
    finders = [record["loses"][i] for i in places]
    first = record["loses"][0]
    *most, (largest, _, _) = sorted(
        (loss for i, loss in enumerate(record["loses"]) if i not in places), reverse=True)[:4]
    rest = sorted(loss[0] for i, loss in enumerate(record["loses"]) if i not in places)[:-3]
    said = [*(mean_and_interval(*loss) for loss in (first, *finders)),
            *(f"{mean:.2f}" for mean, _, _ in most), f"missed by more than {largest:.2f}",
            f"The nine that are left cost {rest[0]:.2f} to {rest[-1]:.2f}, with a median of "
            f"{np.median(rest):.2f}"]
    return said, len(rest) == 9 and all(
        mean <= largest and high < first[1] for mean, _, high in finders)


def spoil_heads(record: Record) -> None:
    record["loses"][7] = [1.8, 1.2, 2.4]


def row(record: Record) -> Found:
    start, *with_ = record["with position table"]
    without = record["without position table"][1:]
    said = [mean_and_interval(t["row and column"][i], t["low"][i], t["high"][i])
            for t, i in ((with_[-1], 0), (without[-1], 0), (start, 1))]
    each = [table["row and column"][0] for table in with_]
    first = without[0]["row and column"][0]
    said += [f"{min(each):.2f} to {max(each):.2f} after each of the five blocks",
             f"rises from {first:.2f} after block 1 to"]
    half = all(b["low"][0] > a["high"][0] / 2 for a, b in zip(with_, without, strict=True))
    return said, len(with_) == 5 and half and start["high"][1] < 0.5


def spoil_row(record: Record) -> None:
    record["without position table"][-1]["low"][0] = 0.1


def cosines(record: Record) -> Found:
    kinds = ("auxiliary", "another main head")
    each = {(head, kind): (min(record[head][kind]["least"]), max(record[head][kind]["largest"]))
            for head in ("naive", "pup", "mla") for kind in kinds}
    whole = [(min(low for (_, k), (low, _) in each.items() if k == kind),
              max(high for (_, k), (_, high) in each.items() if k == kind)) for kind in kinds]
    limits = [*whole, *(each[head, kind] for head in ("pup", "mla") for kind in kinds)]
    said = [f"{low:.3f} to {high:.3f}" for low, high in limits]
    if whole[1] == each["naive", "another main head"]:
        said.append("Only Naive's control scatters that far.")
    return said, all(-0.1 < low <= high < 0.1 for low, high in whole)


def spoil_cosines(record: Record) -> None:
    record["pup"]["another main head"]["largest"][0] = 0.4


# --- trainings -----------------------------------------------------------------------------------


def scores(record: Record, **which: Any) -> list[float]:
    return [100 * run["miou"] for run in record["runs"] if which.items() <= run.items()]


def pup_leads(record: Record) -> Found:
    """PUP against the others, at its end and after no more processor time than theirs."""
    found = {head: scores(record, head=head, aux=True) for head in ("pup", "naive", "mla")}
    runs = {head: [run for run in record["runs"] if run["aux"] and run["head"] == head]
            for head in found}
    steps = {head: of[0]["steps"] for head, of in runs.items()}
    seconds = {head: float(np.mean([run["seconds"]["cpu"] for run in of if run["seconds"]]))
               for head, of in runs.items()}
    early, *_ = runs["pup"][0]["mious"][-2]
    then = [100 * dict(run["mious"])[early] for run in runs["pup"]]
    said = [*(f"{', '.join(f'{v:.1f}' for v in found[head])} | {steps[head]} | {seconds[head]:.0f}"
              for head in found),
            f"PUP after {early} of its {steps['pup']}", f"at least {min(then):.1f}"]
    no_more_time = seconds["pup"] * early / steps["pup"] < min(seconds["naive"], seconds["mla"])
    mla = [run["seconds"]["cpu"] for run in runs["mla"]]
    said += [f"{seconds['pup'] * early / steps['pup']:.0f} against {seconds['mla']:.0f} s",
             f"MLA took {min(mla)} to {max(mla)}"]
    return said, no_more_time and min(found["pup"] + then) > max(found["naive"] + found["mla"])


def spoil_pup(record: Record) -> None:
    next(r for r in record["runs"] if r["head"] == "mla")["miou"] = 0.8


def gains(records: Record, without: str, head: str) -> list[float]:
    """mIoU with auxiliary losses minus without, seed by seed."""
    pair = [{run["seed"]: 100 * run["miou"] for run in records[name]["runs"]
             if run["head"] == head and run["aux"] == aux}
            for name, aux in (("steps", True), (without, False))]
    return [pair[0][seed] - pair[1][seed] for seed in sorted(pair[1])]


def aux_time(records: Record) -> Found:
    steps = gains(records, "steps", "pup")
    time = {head: gains(records, "time", head) for head in ("pup", "mla", "naive")}
    said = ["{:+.2f}, {:+.2f} and {:+.2f}".format(*values) for values in (steps, *time.values())]
    prices = [f"{records['time']['price'][head]['ratio']:.2f}" for head in time]
    return [*said, *prices], max(time["pup"]) < min(steps) / 2


def spoil_aux_time(records: Record) -> None:
    next(run for run in records["time"]["runs"] if run["head"] == "pup")["miou"] -= 0.02


def bf16(record: Record) -> Found:
    exact, rounded = (scores(record, head="pup", amp=amp) for amp in ("off", "bf16"))
    apart = max(abs(a - b) for a, b in zip(exact, rounded, strict=True))
    seeds = max(exact) - min(exact)
    said = [", ".join(f"{v:.2f}" for v in values) for values in (rounded, exact)]
    older = json.loads((RUNS / "auxiliary/results.json").read_text())
    earlier = scores(older, head="pup", aux=True)
    again = [abs(a - b) for a, b in zip(exact, earlier, strict=True)]
    said += [f"{apart:.2f} points", f"{seeds:.2f} points", f"{min(again):.2f} to {max(again):.2f}"]
    return said, len(exact) >= 3 and apart < seeds


def spoil_bf16(record: Record) -> None:
    next(r for r in record["runs"] if r["amp"] == "bf16")["miou"] -= 0.02


def unseen_drive(records: Record) -> Found:
    drops, others = [], []
    for seen, unseen in records.values():
        gap = [100 * (seen["classes"][name]["iou"] - unseen["classes"][name]["iou"])
               for name in seen["averaged"] if name != "bicyclist"]
        drops.append(float(np.mean(gap)))
        others.append(100 * (seen["miou"] - unseen["miou"]))
    said = [f"{min(drops):.1f} to {max(drops):.1f}", f"{min(others):.1f} to {max(others):.1f}"]
    return said, min(drops) > 5 and max(drops) < max(others)


def spoil_unseen(records: Record) -> None:
    seen, unseen = records["linear"]
    unseen["classes"] = seen["classes"]


def scored(record: Record, test: str = "val", **arm: str) -> np.ndarray:
    """mIoU of each seed of an arm, in percent."""
    return np.array([100 * run["scores"][test]["miou"] for run in record["runs"]
                     if arm.items() <= run.items()])


def taps(records: Record) -> Found:
    probe, first = (100 * records[head]["miou"] for head in ("linear", "mla"))
    whole = [first, *(100 * run["scores"]["val"]["miou"] for run in records["rates"]["runs"]
                      if (run["head"], run["steps"]) == ("mla", 1200))]
    four = scored(records["controls"], head="linear", images="train", taps="four")
    same = scored(records["controls"], head="mla", images="train", taps="same")
    rows = [("probe of the last block", [probe], "linear", "last"),
            ("probe of MLA's four blocks", four, "linear", "four"),
            ("MLA on its four blocks", whole, "mla", "mla"),
            ("MLA on the last block alone", same, "mla", "same")]
    said = []
    for model, val, head, read in rows:
        drive = scored(
            records["controls"], "last of the drive", head=head, images="unseen", taps=read)
        cells = [", ".join(f"{seed:.1f}" for seed in seeds) for seeds in (val, drive)]
        said.append(f"| {model} | {' | '.join(cells)} |")
    return said, bool(min(four) > max((probe + max(whole)) / 2, *same))


def spoil_taps(records: Record) -> None:
    for run in records["controls"]["runs"]:
        if run["taps"] == "same":
            run["scores"]["val"]["miou"] = 0.63


def of_ten(record: Record, test: str = "val", **arm: str) -> np.ndarray:
    """Mean IoU without bicyclist of each seed of an arm, in percent."""
    return np.array([100 * np.mean([iou for name, iou in run["scores"][test]["iou"].items()
                                    if name != "bicyclist"])
                     for run in record["runs"] if arm.items() <= run.items()])


def same_drive(records: Record) -> Found:
    arms, last = records["controls"], "last of the drive"
    lost, gained = [], []
    for head in ("linear", "naive"):
        unseen = {"head": head, "images": "unseen", "taps": "last"}
        lost += [*(of_ten(arms, **unseen) - of_ten(arms, last, **unseen))]
        gained += [*(of_ten(arms, last, **unseen | {"images": "seen"})
                     - of_ten(arms, last, **unseen))]
    left = np.subtract(lost, gained)
    few = scored(arms, head="linear", images="unseen", taps="last")
    mla = [of_ten(arms, last, head="mla", images=images, taps="mla")[0]
           for images in ("unseen", "seen")]
    drop = of_ten(arms, head="mla", images="unseen", taps="mla").item() - mla[0]
    learned = scored(arms, last, head="linear", images="train", taps="four")
    ranges = [f"{min(points):.1f} to {max(points):.1f}" for points in (lost, gained, left, few)]
    gain = mla[1] - mla[0]
    said = [f"| {' | '.join(ranges[:3])} |", ranges[3], f"{100 * records['linear']['miou']:.1f}",
            f"| {drop:.1f} | {gain:.1f} | {drop - gain:.1f} |",
            f"has an mIoU of {min(learned):.1f} to {max(learned):.1f} on them"]
    share = np.divide(gained, lost)
    return said, bool(min(share) > 0.25 and max(share) < 0.55)


def spoil_same_drive(records: Record) -> None:
    for run in records["controls"]["runs"]:
        if run["images"] == "seen" and run["seed"] == 2:
            for name in run["scores"]["last of the drive"]["iou"]:
                run["scores"]["last of the drive"]["iou"][name] += 0.05


def pup_rate(records: Record) -> Found:
    """After 400 steps, seed 0, at four rates."""
    def swept(head: str, test: str = "val") -> list[float]:
        return [100 * run["scores"][test]["miou"] for run in records["rates"]["runs"]
                if (run["head"], run["seed"], run["steps"]) == (head, 0, 400)]

    pup, seen = swept("pup"), swept("pup", "50 of the training images")
    best = {head: max(swept(head)) for head in ("linear", "naive", "mla")}
    at_recipe = {run["head"]: 100 * run["scores"]["val"]["miou"] for run in records["rates"]["runs"]
                 if (run["rate"], run["seed"], run["steps"]) == (0.015, 0, 400)}
    longer = {head: 100 * records[head]["miou"] - at_recipe[head] for head in ("pup", "linear")}
    said = [f"PUP has {min(pup):.1f} to {max(pup):.1f} on", f"four is {best['linear']:.1f}.",
            f"PUP has {min(seen):.1f} to {max(seen):.1f}, so",
            f"Naive's best is {best['naive']:.1f}, MLA's {best['mla']:.1f}.",
            f"PUP gains {longer['pup']:.1f} points and the probe {longer['linear']:.1f}"]
    return said, len(pup) == 4 and max(pup) < min(best["linear"], best["naive"])


def spoil_pup_rate(records: Record) -> None:
    """A high rate suits PUP."""
    for run in records["rates"]["runs"]:
        if run["head"] == "pup" and run["rate"] == 0.045:
            run["scores"]["val"]["miou"] += 0.1


def pretrained(records: Record) -> Found:
    frozen, fresh = (100 * records[key]["miou"] for key in ("frozen", "fresh"))
    return [f"{frozen:.1f}", f"{fresh:.1f}"], frozen > fresh + 10


def spoil_pretrained(records: Record) -> None:
    records["fresh"]["miou"] = 0.5


def ladder(record: Record) -> Found:
    rungs = {rung["name"]: rung for rung in record["found"]}
    start, end = rungs["classify at low resolution"], rungs["fused attention"]
    gains = [start[key] / end[key] for key in ("seconds", "bytes")]
    said = [f"{start['seconds']:.1f} to {end['seconds']:.1f} s",
            f"{start['bytes'] / 1e9:.2f} to {end['bytes'] / 1e9:.2f} GB",
            *(f"{gain:.1f}" for gain in gains)]
    return said, min(gains) > 2


def spoil_ladder(record: Record) -> None:
    record["found"][1]["seconds"] = record["found"][-1]["seconds"]


def readings(record: Record) -> Found:
    said, never_ahead = [], True
    for labels in ("corner", "majority", "shares", "full size"):
        probe, *tokens = (r for r in record["runs"] if r["labels"] == labels)
        three = ", ".join(f"{run['miou']:.1f}" for run in tokens)
        said.append(f"{mean_and_interval(probe['miou'], *probe['interval'], digits=1)} | {three}")
        never_ahead &= max(run["miou"] for run in tokens) < probe["interval"][1]
    found = {kind: [run["miou"] for run in record["runs"] if (run["reader"], run["labels"]) == kind]
             for kind in (("linear probe", "shares"), ("class tokens", "corner"))}
    (shares,), corners = found.values()
    said.append(f"{shares - max(corners):.1f} to {shares - min(corners):.1f} points")
    return said, never_ahead


def spoil_readings(record: Record) -> None:
    record["runs"][-1]["miou"] = 80.0


def mask_loss(record: Record) -> Found:
    """Of few classes and of many: three seeds of each version, and the run of twice the steps."""
    def miou(**arm: str) -> list[float]:
        return [run["miou"] for run in record["runs"] if arm.items() <= run.items()]

    said, too, holds = [], [], True
    for words in ("few", "many"):
        masks, pixels, plain = (miou(reader=reader, vocabulary=words, part="score")
                                for reader in ("mask loss", "class queries", "no queries"))
        (longer,) = miou(reader="mask loss", vocabulary=words, part="longer")
        said += [" | ".join(", ".join(f"{value:.1f}" for value in seeds)
                            for seeds in (masks, pixels, plain)), f"{longer:.1f} with"]
        too += miou(reader="class queries", vocabulary=words, part="longer")
        gaps = [pixels[0] - masks[0], too[-1] - longer]  # of seed 0
        holds &= max(*masks, longer) < min(pixels)
    said += ["class queries {:.1f} and {:.1f} (one seed each)".format(*too),
             "shrunk from {:.1f} to {:.1f} points".format(*gaps)]
    return said, holds


def spoil_mask_loss(record: Record) -> None:
    """A longer training catches up."""
    for run in record["runs"]:
        if run["part"] == "longer" and run["vocabulary"] == "many":
            run["miou"] += 5


# --- checks --------------------------------------------------------------------------------------

def checks(record: Record) -> Found:
    """Bugs found by looking at a run and by comparing, without and with a choice of comparisons."""
    looks = reads_a_run(record)
    compares = [check["id"] for check in record["checks"] if check["id"] not in looks]
    cells = [record["outcomes"][bug["id"]] for bug in record["bugs"]]

    def finds(names: Sequence[str]) -> np.ndarray:
        return np.array([any(cell[name]["found"] for name in names) for cell in cells])

    looked, compared = finds(looks), finds(compares)
    gap = 100 * (compared.astype(float) - looked)
    draw = np.random.default_rng(0).integers(len(gap), size=(4000, len(gap)))
    low, high = np.quantile(gap[draw].mean(1), (0.025, 0.975))
    blind = found_by_drawn(record, compares, len(looks))
    seconds = sum(seconds_of(check) for check in record["checks"] if check["id"] in compares)

    shares = 100 * chosen_on_half(record)
    gaps = shares[:, 0] - shares[:, 1]
    least, most = np.quantile(gaps, (0.025, 0.975))
    said = [f"{compared.sum()} of {len(cells)} and take {seconds:.0f} s together",
            f"Looking at a run finds {looked.sum()} of {len(cells)}",
            f"{gap.mean():.0f} points ({low:.0f} to {high:.0f})", f"find {blind:.1f} on average",
            f"{shares[:, 0].mean():.0f} % of it", f"the four looks {shares[:, 1].mean():.0f} %",
            f"{gaps.mean():.0f} points, and 95 % of the halves lie between "
            f"{least:.0f} and {most:.0f}"]
    healthy = [*record["outcomes"]["healthy"].values(),
               *(cell for control in record["controls"].values() for cell in control.values())]
    holds = low > 0 and blind > looked.sum() and gaps.mean() > 0
    return said, bool(holds) and not any(cell["found"] for cell in healthy)


def spoil_checks(record: Record) -> None:
    """Label maps tell more bugs than four comparisons drawn blindly; no alarm is false."""
    for bug in record["bugs"][:14]:
        record["outcomes"][bug["id"]]["pictures"]["found"] = True


CLAIMS = {
    "own-kind": Claim("inside_controls/own_kind.json", own_kind, spoil_own_kind),
    "rollout": Claim("inside_controls/influence.json", rollout, spoil_rollout),
    "which-explanation": Claim("inside_controls/influence.json", which_explanation, spoil_which),
    "heads": Claim("inside_controls/heads.json", heads, spoil_heads),
    "row": Claim("inside_controls/place.json", row, spoil_row),
    "cosines": Claim("inside_controls/cosines.json", cosines, spoil_cosines),
    "readings": Claim("readings/results.json", readings, spoil_readings),
    "mask-loss": Claim("queries/results.json", mask_loss, spoil_mask_loss),
    "pup-leads": Claim("auxiliary/results.json", pup_leads, spoil_pup),
    "aux-time": Claim("auxiliary/equal_time.json", aux_time, spoil_aux_time),
    "bf16": Claim("precision/results.json", bf16, spoil_bf16),
    "unseen-drive": Claim("camvid_dinov2_linear/record.json", unseen_drive, spoil_unseen),
    "taps": Claim("camvid_controls/results.json", taps, spoil_taps),
    "same-drive": Claim("camvid_controls/results.json", same_drive, spoil_same_drive),
    "pup-rate": Claim("camvid_rates/results.json", pup_rate, spoil_pup_rate),
    "pretrained": Claim("camvid_pup/record.json", pretrained, spoil_pretrained),
    "ladder": Claim("cost/ladder.json", ladder, spoil_ladder),
    "checks": Claim("silent_bugs/record.json", checks, spoil_checks),
}


def read(name: str) -> Record:
    def one(path: str) -> Record:
        return json.loads((RUNS / path).read_text("utf-8"))

    if name == "unseen-drive":
        return {head: [one(f"camvid_dinov2_{head}{where}/record.json") for where in ("", "_unseen")]
                for head in ("linear", "naive", "pup", "mla")}
    if name == "aux-time":
        return {"steps": one("auxiliary/results.json"), "time": one("auxiliary/equal_time.json")}
    if name in ("taps", "same-drive"):
        return {"controls": one("camvid_controls/results.json"),
                "rates": one("camvid_rates/results.json"),
                "linear": one("camvid_dinov2_linear/record.json"),
                "mla": one("camvid_dinov2_mla/record.json")}
    if name == "pup-rate":
        return {"rates": one("camvid_rates/results.json"),
                "linear": one("camvid_dinov2_linear/record.json"),
                "pup": one("camvid_dinov2_pup/record.json")}
    if name == "pretrained":
        return {"frozen": one("camvid_dinov2_linear/record.json"),
                "fresh": one("camvid_pup/record.json")}
    return one(CLAIMS[name].record)


# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_claim_holds(name):
    numbers, holds = CLAIMS[name].holds(read(name))
    assert holds, f"the control of '{name}' has caught up: withdraw the claim or reverse it"
    for number in numbers:
        assert number in SECTIONS[name], f"{name}: the record says {number}"


@pytest.mark.parametrize("name", CLAIMS)
def test_the_control_can_win(name):
    record = copy.deepcopy(read(name))
    CLAIMS[name].spoil(record)
    assert not CLAIMS[name].holds(record)[1]


def test_parameters():
    """All six models agree with the paper; without the dead classifiers none does."""
    dead = 512 * 150 + 150
    for (head, variant), paper in PAPER_PARAMETERS.items():
        if variant == "hybrid":
            continue
        config = get_recipe(f"{head}_ade20k_512_160k").override(
            f"model.encoder=vit_{variant}_patch16", "model.taps=none")
        with torch.device("meta"):
            model = SETR.from_config(config.model)
        used = count_parameters(model)
        assert f"{(used + (1 + len(model.aux_heads)) * dead) / 1e6:.2f}" == f"{paper:.2f}"
        assert f"{used / 1e6:.2f}" != f"{paper:.2f}"


def test_every_claim_names_what_it_rests_on():
    assert set(SECTIONS) == {*CLAIMS, "parameters"}
    for name, text in SECTIONS.items():
        for part in ("**Control.**", "**Fails** if"):
            assert part in text, f"{name}: {part}"
        if name in CLAIMS:
            assert f"**Record.** `data/runs/{CLAIMS[name].record}`" in text, name
    assert "`tests/book/test_claims.py::test_claim_holds[NAME]`" in " ".join(PAGE.split())
    assert "tests/book/test_claims.py::test_parameters`" in SECTIONS["parameters"]


def test_an_observation_says_what_is_not_controlled():
    assert NOT_YET
    for name in NOT_YET:
        assert "*Not controlled yet:*" in SECTIONS[name], name


ROWS = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\) \| (.*) \|$", PAGE, re.M)


def test_the_table_names_every_claim_in_order():
    assert [name for name, _ in ROWS] == [name for name in SECTIONS if name not in NOT_YET]


@pytest.mark.parametrize(("name", "words"), ROWS, ids=[name for name, _ in ROWS])
def test_the_table_has_the_numbers_of_its_claim(name, words):
    """The sections' numbers are those of the records."""
    number = r"(?<![\w.])-?\d+(?:\.\d+)?"
    told = set(re.findall(number, SECTIONS[name]))
    assert set(re.findall(number, words.replace("+", ""))) <= told


def test_no_heading_has_the_address_of_a_claim():
    """Of two headings with one address only the first would get its sentence."""
    headings = re.findall(r"^## (.+)$", PAGE, re.M)
    assert not {heading.lower().replace(" ", "-") for heading in headings} & set(SECTIONS)


def test_links_to_claims_lead_to_one():
    linked = set()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                linked |= set(re.findall(r"\(claims\.md#([\w-]+)\)", cell.source))
    assert linked, "no chapter links to a claim"
    assert linked - {"open"} <= set(SECTIONS)
