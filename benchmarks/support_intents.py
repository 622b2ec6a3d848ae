"""How well intents are told apart, and unknown ones told as such, beside plain search (the nearest example by TF-IDF).

python benchmarks/support_intents.py FOLDER banking77 clinc150 bitext27 snips7 multidogo
python benchmarks/support_intents.py sample

FOLDER holds NAME.train.jsonl.gz and NAME.test.jsonl.gz with lines {"text", "label"}; the label "oos" is no intent.
Each set is measured twice: with all its intents (macro-F1 without rejection, then with), and with every fifth intent
left out of the training, whose test questions, and those of "oos", are then to be rejected. No example of an unknown
question is trained on, except in the row "with oos". An intent with a single example is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, roc_auc_score

from vivace.apps.support.intents import Example, IntentSettings, train_intents
from vivace.apps.support.sample import load_sample

UNKNOWN = "oos"


def read(path: Path) -> list[Example]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Example(row["text"], None if row["label"] == UNKNOWN else row["label"]) for row in rows]


class NearestExample:
    """The label of the example with the highest cosine, which is its score."""

    def __init__(self, examples: Sequence[Example]) -> None:
        known = [example for example in examples if example.label is not None]
        self.labels = np.array([example.label for example in known])
        self.vectorizer = TfidfVectorizer()
        self.matrix = self.vectorizer.fit_transform([example.text for example in known])

    def judge(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        cosines = self.vectorizer.transform(texts) @ self.matrix.T
        return self.labels[np.asarray(cosines.argmax(axis=1)).ravel()], cosines.max(axis=1).toarray().ravel()


def measure(name: str, train: Sequence[Example], test: Sequence[Example]) -> None:
    counts = Counter(example.label for example in train)
    train = [example for example in train if counts[example.label] > 1]
    labels = sorted({str(example.label) for example in train if example.label is not None})
    print(f"\n{name}: {len(train)} examples, {len(labels)} intents, {len(test)} questions")
    known = [example for example in train if example.label is not None]
    judge("all intents", known, test)
    left_out = set(labels[::5])
    if len(labels) - len(left_out) > 1:
        judge("a fifth left out", [example for example in known if example.label not in left_out], test)
    if len(known) < len(train):
        judge("all, with oos", train, test)


def judge(row: str, train: Sequence[Example], test: Sequence[Example]) -> None:
    labels = {example.label for example in train if example.label is not None}
    texts = [example.text for example in test]
    truth = np.array([example.label if example.label in labels else UNKNOWN for example in test])
    is_known = truth != UNKNOWN
    start = time.perf_counter()
    model = train_intents(train, IntentSettings())
    trained = time.perf_counter() - start
    start = time.perf_counter()
    for text in texts[:200]:
        model.classify(text)
    each = 1000 * (time.perf_counter() - start) / min(200, len(texts))
    found = model.classify_all(texts)
    told = np.array([intent.label or UNKNOWN for intent in found])
    best = np.array(model.best_labels(texts))
    scores = np.array([intent.score for intent in found])
    nearest, cosines = NearestExample(train).judge(texts)
    print(
        f"  {row}: trained in {trained:.1f} s, {each:.2f} ms a question,"
        f" threshold {model.threshold:.3f}, margin {model.margin}"
    )
    print(
        f"    macro-F1 of the known      {f1(truth[is_known], best[is_known])}"
        f"   nearest {f1(truth[is_known], nearest[is_known])}"
    )
    known_right = np.mean(told[is_known] == truth[is_known])
    print(
        f"    with rejection             {f1(truth, told)}   known put right {known_right:.3f},"
        f" rejected {np.mean(told[is_known] == UNKNOWN):.3f}"
    )
    if not is_known.all():
        print(
            f"    {np.sum(~is_known)} unknown: rejected {np.mean(told[~is_known] == UNKNOWN):.3f},"
            f" AUROC {roc_auc_score(is_known, scores):.3f}   nearest {roc_auc_score(is_known, cosines):.3f};"
            f" nearest at the same rate of known rejected: {at_same_rate(told, is_known, cosines):.3f}"
        )


def at_same_rate(told: np.ndarray, is_known: np.ndarray, cosines: np.ndarray) -> float:
    """The unknown that the nearest example's cosine would reject, at a bound that rejects as many known ones."""
    bound = np.quantile(cosines[is_known], np.mean(told[is_known] == UNKNOWN))
    return float(np.mean(cosines[~is_known] < bound))


def f1(truth: np.ndarray, told: np.ndarray) -> str:
    return f"{f1_score(truth, told, average='macro', labels=sorted(set(truth)), zero_division=0):.3f}"


def measure_sample() -> None:
    """Five folds, each intent's examples in both languages."""
    examples = list(load_sample().examples)
    random.Random(0).shuffle(examples)
    for language in ("en", "zh"):
        parts = [split_fold(examples, fold) for fold in range(5)]
        right = total = rejected = unknown = wrong = 0
        for train, test in parts:
            model = train_intents(train)
            asked = [example for example in test if example.text.isascii() == (language == "en")]
            for example, intent in zip(asked, model.classify_all([one.text for one in asked]), strict=True):
                unknown += example.label is None
                rejected += example.label is None and intent.label is None
                total += example.label is not None
                right += example.label is not None and intent.label == example.label
                wrong += example.label is not None and intent.label not in (None, example.label)
        print(
            f"sample, {language}: known put right {right}/{total}, put wrong {wrong},"
            f" unknown rejected {rejected}/{unknown}"
        )


def split_fold(examples: Sequence[Example], fold: int) -> tuple[list[Example], list[Example]]:
    return [one for at, one in enumerate(examples) if at % 5 != fold], list(examples[fold::5])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder, or `sample`")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    if arguments.folder == "sample":
        measure_sample()
    for name in arguments.names:
        folder = Path(arguments.folder)
        measure(name, read(folder / f"{name}.train.jsonl.gz"), read(folder / f"{name}.{arguments.split}.jsonl.gz"))


if __name__ == "__main__":
    main()
