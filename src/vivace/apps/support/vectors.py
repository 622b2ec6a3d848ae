"""Texts as short vectors: TF-IDF of their words, rotated and cut by a singular value decomposition of the corpus (LSA).

It knows neither SQL nor tenants. Deerwester et al., "Indexing by latent semantic analysis", 1990.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from vivace.errors import DataError

Floats = npt.NDArray[np.float32]

DIMENSIONS = 128
MAX_WORDS = 30_000


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The words of a corpus, how rare each is, and where it points."""

    places: dict[str, int]
    rarity: Floats  # [words], log((1 + n) / (1 + passages with the word)) + 1
    directions: Floats  # [words, dimensions]
    passages: int

    @staticmethod
    def fit(texts: Sequence[Sequence[str]], dimensions: int = DIMENSIONS) -> tuple[VectorSpace, Floats]:
        """The space of a corpus, and its texts' vectors in it, of length 1: [texts, dimensions]."""
        counts = Counter(word for words in texts for word in set(words))
        common = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
        places = {word: at for at, word in enumerate(sorted(common))}
        rarity = np.array([_rarity(len(texts), counts[word]) for word in places], np.float32)
        weighted = _weigh(texts, places, rarity)
        least = min(weighted.shape)
        if least <= dimensions + 1:
            dense = weighted.toarray()
            directions = np.linalg.svd(dense, full_matrices=False)[2][: min(dimensions, least)].T
        else:
            directions = randomized_svd(weighted, dimensions, n_iter=4, random_state=0)[2].T
        space = VectorSpace(places, rarity, np.ascontiguousarray(directions, np.float32), len(texts))
        return space, _unit(weighted @ space.directions)

    def project(self, texts: Iterable[Sequence[str]]) -> Floats:
        """Vectors of length 1, or 0 for a text of unknown words: [texts, dimensions]."""
        return _unit(_weigh(list(texts), self.places, self.rarity) @ self.directions)

    def point(self, weights: Mapping[str, float]) -> Floats:
        """The direction of a question, given the weight of each of its words: [dimensions], of length 1 or 0."""
        known = {word: weight for word, weight in weights.items() if word in self.places}
        at = np.fromiter((self.places[word] for word in known), np.intp, len(known))
        vector = (np.fromiter(known.values(), np.float32, len(known)) * self.rarity[at]) @ self.directions[at]
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)

    def weights(self, words: Sequence[str]) -> list[float]:
        """How much each word says: its rarity; that of a word in no passage where it is unknown."""
        unknown = _rarity(self.passages, 0)
        return [float(self.rarity[self.places[word]]) if word in self.places else unknown for word in words]

    def dump(self) -> bytes:
        """As a NumPy archive of plain arrays."""
        file = io.BytesIO()
        words = np.frombuffer("\n".join(self.places).encode(), np.uint8)
        np.savez(file, words=words, rarity=self.rarity, directions=self.directions, passages=np.array(self.passages))
        return file.getvalue()

    @staticmethod
    def load(data: bytes) -> VectorSpace:
        """What `dump` wrote. Raises `DataError` for anything else; nothing in it is ever run."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                words = bytes(arrays["words"]).decode().split("\n")
                space = VectorSpace(
                    {word: at for at, word in enumerate(words)},
                    arrays["rarity"], arrays["directions"], int(arrays["passages"]),
                )  # fmt: skip
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"the index's vectors cannot be read ({error}): delete the index, it is rebuilt") from error
        return space


@dataclass(frozen=True, slots=True)
class TenantVectors:
    """A tenant's passages as one matrix, as they were at one moment."""

    space: VectorSpace | None
    rows: npt.NDArray[np.int64]  # [passages]
    matrix: Floats  # [passages, dimensions]

    @staticmethod
    def read(space: VectorSpace | None, rows: Iterable[tuple[int, bytes]]) -> TenantVectors:
        """From the numbers and the bytes of each passage's vector."""
        if space is None:
            return NO_VECTORS
        numbers, blobs = [], []
        for number, blob in rows:
            numbers.append(number)
            blobs.append(blob)
        matrix = np.frombuffer(b"".join(blobs), np.float32).reshape(len(blobs), space.directions.shape[1])
        return TenantVectors(space, np.array(numbers, np.int64), matrix)

    def without(self, rows: Sequence[int]) -> TenantVectors:
        kept = ~np.isin(self.rows, np.array(rows, np.int64))
        return self if kept.all() else TenantVectors(self.space, self.rows[kept], self.matrix[kept])

    def plus(self, rows: Sequence[int], matrix: Floats) -> TenantVectors:
        if self.space is None or not rows:
            return self
        numbers = np.concatenate([self.rows, np.array(rows, np.int64)])
        return TenantVectors(self.space, numbers, np.concatenate([self.matrix, matrix]))

    def rank(self, weights: Mapping[str, float], limit: int) -> list[int]:
        """The rows nearest to a question by cosine, the nearest first; none at a right angle or beyond."""
        if self.space is None or not len(self.rows):
            return []
        cosines = self.matrix @ self.space.point(weights)
        limit = min(limit, len(cosines))
        best = np.argpartition(cosines, len(cosines) - limit)[-limit:]
        best = best[np.lexsort((self.rows[best], -cosines[best]))]
        return [int(self.rows[at]) for at in best if cosines[at] > 1e-6]


NO_VECTORS = TenantVectors(None, np.zeros(0, np.int64), np.zeros((0, 0), np.float32))


def _rarity(passages: int, holding: int) -> float:
    return math.log((1 + passages) / (1 + holding)) + 1


def _weigh(texts: Sequence[Sequence[str]], places: dict[str, int], rarity: Floats) -> sparse.csr_matrix:
    """TF-IDF with 1 + log(count), rows of length 1: [texts, words]."""
    columns: list[int] = []
    values: list[float] = []
    starts = [0]
    for words in texts:
        counts = Counter(places[word] for word in words if word in places)
        columns += counts.keys()
        values += [1 + math.log(count) for count in counts.values()]
        starts.append(len(columns))
    weights = np.array(values, np.float32) * rarity[np.array(columns, np.intp)]
    matrix = sparse.csr_matrix(
        (weights, np.array(columns, np.int32), np.array(starts, np.int32)), (len(texts), len(places))
    )
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.diags(1 / np.maximum(lengths, 1e-12)).astype(np.float32) @ matrix


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
