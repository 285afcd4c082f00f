"""Knowledge distillation: a loss term that draws the student's outputs to those of a teacher on the same inputs.

    loss = (1 - weight) training_step's loss + weight distillation(student(x), teacher(x))

Source: Hinton et al. 2015 (arXiv 1503.02531). The network's inputs and outputs are seen by hooks, so no batch format is
assumed and no edit to the module is needed; with ``CompressibleMixin`` the term is handed to ``compression_loss()``
instead. The teacher is outside the module tree: it is in no checkpoint, no optimizer and no DDP bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, final

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.errors import CompressError
from lightning_compress.losses.hinton import Hinton
from lightning_compress.losses.loss import DistillationLoss
from lightning_compress.mixin import CompressibleMixin
from lightning_compress.record import network


@final
class KnowledgeDistillation(Callback):
    """Adds a distillation term to the loss of an unedited LightningModule.

    Args:
        teacher: a trained network that takes the same inputs, or a LightningModule, whose network is used. It is
            put in eval mode and takes no gradient.
        loss: ``(student outputs, teacher outputs) -> scalar``.
        weight: share of the distillation term, in [0, 1].

    Raises:
        CompressError: the weight is out of range, training is manual, or ``training_step`` ran no forward pass of the
            network.
    """

    def __init__(self, teacher: nn.Module, loss: DistillationLoss | None = None, weight: float = 0.5) -> None:
        if not 0 <= weight <= 1:
            raise CompressError(f"KnowledgeDistillation: weight must be within 0 and 1, got {weight}")
        self.teacher = network(teacher).eval().requires_grad_(False)
        self.loss = Hinton() if loss is None else loss
        self.weight = weight
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Extend ``training_step`` (or, with the mixin, watch the forward pass) until ``teardown``."""
        if stage != "fit":
            return
        name = type(pl_module).__name__
        if self.teacher is network(pl_module):
            raise CompressError(
                f"KnowledgeDistillation: the teacher is the {name} that is trained; pass a deepcopy of it"
            )
        self.teacher.to(pl_module.device)
        if isinstance(pl_module, CompressibleMixin):
            self._handle = network(pl_module).register_forward_hook(self._hand_in(pl_module), with_kwargs=True)
        elif pl_module.automatic_optimization:
            pl_module.training_step = MethodType(self._distilling(pl_module.training_step), pl_module)
        else:
            raise CompressError(
                f"KnowledgeDistillation: {name} optimises manually; give it CompressibleMixin, and add "
                f"self.compression_loss() to its loss"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the student to its device."""
        self.teacher.to(pl_module.device)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        pl_module.__dict__.pop("training_step", None)
        if self._handle is not None:
            self._handle.remove()

    def _term(self, pl_module: LightningModule, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(*args, **kwargs)
        value = self.loss(output, target)
        pl_module.log("distillation_loss", value.detach())
        return value

    def _hand_in(self, pl_module: LightningModule) -> Callable[..., None]:
        def hook(student: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            if student.training and torch.is_grad_enabled():
                pl_module.add_loss("distillation", self.weight * self._term(pl_module, args, kwargs, output))

        return hook

    def _distilling(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(pl_module: LightningModule, *args: Any, **kwargs: Any) -> Any:
            seen: list[Any] = []
            handle = network(pl_module).register_forward_hook(
                lambda _student, args, kwargs, output: seen.append((args, kwargs, output)), with_kwargs=True
            )
            try:
                result = inner(*args, **kwargs)
            finally:
                handle.remove()
            if result is None:  # Lightning skips the step
                return None
            if not seen:
                raise CompressError(
                    f"KnowledgeDistillation: training_step of {type(pl_module).__name__} called no forward of "
                    f"{type(network(pl_module)).__name__}; let it call self(...), or use CompressibleMixin"
                )
            term = torch.stack([self._term(pl_module, *call) for call in seen]).mean()
            mix = lambda loss: (1 - self.weight) * loss + self.weight * term  # noqa: E731
            return mix(result) if isinstance(result, Tensor) else {**result, "loss": mix(result["loss"])}

        return training_step
