"""Information dropout: noise on activations, as strong as each input allows; its KL says what a channel has to tell.

    z = f(x) e,  log e ~ N(-alpha(x)^2 / 2, alpha(x)^2);      loss + strength KL / N      (noise/information.py)

Source: Achille and Soatto 2018 (arXiv 1611.01353). It regularizes while it is on; afterwards
``ChannelPruning(criterion=Information())`` removes, in a later stage, the channels that told least: our reading of
"pruning via information dropout" in paper 1 (arXiv 1912.02254), a reconstruction. It costs a second layer of the same
shape while it is on. Use it where a training as long as the fine-tuning can be spent on choosing channels. Start with a
small strength: the KL is summed over units, and there are many, so a large one breaks the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

from lightning import LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.learned_noise import LearnedNoise, loss_scale, salt
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.pruning.noise.information import InformationNoise
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import attach_output, output_transform


@final
class InformationDropout(LearnedNoise):
    """Noise on units; the knob ``information`` is 1 for layers that have it.

    Arguments as for :class:`LearnedNoise`.
    """

    kind: ClassVar[str] = "information_dropout"
    name: ClassVar[str] = "InformationDropout"
    after: ClassVar[frozenset[str]] = frozenset({"layer_removal", "channel_pruning", "low_rank", "log_normal_dropout"})
    knobs: ClassVar[Mapping[str, str]] = {"information": "information noise"}

    def eligible(self, profile: Profile) -> list[LayerProfile]:
        """Return all but the last layer, whose outputs are the network's answer."""
        return super().eligible(profile)[:-1]

    @override
    def add_noise(self, net: nn.Module, layer: LayerProfile, profile: Profile) -> None:
        module = net.get_submodule(layer.name)
        weight = module.weight
        convolution: tuple[Any, ...] = ()
        if layer.kind == "conv":
            padding = module.padding if isinstance(module.padding, str) else list(module.padding)
            convolution = (list(module.stride), padding, list(module.dilation), module.groups)
        attach_output(module, InformationNoise(weight.shape, convolution, salt(layer.name)).to(weight.device))

    @override
    def noise_of(self, net: nn.Module, layer: str, profile: Profile) -> tuple[Noise, nn.Module]:
        host = net.get_submodule(layer)
        return cast(InformationNoise, output_transform(host)), host

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        # The KL joins the backward pass of a loss that is averaged over batches, and scaled in fp16.
        strength = self._beta(trainer) / trainer.accumulate_grad_batches * loss_scale(trainer)
        for noise, *_ in self._noises(network(pl_module)).values():
            noise.strength.fill_(strength)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Do nothing: this KL depends on the data, and is part of the backward pass."""
