"""What every compression callback must do in a Lightning Trainer, for each alone and for all together."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.base.callback import CompressionCallback, check_order, knob_titles
from lightning_compress.callbacks.base.mixin import CompressibleMixin
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.callbacks.feature_distillation import FeatureDistillation
from lightning_compress.callbacks.information_dropout import InformationDropout
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.mask import measured
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data


class MixedModule(CompressibleMixin, PlainModule):
    """The explicit way: a module written with the mixin."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.compression_loss()


def quant_plan(module) -> Plan:
    profile = measure.measure(network(module), torch.zeros(2, *toy_data(0)[0].dataset[0][0].shape))
    plan = Plan({layer.name: {"weight_bits": 3, "act_bits": 4} for layer in profile.weighted})
    return Plan({**plan.layers, "conv2": {"act_bits": 4}})  # its weight is for the joint method


def prune_plan(module) -> Plan:
    net = network(module)
    example = torch.zeros(2, *toy_data(0)[0].dataset[0][0].shape)
    choices = ChannelPruning().choices(net, measure.measure(net, example), example)
    return Plan({choice.layer: {"channels": 0.5} for choice in choices})


def sparse_plan(module) -> Plan:
    return Plan({layer: {"density": 0.3} for layer in ("conv1", "fc")})


def rank_plan(module) -> Plan:
    return Plan({"conv2": {"rank_in": 0.5, "rank_out": 0.5}, "fc": {"rank_out": 0.5}})


def noise(knob: str, *layers: str) -> Plan:
    return Plan({layer: {knob: 1} for layer in layers})


SINGLE = {
    "remove": lambda m: LayerRemoval({"conv1": {"keep": 0}}),
    "prune": lambda m: ChannelPruning(prune_plan(m)),
    "low_rank": lambda m: LowRank(rank_plan(m)),
    "log_normal": lambda m: LogNormalDropout(noise("log_normal", "stem.0", "conv1")),
    "information": lambda m: InformationDropout(noise("information", "stem.0", "conv1")),
    "sparsify": lambda m: WeightPruning(sparse_plan(m), schedule=Cubic(), every=1),
    "variational": lambda m: VariationalDropout(noise("variational", "stem.0")),
    "joint": lambda m: JointSparsityQuantization(noise("joint", "conv2"), limits=(0.2, 0.1), every=3),
    "distill": lambda m: KnowledgeDistillation(PlainModule()),
    "features": lambda m: FeatureDistillation(PlainModule(), ["stem", "bn2"], FeatureMSE()),
    "quantize": lambda m: QuantizationAwareTraining(quant_plan(m)),
}  # in the order in which a Trainer must list them


def everything(module) -> list:
    return [make(module) for make in SINGLE.values()]


def together(*kinds: str):
    return lambda module: [SINGLE[kind](module) for kind in kinds]


MAKERS = {
    **{kind: together(kind) for kind in SINGLE},
    **{"+".join(pair): together(*pair) for pair in combinations(SINGLE, 2)},
    "all": everything,
}
TEACHING = ("distill", "features", "distill+features")
CHANGING = [kind for kind in MAKERS if kind not in TEACHING]  # those that leave something else than the dense network


def trainer(epochs: int, callbacks: list, **settings) -> Trainer:
    return Trainer(max_epochs=epochs, callbacks=callbacks, **{**QUIET, **settings})


def fresh(cls=PlainModule):
    seed_everything(1, verbose=False)
    return cls()


