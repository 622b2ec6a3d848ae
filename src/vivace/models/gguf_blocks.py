"""The block formats of GGUF tensors, and what numbers they stand for.

A row of a tensor is a run of blocks; a block holds a fixed number of weights as small integers with their scales.
Layouts are those of ggml's `ggml-common.h`; the arithmetic, in float32, is that of its `ggml-quants.c`, operation by
operation, so that weights come out equal to the last bit. Knows no file and no names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Blocks = NDArray[Any]
"""[blocks], of a structured type."""

_CHUNK = 1 << 18
"""Weights decoded together: the scratch for them stays in the cache."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One of ggml's tensor types."""

    name: str
    weights: int
    """In a block."""
    block_bytes: int
    decode: Callable[[NDArray[np.uint8]], Array] | None = None
    """From bytes [blocks, block_bytes] to float32 [blocks, weights]. None: of known size, but cannot be read."""

    def row_bytes(self, width: int) -> int:
        """Of a row of `width` weights, a whole number of blocks."""
        return width // self.weights * self.block_bytes


def dequantize(blocks: BlockFormat, rows: NDArray[np.uint8]) -> Array:
    """The weights, float32 [rows, width], of rows of blocks, uint8 [rows, row_bytes]."""
    assert blocks.decode is not None, "a format that cannot be read"
    flat = rows.reshape(-1, blocks.block_bytes)
    values = np.empty((len(flat), blocks.weights), np.float32)
    step = max(1, _CHUNK // blocks.weights)
    with np.errstate(all="ignore"):  # scales of a damaged file may be infinite; the weights then are, and are refused
        for start in range(0, len(flat), step):
            values[start : start + step] = blocks.decode(flat[start : start + step])
    return values.reshape(len(rows), -1)


def _structured(fields: list[Any], decode: Callable[[Blocks], Array]) -> Callable[[NDArray[np.uint8]], Array]:
    layout = np.dtype(fields)
    return lambda blocks: decode(np.ascontiguousarray(blocks).view(layout)[:, 0])


def _scale(values: NDArray[Any]) -> Array:
    """A number for each block, as a column."""
    return values.astype(np.float32)[:, None]


def _nibbles(codes: NDArray[np.uint8], run: int) -> NDArray[np.uint8]:
    """[blocks, bytes] to [blocks, 2 * bytes]: of each run of bytes, all low halves, then all high ones."""
    runs = codes.reshape(len(codes), -1, 1, run) >> np.array([0, 4], np.uint8).reshape(2, 1)
    return (runs & np.uint8(15)).reshape(len(codes), -1)


def _bits(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[blocks, bytes] to [blocks, 8 * bytes] of 0 and 1, the lowest bit of the first byte first."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _q4_0(blocks: Blocks) -> Array:
    codes = _nibbles(blocks["codes"], 16).astype(np.int8) - np.int8(8)
    return _scale(blocks["scale"]) * codes


def _q4_1(blocks: Blocks) -> Array:
    return _scale(blocks["scale"]) * _nibbles(blocks["codes"], 16) + _scale(blocks["minimum"])


def _q5_codes(blocks: Blocks) -> NDArray[np.uint8]:
    return _nibbles(blocks["codes"], 16) | (_bits(blocks["high"]) << np.uint8(4))


def _q5_0(blocks: Blocks) -> Array:
    return _scale(blocks["scale"]) * (_q5_codes(blocks).astype(np.int8) - np.int8(16))


def _q5_1(blocks: Blocks) -> Array:
    return _scale(blocks["scale"]) * _q5_codes(blocks) + _scale(blocks["minimum"])


def _q8_0(blocks: Blocks) -> Array:
    weights: Array = _scale(blocks["scale"]) * blocks["codes"]
    return weights


def _k_scales(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Eight scales and eight minima of six bits each, [blocks, 8], from twelve bytes.

    Bytes 0 to 3 and 4 to 7 hold the first four scales and minima, and in their upper two bits those of the last four,
    whose lower four bits are in bytes 8 to 11: scales low, minima high.
    """
    scales, minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, high, upper = np.uint8(15), np.uint8(4), np.uint8(0x30)
    return (
        np.concatenate([scales & 63, (rest & low) | (scales >> 2 & upper)], axis=1),
        np.concatenate([minima & 63, (rest >> high) | (minima >> 2 & upper)], axis=1),
    )


def _k_weights(blocks: Blocks, codes: NDArray[np.uint8]) -> Array:
    """Codes [blocks, 256] under eight scales and minima, which themselves are multiples of one scale and minimum."""
    scales, minima = _k_scales(blocks["scales"])
    steps = (_scale(blocks["scale"]) * scales)[:, :, None]
    offsets = (_scale(blocks["minimum"]) * minima)[:, :, None]
    weights: Array = steps * codes.reshape(len(codes), 8, 32) - offsets
    return weights.reshape(len(codes), 256)


def _q4_k(blocks: Blocks) -> Array:
    return _k_weights(blocks, _nibbles(blocks["codes"], 32))


def _q5_k(blocks: Blocks) -> Array:
    """The fifth bit of weight 32 i + j is bit i of byte j."""
    high = blocks["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = _nibbles(blocks["codes"], 32) | (high.reshape(len(blocks), 256) << np.uint8(4))
    return _k_weights(blocks, codes)


def _q6_k(blocks: Blocks) -> Array:
    """Codes in two halves of 128: four low bits by runs of 64 bytes, two high bits by runs of 32."""
    high = blocks["high"].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    codes = _nibbles(blocks["codes"], 64) | ((high & np.uint8(3)).reshape(len(blocks), 256) << np.uint8(4))
    steps = (_scale(blocks["scale"]) * blocks["scales"])[:, :, None]
    weights: Array = steps * (codes.astype(np.int8) - np.int8(32)).reshape(len(blocks), 16, 16)
    return weights.reshape(len(blocks), 256)


def _bf16(blocks: NDArray[np.uint8]) -> Array:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


_HALF = ("scale", "<f2")
_MINIMUM = ("minimum", "<f2")
_K_SCALES = ("scales", "u1", 12)

FORMATS: dict[int, BlockFormat] = {
    0: BlockFormat("F32", 1, 4, lambda blocks: blocks.view("<f4")),
    1: BlockFormat("F16", 1, 2, lambda blocks: blocks.view("<f2").astype(np.float32)),
    2: BlockFormat("Q4_0", 32, 18, _structured([_HALF, ("codes", "u1", 16)], _q4_0)),
    3: BlockFormat("Q4_1", 32, 20, _structured([_HALF, _MINIMUM, ("codes", "u1", 16)], _q4_1)),
    6: BlockFormat("Q5_0", 32, 22, _structured([_HALF, ("high", "u1", 4), ("codes", "u1", 16)], _q5_0)),
    7: BlockFormat("Q5_1", 32, 24, _structured([_HALF, _MINIMUM, ("high", "u1", 4), ("codes", "u1", 16)], _q5_1)),
    8: BlockFormat("Q8_0", 32, 34, _structured([_HALF, ("codes", "i1", 32)], _q8_0)),
    9: BlockFormat("Q8_1", 32, 40),
    10: BlockFormat("Q2_K", 256, 84),
    11: BlockFormat("Q3_K", 256, 110),
    12: BlockFormat("Q4_K", 256, 144, _structured([_HALF, _MINIMUM, _K_SCALES, ("codes", "u1", 128)], _q4_k)),
    13: BlockFormat(
        "Q5_K",
        256,
        176,
        _structured([_HALF, _MINIMUM, _K_SCALES, ("high", "u1", 32), ("codes", "u1", 128)], _q5_k),
    ),
    14: BlockFormat(
        "Q6_K",
        256,
        210,
        _structured([("codes", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _HALF], _q6_k),
    ),
    15: BlockFormat("Q8_K", 256, 292),
    16: BlockFormat("IQ2_XXS", 256, 66),
    17: BlockFormat("IQ2_XS", 256, 74),
    18: BlockFormat("IQ3_XXS", 256, 98),
    19: BlockFormat("IQ1_S", 256, 50),
    20: BlockFormat("IQ4_NL", 32, 18),
    21: BlockFormat("IQ3_S", 256, 110),
    22: BlockFormat("IQ2_S", 256, 82),
    23: BlockFormat("IQ4_XS", 256, 136),
    24: BlockFormat("I8", 1, 1),
    25: BlockFormat("I16", 1, 2),
    26: BlockFormat("I32", 1, 4),
    27: BlockFormat("I64", 1, 8),
    28: BlockFormat("F64", 1, 8),
    29: BlockFormat("IQ1_M", 256, 56),
    30: BlockFormat("BF16", 1, 2, _bf16),
    34: BlockFormat("TQ1_0", 256, 54),
    35: BlockFormat("TQ2_0", 256, 66),
    39: BlockFormat("MXFP4", 32, 17),
}
"""By the number that stands for the type in a file."""
