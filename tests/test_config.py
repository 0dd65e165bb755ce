"""Settings: typed overrides, JSON, errors that help."""

import pytest

from setr_lite.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    settings_table,
)
from setr_lite.errors import UserError
from setr_lite.recipes import RECIPES, get_recipe

pytestmark = pytest.mark.smoke


def test_values_are_read_by_type():
    config = RunConfig().override(
        "train.steps=7", "optim.lr=3e-4", "model.head=mla", "model.aux=false", "data.flip=0",
        "data.crop_size=96x192", "eval.window=64", "eval.ratios=0.5,1", "model.taps=0,1,2,3",
        "data.root=a=b",
    )
    assert (config.train.steps, config.optim.lr, config.model.head) == (7, 3e-4, "mla")
    assert (config.model.aux, config.data.flip) == (False, 0.0)
    assert (config.data.crop_size, config.eval.window) == ((96, 192), (64, 64))
    assert (config.eval.ratios, config.model.taps) == ((0.5, 1.0), (0, 1, 2, 3))
    assert config.data.root == "a=b"
    assert config.override("model.taps=none").model.taps is None
    assert config.test_data() == config.data
    config = config.override("eval.base_size=48,480")
    assert config.test_data().base_size == (48, 480)
    assert config.override("eval.base_size=none").test_data() == config.data
    assert config.override("data.mean=1,2,3").data.mean == (1, 2, 3)
    assert config.override("data.mean=none").data.mean is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.step=5", "no setting 'train.step'; did you mean 'train.steps'?"),
        ("trian.steps=5", "no section 'trian' in 'trian.steps=5'; did you mean 'train'?"),
        ("steps", "'steps' is not a setting; write section.key=value"),
        ("train.steps=many", "train.steps=many: expected a whole number"),
        ("train.steps=0", "train.steps=0: must be at least 1"),
        ("optim.lr=nan", "optim.lr=nan: expected a number"),
        ("optim.lr=-1", "optim.lr=-1.0: must be positive"),
        ("optim.poly_steps=T", "optim.poly_steps=T: expected steps or steps-1"),
        (
            "model.pretrained=timm:",
            "model.pretrained=timm:: name the weights, such as timm:vit_base_patch16_384",
        ),
        ("model.head=pub", "model.head=pub: expected naive or pup or mla or linear"),
        ("model.aux=maybe", "model.aux=maybe: expected true or false"),
        ("data.crop_size=1,2,3", "data.crop_size=1,2,3: expected 2 whole numbers, comma-separated"),
        ("data.flip=2", "data.flip=2.0: must lie in 0..1"),
        ("data.ratio_range=2,1", "data.ratio_range=(2.0, 1.0): give 0 < low <= high"),
        (
            "model.taps=3,2,1,0",
            "model.taps=(3, 2, 1, 0): give four rising block indices, first is 0",
        ),
    ],
)
def test_mistakes_say_what_to_do(setting, message):
    with pytest.raises(UserError) as caught:
        RunConfig().override(setting)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json_and_its_own_table(name):
    config = get_recipe(name)
    assert config.recipe == name
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.override(*settings_table(config).splitlines()) == config


def test_json_with_unknown_keys_is_refused():
    with pytest.raises(UserError, match=r"no setting 'model.hed'; did you mean 'model.head'"):
        RunConfig.from_dict({"model": {"hed": "pup"}})
    with pytest.raises(UserError, match=r"no section 'modell'.*'model'"):
        RunConfig.from_dict({"modell": {}})


def test_unknown_recipe_offers_the_nearest():
    with pytest.raises(UserError, match="no recipe 'toytown_pub'; did you mean 'toytown_pup'"):
        get_recipe("toytown_pub")


@pytest.mark.parametrize(("section", "settings", "message"), [
    (OptimConfig, {"lr": float("nan")}, "optim.lr=nan: expected a number"),
    (OptimConfig, {"power": float("inf")}, "optim.power=inf: expected a number"),
    (TrainConfig, {"steps": 5.5}, "train.steps=5.5: expected a whole number"),
    (TrainConfig, {"steps": True}, "train.steps=True: expected a whole number"),
    (TrainConfig, {"micro_batch": 2**63}, "train.micro_batch=9223372036854775808: must lie in"),
    (TrainConfig, {"compile": 1}, "train.compile=1: expected true or false"),
    (TrainConfig, {"out": None}, "train.out=None: expected a text"),
    (TrainConfig, {"amp": "fp16"}, "train.amp='fp16': expected auto or off or bf16"),
    (ModelConfig, {"drop_path": 1}, "model.drop_path=1: must lie in 0..0.99"),
    (ModelConfig, {"img_size": 512}, "model.img_size=512: expected 2 whole numbers"),
    (ModelConfig, {"taps": (1, 2, 3.5, 4)}, r"model.taps=\(1, 2, 3.5, 4\): expected one or more"),
    (DataConfig, {"std": (1e-45, 1, 1)}, "data.std=1e-45: must lie in 0.001..1000000.0"),
    (DataConfig, {"mean": (1e30, 1, 1)}, r"data.mean=1e\+30: must lie in"),
    (EvalConfig, {"ratios": (1.0,) * 2000}, "eval.ratios: 2000 of them; give up to 64"),
    (EvalConfig, {"ratios": (1.0, float("nan"))}, "eval.ratios=.*: expected one or more numbers"),
])  # fmt: skip
def test_scripts_are_checked_as_command_lines_are(section, settings, message):
    with pytest.raises(UserError, match=message):
        section(**settings)
