"""The contracts of callbacks, for each of conf alone, for every two, and for all together."""

from __future__ import annotations

import copy
from functools import partial
from graphlib import TopologicalSorter
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from lightning import seed_everything
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.callbacks.base.callback import CompressionCallback, knob_titles
from lightning_compress.callbacks.base.mixin import CompressibleMixin
from lightning_compress.callbacks.base.order import check_order
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.callbacks.feature_distillation import FeatureDistillation
from lightning_compress.callbacks.information_dropout import InformationDropout
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.rate_quantization import RateQuantization
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.callbacks import (
    EXAMPLE,
    CallbackContract,
    CompressionContract,
    TrainingContract,
    assert_equal_states,
    fitted,
    fresh,
    plan_of,
    trainer,
)
from lightning_compress.testing.toys import PlainModule, toy_data


class MixedModule(CompressibleMixin, PlainModule):
    """The explicit way: a module written with the mixin."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.compression_loss()


def quant_plan(module) -> Plan:
    profile = measure.measure(network(module), EXAMPLE)
    plan = Plan({layer.name: {"weight_bits": 3, "act_bits": 4} for layer in profile.weighted})
    return Plan({**plan.layers, "conv2": {"act_bits": 4}, "fc": {"act_bits": 4}})  # whose weights are for others


def prune_plan(module) -> Plan:
    net = network(module)
    choices = ChannelPruning().choices(net, measure.measure(net, EXAMPLE), EXAMPLE)
    return Plan({choice.layer: {"channels": 0.5} for choice in choices})


def sparse_plan(module) -> Plan:
    return Plan({layer: {"density": 0.3} for layer in ("conv1",)})


def rank_plan(module) -> Plan:
    return Plan({"conv2": {"rank_in": 0.5, "rank_out": 0.5}, "fc": {"rank_out": 0.5}})


def noise(knob: str, *layers: str) -> Plan:
    return Plan({layer: {knob: 1} for layer in layers})


PLANNED = {
    "layer_removal": lambda m: LayerRemoval({"conv1": {"keep": 0}}),
    "channel_pruning": lambda m: ChannelPruning(prune_plan(m)),
    "low_rank": lambda m: LowRank(rank_plan(m)),
    "log_normal_dropout": lambda m: LogNormalDropout(noise("log_normal", "stem.0", "conv1")),
    "information_dropout": lambda m: InformationDropout(noise("information", "stem.0", "conv1")),
    "weight_pruning": lambda m: WeightPruning(sparse_plan(m), schedule=Cubic(), every=1),
    "variational_dropout": lambda m: VariationalDropout(noise("variational", "stem.0")),
    "joint": lambda m: JointSparsityQuantization(noise("joint", "conv2"), limits=(0.2, 0.1), every=3),
    "rate_quantization": lambda m: RateQuantization({"fc": {"coded_bits": 3}}),
    "distillation": lambda m: KnowledgeDistillation(PlainModule()),
    "feature_distillation": lambda m: FeatureDistillation(PlainModule(), ["stem", "bn2"], FeatureMSE()),
    "quantization": lambda m: QuantizationAwareTraining(quant_plan(m)),
}  # plans that go together; a callback without an entry gets one from its own choices


def shipped() -> dict[str, type]:
    """Every callback in conf, in an order in which a Trainer may list them."""
    folder = Path(lightning_compress.conf.__file__).parent / "compress" / "callback"
    found = {file.stem: get_class(OmegaConf.load(file)["_target_"]) for file in sorted(folder.glob("*.yaml"))}
    order = {  # of lists, for pytest-xdist: every process is to collect the same
        name: [n for n, c in found.items() if c.kind in cls.after or cls.kind in c.before]
        for name, cls in found.items()
    }
    return {name: found[name] for name in TopologicalSorter(order).static_order()}


def planned(cls: type, module):
    return cls(plan_of(cls(), module))


SINGLE = {name: PLANNED.get(name, partial(planned, cls)) for name, cls in shipped().items()}


def everything(module) -> list:
    return [make(module) for make in SINGLE.values()]


def together(*kinds: str):
    return lambda module: [SINGLE[kind](module) for kind in kinds]


MAKERS = {
    **{kind: together(kind) for kind in SINGLE},
    **{"+".join(pair): together(*pair) for pair in combinations(SINGLE, 2)},
    "all": everything,
}
TEACHING = [name for name, cls in shipped().items() if not issubclass(cls, CompressionCallback)]
TEACHERS = [*TEACHING, *("+".join(pair) for pair in combinations(TEACHING, 2))]


class TestTeachers(TrainingContract):
    @pytest.fixture(params=TEACHERS)
    def make(self, request):
        return MAKERS[request.param]


class TestEachAlone(CallbackContract):
    @pytest.fixture(params=[name for name in SINGLE if name not in TEACHING])
    def make(self, request):
        return MAKERS[request.param]


class TestTogether(CompressionContract):
    @pytest.fixture(params=[name for name in MAKERS if name not in SINGLE and name not in TEACHERS])
    def make(self, request):
        return MAKERS[request.param]


@pytest.mark.parametrize("kind", ["distillation", "all"])
def test_resumed_training_equals_uninterrupted_training_with_the_mixin(kind, tmp_path):
    whole = fitted(MAKERS[kind], 4, tmp_path, cls=MixedModule)
    resumed = fitted(MAKERS[kind], 4, ckpt=tmp_path / "epoch=1.ckpt", cls=MixedModule)
    assert_equal_states(whole.state_dict(), resumed.state_dict())


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
    fitted(MAKERS["quantization"], 1, tmp_path)
    module = fresh()
    other = Plan({layer: {**knobs, "weight_bits": 5} for layer, knobs in quant_plan(module).layers.items()})
    with pytest.raises(CompressError, match=r"quantization was saved with .*'weight_bits': 3"):
        trainer(2, [QuantizationAwareTraining(other)]).fit(module, *toy_data(0), ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"layer1": {"weight_bits": 4}}, "no layer 'layer1'"),
        ({"conv1x": {"weight_bits": 4}}, "did you mean"),
    ],
)
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
    module = fitted(everything, 1)
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
    module = fitted(MAKERS["channel_pruning"], 1)
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
