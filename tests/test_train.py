"""The loop: it learns, resumes bit for bit, survives being stopped, and refuses mistakes."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from setr_lite import checkpoint
from setr_lite.config import TrainConfig
from setr_lite.datasets import load_dataset
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.evaluate.scores import score_checkpoint
from setr_lite.losses import segmentation_loss
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.running.recompute import recompute_encoder
from setr_lite.step import add_gradients, take_step
from setr_lite.train import seed_everything, train

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "toytown_cityscapes"


def settings(out, *more):
    return (
        f"data.root={SAMPLE}", f"train.out={out}", "train.device=cpu", "train.steps=6",
        "train.batch_size=2", "train.workers=0", "train.eval_every=0", "train.save_every=2",
        "train.log_every=1", "data.crop_size=32x48", "eval.limit=2", "model.channels=8", *more,
    )  # fmt: skip


def run(out, *more, recipe="toytown_naive", **options):
    config = get_recipe(recipe).override(*settings(out, *more))
    return train(config, progress=False, **options)


def losses(result):
    return [(int(r["step"]), float(r["loss"])) for r in result["history"] if r["loss"]]


@pytest.mark.smoke
@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_a_run_leaves_everything_it_promises(tmp_path, head):
    result = run(tmp_path / "run", recipe=f"toytown_{head}")
    assert result["finished"]
    assert result["step"] == 6
    assert 0 <= result["miou"] <= 1
    assert [step for step, _ in losses(result)] == [1, 2, 3, 4, 5, 6]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"last", "best", "log.csv", "scores.json", "curves.png", "tensorboard"}
    state = checkpoint.read_state(result["checkpoint"])
    assert (state["step"], state["samples"], state["miou"]) == (6, 12, result["miou"])


def test_your_own_folder_trains_without_code(tmp_path):
    """Masks of the sample as they are, labelIds 0..33, under 34 made-up names."""
    data = tmp_path / "data"
    for split in ("train", "val"):
        for kind, names in (("images", "*_leftImg8bit.png"), ("labels", "*_labelIds.png")):
            (data / kind / split).mkdir(parents=True)
            for i, path in enumerate(sorted(SAMPLE.glob(f"*/{split}/*/{names}"))[:2]):
                shutil.copy(path, data / kind / split / f"{i}.png")
    (data / "classes.txt").write_text("\n".join(f"id {k}" for k in range(34)))
    own = ("data.name=folder", f"data.root={data}", "model.num_classes=34")
    result = run(tmp_path / "run", *own, "train.steps=1")
    info = checkpoint.read_info(result["checkpoint"])
    assert info["classes"][33] == "id 33"
    assert len(info["palette"]) == 34
    assert result["confusion"].matrix.shape == (34, 34)


def test_class_weights_come_from_the_training_masks_and_stay(tmp_path):
    auto = "loss.class_weights=auto"
    result = run(tmp_path, "train.steps=1", auto)
    saved = checkpoint.read_config(result["checkpoint"]).loss.weights()
    sample = load_dataset(get_recipe("toytown_naive").override(f"data.root={SAMPLE}").data, "train")
    counts = torch.stack([sample[i].label.flatten().long().bincount(minlength=256)
                          for i in range(len(sample))]).sum(0)[:19].double()  # fmt: skip
    seen = counts > 0
    assert seen.sum() < 19  # a class that never occurs keeps 1
    rarity = torch.where(seen, counts[seen].quantile(0.5).div(counts).sqrt().clamp(max=10), 1)
    expected = rarity / (rarity * counts).sum() * counts.sum()
    torch.testing.assert_close(
        torch.tensor(saved).double()[seen], expected[seen], rtol=0, atol=6e-5)
    assert set(torch.tensor(saved)[~seen].tolist()) == {1.0}
    plain = run(tmp_path / "plain", "train.steps=1")
    assert losses(plain) != losses(result)
    longer = run(tmp_path, "train.steps=2", auto, resume=True)
    assert checkpoint.read_config(longer["checkpoint"]).loss.weights() == saved
    with pytest.raises(UserError, match=r"loss.class_weights: 2 of them for 19 classes"):
        run(tmp_path / "new", "loss.class_weights=1,2")


def test_the_loss_falls(tmp_path):
    result = run(
        tmp_path, "train.steps=30", "data.ratio_range=1,1", "data.distort=false", "data.flip=0",
        "data.crop_size=96x192", "optim.warmup=0", "model.channels=64")  # fmt: skip
    values = [loss for _, loss in losses(result)]
    assert sum(values[-3:]) < 0.7 * sum(values[:3])


def same_weights(one, other):
    a, b = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_workers_do_not_change_the_result(tmp_path):
    alone = run(tmp_path / "0", "train.steps=2")
    helped = run(tmp_path / "2", "train.steps=2", "train.workers=2")
    assert losses(alone) == losses(helped)


@pytest.mark.parametrize(("head", "exact"), [("linear", True), ("naive", False)])
def test_accumulation_is_exact_where_no_head_has_batch_statistics(tmp_path, head, exact):
    # one part or two: the gradient is the same sum, as long as BatchNorm sees the same images;
    # with batch statistics of a part instead of the batch, the steps must differ
    head = (f"model.head={head}", "model.aux=false", "train.steps=2",
            "optim.name=sgd", "optim.warmup=0")  # fmt: skip
    whole = run(tmp_path / "1", *head)
    parts = run(tmp_path / "2", *head, "train.accumulate=2")
    a, b = (
        load_file(Path(result["checkpoint"]) / "model.safetensors") for result in (whole, parts))
    moved = max((a[name] - b[name]).abs().max().item() for name in a)
    assert (moved < 1e-6) == exact
    (_, one), (_, two) = losses(whole)[1], losses(parts)[1]
    assert (one == pytest.approx(two, rel=1e-5)) == exact


def test_micro_batches_are_the_same_run_and_may_change_on_the_way(tmp_path):
    plain = run(tmp_path / "0", recipe="toytown_mla")
    parts = run(tmp_path / "1", "train.micro_batch=1", "train.steps=4", recipe="toytown_mla")
    parts = run(
        tmp_path / "1", "train.grad_checkpointing=true", recipe="toytown_mla", resume=True)
    for (_, a), (_, b) in zip(losses(plain), losses(parts), strict=True):
        assert a == pytest.approx(b, rel=1e-4)  # float32, sums in another order


def test_everything_is_seen(tmp_path, capsys):
    config = get_recipe("toytown_mla").override(*settings(tmp_path / "run"))
    train(config)
    printed = capsys.readouterr()
    assert re.search(r"^duration +at least .* for 6 steps", printed.out, flags=re.M)
    assert re.search(r"img/s  MFU \d+%", printed.err)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    names = {"loss", "lr", "images_per_s", "mfu", "memory_gib", "miou", "loss/head", "lr/encoder",
             "lr/neck", "lr/head", "iou/road"}  # fmt: skip
    assert names | {f"loss/auxiliary {i}" for i in (1, 2, 3, 4)} <= set(tags["scalars"])
    assert len(tags["images"]) == 2  # eval.limit
    last = {name: events.Scalars(name)[-1].value for name in tags["scalars"]}
    aux = sum(last[f"loss/auxiliary {i}"] for i in (1, 2, 3, 4))
    assert last["loss"] == pytest.approx(last["loss/head"] + 0.4 * aux, rel=1e-5)
    assert 0 < last["mfu"] < 1
    columns = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert columns == "step,loss,lr,images_per_s,miou"


def test_a_step_never_waits_for_the_device():
    """On ``meta`` there are no values: whatever asks for one, as ``.item()`` does, fails."""
    with torch.device("meta"):
        model = SETR(19, "mla", "toy", img_size=(32, 48), channels=8).train()
        image = torch.empty(4, 3, 30, 48)
        label = torch.empty(4, 30, 48, dtype=torch.uint8)
    recompute_encoder(model.encoder, TrainConfig(micro_batch=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for normalize in ("all", "valid"):
        config = get_recipe("toytown_mla").override(
            f"loss.normalize={normalize}", "train.accumulate=2", "optim.clip_norm=1")
        found = take_step(model, optimizer, image, label, config)
    assert found.terms.shape == (5,)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        found.total.item()


@pytest.mark.parametrize(("options", "half"), [({}, False), ({"bf16": True}, True)])
def test_a_step_is_in_float32_unless_asked(options, half):
    model, seen = SETR(19, "naive", "toy", img_size=(16, 16), channels=8).train(), []
    model.encoder.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    image, label = torch.randn(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.uint8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take_step(model, optimizer, image, label, get_recipe("toytown_naive"), **options)
    add_gradients(model, image, label, get_recipe("toytown_naive"), **options)
    assert seen == [half, half]


def still(head):
    """A model in training mode whose BatchNorm does not look at the batch, and three images."""
    model = SETR(19, head, "toy", img_size=(16, 16), channels=8).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    label = torch.randint(0, 19, (3, 16, 16))
    label[0, :9] = 255
    return model, torch.randn(3, 3, 16, 16, dtype=torch.float64), label


@pytest.mark.parametrize("normalize", ["all", "valid"])
def test_parts_of_a_batch_are_the_batch(normalize):
    """Total, terms and gradients; processes exchange theirs once, with the last part."""
    model, image, label = still("naive")
    config = get_recipe("toytown_naive").override(
        "train.batch_size=3", f"loss.normalize={normalize}")
    found, synchronised = [], []
    model.set_requires_gradient_sync = synchronised.append  # what FSDP's models have
    for count in (1, 3):
        model.zero_grad()
        losses = add_gradients(model, image, label, config.override(f"train.accumulate={count}"))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((*losses, *(g.clone() for g in gradients)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    total, terms = found[0][:2]
    torch.testing.assert_close(total, terms[0] + 0.4 * terms[1:].sum())
    assert synchronised == [True, False, False, True]


def test_two_steps_by_hand():
    """Down the gradient of the step's batch, at most `clip_norm` long, after a look at both."""
    model, image, label = still("linear")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights, seen = [p for p in model.parameters() if p.requires_grad], []
    for clip in (0, 0.1):
        config = get_recipe("toytown_naive").override(
            "train.batch_size=3", "loss.normalize=all", f"optim.clip_norm={clip}")
        before = [w.detach().clone() for w in weights]
        loss = segmentation_loss(model(image), label)
        gradients = torch.autograd.grad(loss, weights)
        norm = sum(g.square().sum() for g in gradients).sqrt()
        assert norm > 0.1
        take_step(model, optimizer, image, label, config,
                  look=lambda *values: seen.append((*values, weights[0].detach().clone())))
        wanted = [w - 0.5 * g * (clip / norm if clip else 1)
                  for w, g in zip(before, gradients, strict=True)]  # fmt: skip
        torch.testing.assert_close([w.detach() for w in weights], wanted, rtol=0, atol=1e-7)
        torch.testing.assert_close(seen.pop(), (loss.detach(), norm, before[0]))


