from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vivace.compress.gptq import round_in_turn  # noqa: E402
from vivace.compress.layout import pack_nibbles  # noqa: E402
from vivace.compress.rounding import (  # noqa: E402
    Format,
    apply_scales,
    measure_output_error,
    measure_weight_error,
    round_nearest,
    search_scales,
)

INT4 = Format(4, 32, torch.bfloat16)


def weights(seed: int = 0) -> Any:
    """[24, 128] with heavy tails, as trained matrices have."""
    values = torch.randn(24, 128, generator=torch.Generator().manual_seed(seed))
    return values * values.abs()


def inputs(seed: int = 1) -> Any:
    """[512, 128], correlated, and some inputs far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(512, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    return mixed * torch.logspace(-1, 1, 128)[torch.randperm(128, generator=generator)]


def moment(x: Any) -> Any:
    return x.T @ x / len(x)


@pytest.mark.parametrize("seed", range(5))
def test_searched_scales_never_lose_more_than_rounding_to_nearest_in_any_group(seed: int) -> None:
    weight = weights(seed)
    nearest = (round_nearest(weight, INT4).to_floats() - weight).reshape(24, 4, 32).square().sum(-1)
    found = apply_scales(weight, search_scales(weight, INT4), INT4).to_floats() - weight
    assert (found.reshape(24, 4, 32).square().sum(-1) <= nearest).all()
    assert measure_weight_error(found, weight) < 0.95 * float(nearest.sum() / weight.square().sum())


def test_importance_lowers_the_weighted_error() -> None:
    weight, power = weights(), moment(inputs()).diagonal()

    def weigh(scales: Any) -> float:
        return float(((apply_scales(weight, scales, INT4).to_floats() - weight).square() * power).sum())

    assert weigh(search_scales(weight, INT4, importance=power)) < weigh(search_scales(weight, INT4))


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_lowers_the_output_error_on_correlated_inputs(act_order: bool) -> None:
    weight, second = weights(), moment(inputs())
    plain = apply_scales(weight, search_scales(weight, INT4, moment=second), INT4)
    found = round_in_turn(weight, second, INT4, act_order=act_order, damping=0.01)
    error = measure_output_error(found.to_floats() - weight, weight, second)
    assert error < 0.7 * measure_output_error(plain.to_floats() - weight, weight, second)


def test_gptq_takes_inputs_that_never_come_and_moments_without_full_rank() -> None:
    x = inputs()[:16]
    x[:, 5] = 0
    found = round_in_turn(weights(), moment(x), INT4, act_order=True, damping=1e-6)
    assert torch.isfinite(found.to_floats()).all()


def test_measured_output_error_is_that_of_the_outputs() -> None:
    weight, x = weights(), inputs()
    off = round_nearest(weight, INT4).to_floats() - weight
    expected = float((x @ off.T).square().sum() / (x @ weight.T).square().sum())
    assert measure_output_error(off, weight, moment(x)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("format", [INT4, Format(4, 128, torch.float32), Format(8, 0, torch.bfloat16)])
def test_scales_are_exact_in_the_types_that_hold_them_and_groups_of_zeros_stay_zero(format: Format) -> None:
    weight = weights() * 1e-4
    weight[3] = 0
    found = round_nearest(weight, format)
    assert torch.equal(found.scales.to(format.dtype).float(), found.scales)
    assert format.bits == 8 or torch.equal(found.scales.half().float(), found.scales)
    assert not found.to_floats()[3].any()


def test_packed_codes_are_what_the_library_packs() -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = torch.randint(-8, 8, (5, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    assert torch.equal(pack_nibbles(codes), pack_to_int32(codes, 4))
