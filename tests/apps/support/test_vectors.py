"""Texts on one subject point the same way, and a space comes back from its bytes as it was."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.apps.support.vectors import TenantVectors, VectorSpace
from vivace.errors import DataError

TEXTS = [["lamp", "bulb"], ["lamp", "shade"], ["plant", "water"], ["plant", "pot", "soil"], ["plate", "glaze"]] * 3


def test_a_text_is_nearest_to_itself() -> None:
    space, vectors = VectorSpace.fit(TEXTS[:5])
    assert (space.project(TEXTS[:5]) @ vectors.T).argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_more_texts_than_dimensions_are_cut_to_them() -> None:
    texts = [[f"word{at % 17}", f"word{at % 13}", f"only{at}"] for at in range(60)]
    space, vectors = VectorSpace.fit(texts, dimensions=8)
    assert vectors.shape == (60, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert space.weights(["unheard"])[0] >= max(space.weights(list(space.places)))


def test_unknown_words_point_nowhere() -> None:
    space, vectors = VectorSpace.fit(TEXTS)
    assert not space.point({"unheard": 1.0}).any()
    assert TenantVectors(space, np.arange(len(vectors)), vectors).rank({"unheard": 1.0}, 5) == []


def test_bytes_bring_the_space_back() -> None:
    space, _ = VectorSpace.fit(TEXTS)
    again = VectorSpace.load(space.dump())
    assert again.places == space.places
    np.testing.assert_array_equal(again.directions, space.directions)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_broken_bytes_say_what_to_do(data: bytes) -> None:
    with pytest.raises(DataError, match="delete the index"):
        VectorSpace.load(data)


def test_rows_come_and_go() -> None:
    space, vectors = VectorSpace.fit(TEXTS[:5])
    held = TenantVectors(space, np.arange(5), vectors)
    assert held.without([1, 3]).rows.tolist() == [0, 2, 4]
    assert held.without([]) is held
    assert held.without([0]).plus([9], vectors[:1]).rank({"bulb": 1.0}, 1) == [9]
