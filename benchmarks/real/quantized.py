"""Networks quantized without training: by ours, as a training of zero epochs does, by Brevitas and by torchao.

All layers are quantized, weights with a scale for each output channel and inputs with one. Brevitas (0.13) has its
default quantizers: max-abs weights, inputs by percentile, signed, or unsigned behind each ReLU. torchao (0.18) is its
PT2E with the XNNPACK quantizer (that for x86 refuses a ReLU module that is called twice).
"""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.plan import Plan

CALIBRATION = 512  # train images


class Module(LightningModule):
    """A network without training of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.net(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def layers(net: nn.Module) -> list[str]:
    """Return the names of conv and linear layers."""
    return [name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def ours(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, **settings: object) -> nn.Module:
    """Quantize all layers of a network to the same bits as a training of zero epochs does."""
    plan = Plan({name: {"weight_bits": weight_bits, "act_bits": act_bits} for name in layers(net)})
    return quantized(net, plan, x, **settings)


def quantized(net: nn.Module, plan: Plan, x: Tensor, **settings: object) -> nn.Module:
    """Quantize a network by a plan as a training of zero epochs does."""
    module = Module(net).eval()
    trainer = Trainer(
        max_epochs=0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", callbacks=[QuantizationAwareTraining(plan, **settings)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, torch.zeros(len(x))), 128))
    return net


def brevitas(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, unsigned: bool) -> nn.Module:
    """Quantize a network with Brevitas' layers."""
    import brevitas.nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    for place, name in enumerate(layers(net)):
        layer = net.get_submodule(name)
        common = {
            "bias": layer.bias is not None,
            "weight_quant": Int8WeightPerChannelFloat,
            "weight_bit_width": weight_bits,
            "input_quant": Uint8ActPerTensorFloat if unsigned and place else Int8ActPerTensorFloat,
            "input_bit_width": act_bits,
        }
        if isinstance(layer, nn.Linear):
            made = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
        else:
            made = qnn.QuantConv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, **common
            )
        made.weight.data.copy_(layer.weight.data)
        if layer.bias is not None:
            made.bias.data.copy_(layer.bias.data)
        parent, _, key = name.rpartition(".")
        setattr(net.get_submodule(parent), key, made)
    net.eval()
    with torch.no_grad(), calibration_mode(net):
        for batch in x.split(128):
            net(batch)
    return net


def torchao(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, training: bool) -> nn.Module:
    """Quantize a network by torchao's export, for a training or as it is."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    most_weight, most_input = 2 ** (weight_bits - 1) - 1, 2 ** (act_bits - 1) - 1
    config = get_symmetric_quantization_config(
        is_per_channel=True,
        is_qat=training,
        act_qmin=-most_input - 1,
        act_qmax=most_input,
        weight_qmin=-most_weight - (weight_bits < 8),
        weight_qmax=most_weight,
    )
    net.train(training)
    exported = torch.export.export(net, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)).module()
    prepare = prepare_qat_pt2e if training else prepare_pt2e
    made = allow_exported_model_train_eval(prepare(exported, XNNPACKQuantizer().set_global(config)))
    made.eval()
    with torch.no_grad():
        for batch in x.split(128):
            made(batch)
    return made if training else allow_exported_model_train_eval(convert_pt2e(made))