def test_an_error_of_the_model_is_not_taken_for_batchnorms():
    def broken(image):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        add_gradients(broken, *still("linear")[1:], get_recipe("toytown_naive"))


def test_ctrl_c_saves_first(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    from setr_lite import train as _  # noqa: F401 (the module, below, not the function)

    loop = sys.modules["setr_lite.train"]
    step = loop.Run.take_step

    def interrupted(self, batch):
        loss = step(self, batch)
        if self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(loop.Run, "take_step", interrupted)
    result = run(tmp_path / "a", "train.save_every=100")
    assert not result["finished"]
    assert checkpoint.read_state(tmp_path / "a" / "last")["step"] == 3
    monkeypatch.undo()
    resumed = run(tmp_path / "a", "train.save_every=100", resume=True)
    assert losses(resumed) == losses(run(tmp_path / "b"))
    assert signal.getsignal(signal.SIGINT) is before


def test_mistakes_are_one_line(tmp_path):
    run(tmp_path, "train.steps=1")
    with pytest.raises(UserError, match=r"holds a run already; continue it with --resume"):
        run(tmp_path, "train.steps=1")
    with pytest.raises(UserError, match=r"has all 1 of train.steps=1; raise train.steps"):
        run(tmp_path, "train.steps=1", resume=True)
    with pytest.raises(UserError, match=r"optim.lr=0.5: the run to resume was made with optim.lr="):
        run(tmp_path, "optim.lr=0.5", resume=True)
    with pytest.raises(UserError, match=r"no checkpoint here"):
        run(tmp_path / "new", resume=True)
    with pytest.raises(UserError, match=r"train.batch_size=3: not a multiple of 1 processes x"):
        run(tmp_path / "new", "train.batch_size=3", "train.accumulate=2")
    with pytest.raises(UserError, match=r"cityscapes has 19 classes; set model.num_classes=19"):
        run(tmp_path / "new", "model.num_classes=5")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written"):
        run(tmp_path / "file" / "new", "train.steps=1")


def test_nobody_trains_from_random_weights_unawares(tmp_path):
    with pytest.raises(UserError) as caught:
        run(tmp_path / "new", "model.pretrained=", "model.encoder=vit_base_patch16")
    assert str(caught.value) == (
        "toytown_naive starts from jx_vit_base_p16_384-83fb41ba.pth, and nobody has said where "
        "that is: give model.pretrained=FILE, or model.pretrained=none to train from random weights"
    )
    assert not (tmp_path / "new").exists()


def test_a_run_starts_from_a_file_and_resumes_without_it(tmp_path, capsys):
    vit, file = VisionTransformer.from_preset("toy", img_size=(96, 192)), tmp_path / "vit.pth"
    torch.save(vit.state_dict() | {"head.bias": torch.zeros(9)}, file)
    still = ("train.steps=1", "optim.lr=1e-30", "optim.min_lr=0")
    config = get_recipe("toytown_naive").override(
        *settings(tmp_path / "run", *still, f"model.pretrained={file}"))
    train(config)
    assert f"{file}: plain ViT, timm's names" in capsys.readouterr().out
    trained = SETR.from_pretrained(tmp_path / "run" / "last").encoder.state_dict()
    torch.testing.assert_close(trained, dict(vit.state_dict()), rtol=0, atol=1e-20)
    file.unlink()
    for said in ("", "none"):  # the checkpoint has the weights, whatever the command says
        more = (*still[1:], f"train.steps={2 + len(said)}", f"model.pretrained={said}")
        run(tmp_path / "run", *more, resume=True)
    saved = checkpoint.read_config(tmp_path / "run" / "last")
    assert saved.model.pretrained == str(file)
    with pytest.raises(UserError, match=r"vit.pth: no such file"):
        run(tmp_path / "new", f"model.pretrained={file}")
    torch.save({"patch_embed.proj.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"has no 'cls_token'"):
        run(tmp_path / "new", f"model.pretrained={file}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_not_there(tmp_path):
    with pytest.raises(UserError, match=r"train.device=cuda: this PyTorch .* sees no CUDA device"):
        run(tmp_path, "train.device=cuda")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(UserError, match=r"step \d: the loss is .*stopped before the update. Imag"):
        run(tmp_path, "optim.lr=1e18", "optim.clip_norm=0", "optim.warmup=0",
            "train.save_every=1")
    kept, before = tmp_path / "nonfinite", tmp_path / "last"
    assert checkpoint.read_state(kept)["step"] >= checkpoint.read_state(before)["step"]
    weights = load_file(kept / "model.safetensors")  # to look at: no model takes what holds NaN
    assert weights.keys() == load_file(before / "model.safetensors").keys()
    names = json.loads((kept / "batch_0.json").read_text())
    assert len(names) == 2
    assert load_file(kept / "batch_0.safetensors")["image"].shape == (2, 3, 32, 48)


def test_seeds_are_the_same_everywhere():
    seed_everything(0, 1)
    first = torch.rand(3)
    seed_everything(0, 2)
    assert not torch.equal(first, torch.rand(3))
    seed_everything(0, 1)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("spoilt", ["weight", "statistic", "moment"])
def test_nan_weights_never_replace_the_last_good_checkpoint(tmp_path, monkeypatch, spoilt):
    """By whatever way: an update that overflows at the step that saves, or memory that flips."""
    loop = sys.modules["setr_lite.train"]
    step = loop.Run.take_step

    def spoiling(self, batch):
        losses = step(self, batch)
        if self.progress.step == 4:
            with torch.no_grad():
                if spoilt == "weight":
                    self.model.head.classifier.weight[0] = torch.nan
                elif spoilt == "statistic":
                    next(self.model.head.buffers())[0] = torch.inf
                elif spoilt == "moment":
                    self.optimizer.state[self.model.head.classifier.weight][
                        "momentum_buffer"][0] = torch.nan
        return losses

    monkeypatch.setattr(loop.Run, "take_step", spoiling)
    with pytest.raises(UserError, match=r"step 4: .* holds NaN or infinity; not saved as a check"):
        run(tmp_path, "optim.name=sgd", "train.save_every=2")
    assert checkpoint.read_state(tmp_path / "last")["step"] == 2
    SETR.from_pretrained(tmp_path / "last")
    kept = load_file(tmp_path / "nonfinite" / "model.safetensors")
    assert (spoilt == "moment") == all(v.isfinite().all() for v in kept.values())
    assert checkpoint.read_state(tmp_path / "nonfinite")["step"] == 4


@pytest.mark.parametrize("rate", ["1e38", "1e300"])
def test_a_rate_beyond_all_numbers_saves_none(tmp_path, rate):
    """Infinite after the first update, or NaN in the second step: finite until it was saved."""
    with pytest.raises(UserError, match=r"step [12]: .*(not saved as a ch|stopped before the up)"):
        run(tmp_path, f"optim.lr={rate}", "optim.warmup=0", "train.save_every=1")
    if (tmp_path / "last").exists():
        SETR.from_pretrained(tmp_path / "last")


def test_two_runs_in_one_folder(tmp_path, monkeypatch):
    loop = sys.modules["setr_lite.train"]
    step, said = loop.Run.take_step, []

    def meddling(self, batch):
        if self.progress.step == 3 and not said:
            for resume in (False, True):
                with pytest.raises(UserError) as caught:
                    run(tmp_path / "a", resume=resume)
                said.append(str(caught.value))
            SETR.from_pretrained(tmp_path / "a" / "last")  # to read is no offence
        return step(self, batch)

    monkeypatch.setattr(loop.Run, "take_step", meddling)
    result = run(tmp_path / "a")
    assert result["finished"]
    assert "holds a run already" in said[0]
    assert f"{tmp_path / 'a'}: process {os.getpid()} on " in said[1]
    assert "has been writing there since" in said[1]
    assert not (tmp_path / "a" / ".lock").exists()


def test_another_order_of_classes_is_not_resumed(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "val"):
        for kind, names in (("images", "*_leftImg8bit.png"), ("labels", "*_labelIds.png")):
            (data / kind / split).mkdir(parents=True)
            path = min(SAMPLE.glob(f"*/{split}/*/{names}"))
            shutil.copy(path, data / kind / split / "0.png")
    names = [f"id {k}" for k in range(34)]
    (data / "classes.txt").write_text("\n".join(names))
    own = ("data.name=folder", f"data.root={data}", "model.num_classes=34", "train.batch_size=1")
    run(tmp_path / "run", *own, "train.steps=1")
    names[3], names[4] = names[4], names[3]
    (data / "classes.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match="last: its class 3 is 'id 3', that of folder is 'id 4'"):
        run(tmp_path / "run", *own, "train.steps=2", resume=True)
    with pytest.raises(UserError, match="last: its class 3 is 'id 3', that of folder is 'id 4'"):
        score_checkpoint(tmp_path / "run" / "last")


@pytest.mark.slow
def test_a_log_that_a_spreadsheet_touched(tmp_path):
    run(tmp_path, "train.steps=2")
    log = tmp_path / "log.csv"
    whole = log.read_bytes()
    for text, message in (
        (whole.replace(b"\n1,", b"\none,", 1), "line 2, step is 'one', expected a whole number"),
        (whole.replace(b"\n2,", b"\n2;", 1), "line 3 is '2;.*', expected 5 values"),
        (whole.replace(b"miou", b"miou,mine", 1), "line 1 is '.*mine', expected step,loss,lr,"),
        (whole[:40].replace(b"\n1,", b"\n1,high,"), None),
        (b"", "line 1 is '', expected step"), (b"\xff\xfe\n", "cannot be read as a log"),
        (whole.replace(b"\n1,", b"\n1,high", 1), "line 2, loss is 'high.*', expected a number"),
    ):
        log.write_bytes(text)
        if message:
            with pytest.raises(UserError, match=rf"log.csv: {message}.*; mend the line, or move|"
                               rf"log.csv: {message} .*; mend the line"):
                run(tmp_path, "train.steps=3", resume=True)
    log.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\r\n", b"\n") + b"3,0.1")  # torn, too
    result = run(tmp_path, "train.steps=3", resume=True)
    assert [step for step, _ in losses(result)] == [1, 2, 3]


def test_links_in_a_run_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    for name in ("log.csv", "curves.png", "log.part"):
        (tmp_path / "run" / name).symlink_to(outside)
    run(tmp_path / "run", "train.steps=1")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "run" / "curves.png").is_symlink()


def test_a_run_of_warm_up_alone_is_told(tmp_path, capsys):
    config = get_recipe("toytown_naive").override(*settings(tmp_path / "run", "train.steps=30"))
    device = torch.device("cpu")
    loop = sys.modules["setr_lite.train"]
    said = loop.Run(config.override("optim.warmup=30"), device).describe()
    assert "all 30 steps are warm-up (optim.warmup=30), the rate never reaches optim.lr;" in said
    assert "optim.warmup=3" in said.splitlines()[-1]
    assert "warm-up" not in loop.Run(config.override("optim.warmup=29"), device).describe()


def test_one_patch_under_batchnorm_is_one_line(tmp_path):
    """It has no variance; PyTorch's own words for it came with a traceback."""
    one = ("data.crop_size=8x8", "train.batch_size=2", "train.accumulate=2", "train.steps=1")
    with pytest.raises(UserError, match=r"one image of 8 x 8 pixels gives BatchNorm one value a"):
        run(tmp_path / "run", *one)
