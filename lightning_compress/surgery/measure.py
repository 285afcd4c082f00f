"""Measuring the profile of a network: one forward pass with hooks.

MACs are counted for layers with a weight. Attention's matrix products and element-wise work are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.surgery._torch import own_parameters, unsaved_buffers, writes
from lightning_compress.surgery.activations import ActivationRecorder
from lightning_compress.surgery.input_errors import told_input_errors
from lightning_compress.surgery.listed_samples import check_samples
from lightning_compress.surgery.matrices import argument, is_own, matrices, positions
from lightning_compress.surgery.read_weights import ReadWeights
from lightning_compress.surgery.tensors import map_tensors, operands, tensors_in
from lightning_compress.surgery.transforms import Transform, weight_transforms

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear,)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KERNELS = CONV + TRANSPOSED + LINEAR  # the layers whose channels can be removed
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORM = (*BATCH_NORM, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)

NORM_STATE = ("running_mean", "running_var", "num_batches_tracked")


class _Uses(TorchFunctionMode):
    """Counts, for each tensor, the operations that read it; the tensors are kept alive, so that ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.alive: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # What gives nothing writes, as x[...] = v does, and may read others; what gives no tensor asks for a shape.
        if result is None or any(isinstance(leaf, Tensor) for leaf in operands(result)):
            read = {id(leaf): leaf for leaf in operands((args, kwargs)) if isinstance(leaf, Tensor)}
            self.counts.update(read.keys())
            self.alive += read.values()
        return result


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Set eval mode without gradients inside; restore the mode of every submodule afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def beside(net: nn.Module, example: Any) -> Any:
    """Return a copy of the example on the network's device: a forward pass may write into its input."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    copies: dict[int, Tensor] = {}  # one for each tensor: attention asks whether its queries are its keys

    def copied(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.to(device, copy=True)
        return copies[id(tensor)]

    return map_tensors(copied, example)


def forward(net: nn.Module, example: Any) -> Any:
    """Call ``net(example)`` on a copy; a tuple is spread over arguments, a dict over keywords, as Lightning does.

    Nothing compiled is run: code that was compiled before sees neither new hooks nor what else watches operations.
    """
    return _called(net, beside(net, example))


def _called(net: nn.Module, example: Any) -> Any:
    with torch.compiler.set_stance("force_eager"):
        if isinstance(example, tuple):
            return net(*example)
        return net(**example) if isinstance(example, dict) else net(example)


def samples_in(example: Any) -> int:
    """Return how many samples an input batch has: the first dimension of its first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(example) if tensor.dim()), 1)


def forward_hooked(net: nn.Module, example: Any, handles: Iterable[RemovableHandle]) -> Any:
    """Call :func:`forward` in eval mode without gradients, and remove the hooks afterwards."""
    try:
        with evaluating(net):
            return forward(net, example)
    finally:
        for handle in handles:
            handle.remove()