def fitted(kind: str, epochs: int, folder=None, ckpt=None, cls=PlainModule):
    module = fresh(cls)
    callbacks = MAKERS[kind](module)
    seed_everything(2, verbose=False)
    train, val = toy_data(0)
    saving = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1) if folder is not None else None
    run = trainer(epochs, callbacks if saving is None else [*callbacks, saving], enable_checkpointing=bool(saving))
    run.fit(module, train, val, ckpt_path=ckpt)
    if folder is not None:
        run.save_checkpoint(folder / "a.ckpt")
    return module


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(
    ("kind", "cls"), [*((kind, PlainModule) for kind in MAKERS), ("distill", MixedModule), ("all", MixedModule)]
)
def test_resumed_training_equals_uninterrupted_training(kind, cls, tmp_path):
    whole = fitted(kind, 4, tmp_path, cls=cls)
    resumed = fitted(kind, 4, ckpt=tmp_path / "epoch=1.ckpt", cls=cls)
    assert_equal_states(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("kind", MAKERS)
def test_the_optimizer_holds_exactly_the_live_parameters(kind):
    module = fresh()
    run = trainer(1, MAKERS[kind](module), limit_train_batches=1)
    run.fit(module, *toy_data(0))
    held = {id(p) for o in run.optimizers for group in o.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}


@pytest.mark.parametrize("kind", CHANGING)
def test_validate_with_a_checkpoint_gives_the_metrics_of_training(kind, tmp_path):
    module = fitted(kind, 2, tmp_path)
    _, val = toy_data(0)
    expected = trainer(1, []).validate(module, val, verbose=False)[0]
    other = fresh()
    found = trainer(1, MAKERS[kind](other)).validate(other, val, ckpt_path=tmp_path / "a.ckpt", verbose=False)[0]
    assert found == expected


@pytest.mark.parametrize("weights_only", [False, True], ids=["full", "save_weights_only"])
def test_load_from_checkpoint_rebuilds_the_structure_with_the_mixin(weights_only, tmp_path):
    module = fresh(MixedModule)
    run = trainer(1, everything(module))
    run.fit(module, *toy_data(0))
    run.save_checkpoint(tmp_path / "w.ckpt", weights_only=weights_only)
    loaded = MixedModule.load_from_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    assert_equal_states(module.state_dict(), loaded.state_dict())
    x = next(iter(toy_data(0)[1]))[0]
    assert torch.equal(module.eval()(x), loaded.eval()(x))
    assert structure_of(network(loaded)).plan == structure_of(network(module)).plan


def test_a_checkpoint_of_another_plan_is_refused_by_name(tmp_path):
    fitted("quantize", 1, tmp_path)
    module = fresh()
    other = Plan({layer: {**knobs, "weight_bits": 5} for layer, knobs in quant_plan(module).layers.items()})
    with pytest.raises(CompressError, match=r"quantization was saved with .*'weight_bits': 3"):
        trainer(2, [QuantizationAwareTraining(other)]).fit(module, *toy_data(0), ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.parametrize("kind", CHANGING)
def test_setup_again_changes_nothing(kind):
    module = fitted(kind, 1)
    before = copy.deepcopy(module.state_dict())
    _, val = toy_data(0)
    reference = fresh()
    trainer(1, MAKERS[kind](reference)).validate(module, val, verbose=False)
    assert_equal_states(before, module.state_dict())


@pytest.mark.parametrize("kind", [k for k in SINGLE if k not in TEACHING])
def test_another_plan_on_a_compressed_network_is_refused(kind):
    module = fitted(kind, 1)
    (callback,) = MAKERS[kind](fresh())
    knob = next(iter(callback.plan.knobs))
    other = {"weight_bits": 8, "channels": 1.0, "density": 1.0, "keep": 1}.get(knob, 0)
    changed = Plan({layer: {knob: other} for layer in callback.plan.layers})
    with pytest.raises(CompressError, match="already applied"):
        trainer(1, [callback.with_plan(changed)]).validate(module, toy_data(0)[1], verbose=False)


@pytest.mark.parametrize(("plan", "message"), [
    ({"layer1": {"weight_bits": 4}}, "no layer 'layer1'"),
    ({"conv1x": {"weight_bits": 4}}, "did you mean"),
])  # fmt: skip
def test_unknown_layers_are_named_with_a_hint(plan, message):
    module = fresh()
    real = next(iter(quant_plan(module).layers))
    plan = {f"{real}x" if name == "conv1x" else name: knobs for name, knobs in plan.items()}
    with pytest.raises(CompressError, match=message):
        trainer(1, [QuantizationAwareTraining(plan)]).fit(module, *toy_data(0))


def test_unknown_knobs_are_named_with_a_hint():
    module = fresh()
    plan = {next(iter(quant_plan(module).layers)): {"weight_bit": 4}}
    with pytest.raises(CompressError, match=r"'weight_bit'.*did you mean 'weight_bits'"):
        trainer(1, [QuantizationAwareTraining(plan)]).fit(module, *toy_data(0))


def test_wrong_order_and_doubles_are_refused():
    module = fresh()
    prune, quantize = ChannelPruning(prune_plan(module)), QuantizationAwareTraining(quant_plan(module))
    with pytest.raises(CompressError, match="ChannelPruning must be listed before QuantizationAwareTraining"):
        trainer(1, [quantize, prune]).fit(module, *toy_data(0))
    with pytest.raises(CompressError, match="listed twice"):
        trainer(1, [prune, copy.copy(prune)]).fit(fresh(), *toy_data(0))


def test_an_empty_plan_trains_bit_for_bit_like_no_callback():
    plain = fresh()
    seed_everything(2, verbose=False)
    trainer(2, []).fit(plain, *toy_data(0))
    module = fresh()
    seed_everything(2, verbose=False)
    trainer(2, [ChannelPruning(Plan({})), QuantizationAwareTraining(Plan({}))]).fit(module, *toy_data(0))
    assert_equal_states(plain.state_dict(), module.state_dict())


def test_copies_are_independent_of_the_original():
    module = fitted("all", 1)
    x = next(iter(toy_data(0)[1]))[0]
    before = module.eval()(x)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    transforms.bake(network(other))
    assert torch.equal(module(x), before)
    assert not any("parametrizations" in key for key in other.state_dict())


def test_predicted_profile_is_measured_on_the_pruned_network():
    module = fitted("prune", 1)
    net = network(module)
    assert structure_of(net).profile == measure.measure(net, next(iter(toy_data(0)[1]))[0][:2])


def test_every_callback_has_a_place_and_knobs_with_titles():
    found = [c for c in everything(fresh()) if isinstance(c, CompressionCallback)]
    for first, second in combinations(found, 2):
        with pytest.raises(
            CompressError, match=f"{type(first).__name__} must be listed before {type(second).__name__}"
        ):
            check_order([second, first])
    knobs = [knob for c in found for knob in c.knobs]
    assert len(set(knobs)) == len(knobs) >= len(found)
    assert knob_titles().keys() >= set(knobs)


def test_a_callback_that_others_do_not_know_says_where_it_belongs():
    class Early(WeightPruning):
        before = frozenset({"channel_pruning"})
        after = frozenset()

    class Late(ChannelPruning):
        before = frozenset({Early.kind})

    check_order([Early(), ChannelPruning()])
    with pytest.raises(CompressError, match="Early must be listed before ChannelPruning; swap them"):
        check_order([ChannelPruning(), Early()])
    with pytest.raises(CompressError, match="Early and Late must each be listed before the other"):
        check_order([Early(), Late()])


@pytest.mark.parametrize("kind", CHANGING)
def test_what_was_trained_packs_and_loads(kind, tmp_path):
    module = fitted(kind, 1).eval()
    file = lc.save(module, tmp_path / "a.safetensors")
    loaded = lc.load(file, fresh())
    x = next(iter(toy_data(0)[1]))[0]
    torch.testing.assert_close(loaded(x), module(x), rtol=1e-3, atol=1e-3)
    profile = structure_of(network(module)).profile
    assert lc.inspect(file).profile == measured(network(module), profile)
    assert PackedBytes()(profile) >= file.stat().st_size


def test_every_callback_in_conf_is_among_those_tested_here():
    folder = Path(lightning_compress.conf.__file__).parent / "compress" / "callback"
    listed = {get_class(OmegaConf.load(file)["_target_"]) for file in folder.glob("*.yaml")}
    assert listed == {type(callback) for callback in everything(fresh())}
