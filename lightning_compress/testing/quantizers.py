"""Contract suite of quantizers. Subclass it, and give the fixture ``make``.

``QuantizerContract`` is for all quantizers, ``WeightFormatContract`` for those of weights besides, and
``ActivationQuantizerContract`` for those of activations. One whose levels are a uniform grid passes
``UniformQuantizerContract`` too.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import class_of
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.quantization.quantizers.uniform import UniformQuantizer
from lightning_compress.quantization.quantizers.weight_format import StoredWeight, WeightFormat
from lightning_compress.surgery.transforms import Transform

Make = type[Any] | partial[Any]  # of a quantizer


def ready(make: Make, bits: int, x: Tensor) -> Any:
    """Return a quantizer set for ``x``, per channel where it quantizes weights."""
    per_channel = issubclass(class_behind(make), WeightFormat)
    quantizer = make(bits, (x.shape[0], *[1] * (x.dim() - 1)) if per_channel else ())
    quantizer.initialize(x) if per_channel else quantizer(x)
    return quantizer


def class_behind(make: Make) -> type[Quantizer]:
    """Return the class that a partial makes."""
    return cast(type[Quantizer], make.func if isinstance(make, partial) else make)


def reached(quantizer: Quantizer, x: Tensor) -> Tensor:
    """Return what is rounded in place of ``x``."""
    return quantizer.precondition(x) if isinstance(quantizer, UniformQuantizer) else x


def within(quantizer: UniformQuantizer, x: Tensor) -> Tensor:
    """Return where a preconditioned tensor lies between the outermost levels."""
    scale = quantizer.scale_for(x).detach()
    offset = 0 if quantizer.offset is None else quantizer.offset
    return (x >= (quantizer.low + offset) * scale) & (x <= (quantizer.high + offset) * scale)


class _Fixtures:
    @pytest.fixture
    def make(self) -> Make:
        """Return ``(bits, shape) -> quantizer``."""
        raise NotImplementedError

    @pytest.fixture
    def x(self) -> Tensor:
        """Return a weight, or an activation with both signs."""
        return torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))

    @pytest.fixture(params=range(1, 9), ids=lambda bits: f"{bits}bit")
    def bits(self, request, make) -> int:
        """Return all widths of the quantizer."""
        least, most = class_behind(make).bit_range
        if not least <= request.param <= most:
            pytest.skip("out of its range")
        return request.param


class QuantizerContract(_Fixtures):
    """Levels, rounding, state."""

    def test_at_most_two_to_the_bits_levels_for_each_scale(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        rows = quantizer(x).detach()
        rows = rows if quantizer.shape else rows.flatten()[None]
        assert max(len(row.unique()) for row in rows) <= 2**bits

    def test_monotone(self, make, bits) -> None:
        x = torch.linspace(-3, 3, 200)[None]
        assert (ready(make, bits, x)(x).detach().diff() >= 0).all()

    def test_a_learned_scale_is_a_parameter_with_a_gradient(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        quantizer(x.clone().requires_grad_()).square().sum().backward()
        gradients = [p.grad for p in quantizer.parameters()]
        assert len(gradients) == int(quantizer.learned)
        assert all(g is not None and g.isfinite().all() for g in gradients)

    @pytest.mark.parametrize("shape", [(3, 4), (1, 1), (2, 0), (1, 3, 2, 2)])
    def test_zeros_single_and_no_elements_stay_finite(self, make, bits, shape) -> None:
        x = torch.zeros(shape)
        found = ready(make, bits, x)(x)
        assert found.shape == shape
        assert found.isfinite().all()

    def test_eight_bits_are_nearer_than_two(self, make, x) -> None:
        quantizers = [ready(make, bits, x) for bits in (2, 8)]
        errors = [(q(x) - reached(q, x)).detach().square().sum() for q in quantizers]
        assert errors[1] < errors[0]

    @pytest.mark.parametrize("bits", [0, 9, 2.5])
    def test_widths_out_of_range_are_refused(self, make, bits) -> None:
        with pytest.raises(CompressError, match=f"must be a whole number from .* got {bits}"):
            make(bits)

    def test_half_precision_gives_the_same_codes(self, make, bits, x) -> None:
        x = x.bfloat16()
        quantizer = ready(make, bits, x.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantizer(x), quantizer(x.float()))

    def test_config_and_state_make_it_again(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x).eval()
        again = Transform.build(quantizer.spec()).eval()
        again.load_state_dict(quantizer.state_dict())
        assert torch.equal(again(x), quantizer(x))

    def test_a_copy_is_independent(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x).eval()
        before = quantizer(x).detach().clone()
        other = copy.deepcopy(quantizer)
        for state in (*other.parameters(), *other.buffers()):
            state.data.zero_()
        assert torch.equal(quantizer(x), before)


class WeightFormatContract(_Fixtures):
    """Codes, and what a packed file makes of them."""

    def test_codes_decode_to_what_the_forward_pass_gives(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        codes, scale = quantizer.codes(x)
        assert codes.dtype == torch.uint8
        assert codes.shape == x.shape
        assert int(codes.max()) < 2**bits
        assert torch.equal(quantizer.decode(codes, scale), quantizer(x))

    def test_levels_times_the_scale_are_what_codes_stand_for(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        codes, scale = quantizer.codes(x)
        if len(quantizer.table):
            torch.testing.assert_close(quantizer.decode(codes, scale), quantizer.table[codes.long()] * scale)
        torch.testing.assert_close(quantizer.decode(codes, -2 * scale), -2 * quantizer.decode(codes, scale))

    def test_the_profile_says_how_many_numbers_are_stored(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        fields = quantizer.stored(bits, len(x))
        assert fields["weight_bits"] == bits
        assert fields.get("codebook", 0) == len(quantizer.table)
        assert fields.get("weight_scales", 0) in (0, quantizer.codes(x)[1].numel())

    def test_what_is_stored_is_read_without_its_class(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        codes, scale = quantizer.codes(x)
        spec = dict(quantizer.reader())
        reader = class_of(spec.pop("kind"), WeightFormat)
        stored = StoredWeight(bits, codes, torch.ones_like(codes, dtype=torch.bool), scale.detach(), quantizer.table)
        loaded = reader.from_stored(stored, **spec)
        decoded = loaded.decode(codes, loaded.scale)
        torch.testing.assert_close(decoded, quantizer(x))
        torch.testing.assert_close(loaded(decoded), decoded)
        again, _ = loaded.codes(decoded)
        torch.testing.assert_close(loaded.decode(again, loaded.scale), decoded)
        assert loaded.reader() == quantizer.reader()


class UniformQuantizerContract(_Fixtures):
    """Rounding to the nearest level of a uniform grid, and the gradients of that."""

    def test_quantizing_again_changes_nothing(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x).eval()
        once = quantizer(x).detach()
        torch.testing.assert_close(quantizer.on_grid(once).detach(), once)

    def test_error_within_half_a_step_inside_the_grid(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        x = quantizer.precondition(x).detach()
        scale = quantizer.scale_for(x).detach()
        error = (quantizer.on_grid(x) - x).detach().abs()
        inside = within(quantizer, x)
        assert (error <= scale / 2 * (1 + 1e-4) + 1e-6)[inside].all()

    def test_gradient_passes_inside_and_stops_outside(self, make, bits, x) -> None:
        quantizer = ready(make, bits, x)
        upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        x = x.clone().requires_grad_()
        (quantizer(x) * upstream).sum().backward()
        other = x.detach().clone().requires_grad_()
        smooth = quantizer.precondition(other)
        (smooth * upstream * within(quantizer, smooth.detach())).sum().backward()
        torch.testing.assert_close(x.grad, other.grad)


class ActivationQuantizerContract(_Fixtures):
    """The first calls set the grid."""

    @pytest.mark.parametrize("signed", [True, False])
    def test_the_first_calls_set_sign_and_scale_of_activations(self, make, signed) -> None:
        quantizer = make(4)
        x = torch.rand(64) - (0.5 if signed else 0.0)
        quantizer.eval()(x)
        assert bool(quantizer.low < 0) is signed
        before = quantizer.packed()
        quantizer.settle()
        quantizer(100 * x)
        assert torch.equal(quantizer.packed(), before)
        again = make(4)
        again.unpack(before)
        assert torch.equal(again.eval()(x), quantizer(x))

    @pytest.mark.parametrize("value", [1e-45, -1e-40, 1e-38, -2e-38, 1e-30, 1e30])
    def test_inputs_of_any_size_stay_finite(self, make, value) -> None:
        quantizer = make(4)
        x = torch.full((8, 4), value)
        x[::2] = 0
        assert ((quantizer(x) - x).abs() <= max(abs(value) / 2, torch.finfo(torch.float32).tiny)).all()
        assert quantizer(torch.ones(2, 2)).isfinite().all()
