"""What the steps that train have in common: settings, examples, and one small loop. The loop needs torch.

The loss on examples set aside is looked at now and then; training stops when it no longer falls, and the weights of its
lowest place are kept: those from before training, if it never fell. So a step that trains makes no model worse on that
measure.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vivace.compress.step import OnProgress, Report, Work
from vivace.errors import DataError, RecipeError
from vivace.evaluation.data import Conversation, read_data
from vivace.evaluation.tasks import Passage, cut_text, mark_conversations
from vivace.models.config import read_generation_defaults
from vivace.tokenizer import Tokenizer

HELD_OUT = 0.1
"""Share of the examples that are never trained on."""
MOST_HELD_OUT = 64
LEAST_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train. Resolved from a step's settings."""

    steps: int
    minutes: float | None
    rate: float
    batch: int
    length: int
    every: int
    patience: int


class Trained(Protocol):
    """The settings that every step that trains has."""

    @property
    def steps(self) -> int: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def batch(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def every(self) -> int: ...
    @property
    def patience(self) -> int: ...


RATES: dict[Literal["lora", "full"], float] = {"lora": 1e-3, "full": 1e-4}
"""What is usual for each way to train."""


def resolve_schedule(step: Trained, rate: float) -> Schedule:
    return Schedule(step.steps, step.minutes, rate, step.batch, step.length, step.every, step.patience)


def check_lora_rank(step: str, rank: int) -> None:
    """Raise `RecipeError` for a rank that cannot be."""
    if not 1 <= rank <= 1024:
        raise RecipeError(f"{step}: rank is {rank}; it must be 1 to 1024.")


def check_schedule(step: str, how: Schedule) -> None:
    """Raise `RecipeError` for values that cannot be."""
    for name, low, high in (("steps", 1, 10**7), ("batch", 1, 4096), ("length", 16, 1 << 20), ("every", 1, 10**7)):
        if not low <= getattr(how, name) <= high:
            raise RecipeError(f"{step}: {name} is {getattr(how, name)}; it must be {low} to {high}.")
    if how.patience < 1:
        raise RecipeError(f"{step}: patience is {how.patience}; it must be at least 1.")
    if not 0 < how.rate <= 1:
        raise RecipeError(f"{step}: rate is {how.rate}; it must be above 0 and at most 1.")
    if how.minutes is not None and not 0 < how.minutes <= 10**5:
        raise RecipeError(f"{step}: minutes is {how.minutes}; it must be above 0.")


@dataclass(frozen=True, slots=True)
class Examples:
    train: Sequence[Passage]
    held_out: Sequence[Passage]


def read_examples(source: Path, work: Work, length: int) -> Examples:
    """The data as tokens of the model in `source`, a part set aside by the seed.

    Raises `DataError` for data that are neither conversations nor text, or too few.
    """
    assert work.data is not None, "checked before any work"
    data, tokenizer = read_data(work.data), Tokenizer.open(source)
    if data.kind == "conversations":
        talks = [record for record in data.records if isinstance(record, Conversation)]
        passages = mark_conversations(talks, tokenizer, read_generation_defaults(source).stop_token_ids, length)
        passages = [passage for passage in passages if any(passage.said[1:])]
    elif data.kind == "text":
        windows = cut_text(data.text, tokenizer, length)
        passages = [Passage(window.document, window.tokens, (True,) * len(window.tokens)) for window in windows]
    else:
        raise DataError(
            f"{work.data} holds {data.kind}; training takes conversations (JSON lines of messages) or text."
        )
    if len(passages) < LEAST_EXAMPLES:
        raise DataError(
            f"{work.data} makes {len(passages)} examples; training takes {LEAST_EXAMPLES}. Give a longer file."
        )
    random.Random(work.seed).shuffle(passages)
    aside = min(MOST_HELD_OUT, max(2, round(HELD_OUT * len(passages))))
    return Examples(passages[aside:], passages[:aside])


@dataclass(frozen=True, slots=True)
class Padded:
    """Some passages side by side, [rows, length]; what is padding counts nowhere."""

    ids: Any
    mask: Any
    said: Any
    """Of each token: whether the assistant says it."""


def pad(passages: Sequence[Passage]) -> Padded:
    import torch

    length = max(len(passage.tokens) for passage in passages)
    rows = [(passage.tokens, passage.said, length - len(passage.tokens)) for passage in passages]
    return Padded(
        torch.tensor([[*tokens, *[0] * more] for tokens, _, more in rows]),
        torch.tensor([[1] * len(tokens) + [0] * more for tokens, _, more in rows]),
        torch.tensor([[*said, *[False] * more] for _, said, more in rows]),
    )


def train(
    parameters: Sequence[Any],
    find_loss: Callable[[Padded], Any],
    examples: Examples,
    how: Schedule,
    seed: int,
    progress: OnProgress,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Change `parameters` in place by AdamW, with a short warm-up and a cosine; the report has the held-out curve.

    `find_loss` is a mean over a batch; it is called without gradients on what is set aside.
    """
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=how.rate, betas=(0.9, 0.95), weight_decay=0.0)
    draw = random.Random(seed)
    best = _Best(parameters, _measure(find_loss, examples.held_out, how.batch))
    begun = clock()
    curve = [{"step": 0, "held_out_loss_nats": best.loss}]
    stopped, worse, done = "steps", 0, 0
    while done < how.steps:
        share = _find_share(done, how, clock() - begun)
        if share >= 1:
            stopped = "minutes"
            break
        for group in optimizer.param_groups:
            group["lr"] = (
                how.rate * min(1.0, (done + 1) / max(1, how.steps // 20)) * (0.55 + 0.45 * math.cos(math.pi * share))
            )
        batch = draw.sample(list(examples.train), min(how.batch, len(examples.train)))
        loss = find_loss(pad(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done += 1
        progress(share)
        if done % how.every == 0 or done == how.steps:
            curve.append({"step": done, "held_out_loss_nats": _measure(find_loss, examples.held_out, how.batch)})
            worse = 0 if best.keep(curve[-1]["held_out_loss_nats"], done) else worse + 1
            if worse >= how.patience:
                stopped = "patience"
                break
    if curve[-1]["step"] != done:
        curve.append({"step": done, "held_out_loss_nats": _measure(find_loss, examples.held_out, how.batch)})
        best.keep(curve[-1]["held_out_loss_nats"], done)
    best.restore()
    return {
        "examples": len(examples.train),
        "held_out_examples": len(examples.held_out),
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "steps_done": done,
        "stopped_by": stopped,
        "kept_step": best.step,
        "rolled_back": best.step != done,
        "curve": curve,
    }


def _find_share(done: int, how: Schedule, seconds: float) -> float:
    """Of the way gone, by steps or by time, whichever is further."""
    by_time = 0.0 if how.minutes is None else seconds / (60 * how.minutes)
    return max(done / how.steps, by_time)


def _measure(find_loss: Callable[[Padded], Any], passages: Sequence[Passage], batch: int) -> float:
    import torch

    ordered = sorted(passages, key=lambda passage: len(passage.tokens))
    groups = [ordered[at : at + batch] for at in range(0, len(ordered), batch)]
    with torch.no_grad():
        return sum(float(find_loss(pad(group))) * len(group) for group in groups) / len(ordered)


class _Best:
    """The weights of the lowest held-out loss so far."""

    def __init__(self, parameters: Sequence[Any], loss: float) -> None:
        self._parameters = parameters
        self.loss, self.step = loss, 0
        self._copy()

    def keep(self, loss: float, step: int) -> bool:
        """Whether it is lower than all before."""
        if not loss < self.loss:
            return False
        self.loss, self.step = loss, step
        self._copy()
        return True

    def restore(self) -> None:
        import torch

        with torch.no_grad():
            for parameter, value in zip(self._parameters, self._values, strict=True):
                parameter.copy_(value)

    def _copy(self) -> None:
        self._values = [parameter.detach().clone() for parameter in self._parameters]


# Losses


def find_cross_entropy(logits: Any, batch: Padded) -> Any:
    """Mean over the assistant's tokens, in nats. `logits`: [rows, length, vocabulary]."""
    import torch

    targets = batch.ids[:, 1:].masked_fill(~(batch.said[:, 1:] & batch.mask[:, 1:].bool()), -100)
    if not (targets >= 0).any():
        return logits.sum() * 0.0
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100)


def find_logit_divergence(logits: Any, teacher: Any, batch: Padded, temperature: float) -> Any:
    """KL(teacher || student) over all tokens but padding, times temperature² (Hinton et al., 2015), in nats."""
    kept = batch.mask.bool()
    p = (teacher[kept].float() / temperature).log_softmax(-1)
    q = (logits[kept].float() / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean() * temperature**2


def load_teacher(work: Work) -> Any:
    """The model before the recipe, in f32, that learns nothing any more."""
    from vivace.compress.variant import open_variant

    assert work.original is not None, "a recipe without an original"
    return open_variant(work.original).model
