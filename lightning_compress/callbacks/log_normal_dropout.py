"""Log-normal dropout: training finds how much noise each output channel can bear; pruning then asks for their SNR.

    z = f(x) e,  log e ~ truncated N(mu, s^2);      loss + strength KL(q || log-uniform) / N      (noise/log_normal.py)

Source: Neklyudov et al. 2017 (arXiv 1705.07283); our reading of paper 1's channel-wise variational scores (arXiv
1912.02254): a reconstruction. It removes nothing itself: train with it in one stage, then prune channels in the next
with ``ChannelPruning(criterion=SignalToNoise())``. It breaks where channels are joined by residual sums, whose noise is
the noise of all summands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast, final

from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.learned_noise import LearnedNoise, salt
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.pruning.noise.log_normal import LogNormalNoise
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery.transforms import attach_output, output_transform


@final
class LogNormalDropout(LearnedNoise):
    """Noise on output channels; the knob ``log_normal`` is 1 for layers that have it.

    Arguments as for :class:`LearnedNoise`.
    """

    kind: ClassVar[str] = "log_normal_dropout"
    name: ClassVar[str] = "LogNormalDropout"
    refusal: ClassVar[str] = (
        "cannot have this noise: it is no Conv or Linear, does not run, is the last layer, or a batch norm with "
        "affine=False follows it, which cannot keep the gate that the noise leaves"
    )
    after: ClassVar[frozenset[str]] = frozenset({"layer_removal", "channel_pruning", "low_rank"})
    knobs: ClassVar[Mapping[str, str]] = {"log_normal": "log-normal noise"}

    def eligible(self, profile: Profile) -> list[LayerProfile]:
        """Return all layers but the last, whose channels are the outputs, and those whose norm has no scale."""
        fixed = {norm.follows for norm in profile if norm.kind == "norm" and not norm.extras}
        return [layer for layer in super().eligible(profile)[:-1] if layer.name not in fixed]

    @override
    def add_noise(self, net: nn.Module, layer: LayerProfile, profile: Profile) -> None:
        module = net.get_submodule(_end_of(layer.name, profile))
        noise = LogNormalNoise(layer.out_channels, layer.kind == "linear", salt(layer.name))
        attach_output(module, noise.to(net.get_submodule(layer.name).weight.device))

    @override
    def noise_of(self, net: nn.Module, layer: str, profile: Profile) -> tuple[Noise, nn.Module]:
        host = net.get_submodule(_end_of(layer, profile))
        return cast(LogNormalNoise, output_transform(host)), host


def _end_of(layer: str, profile: Profile) -> str:
    """Return the batch norm behind a layer, which would take noise before it for a change of scale; or the layer."""
    return next((norm.name for norm in profile if norm.follows == layer), layer)
