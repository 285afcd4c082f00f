"""A loss term from a teacher, computed at each call of the network and added to the loss of an unedited module.

The network's inputs and outputs are seen by hooks, so no batch format is assumed; ``training_step`` is extended from
``setup`` to ``teardown``. With ``CompressibleMixin`` the term is handed to ``compression_loss()`` instead. The teacher
is outside the module tree: it is in no checkpoint, no optimizer and no DDP bucket.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from types import MethodType
from typing import Any, ClassVar, final

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_compress.callbacks.base.mixin import CompressibleMixin
from lightning_compress.callbacks.base.order import check_places
from lightning_compress.callbacks.base.stop_at_nan import check_loss
from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind
from lightning_compress.surgery._lightning import callbacks_of
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.forward_calls import seen_by_hooks
from lightning_compress.surgery.structure import network

UNEXTENDED = "_unextended_training_step"  # in a module's __dict__: what it had there as training_step, or None


class DistillationCallback(Callback, HasKind, ABC):
    """``own_weight`` times the module's loss plus ``weight`` times a term; several calls in a step are averaged.

    Args:
        teacher: a trained network that takes the same inputs, or a LightningModule, whose network is used. At each
            step it is in eval mode, takes no gradient and has the student's device and precision.
        weight: factor on the term.

    Attributes:
        after, before: kinds of terms that it must be listed after or before: each takes its share of the loss and the
            terms before it.
        term_name: under which the mixin keeps the term; the log has it as ``<term_name>_loss``.

    Raises:
        CompressError: the teacher is the network that is trained, training is manual without the mixin, or
            ``training_step`` ran no forward pass of the network.
    """

    after: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[frozenset[str]] = frozenset()
    term_name: ClassVar[str]

    def __init__(self, teacher: nn.Module, weight: float) -> None:
        if not isinstance(teacher, nn.Module):
            raise CompressError(
                f"{type(self).__name__}: teacher must be a trained network or LightningModule, such as a copy that "
                f"was made before anything was compressed (copy.deepcopy(module)); got {teacher!r}"
            )
        self.teacher = network(teacher).eval().requires_grad_(False)
        self.weight = weight
        self._handles: list[RemovableHandle] = []
        self._converted: nn.Module | None = None  # a copy, where the student is of another precision
        self._values: list[Tensor] = []  # of the term, at each call of the network in this step

    @property
    @abstractmethod
    def own_weight(self) -> float:
        """Factor on the loss that ``training_step`` returns; with the mixin the module itself decides that."""

    @abstractmethod
    def term(self, args: Any, kwargs: Any, output: Any) -> Tensor:
        """Return the term, a scalar, for one call of the student network with these arguments and this output."""

    @property
    @final
    def asked(self) -> nn.Module:
        """The teacher as :meth:`ask` runs it: itself, or its copy in the precision of the student."""
        return self.teacher if self._converted is None else self._converted

    @final
    @torch.no_grad()
    def ask(self, args: Any, kwargs: Any) -> Any:
        """Return what the teacher gives for these arguments, without a gradient."""
        return self.asked(*args, **kwargs)

    def watch(self, net: nn.Module) -> Sequence[RemovableHandle]:
        """Add the hooks on the student that :meth:`term` needs; they are removed after its forward pass."""
        return ()

    def check(self, net: nn.Module) -> None:
        """Raise if this student and the teacher do not fit."""

    @final
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Extend ``training_step`` (or, with the mixin, watch the forward pass) until ``teardown``."""
        if stage != "fit":
            return
        check_places([c for c in callbacks_of(trainer) if isinstance(c, DistillationCallback)])
        own, name, net = type(self).__name__, type(pl_module).__name__, network(pl_module)
        if self.teacher is net:
            raise CompressError(f"{own}: the teacher is the {name} that is trained; pass a deepcopy of it")
        self.check(net)
        self.teacher.to(pl_module.device).eval()
        if isinstance(pl_module, CompressibleMixin):
            self._handles = [*self.watch(net), net.register_forward_hook(self._hand_in(pl_module), with_kwargs=True)]
            self._extend(pl_module, self._watched)
        elif pl_module.automatic_optimization:
            self._extend(pl_module, self._extended)
        else:
            raise CompressError(
                f"{own}: {name} optimizes manually; give it CompressibleMixin, and add self.compression_loss() to its "
                f"loss"
            )

    def _extend(self, pl_module: LightningModule, extended: Callable[..., Any]) -> None:
        pl_module.__dict__.setdefault(UNEXTENDED, pl_module.__dict__.get("training_step"))
        pl_module.__dict__["training_step"] = MethodType(extended(pl_module.training_step), pl_module)

    @final
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the student to its device."""
        self.teacher.to(pl_module.device)

    @final
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._leave(pl_module)

    @final
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was: Lightning calls no ``teardown`` now."""
        self._leave(pl_module)

    @final
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at a loss that is not finite; with the mixin, see that the step summed its terms.

        A step that was skipped (None) need not have.
        """
        check_loss(trainer, outputs)
        if isinstance(pl_module, CompressibleMixin):
            pl_module.check_summed(skipped=not outputs and pl_module.automatic_optimization)

    def _leave(self, pl_module: LightningModule) -> None:
        # Of several terms the first one puts the user's own training step back: the others have extended that.
        if UNEXTENDED in pl_module.__dict__:
            pl_module.__dict__.pop("training_step", None)
            own = pl_module.__dict__.pop(UNEXTENDED)
            if own is not None:
                pl_module.__dict__["training_step"] = own
        for handle in self._handles:
            handle.remove()
        self._handles, self._converted = [], None

    def _follow(self, student: nn.Module) -> None:
        """Put the teacher in eval mode and where the student is, whatever other code that holds it did since."""
        mine, theirs = _first_float(self.asked), _first_float(student)
        if mine is not None and theirs is not None:
            if mine.dtype != theirs.dtype:  # a copy, for the user's own keeps its digits
                self._converted = clone(self.teacher).requires_grad_(False).to(theirs.device, theirs.dtype)
            elif mine.device != theirs.device:
                self.asked.to(theirs.device)
        self.asked.eval()

    def _value(self, pl_module: LightningModule, args: Any, kwargs: Any, output: Any) -> Tensor:
        self._follow(network(pl_module))
        value = self.term(args, kwargs, output)
        self._values.append(value.detach())
        return value

    def _log(self, pl_module: LightningModule) -> None:
        """Log the mean of this step's values, which is what is added to the loss."""
        if self._values:
            pl_module.log(f"{self.term_name}_loss", torch.stack(self._values).mean())

    def _hand_in(self, pl_module: LightningModule) -> Callable[..., None]:
        def hook(student: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if student.training and torch.is_grad_enabled():
                pl_module.add_loss(self.term_name, self.weight * self._value(pl_module, args, kwargs, output))

        return hook

    def _extended(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @_taking_as(inner)
        def training_step(pl_module: LightningModule, *args: Any, **kwargs: Any) -> Any:
            terms: list[Tensor] = []

            def hook(_student: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                if torch.is_grad_enabled():
                    terms.append(self._value(pl_module, args, kwargs, output))

            net = network(pl_module)
            self._values = []
            handles = [*self.watch(net), net.register_forward_hook(hook, with_kwargs=True)]
            try:
                with seen_by_hooks(net):
                    result = inner(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()
            self._log(pl_module)
            if result is None:  # Lightning skips the step
                return None
            if not terms:
                raise CompressError(
                    f"{type(self).__name__}: training_step of {type(pl_module).__name__} called no forward of "
                    f"{type(net).__name__}; let it call self(...), or use CompressibleMixin"
                )
            mix = lambda loss: self.own_weight * loss + self.weight * torch.stack(terms).mean()  # noqa: E731
            return mix(result) if isinstance(result, Tensor) else {**result, "loss": mix(result["loss"])}

        return training_step

    def _watched(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Return a training step whose direct calls of ``forward`` are seen too."""

        @_taking_as(inner)
        def training_step(pl_module: LightningModule, *args: Any, **kwargs: Any) -> Any:
            self._values = []
            with seen_by_hooks(network(pl_module)):
                result = inner(*args, **kwargs)
            self._log(pl_module)
            return result

        return training_step


def _first_float(net: nn.Module) -> nn.Parameter | None:
    return next((p for p in net.parameters() if p.is_floating_point()), None)


def _taking_as(inner: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator with which Lightning passes what it would to ``inner``, which need not take ``batch_idx``."""
    return wraps(inspect.unwrap(inner.__func__)) if inspect.ismethod(inner) else lambda step: step
