"""Every number of a training run, resolved once. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama decoder with its head tied to the embedding."""

    vocab_size: int = 8192
    hidden_size: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    mlp_size: int = 1024
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    context_length: int = 2048

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one mix of data."""

    share: float
    """Of the run, all phases together 1."""
    length: int
    """Tokens in a sequence."""
    sequences: int
    """In a step."""
    mix: Mapping[str, float]
    """Share of the tokens from each source, in any unit."""
    role_weights: Mapping[str, float] = field(
        default_factory=lambda: {"assistant": 1.0, "user": 0.3, "header": 0.3, "system": 0.0}
    )
    """Loss weight of a token by who wrote it; `header` is the template around the turns. A weight of 0 costs no
    projection to the vocabulary."""


ASSISTANT_ONLY = {"assistant": 1.0, "user": 0.0, "header": 0.0, "system": 0.0}

DIALOGUE = {
    "sgd": 6.0, "multiwoz": 3.5, "topical_chat": 5.0, "cucom_ecommerce": 5.0, "synthetic_persona_chat": 3.0,
    "camrest": 0.7, "taskmaster4": 1.3, "self_instruct": 0.5,
}  # fmt: skip
TALK = {"small_talk": 3.0, "instructions": 3.0, "product": 2.0, "orders": 4.0, "ignorance": 1.5}


@dataclass(frozen=True)
class RunConfig:
    decoder: DecoderConfig
    phases: tuple[Phase, ...]
    tokens: int
    """The whole run."""
    rate: float
    """Peak learning rate of AdamW."""
    warm_up: float = 0.03
    """Share of the run over which the rate rises."""
    final_rate: float = 0.02
    """What the cosine ends at, as a share of the peak."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    evaluate_every: int = 100
    """Steps."""
    checkpoint_every: int = 50
    patience: int = 6
    """Evaluations without a better held-out loss before the run stops early."""
    micro_tokens: int = 0
    """Tokens computed at a time; 0: a whole step's. Gradients of a step are summed."""
    workers: int = 0
    """Processes that draw steps ahead; a GPU is faster than one can write."""


def _phases(
    sequences: int, length: int = 512, long: int = 2048, shares: tuple[float, float, float] = (0.35, 0.45, 0.20)
) -> tuple[Phase, ...]:
    """Copying is learned first, on short passages; the last phase is long, and only about the assistant's words."""
    questions = {"encyclopedia": 8.0, "squad2": 2.0}
    copying = {"copying": 18.0, "shop_short": 18.0, "shop": 8.0, "squadshifts_new_wiki": 4.0}
    reading = {"copying": 8.0, "shop": 28.0, "squadshifts_new_wiki": 9.0}
    finish = {"copying": 4.0, "shop": 8.0, "shop_long": 16.0, "squadshifts_new_wiki": 11.0}
    usual = {**DIALOGUE, **TALK, **questions}
    return (
        Phase(shares[0], length, sequences, usual | copying),
        Phase(shares[1], length, sequences, usual | reading),
        Phase(shares[2], long, max(1, sequences * length // long), usual | finish, ASSISTANT_ONLY),
    )


RUNS: dict[str, RunConfig] = {
    "small": RunConfig(DecoderConfig(), _phases(2), tokens=40_000_000, rate=8e-4, evaluate_every=150),
    "more": RunConfig(
        DecoderConfig(layers=8),
        _phases(4, shares=(0.15, 0.60, 0.25)),
        tokens=40_000_000,
        rate=4e-4,
        evaluate_every=200,
        patience=60,
    ),
    "base": RunConfig(
        DecoderConfig(vocab_size=12_288, hidden_size=512, layers=10, heads=8, kv_heads=4, mlp_size=1408),
        _phases(128),
        tokens=160_000_000,
        rate=1.2e-3,
        micro_tokens=32_768,
        workers=12,
        evaluate_every=250,
        checkpoint_every=500,
    ),
    "slice": RunConfig(
        DecoderConfig(vocab_size=1024, hidden_size=64, layers=2, heads=2, kv_heads=1, mlp_size=128, context_length=512),
        _phases(4, 128, 256),
        tokens=60_000,
        rate=3e-3,
        evaluate_every=40,
    ),
}
"""`small` for two CPU cores, `more` to go on from a grown `small` with all layers, `base` for a GPU, `slice` to see the
whole program work in a minute."""
