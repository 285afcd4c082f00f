"""Quantization by rate: weights have the codes that are best in a file of a given size, and keep to it in training.

    codes:     min (relative squared error of X s q) + price x bits(q),      one price for all layers, by bisection
    training:  a code changes if it is worth its bits: slope of a bit = GAIN x max(0, size / room - BEGIN)
    from LAST: no code changes: those that it saw, or, if these take too much, the nearest that do not

A cut of 0.3 % of the bytes of a ResNet-8 took 5 points of its accuracy: so weights are held the harder the nearer their
codes are to the room, and what is left to cut is cut while the rest of the network can still adapt to it. A training
without a known number of steps is cut at its end.

Bits per weight are the wrong variable once codes are entropy-coded: here a plan says how many coded bits a weight has
on average, and layers share them by one price. Steps of codes stay as they were found, and gradients pass straight
through the rounding. A layer that begins with zeros has its own share of the room. A training of no epochs corrects
outputs. Sources: quantization/rate_distortion.py and code_rates.py. A price of bits in the loss (Oktay et al. 2020,
arXiv 1906.06624) was tried before and lost to no price at all (benchmarks/results/size.txt). Use it for the smallest
file. It breaks where the file is read without its coder: in fixed width it is larger than one of the same error whose
bits were planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.callbacks.base.calibration_pass import calibration_pass
from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.first_process import follow_first_process
from lightning_compress.callbacks.base.progress import share_done, steps_done, trains_nothing
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan, as_globs, matching
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice
from lightning_compress.pruning.input_moments import gather_moments, second_moments
from lightning_compress.quantization.code_rates import CodeRates, codes_within
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.rate_grid import MOST_BITS, RateGrid
from lightning_compress.quantization.rate_distortion import RateProblem, code_range, stream_bytes, within
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.output_correction import correct_outputs
from lightning_compress.surgery.structure import Structure, applied_structure, network, write_structure
from lightning_compress.surgery.transforms import (
    Transform,
    attach_weight,
    check_plain,
    raw_weight,
    weight_transforms,
)

POSITIONS = 20  # of each sample at which inputs of layers are taken, at least
EVERY = 10  # optimizer steps between two looks at the size
GAIN, BEGIN = 80.0, 0.995  # squared steps that a bit is worth, by the share of the room that is taken beyond the second
LAST = 0.8  # of the steps: from there codes are final, and what is no code adapts to what the cut changed


@final
class RateQuantization(CompressionCallback):
    """Quantizes convolutions and linear layers to ``coded_bits`` on average, as its coder writes them.

    Args:
        plan: see :class:`CompressionCallback`; ``coded_bits`` is above 0 and at most 8. All layers of a plan share what
            they have together.
        coder: of the packed file.
        batches: train batches that inputs of layers are measured on, at most.
        ignore: globs of layers that a uniform plan leaves in floating point.

    Raises:
        CompressError: ``coded_bits`` out of range, or a layer that is none of those, is masked or is quantized.
        InfeasibleBudgetError: codes that are all alike take more than the plan allows.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "rate_quantization"
    steady: ClassVar[bool] = False
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
        }
    )
    knobs: ClassVar[Mapping[str, str]] = {"coded_bits": "coded bits per weight"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        coder: RangeCoded | None = None,
        batches: int = 8,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan)
        if batches < 1:
            raise CompressError(f"RateQuantization: batches must be 1 or more, got {batches}")
        if coder is not None and not isinstance(coder, RangeCoded):
            raise CompressError(
                f"RateQuantization: {type(coder).__name__} does not say what a code takes; give it a RangeCoded "
                f"(compress/coder=range_coded)"
            )
        self.coder = RangeCoded() if coder is None else coder
        self.batches, self.ignore = batches, as_globs(ignore)
        self._before: dict[str, Tensor] = {}  # weights of layers that were attached since the last training began

    @override
    def calibrate(self, module: LightningModule, batches: Iterable[Any]) -> None:
        gather_moments(network(module), islice(network_inputs(module, batches), self.batches), POSITIONS)

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        names = [layer.name for layer in profile.weighted if layer.positions]
        ignored = {name for pattern in self.ignore for name in matching(pattern, names)}
        return [Choice(name, "coded_bits", (2,)) for name in names if name not in ignored]

    @override
    def why_kept(self, layer: LayerProfile, net: nn.Module) -> str:
        return "it is no Conv or Linear"

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        names, own = {layer.name for layer in profile.weighted}, self.own(plan)
        for layer, bits in own.knob("coded_bits").items():
            if layer not in names:
                raise CompressError(
                    f"rate_quantization: layer {layer!r} is no Conv or Linear; the plan may name {sorted(names)}"
                )
            if not 0 < bits <= MOST_BITS:
                raise CompressError(
                    f"rate_quantization: coded_bits of layer {layer!r} must be above 0 and at most {MOST_BITS}, got "
                    f"{bits}"
                )
        return own

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        """Return the profile before the training ends; how many bits hold all codes is known only then."""
        norms = {layer.follows for layer in profile if layer.follows}
        return profile.update(
            replace(layer, weight_bits=MOST_BITS, weight_scales=layer.out_channels if layer.name in norms else 1)
            for layer in (profile[name] for name in plan.layers)
        )

    @torch.no_grad()
    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        norms = {layer.follows: net.get_submodule(layer.name) for layer in profile if layer.follows}
        problems = {}
        for name in plan.layers:
            layer = net.get_submodule(name)
            check_plain(name, layer, "RateQuantization")
            problems[name] = RateProblem.of(profile[name], layer, norms.get(name), second_moments(net, name))
        # Zeros take nothing, so the others would be given all of the room, and held there: these could never grow.
        empty = [name for name, problem in problems.items() if problem.is_empty]
        solved = {name: problem for name, problem in problems.items() if name not in empty}
        others = Plan({name: plan.layers[name] for name in solved})
        try:
            found = within(solved, room(others, profile), self.coder) if solved else {}
        except InfeasibleBudgetError as error:
            raise InfeasibleBudgetError(f"rate_quantization: {error}") from None
        found |= {name: problems[name].unsolved(plan.layers[name]["coded_bits"]) for name in empty}
        self._before = {name: raw_weight(net.get_submodule(name)).detach().clone() for name in found}
        for name, (scale, codes) in found.items():
            layer = net.get_submodule(name)
            grid = RateGrid(tuple(scale.shape), tuple(codes.shape)).to(layer.weight.device)
            grid.scale.copy_(scale)
            grid.coded.copy_(codes)
            layer.weight.copy_(grid.scale * codes.to(grid.scale))
            attach_weight(layer, grid)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Correct outputs of a network that is quantized now and not trained; its codes are final."""
        net = network(pl_module)
        for grid, _ in self._grids(net).values():  # a training that goes on
            grid.hold(float(grid.slope), self.coder)
        if self._before and trains_nothing(trainer):
            grids = self._grids(net)
            self._settle(net, {name: grid.coded.long() for name, (grid, _) in grids.items()})
            exact: dict[Transform, Tensor | None] = {
                grid: self._before[name].to(grid.scale.device) for name, (grid, _) in grids.items()
            }
            examples = calibration_pass(trainer, pl_module)
            with trainer.precision_plugin.forward_context():
                correct_outputs(net, applied_structure(net).profile, exact, examples)
            follow_first_process(trainer, net)
        self._before = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the bytes of the codes now and then, and hold weights as that asks for; end with codes that fit."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if (share_done(trainer) or 0.0) >= LAST:
            self._pin(network(pl_module))
        elif steps_done(trainer) % EVERY == 0:
            self._look(network(pl_module))

    @override
    def finish(self, net: nn.Module) -> None:
        """Give the weights codes near them that fit; where they have such codes, they stay."""
        self._settle(net, self._fitting(net))

    def _grids(self, net: nn.Module) -> dict[str, tuple[RateGrid, nn.Parameter]]:
        """Return layer -> its grid and its raw weight."""
        found = {}
        for name in applied_structure(net).applied[self.kind].layers:
            layer = net.get_submodule(name)
            found[name] = (next(t for t in weight_transforms(layer) if isinstance(t, RateGrid)), raw_weight(layer))
        return found

    @torch.no_grad()
    def _look(self, net: nn.Module) -> None:
        """Note the codes that the weights have now, and hold them the more the more they take."""
        codes = self._codes(net)
        size = sum(stream_bytes(each, self.coder) for each in codes.values())
        slope = GAIN * max(0.0, size / self._room(net) - BEGIN)
        for name, (grid, weight) in self._grids(net).items():
            if grid.slope.isinf():  # the training was given more steps after its codes were final
                weight.copy_(grid.scale * codes[name].to(grid.scale))
            grid.coded.copy_(codes[name])
            grid.hold(slope, self.coder)

    @torch.no_grad()
    def _pin(self, net: nn.Module) -> None:
        """Give the weights codes near them that fit, and let these not change, unless that is done."""
        grids = self._grids(net)
        first = next((grid for grid, _ in grids.values()), None)  # all are held alike, and a GPU waits for each asked
        if first is None or bool(first.slope.isinf()):
            return
        for name, codes in self._fitting(net).items():
            grid, _ = grids[name]
            grid.coded.copy_(codes)
            grid.hold(inf, self.coder)

    @torch.no_grad()
    def _codes(self, net: nn.Module) -> dict[str, Tensor]:
        """Return the codes that the forward pass sees."""
        return {name: (grid(weight) / grid.scale).round().long() for name, (grid, weight) in self._grids(net).items()}

    @torch.no_grad()
    def _fitting(self, net: nn.Module) -> dict[str, Tensor]:
        """Return these codes, or the nearest that fit."""
        grids = self._grids(net).items()
        levels = {name: grid.precondition(weight.float()) / grid.scale for name, (grid, weight) in grids}
        rates = {name: CodeRates.of(codes, self.coder) for name, codes in self._codes(net).items()}
        return codes_within(levels, rates, self._room(net), self.coder)

    @torch.no_grad()
    def _settle(self, net: nn.Module, final: Mapping[str, Tensor]) -> None:
        """Give the weights their final codes, and write how many bits hold them into the profile."""
        grids, record, changed = self._grids(net), applied_structure(net), []
        for name, codes in final.items():
            grid, weight = grids[name]
            low, bits = code_range(codes)
            grid.set_range(low, bits)
            grid.coded.copy_(codes)
            grid.hold(0.0, self.coder)
            weight.copy_(grid.scale * codes.to(grid.scale))
            changed.append(replace(record.profile[name], weight_bits=bits))
        write_structure(net, Structure(record.profile.update(changed), record.applied, record.asked))

    def _room(self, net: nn.Module) -> float:
        record = applied_structure(net)
        return room(record.applied[self.kind], record.profile)


def room(plan: Plan, profile: Profile) -> float:
    """Return the bytes that the codes of all layers of a plan may take together."""
    return sum(profile[name].weights * bits for name, bits in plan.knob("coded_bits").items()) / 8
