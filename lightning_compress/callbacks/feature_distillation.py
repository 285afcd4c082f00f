"""Feature distillation: a loss term that draws features inside the student to those of a teacher on the same inputs.

    loss = training_step's loss + weight sum_j distance(student's layer j, teacher's layer j)

Sources: FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2), attention transfer (Zagoruyko and Komodakis 2017,
arXiv 1612.03928, section 3.1). How the term reaches the loss: loss_term.py. The features are the outputs of the named
layers, whatever their widths; of a layer that is called several times in one pass, the last output. Use it where the
student has fewer layers or channels than the teacher; beside ``KnowledgeDistillation`` it comes second, so that that
one's share is taken of the module's own loss alone. It breaks when the layers do different work, such as the first
stage of one and the last of the other: the term then stays high and harms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, final

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_compress.callbacks.base.teacher import DistillationCallback
from lightning_compress.core.errors import CompressError, NoEffectError, did_you_mean
from lightning_compress.core.instances import check_instances
from lightning_compress.distillation.attention_transfer import AttentionTransfer
from lightning_compress.distillation.feature_loss import FeatureLoss
from lightning_compress.distillation.outputs import FEATURES, Select, select_tensor
from lightning_compress.surgery._torch import is_compiled
from lightning_compress.surgery.tensors import map_tensors


@final
class FeatureDistillation(DistillationCallback):
    """Adds a feature term to the loss of an unedited LightningModule.

    Args:
        teacher: see :class:`DistillationCallback`.
        layers: names of the student's layers -> the teacher's; a list where the names are equal.
        loss: ``(student features, teacher features) -> scalar``, two lists of equal length.
        weight: factor on the term, above 0.
        select: which part of a layer's output that is no tensor is compared: a field, key or index, or a function of
            the output; None takes ``last_hidden_state``, else the only tensor of features.

    Raises:
        NoEffectError: no layers.
        CompressError: a layer that the student or the teacher does not have or does not run, the weight is out of
            range, or as for :class:`DistillationCallback`.
    """

    kind: ClassVar[str] = "feature_distillation"
    after: ClassVar[frozenset[str]] = frozenset({"distillation"})
    term_name: ClassVar[str] = "feature_distillation"

    def __init__(
        self,
        teacher: nn.Module,
        layers: Mapping[str, str] | Sequence[str],
        loss: FeatureLoss | None = None,
        weight: float = 1.0,
        select: Select = None,
    ) -> None:
        if not 0 < weight < inf:
            raise CompressError(f"FeatureDistillation: weight must be above 0 and finite, got {weight}")
        if not layers:
            raise NoEffectError("FeatureDistillation: no layers are given; name those to compare, such as ['layer1']")
        super().__init__(teacher, weight)
        check_instances("FeatureDistillation", loss=(loss, FeatureLoss))
        self.layers = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
        self.loss = AttentionTransfer() if loss is None else loss
        self.select = select
        self._features: dict[str, Any] = {}

    @property
    @override
    def own_weight(self) -> float:
        return 1.0

    @override
    def check(self, net: nn.Module) -> None:
        if is_compiled(net):
            raise CompressError(
                f"FeatureDistillation: {type(net).__name__} is compiled, and gives no features of layers inside; train "
                f"it uncompiled, or use KnowledgeDistillation"
            )
        for who, owner, names in (("student", net, self.layers), ("teacher", self.teacher, self.layers.values())):
            present = dict(owner.named_modules())
            for name in names:
                if name not in present:
                    raise CompressError(
                        f"FeatureDistillation: the {who} {type(owner).__name__} has no layer {name!r}"
                        f"{did_you_mean(name, present)}"
                    )

    @override
    def watch(self, net: nn.Module) -> list[RemovableHandle]:
        # A layer that this pass does not run must not answer with what it gave in another.
        cleared = net.register_forward_pre_hook(lambda _net, _args: self._features.clear())
        return [cleared, *_capture(net, self.layers, self._features)]

    @override
    def term(self, args: Any, kwargs: Any, output: Any) -> Tensor:
        features: dict[str, Any] = {}
        handles = _capture(self.asked, self.layers.values(), features)
        try:
            self.ask(args, kwargs)
        finally:
            for handle in handles:
                handle.remove()
        mine = [_taken(self._features, name, "student", self.select) for name in self.layers]
        theirs = [_taken(features, name, "teacher", self.select) for name in self.layers.values()]
        self._features.clear()
        return self.loss(mine, theirs)


def _capture(net: nn.Module, names: Iterable[str], into: dict[str, Any]) -> list[RemovableHandle]:
    """Add hooks that keep the last output of each named layer in ``into``."""

    def keep(name: str) -> RemovableHandle:
        return net.get_submodule(name).register_forward_hook(lambda _layer, _args, out: into.update({name: _own(out)}))

    return [keep(name) for name in dict.fromkeys(names)]


def _own(output: Any) -> Any:
    """Return a copy: a layer behind, such as ``ReLU(inplace=True)`` or ``+=``, may write into the output."""
    return map_tensors(Tensor.clone, output)


def _taken(features: Mapping[str, Any], name: str, who: str, select: Select) -> Tensor:
    if name not in features:
        raise CompressError(
            f"FeatureDistillation: the {who} did not run its layer {name!r} in this forward pass; name a layer that it "
            f"calls"
        )
    return select_tensor(features[name], select, FEATURES, f"layer {name!r} of the {who}")