def measure(net: nn.Module, example: Any) -> Profile:
    """Return the profile of a network in floating point.

    Args:
        net: any module; its modes, buffers and gradients are left as they were.
        example: one input batch (tensor, tuple or dict), of which the first dimension counts the samples.

    Raises:
        CompressError: see :func:`check_kind`; the network does not run on the example, takes a list of samples, has no
            layer with a weight that runs, or one with a weight that is no parameter.
    """
    check_kind(net)
    samples = samples_in(example)
    calls: dict[str, int] = {}  # of all samples, as what follows: a layer may run for each of them, or once for all
    read: Counter[str] = Counter()
    shapes: list[torch.Size] = []  # of what convolutions read
    times: Counter[str] = Counter()
    producer: dict[tuple[int, int], str] = {}
    reads: dict[str, tuple[int, int]] = {}
    multiplied: Counter[str] = Counter()  # matrix, or layer that is not called -> positions
    uses, recorder = _Uses(), ActivationRecorder(samples)

    def after(name: str, module: nn.Module) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            times[name] += 1
            calls.setdefault(name, 0)
            found = positions(module, args, kwargs)
            multiplied.update({f"{name}.{key}" if name else key: count for key, count in found.items()})
            if not isinstance(module, KERNELS + NORM):
                return
            x, out = argument(args, kwargs, 0, "input"), tensors_in(output)[0]
            calls[name] += _positions(module, x, out)
            if isinstance(module, CONV):
                read[name] += 0 if x is None else x.numel() // module.in_channels
                shapes.extend(() if x is None else (x.shape,))
            if _can_take_a_norm(module, out):
                producer[id(out), writes(out)] = name
                uses.alive.append(out)
            if can_be_folded(module):
                reads[name] = id(x), writes(x)

        return hook

    owners = [(name, module) for name, module in net.named_modules() if _owns_state(module)]
    for name, module in owners:
        _check_weight(name, module)
    read_by_code = ReadWeights(net)
    example = beside(net, example)
    recorder.begin(example)
    handles = [module.register_forward_hook(after(name, module), with_kwargs=True) for name, module in owners]
    try:
        # Tensors of inference do not count writes.
        watched = recorder.watching(net, _width)
        told, here = told_input_errors(net, example), torch.inference_mode(False)
        with told, here, evaluating(net), watched, uses, recorder, read_by_code:
            output = _called(net, example)
    finally:
        for handle in handles:
            handle.remove()
    check_samples(net, example, shapes)
    others = {name: count for name, count in read_by_code.positions.items() if not calls.get(name)}
    multiplied.update({name: count for name, count in others.items() if not multiplied[name]})
    uses.counts.update(id(tensor) for tensor in tensors_in(output))  # the caller reads them
    pairs = {norm: producer[t] for norm, t in reads.items() if t in producer and uses.counts[t[0]] == 1}
    # What runs twice has more than one neighbor, and folding serves only one of them.
    follows = {norm: layer for norm, layer in pairs.items() if times[norm] == times[layer] == 1}
    modules, order = dict(owners), [*calls, *(name for name, _ in owners if name not in calls)]
    each, shares = _shares(calls, samples), _shares(multiplied, samples)
    inputs = {name: count for name, count in _shares(read, samples).items() if count != each[name]}
    parts = (
        layer_profiles(name, modules[name], each.get(name, 0), follows.get(name, ""), inputs.get(name, 0), shares)
        for name in order
    )
    layers = [layer for part in parts for layer in part]
    if not any(layer.kind == "matrix" or (layer.weights and layer.positions) for layer in layers):
        raise CompressError(f"profile: {type(net).__name__} runs no layer with a weight: there is nothing to compress")
    return Profile({layer.name: layer for layer in layers}, recorder.finish(output))


def _shares(counts: Mapping[str, int], samples: int) -> dict[str, int]:
    """Return how many of the positions of a batch are of one sample; at least one of what all samples share."""
    return {name: max(round(count / samples), min(count, 1)) for name, count in counts.items()}


def _positions(module: nn.Module, x: Tensor | None, out: Tensor) -> int:
    """Return the positions of a batch: of the output, or of the input of a transposed convolution; norms have none."""
    if isinstance(module, TRANSPOSED):
        return 0 if x is None else x.numel() // module.in_channels
    width = _width(module)
    return 0 if width is None else out.numel() // width


def _width(module: nn.Module) -> int | None:
    if isinstance(module, CONV + TRANSPOSED):
        return module.out_channels
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    return module.out_features if isinstance(module, LINEAR) else None


def check_kind(net: nn.Module) -> None:
    """Raise for a network whose layers cannot be changed.

    Raises:
        CompressError: a part of it is scripted, or wrapped to be compiled or distributed.
    """
    for name, module in net.named_modules():
        where = f"layer {name!r}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise CompressError(
                f"profile: {where} is a ScriptModule, whose layers cannot be changed; compress the module from which "
                f"torch.jit made it, and script the result"
            )
        if hasattr(module, "_orig_mod"):
            raise CompressError(
                f"profile: {where} is wrapped by torch.compile, which puts '_orig_mod' into the names of its layers "
                f"and into every file; write self.net.compile() in place of self.net = torch.compile(self.net): it "
                f"keeps the names"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise CompressError(
                f"profile: {where} is wrapped in {type(module).__name__}; give the module inside it (its .module), and "
                f"let the Trainer distribute it"
            )


def _check_weight(name: str, module: nn.Module) -> None:
    """Raise for a layer whose weight is not a parameter of its own: what is stored of it would not be what runs."""
    transforms = weight_transforms(module)
    foreign = next((type(t).__name__ for t in transforms if not isinstance(t, Transform)), None)
    if isinstance(module, CONV + LINEAR) and (foreign or not (transforms or "weight" in own_parameters(module))):
        raise CompressError(
            f"profile: the weight of layer {name!r} is computed from other parameters ({foreign or 'by a hook'}); take "
            f"that off first, with torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') or, for the old "
            f"hooks, torch.nn.utils.remove_weight_norm or remove_spectral_norm"
        )


def _can_take_a_norm(module: nn.Module, out: Tensor) -> bool:
    """Return whether a factor on the weight is a factor on the output (no forward pass of its own).

    Of a linear layer's output with more than two dimensions, a batch norm reads another dimension as the channels.
    """
    if isinstance(module, CONV):
        return any(type(module).forward is cls.forward for cls in CONV)
    return isinstance(module, LINEAR) and type(module).forward is nn.Linear.forward and out.dim() == 2


def can_be_folded(module: nn.Module) -> bool:
    """Return whether the module is a batch norm and nothing more: some sub-classes apply an activation too."""
    return (
        isinstance(module, BATCH_NORM)
        and type(module).forward is nn.BatchNorm2d.forward
        and module.running_mean is not None
    )


def _owns_state(module: nn.Module) -> bool:
    return next((t for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))), None) is not None


