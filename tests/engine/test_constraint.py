from __future__ import annotations

import pytest

from tests.fakes import EveryOther
from vivace.engine.constraint import ask_mask


class Fixed(EveryOther):
    """Always answers with one mask."""

    def __init__(self, mask: bytes) -> None:
        super().__init__(8)
        self.fixed = mask

    def mask(self) -> bytes:
        return self.fixed


@pytest.mark.parametrize(
    ("vocab_size", "mask"),
    [(8, b"\x80"), (9, b"\x00\x01"), (16, b"\x00\x80"), (1, b"\x01"), (101, b"\xff" * 12 + b"\x1f")],
)
def test_a_mask_that_fits_is_passed_on(vocab_size: int, mask: bytes) -> None:
    assert ask_mask(Fixed(mask), vocab_size) == mask


@pytest.mark.parametrize(
    ("vocab_size", "mask", "message"),
    [
        (8, b"", "0 bytes"),
        (8, b"\x01\x00", "2 bytes"),
        (9, b"\x01", "1 bytes"),
        (9, b"\x01\x02", "not that of 9 tokens"),
        (8, b"\x00", "no token"),
    ],
)
def test_a_mask_that_does_not_fit_or_allows_nothing_is_refused(vocab_size: int, mask: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask_mask(Fixed(mask), vocab_size)
