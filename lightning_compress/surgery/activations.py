"""Record which operations of a forward pass write activations, and which read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_compress.core.activations import Step, Steps, Values, in_place, read_by
from lightning_compress.surgery._torch import written_arguments
from lightning_compress.surgery.matrices import attended, read_layers, tokens_read
from lightning_compress.surgery.tensors import operands, tensors_in
from lightning_compress.surgery.transforms import Transform

NORMS = ("aten.native_batch_norm", "aten.cudnn_batch_norm", "aten._native_batch_norm_legit_no_training")
# Pointwise too, which torch says of them only since some version after 2.9.
UNTAGGED = tuple(
    f"aten.{name}" for name in ("celu_", "elu_", "hardsigmoid_", "hardtanh_", "leaky_relu", "leaky_relu_", "selu_")
)
PRODUCTS = ("aten.bmm", "aten.mm", "aten.addmm", "aten.baddbmm", "aten.convolution", "aten._convolution")
JOINS = ("aten.cat", "aten.stack")
COPY = "aten.clone"


class ActivationRecorder(TorchDispatchMode):
    """Notes every operation on what a network computes from its inputs; parameters and constants do not count.

    Args:
        samples: in the batch.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.modules: list[nn.Module] = []
        self.names: list[str] = [""]
        self.steps: list[Step] = []
        self.order: dict[str, int] = {"": -1}  # of the layers, as they ran
        self.inside = 0  # attention, whose own operations do not count: they depend on what else it is asked for
        self._number: dict[int, int] = {}
        self._kept: list[Any] = []  # storages, so that their ids stay unique

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.inside:
            return result
        read = [leaf for leaf in operands((args, kwargs)) if self._known(leaf)]
        if read:
            written = [leaf for leaf in operands(result) if isinstance(leaf, Tensor)]
            self._note(func, read, written, bool(written_arguments(func, args, kwargs or {})))
        return result

    @contextmanager
    def watching(self, net: nn.Module, width: Callable[[nn.Module], int | None]) -> Iterator[None]:
        """Know inside which module an operation runs, and which activations are outputs of layers.

        Args:
            net: that runs.
            width: module -> output channels of a layer; None for other modules.
        """
        handles = []
        for name, module in net.named_modules():
            # First and last of all hooks, for transforms work in hooks of their layer.
            handles.append(module.register_forward_pre_hook(self._enter(name), prepend=True))
            rows = f"{name}.weight" if name else "weight"  # of a table, which give as many features as it has columns
            layer = read_by(rows) if isinstance(module, nn.Embedding) else name
            handles.append(module.register_forward_hook(self._leave(layer, width(module))))
            if layers := read_layers(module):
                handles.append(module.register_forward_pre_hook(self._enter_attention))
                handles.append(module.register_forward_hook(self._leave_attention(name, layers[-1]), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, _args: Any) -> None:
            self.modules.append(module)
            self.names.append(name)

        return hook

    def _leave(self, name: str, width: int | None) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            if self.modules and self.modules[-1] is module:  # a quantizer that is set drops hooks before its forward
                self.modules.pop()
                self.names.pop()
            if width is not None and self._known(output):
                self._name(name, output, width)

        return hook

    def _enter_attention(self, _module: nn.Module, _args: Any) -> None:
        self.inside += 1

    def _leave_attention(self, name: str, last: str) -> Any:
        projection = f"{name}.{last}" if name else last

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.inside -= 1
            given, tokens = attended(module, args, kwargs), tokens_read(module, args, kwargs)
            inputs = tuple(dict.fromkeys(self._number[id(x.untyped_storage())] for x in given if self._known(x)))
            first = len(self.steps)
            heads = read_by(projection)
            for layer in (heads, projection):
                self.order.setdefault(layer, len(self.order))
            self.steps.append(Step(name, inputs, ((heads, self._share(sum(tokens))),)))  # queries, keys and values
            self.steps.append(Step(name, (first,), ((heads, self._share(tokens[0])),)))
            out, *others = output if isinstance(output, tuple) else (output,)
            self._write(out, (first + 1,), ((projection, self._per_sample(out) // out.shape[-1]),))
            for leaf in others:
                if leaf is not None:
                    self._write(leaf, (first + 1,), (("", self._per_sample(leaf)),))

        return hook

    def _name(self, layer: str, out: Tensor, width: int) -> None:
        """Note that an activation is the output of a layer with so many output channels."""
        self.order.setdefault(layer, len(self.order))
        number = self._number[id(out.untyped_storage())]
        step, count = self.steps[number], out.numel() // (width * self.samples)
        self.steps[number] = Step(step.module, step.inputs, ((layer, count),))

    def begin(self, example: Any) -> None:
        """Note the inputs of the network."""
        for tensor in tensors_in(example):
            self._write(tensor, (), (("", self._per_sample(tensor)),))

    def finish(self, output: Any) -> Steps:
        """Note that the caller reads the outputs; return all steps."""
        numbers = [self._number[id(leaf.untyped_storage())] for leaf in tensors_in(output) if self._known(leaf)]
        return in_place(_without_unread((*self.steps, Step("", tuple(dict.fromkeys(numbers))))))

    def _known(self, leaf: Any) -> bool:
        return type(leaf) is Tensor and leaf.layout is torch.strided and id(leaf.untyped_storage()) in self._number

    def _note(self, func: Any, read: list[Tensor], written: list[Tensor], in_place: bool) -> None:
        name = str(func.overloadpacket)
        inputs = tuple(dict.fromkeys(self._number[id(leaf.untyped_storage())] for leaf in read))
        pointwise = len(inputs) == 1 and (torch.Tag.pointwise in func.tags or name in NORMS or name in UNTAGGED)
        # Nothing new: what a transform rounds stays where it is, and so does a copy that moves no value.
        same = any(isinstance(m, Transform) for m in self.modules) or (name == COPY and read[0].is_contiguous())
        for out in written:
            storage = out.untyped_storage()
            if same:
                self._number[id(storage)] = inputs[0]
                self._kept.append(storage)
            elif id(storage) not in self._number or (in_place and not pointwise):
                fits = pointwise and out.numel() == read[0].numel() and name != COPY
                self._write(out, inputs, self._values(name, read, out), fits)

    def _write(self, out: Tensor, inputs: tuple[int, ...], values: Values, pointwise: bool = False) -> None:
        storage = out.untyped_storage()
        self._number[id(storage)] = len(self.steps)
        self._kept.append(storage)
        self.steps.append(Step(self.names[-1], inputs, values, pointwise))

    def _per_sample(self, value: Tensor) -> int:
        return self._share(value.numel())

    def _share(self, count: int) -> int:
        return -(-count // self.samples)

    def _values(self, operation: str, read: list[Tensor], out: Tensor) -> Values:
        """Return the values of what an operation wrote, in terms of the layers that decide how many there are."""
        constant = (("", self._per_sample(out)),)
        if operation in PRODUCTS:
            return constant
        known = {id(leaf): self.steps[self._number[id(leaf.untyped_storage())]].values for leaf in read}
        if operation in JOINS and sum(leaf.numel() for leaf in read) == out.numel():
            joined: dict[str, int] = {}
            for leaf in read:
                for name, count in self._of_view(known[id(leaf)], leaf):
                    joined[name] = joined.get(name, 0) + count
            return tuple(joined.items())
        # Of tensors of one shape the widths are equal: that of the layer that ran first stays when blocks are removed.
        source = min(read, key=lambda leaf: (-leaf.numel(), [self.order[name] for name, _ in known[id(leaf)]]))
        found = self._of_view(known[id(source)], source)
        if not source.numel() or any(count * out.numel() % source.numel() for _, count in found):
            return constant
        return tuple((name, count * out.numel() // source.numel()) for name, count in found)

    def _of_view(self, values: Values, view: Tensor) -> Values:
        """Return the values of a view: the share that it is of the whole."""
        whole = view.untyped_storage().nbytes() // max(view.element_size(), 1)
        if whole == view.numel() or any(count * view.numel() % whole for _, count in values):
            return values if whole == view.numel() else (("", self._per_sample(view)),)
        return tuple((name, count * view.numel() // whole) for name, count in values)


def _without_unread(steps: Steps) -> Steps:
    """Drop what nobody reads, such as the positions of maxima, where an operation wrote something else too."""
    read = {i for step in steps for i in step.inputs} | {len(steps) - 1}
    number = {old: new for new, old in enumerate(sorted(read))}
    return tuple(
        Step(step.module, tuple(number[i] for i in step.inputs), step.values, step.pointwise)
        for old, step in enumerate(steps)
        if old in read
    )