def all_layers(net: nn.Module) -> list[LayerProfile]:
    """Return the layers of a network that is not run, without order, positions and pairs."""
    owners = [(name, module) for name, module in net.named_modules() if _owns_state(module)]
    return [layer for name, module in owners for layer in layer_profiles(name, module)]


def layer_profiles(
    name: str,
    module: nn.Module,
    positions: int = 1,
    follows: str = "",
    in_positions: int = 0,
    multiplied: Mapping[str, int] = MappingProxyType({}),
) -> list[LayerProfile]:
    """Return the profile of one module, then an entry for each parameter and saved buffer that is no part of that."""
    layer = _known_layer(name, module, positions, follows, in_positions)
    if layer is not None and name in multiplied:
        layer = replace(layer, read_positions=multiplied[name])
    prefix = f"{name}." if name else ""
    own = matrices(module)
    rest = [_matrix_entry(prefix + key, getattr(module, key), multiplied.get(prefix + key, 0)) for key in own]
    taken = own if layer is None else ("weight", "bias")
    rest += [_parameter_entry(prefix + key, p) for key, p in module.named_parameters(recurse=False) if key not in taken]
    passing = {*unsaved_buffers(module), *(NORM_STATE if isinstance(module, NORM) else ())}
    rest += [_buffer_entry(prefix + key, b) for key, b in module.named_buffers(recurse=False) if key not in passing]
    return rest if layer is None else [layer, *rest]


def _known_layer(name: str, module: nn.Module, positions: int, follows: str, in_positions: int) -> LayerProfile | None:
    if isinstance(module, CONV) or (isinstance(module, TRANSPOSED) and is_own(module, "weight")):
        return LayerProfile(
            name,
            "conv" if isinstance(module, CONV) else "conv_transpose",
            module.in_channels,
            module.out_channels,
            groups=module.groups,
            kernel=tuple(module.kernel_size),
            stride=module.stride[0],
            positions=positions,
            in_positions=in_positions,
            extras=int(module.bias is not None),
        )
    if isinstance(module, LINEAR):
        bias = int(module.bias is not None)
        return LayerProfile(name, "linear", module.in_features, module.out_features, positions=positions, extras=bias)
    if isinstance(module, NORM) and (module.weight is None or module.weight.dim() == 1):
        running = getattr(module, "running_mean", None)
        width = next((t.shape[0] for t in (module.weight, running) if t is not None), 0)
        extras = sum(p is not None for p in (module.weight, module.bias))
        buffers = 0 if running is None else 2
        return LayerProfile(name, "norm", width, width, extras=extras, buffers=buffers, follows=follows)
    return None


def _buffer_entry(name: str, buffer: Tensor) -> LayerProfile:
    return LayerProfile(name, "buffer", 1, 1, buffers=-(-buffer.nbytes // 4))


def _matrix_entry(name: str, weight: Tensor, positions: int) -> LayerProfile:
    return LayerProfile(name, "matrix", weight.shape[1], weight.shape[0], positions=positions)


def _parameter_entry(name: str, parameter: Tensor) -> LayerProfile:
    channels = parameter.shape[0] if parameter.dim() else 1
    return LayerProfile(name, "parameter", channels, channels, extras=parameter.numel() // max(channels, 1))
