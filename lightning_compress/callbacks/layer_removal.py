"""Layer removal: whole residual blocks or layers go, and an identity stands in their place.

    y = x   instead of   y = block(x)

Source: N2N (Ashok et al. 2018, arXiv 1709.06030, stage 1), with larger units (removal_trace.py) and, by default,
inherited weights: both reconstructions. In a plain chain, a layer that widens can go too; the layer behind it then gets
narrower. An initializer sets the weights of the layers that read what was removed. Use it in a stage of its own, before
channel pruning (N2N's stage 2), with distillation. It breaks when all blocks of a resolution go: what is left is too
shallow to be trained back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from lightning import LightningModule
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.callback import CompressionCallback, known_structure
from lightning_compress.callbacks.base.output_errors import layer_errors
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Plan, as_globs, matching
from lightning_compress.core.profile import Profile
from lightning_compress.core.space import Choice
from lightning_compress.pruning.initializers.initializer import Initializer
from lightning_compress.pruning.initializers.least_squares import LeastSquares
from lightning_compress.surgery.calibration import drop_calibration
from lightning_compress.surgery.graph.blocks import RemovalGraph
from lightning_compress.surgery.graph.trace_blocks import find_removable
from lightning_compress.surgery.patience import told_when_slow
from lightning_compress.surgery.structure import network


@final
class LayerRemoval(CompressionCallback):
    """Removes blocks and layers; the knob ``keep`` is 0 for those that go and 1 for those that stay.

    Args:
        plan: see :class:`CompressionCallback`.
        initialize: sets the weights of what is left.
        ignore: globs of blocks and layers that a search keeps.

    Raises:
        CompressError: a layer of the plan cannot be removed, or a value is neither 0 nor 1.
        NoEffectError: a glob of ``ignore`` matches nothing that could be removed.
    """

    kind: ClassVar[str] = "layer_removal"
    after: ClassVar[frozenset[str]] = frozenset()
    removes: ClassVar[bool] = True
    knobs: ClassVar[Mapping[str, str]] = {"keep": "layers kept"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        initialize: Initializer | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan)
        check_instances("LayerRemoval", initialize=(initialize, Initializer))
        self.initialize = LeastSquares() if initialize is None else initialize
        self.ignore = as_globs(ignore)
        self._graphs: dict[object, RemovalGraph] = {}  # by architecture; shared by the copies of with_plan

    def kept_whole(self, module: nn.Module, example: Any) -> dict[str, str]:
        """Return layer -> why it stays, whatever the plan says."""
        net = network(module)
        graph = self._graph(net, known_structure(net, example).profile, example)
        ignored = {name for pattern in self.ignore for name in matching(pattern, graph.removable)}
        return {**graph.kept, **dict.fromkeys(sorted(ignored), "it is ignored")}

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        names = list(self._graph(net, profile, example).removable)
        ignored = {name for pattern in self.ignore for name in matching(pattern, names)}
        return [Choice(name, "keep", (0, 1)) for name in names if name not in ignored]

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        graph = self._graph(net, profile, example)
        wanted = self.own(plan).knob("keep")
        for name, value in wanted.items():
            if name not in graph.removable:
                raise CompressError(_refusal(name, graph))
            if value not in (0, 1):
                raise CompressError(f"LayerRemoval: keep of {name!r} must be 0 or 1, got {value}")
        return Plan({name: {"keep": 0} for name, value in wanted.items() if not value})

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        removed = [name for name, value in plan.knob("keep").items() if not value]
        if not removed:
            return profile
        graph = self._graphs.get(profile.architecture)
        if graph is None:
            raise CompressError("LayerRemoval: predict needs to have seen the network; call choices or resolve first")
        return graph.without(profile, removed)

    @override
    def calibrate(self, module: LightningModule, batches: Iterable[Any]) -> None:
        self.initialize.gather(module, batches)

    def output_errors(
        self, choices: Sequence[Choice], net: nn.Module, profile: Profile, example: Any, batches: Sequence[Any]
    ) -> list[list[float]]:
        """Return the error of the outputs of each layer or block when it alone is removed."""

        def apply(changed: nn.Module, plan: Plan) -> None:
            removed = {name: value for name, value in plan.knob("keep").items() if not value}
            self._graph(net, profile, example).remove(changed, profile, removed)

        return [layer_errors(apply, [choice], net, batches[0])[0] for choice in choices]

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        graph, removed = self._graph(net, profile, example), plan.knob("keep")
        graph.remove(net, profile, removed)
        if removed:
            self.initialize(net, graph.readers(profile, removed))
        drop_calibration(net)  # also when all stays: it describes the network before the training that follows

    def _graph(self, net: nn.Module, profile: Profile, example: Any) -> RemovalGraph:
        if profile.architecture not in self._graphs:
            with told_when_slow(
                f"LayerRemoval: following the blocks of {type(net).__name__} ({len(profile.weighted)} layers) and "
                f"removing each once on a copy; this is done once"
            ):
                self._graphs[profile.architecture] = find_removable(net, profile, example)
        return self._graphs[profile.architecture]


def _refusal(name: str, graph: RemovalGraph) -> str:
    whole = next((part for part in graph.removable if name.startswith(f"{part}.")), None)
    if whole is not None:
        return f"LayerRemoval: {name!r} is part of {whole!r}, which goes as a whole; name {whole!r} instead"
    if name in graph.kept:
        return f"LayerRemoval: layer {name!r} must stay: {graph.kept[name]}"
    return f"LayerRemoval: {name!r} cannot be removed{did_you_mean(name, graph.removable)}"
