"""Knowledge distillation: a loss term that draws the student's outputs to those of a teacher on the same inputs.

    loss = (1 - weight) training_step's loss + weight distillation(student(x), teacher(x))

Source: Hinton et al. 2015 (arXiv 1503.02531). How the term reaches the loss: loss_term.py. Use it for any compressed
network whose dense one is at hand. It breaks with Hinton's loss at a high temperature when the student is of few bits:
for W3A8 preact-ResNet-20 on CIFAR-10 the Distiller project published 80.0 % at T = 5, 91.6 % at T = 1 and 91.4 %
without a teacher (examples/quantization, preact_resnet_cifar_dorefa.yaml); keep T = 1 below 5 bits.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.callbacks.base.teacher import DistillationCallback
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.loss import DistillationLoss
from lightning_compress.distillation.outputs import Select, select_tensor


@final
class KnowledgeDistillation(DistillationCallback):
    """Adds a distillation term to the loss of an unedited LightningModule.

    Args:
        teacher: see :class:`DistillationCallback`.
        loss: ``(student outputs, teacher outputs) -> scalar``.
        weight: share of the distillation term, in [0, 1].
        select: which part of an output that is no tensor is compared: a field, key or index, or a function of the
            output; None takes ``logits``, else the only tensor of scores.

    Raises:
        CompressError: the weight is out of range, the outputs have no obvious part to compare or are of different
            shapes, as with a teacher of other classes, or as for :class:`DistillationCallback`.
    """

    kind: ClassVar[str] = "distillation"
    after: ClassVar[frozenset[str]] = frozenset()
    term_name: ClassVar[str] = "distillation"

    def __init__(
        self,
        teacher: nn.Module,
        loss: DistillationLoss | None = None,
        weight: float = 0.5,
        select: Select = None,
    ) -> None:
        if not 0 <= weight <= 1:
            raise CompressError(f"KnowledgeDistillation: weight must be within 0 and 1, got {weight}")
        super().__init__(teacher, weight)
        check_instances("KnowledgeDistillation", loss=(loss, DistillationLoss))
        self.loss = Hinton() if loss is None else loss
        self.select = select

    @property
    @override
    def own_weight(self) -> float:
        return 1 - self.weight

    @override
    def term(self, args: Any, kwargs: Any, output: Any) -> Tensor:
        target = self.ask(args, kwargs)
        mine = select_tensor(output, self.select, owner="the student")
        theirs = select_tensor(target, self.select, owner="the teacher")
        if mine.shape != theirs.shape:
            raise CompressError(
                f"KnowledgeDistillation: the student gives outputs of shape {tuple(mine.shape)}, the teacher of shape "
                f"{tuple(theirs.shape)}; take a teacher of the same classes, or select parts of equal shape with "
                f"select=, or compare inner layers with FeatureDistillation"
            )
        return self.loss(mine, theirs)
