"""Quantization-aware training: weights and inputs of each layer are rounded to the plan's bits while it is trained.

    y = layer(q_a(x); q_w(w)),      gradients pass straight through the rounding

The trained fp32 weight stays the parameter; the quantized one is what the forward pass sees. Bits are buffers and
scales parameters or buffers of the network, so checkpoints resume exactly. Batch norm is not folded during training (it
keeps learning); ``save`` folds it into the scales, which keeps the codes. A training of no epochs calibrates, rounds
weights by least squares and corrects outputs (post_training.py). Sources: Jacob et al. 2018 (arXiv 1712.05877, section
3); HAQ (1811.08886) for bits per layer. Use it from 8 bits, where hardware is fast, down to 2 or 3 for the smallest
files. One bit for weights works only with much training; it breaks at the learning rate of the first training, and
where a layer's inputs have outliers that one scale cannot serve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.activation_grids import activations_of, set_grids, settle_or_wait
from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.coded_weights import CodedWeight, coded_weights
from lightning_compress.callbacks.base.first_process import follow_first_process
from lightning_compress.callbacks.base.progress import steps_done, trains_nothing
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Plan, as_globs, matching
from lightning_compress.core.profile import Profile
from lightning_compress.core.space import Choice
from lightning_compress.quantization.placements.layer_inputs import LayerInputs
from lightning_compress.quantization.placements.placement import Placement
from lightning_compress.quantization.post_training import fit_to_quantizers
from lightning_compress.quantization.quantizable import (
    by_weight,
    has_sparse_gradients,
    is_used,
    takes_input,
    why_no_input,
)
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.quantization.quantizers.weight_format import WeightFormat
from lightning_compress.surgery._torch import is_compiled
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.row_layout import attach_to_rows, weight_rows
from lightning_compress.surgery.structure import applied_structure, network
from lightning_compress.surgery.transforms import weight_transforms

ACT_SCALES = 2  # a packed input quantizer: its scale, and whether its grid is signed

LOOK_EVERY = 100  # optimizer steps between two looks at whether activations fit their grids

LAYER_INPUTS = LayerInputs()

MakeQuantizer = Callable[[int, Sequence[int]], Quantizer | Codebook]


@final
class QuantizationAwareTraining(CompressionCallback):
    """Quantizes layers to ``weight_bits`` (1 to 8) and ``act_bits`` (2 to 8); 32 means not at all.

    Weights of all layers that have one: convolutions, transposed ones too, linear layers, embeddings, recurrent layers
    and the projections of ``torch.nn.MultiheadAttention``. Inputs of those that are called: convolutions, transposed
    ones too, and linear layers.

    Args:
        plan: see :class:`CompressionCallback`; layers that it does not name stay in floating point. The matrices of an
            embedding, a recurrent layer or attention are named by their parameter, ``lstm.weight_hh_l0``, or all at
            once by their module, ``lstm``.
        weight_quantizer: ``(bits, shape of the scale) -> quantizer`` of weights.
        activation_quantizer: the same for the input of a layer.
        per_channel: one weight scale for each output channel, which is a row of a matrix, else one for the layer.
        placement: which tensors are quantized: the input of each layer, or what integer kernels read and write; None is
            the former.
        weight_bits, act_bits: what a search may choose from; empty means that it does not vary them.
        ignore: globs of layers that a search leaves in floating point.

    Raises:
        CompressError: bits out of range, or a layer without a weight or an input that can be quantized.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "quantization"
    after: ClassVar[frozenset[str]] = frozenset(
        {
            "layer_removal",
            "channel_pruning",
            "low_rank",
            "log_normal_dropout",
            "information_dropout",
            "weight_pruning",
            "variational_dropout",
            "joint",
            "rate_quantization",
        }
    )
    knobs: ClassVar[Mapping[str, str]] = {"weight_bits": "bits per weight", "act_bits": "bits per activation"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        weight_quantizer: MakeQuantizer = LSQ,
        activation_quantizer: MakeQuantizer = LSQActivation,
        per_channel: bool = True,
        placement: Placement | None = None,
        weight_bits: Sequence[int] = (2, 3, 4, 5, 6, 7, 8),
        act_bits: Sequence[int] = (4, 5, 6, 7, 8),
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan)
        check_instances("QuantizationAwareTraining", placement=(placement, Placement))
        for name, make, base, usual in (
            ("weight_quantizer", weight_quantizer, WeightFormat, LSQ),
            ("activation_quantizer", activation_quantizer, ActivationQuantizer, LSQActivation),
        ):
            kind = getattr(make, "func", make)
            wrong = isinstance(kind, type) and not issubclass(kind, base)
            if wrong or not callable(make) or isinstance(make, nn.Module):
                raise CompressError(
                    f"QuantizationAwareTraining: {name} must be a sub-class of {base.__name__}, such as "
                    f"{usual.__name__}, or a partial of one, which is called for each layer; got "
                    f"{type(make).__name__} {make!r}"
                )
        self.weight_quantizer = weight_quantizer
        self.activation_quantizer = activation_quantizer
        self.per_channel = per_channel
        self.placement = LAYER_INPUTS if placement is None else placement
        self.ignore = as_globs(ignore)
        self._reported: set[str] = set()
        self._attached: list[Quantizer] = []  # since the last training began
        self.ranges = {"weight_bits": tuple(weight_bits), "act_bits": tuple(act_bits)}

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        layers = {
            layer.name: layer
            for layer in profile.quantizable
            if is_used(layer) and not has_sparse_gradients(net, layer)
        }
        ignored = {name for pattern in self.ignore for name in matching(pattern, layers)}
        ranges = [(knob, values) for knob, values in self.ranges.items() if values]
        return [
            Choice(name, knob, values)
            for name, layer in layers.items()
            if name not in ignored
            for knob, values in ranges
            if knob == "weight_bits" or takes_input(layer)
        ]

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        quantizable = {layer.name for layer in profile.quantizable}
        own = by_weight(self.own(plan), net, quantizable)
        for layer, values in own.layers.items():
            if layer not in quantizable:
                raise CompressError(
                    f"quantization: layer {layer!r} is a {type(net.get_submodule(layer)).__name__}, which has no "
                    f"weight to quantize; the plan may name {sorted(quantizable)}"
                )
            if values.get("weight_bits", 32) != 32 and has_sparse_gradients(net, profile[layer]):
                raise CompressError(
                    f"quantization: the gradients of {layer!r} are sparse, and those of what is rounded are not; make "
                    f"the embedding with sparse=False, or leave it out of the plan"
                )
            if values.get("act_bits", 32) != 32 and not takes_input(profile[layer]):
                why = why_no_input(net, profile[layer], example)
                raise CompressError(
                    f"quantization: layer {layer!r} has no input to quantize: {why}; leave its act_bits out of the plan"
                )
            for knob, bits in values.items():
                least, most = self._make(knob).bit_range
                if bits != 32 and (bits != int(bits) or not least <= bits <= most):
                    raise CompressError(
                        f"quantization: {knob} of layer {layer!r} must be a whole number from {least} to {most}, or 32 "
                        f"for floating point, got {bits}"
                    )
        whole = {layer: {k: int(bits) for k, bits in v.items() if bits != 32} for layer, v in own.layers.items()}
        act_bits = {layer: bits["act_bits"] for layer, bits in whole.items() if "act_bits" in bits}
        for layer, bits in self.placement.tie(act_bits, net, example).items():
            whole[layer]["act_bits"] = bits
        return Plan({layer: values for layer, values in whole.items() if values})

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        changed = []
        for name, bits in plan.layers.items():
            layer = profile[name]
            fields: dict[str, Any] = {}
            if bits.get("weight_bits", 32) != 32:
                scales = layer.out_channels if self.per_channel else 1
                fields.update(self._make("weight_bits").stored(int(bits["weight_bits"]), scales))
            if bits.get("act_bits", 32) != 32:
                fields.update(act_bits=int(bits["act_bits"]), act_scales=ACT_SCALES)
            changed.append(replace(layer, **fields))
        return profile.update(changed)

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        there = set(net.modules())
        for name, bits in plan.layers.items():
            if "weight_bits" in bits:
                layer, key = weight_place(net, name)
                others = [type(t).__name__ for t in weight_transforms(layer, key) if not isinstance(t, Mask)]
                if others:
                    raise CompressError(
                        f"quantization: the weight of layer {name!r} is already quantized by {others[0]}; leave its "
                        f"weight_bits out of the plan"
                    )
                weight = weight_rows(layer, key)  # masked, where it is pruned
                shape = (weight.shape[0], *[1] * (weight.dim() - 1)) if self.per_channel else ()
                quantizer = self.weight_quantizer(int(bits["weight_bits"]), shape).to(weight.device)
                if isinstance(quantizer, WeightQuantizer):
                    self.placement.prepare_weight(quantizer)
                if isinstance(quantizer, Codebook):
                    CodedWeight(name, layer, key, quantizer).give_codes()
                else:
                    quantizer.initialize(weight.detach())
                # Before a mask: not every grid has a zero, and what is pruned stays zero.
                attach_to_rows(layer, quantizer, key)
        act_bits = {name: int(bits) for name, bits in plan.knob("act_bits").items()}
        self.placement.attach(act_bits, partial(self._activation_quantizer, net), net, example)
        self._attached = [m for m in net.modules() if isinstance(m, Quantizer) and m not in there]

    def _activation_quantizer(self, net: nn.Module, bits: int) -> Quantizer | Codebook:
        return self.activation_quantizer(bits, ()).to(next(net.parameters()).device)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the grids of activations on several train batches, as they are in training.

        A network that is quantized now and not trained is fitted to its quantizers too; a training does that itself.
        """
        untrained = bool(self._attached) and trains_nothing(trainer)
        examples = set_grids(trainer, pl_module, untrained)
        if untrained:
            net = network(pl_module)
            with trainer.precision_plugin.forward_context():
                fit_to_quantizers(net, applied_structure(net).profile, self._attached, examples)
            follow_first_process(trainer, net)
        self._attached = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set grids before a validation without a training, whose first batches would see others than its last."""
        if trainer.state.fn != TrainerFn.FITTING:
            set_grids(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let grids that nothing has set wait for a batch, also after a sanity check; keep the others."""
        settle_or_wait(activations_of(network(pl_module)).values())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check activations against their grids, and give codes to codebooks that had to wait."""
        if steps_done(trainer) % LOOK_EVERY == 0 and not is_compiled(pl_module):  # which would trace the hooks
            for quantizer in activations_of(network(pl_module)).values():
                quantizer.look()
        for weight in self._coded_weights(network(pl_module)):
            if weight.waits(first_epoch=trainer.current_epoch == 0):
                weight.codebook.frozen.fill_(False)
            elif not weight.codebook.frozen:
                weight.give_codes()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Warn once for each layer whose grid was too narrow."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        for name, quantizer in activations_of(network(pl_module)).items():
            if quantizer.widened and name not in self._reported:
                self._reported.add(name)
                rank_zero_warn(
                    f"quantization: the activations at layer {name!r} went beyond the grid that the first train "
                    f"batches had set, and it was widened; if they are outliers, clean the data, else shuffle it"
                )
            quantizer.settle(at_once=False)

    @override
    def finish(self, net: nn.Module) -> None:
        """Give codes to codebooks that still wait."""
        for weight in self._coded_weights(net):
            if not weight.codebook.frozen:
                weight.give_codes()

    def _coded_weights(self, net: nn.Module) -> list[CodedWeight]:
        return coded_weights(net, applied_structure(net).applied[self.kind].knob("weight_bits"))

    def _make(self, knob: str) -> type[Any]:
        """Return the class behind a quantizer argument: Hydra gives a partial, jsonargparse a function."""
        make = self.weight_quantizer if knob == "weight_bits" else self.activation_quantizer
        kind = getattr(make, "func", make)
        return kind if isinstance(kind, type) else type(make(8, ()))
