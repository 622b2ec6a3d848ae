from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vivace.models.gguf_blocks import FORMATS, dequantize

READABLE = {number: blocks for number, blocks in FORMATS.items() if blocks.decode is not None}


def test_sizes_are_those_of_the_gguf_library() -> None:
    gguf = pytest.importorskip("gguf")
    for number, blocks in FORMATS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (blocks.name, (blocks.weights, blocks.block_bytes)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("number", READABLE, ids=lambda number: FORMATS[number].name)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_weights_are_to_the_bit_those_of_the_gguf_library(number: int, seed: int, rows: int, blocks: int) -> None:
    """Any bytes are blocks; infinite and missing numbers among the scales are decoded too."""
    gguf, quants = pytest.importorskip("gguf"), pytest.importorskip("gguf.quants")
    kind = FORMATS[number]
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * kind.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, gguf.GGMLQuantizationType(number)).astype(np.float32)
    weights = dequantize(kind, data)
    assert weights.shape == (rows, blocks * kind.weights)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(weights), ~numbers)
    np.testing.assert_array_equal(weights[numbers].view(np.uint32), expected[numbers].view(np.uint32))


def test_a_matrix_larger_than_what_is_decoded_together_is_decoded_whole() -> None:
    rows = block_q8(np.arange(-16, 16), 0.5, count=20_000).reshape(10, -1)
    weights = dequantize(FORMATS[8], rows).reshape(-1, 32)
    assert (weights == np.arange(-16, 16) / 2).all()


def test_a_q8_block_is_a_scale_and_32_integers() -> None:
    weights = dequantize(FORMATS[8], block_q8(np.arange(-128, -96), 0.25))
    np.testing.assert_array_equal(weights, np.arange(-128, -96)[None] / 4, strict=False)


def test_a_q4_0_block_has_the_first_half_of_its_weights_in_lower_halves() -> None:
    codes = np.arange(16, dtype=np.uint8) | (np.arange(15, -1, -1, dtype=np.uint8) << 4)
    block = np.concatenate([np.array([2.0], "<f2").view(np.uint8), codes])[None]
    expected = np.concatenate([np.arange(16) - 8, np.arange(15, -1, -1) - 8]) * 2.0
    np.testing.assert_array_equal(dequantize(FORMATS[2], block)[0], expected)


def test_scratch_is_bounded_by_what_is_decoded_together() -> None:
    import tracemalloc

    rows = block_q8(np.arange(32), 1.0, count=1 << 17).reshape(1, -1)
    tracemalloc.start()
    weights = dequantize(FORMATS[8], rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - weights.nbytes < 1 << 23


def block_q8(codes: NDArray[np.integer], scale: float, count: int = 1) -> NDArray[np.uint8]:
    """[count, 34]"""
    block = np.concatenate([np.array([scale], "<f2").view(np.uint8), codes.astype(np.int8).view(np.uint8)])
    return np.tile(block, (count, 1))
