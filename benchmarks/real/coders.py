"""Bytes of the same codes by each coder: ``python benchmarks/real/coders.py NETS``.

The layers of akamaster_resnet20 (see trained.py) are quantized without training, and what is coded are their codes
alone: no scales, no header. Plain is fixed width, one layer after the other; ``zstd -19`` (the program) packs that; the
table is what an ideal coder takes with each layer's own frequencies, two bytes for each of them, and fixed width where
that is smaller. NNCodec (2.1.3), where it can be imported, codes the same integers as they are, with its header.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from time import thread_time

import numpy as np
import torch
from numpy.typing import NDArray
from trained import load

import lightning_compress as lc
from lightning_compress.quantization.coders.bits import pack_bits
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.weight_format import WeightFormat
from lightning_compress.surgery import measure, transforms

Codes = dict[str, NDArray[np.uint8]]
WAYS = {"LSQ, a scale per channel": {}, "LSQ, a scale per layer": {"per_channel": False}}
WAYS |= {"k-means": {"weight_quantizer": Codebook}}


@torch.no_grad()
def quantized(nets: Path, bits: int, settings: dict[str, object]) -> Codes:
    """Return the codes of all layers, in the shape of their weights."""
    net, example = load("akamaster_resnet20", nets), torch.zeros(2, 3, 32, 32)
    names = [layer.name for layer in measure.measure(net, example).weighted]
    lc.QuantizationAwareTraining({name: {"weight_bits": bits} for name in names}, **settings).apply(net, example)
    found = {}
    for name in names:
        layer = net.get_submodule(name)
        form = next(t for t in transforms.weight_transforms(layer) if isinstance(t, WeightFormat))
        found[name] = form.codes(transforms.weight_before(layer, form))[0].numpy().astype(np.uint8)
    return found


def with_table(codes: NDArray[np.uint8], bits: int) -> float:
    """Return the bytes of a layer with a table of its frequencies."""
    shares = np.bincount(codes.ravel()) / codes.size
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() * codes.size / 8
    return 1 + min(4 + 2 * 2**bits + entropy, codes.size * bits / 8)


def zstd(layers: Codes, bits: int) -> int:
    """Return the bytes that ``zstd -19`` takes for the plain codes."""
    plain = b"".join(pack_bits(codes.ravel(), bits).tobytes() for codes in layers.values())
    return len(subprocess.run(["zstd", "-19", "-c"], input=plain, capture_output=True, check=True).stdout)


def nncodec(layers: Codes, bits: int) -> int | None:
    """Return the bytes of NNCodec's stream, or None where it is not installed."""
    try:
        from nncodec import nnc
    except ImportError:
        return None
    tensors = {f"{name}.weight": codes.astype(np.int32) - 2 ** (bits - 1) for name, codes in layers.items()}
    with tempfile.TemporaryDirectory() as folder:
        nnc.compress(tensors, bitstream_path=f"{folder}/a.nnc")
        return Path(folder, "a.nnc").stat().st_size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", type=Path)
    nets = parser.parse_args().nets
    names = ("plain", "zstd -19", "table", "RangeCoded", "NNCodec")
    print(f"{'':26}{'bits':>5}" + "".join(f"{name:>12}" for name in names) + f"{'write, read':>16}")
    coder = RangeCoded()
    for way, settings in WAYS.items():
        for bits in (2, 3, 4, 6, 8):
            layers = quantized(nets, bits, settings)
            began = thread_time()
            streams = {name: coder.write(codes.ravel(), bits, codes.shape) for name, codes in layers.items()}
            written = thread_time()
            for name, codes in layers.items():
                assert np.array_equal(coder.read(streams[name], bits, codes.shape)[0], codes.ravel())
            times = f"{written - began:.2f}, {thread_time() - written:.2f} s"
            plain, table = sum(-(-c.size * bits // 8) for c in layers.values()), 0.0
            table = sum(with_table(codes, bits) for codes in layers.values())
            sizes = (plain, zstd(layers, bits), table, sum(map(len, streams.values())), nncodec(layers, bits))
            cells = "".join(f"{'-' if size is None else f'{size:,.0f}':>12}" for size in sizes)
            print(f"{way:26}{bits:5}{cells}{times:>16}", flush=True)


if __name__ == "__main__":
    main()
