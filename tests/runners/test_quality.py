"""What int8 costs on a real model: the embedded one, on a text of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runners.loading import Loaded, blocks_for, hidden_of, load_directory, run
from vivace.batch import Row, Sampling, Want
from vivace.models.checkpoint import Tensor
from vivace.models.model import Model, open_model
from vivace.models.weights import Linear, ModelWeights, Norm
from vivace.runners.native import NativeRunner
from vivace.runners.reference import Quantization, ReferenceRunner, log_softmax

CONVERSATIONS = (
    (
        "Hi, I would like to book a table for two tonight.",
        "Sure! What kind of food would you like, and in which part of town?",
        "Italian please, somewhere in the centre, and not too expensive.",
        "I found a moderately priced Italian restaurant in the centre. Shall I book a table for two at seven?",
        "Could you make it half past seven? And what is the phone number?",
        "Your table for two is booked for 7:30 pm. The phone number is 01223 350420. Is there anything else?",
        "No, that is all. Thank you for your help.",
        "You are welcome. Have a nice evening!",
    ),
    (
        "My order has not arrived yet and it was due on Monday.",
        "I am sorry for the delay. Could you please give me your order number so that I can check the status?",
        "It is 4471, a pair of running shoes.",
        "Thank you. I can see that the parcel left our warehouse on Friday and it is now with the courier.",
        "When will I get it? I need the shoes for the weekend.",
        "It should be delivered by Thursday. If it does not arrive, you can ask for a full refund or a replacement.",
        "Fine, then I will wait until Thursday.",
        "Thank you for your patience. You will get a message as soon as the parcel is out for delivery.",
    ),
    (
        "Do you have any plans for the weekend?",
        "I am going to visit my parents and maybe go for a walk in the mountains. What about you?",
        "I would like to see a film. Do you know anything good?",
        "I like comedies. There is a new one about a dog that travels the world, and it made me laugh a lot.",
        "That sounds fun. Is it showing at the cinema near the station?",
        "Yes, there is a show at six and another one at nine.",
    ),
)


@pytest.fixture(scope="module")
def mini() -> Model:
    return open_model("mini")


@pytest.fixture(scope="module")
def loaded(mini: Model) -> Loaded:
    return load_directory(mini.directory)


@pytest.fixture(scope="module")
def texts(mini: Model) -> list[list[int]]:
    roles = ("user", "assistant")
    return [
        mini.tokenizer.encode_chat(
            [{"role": roles[i % 2], "content": content} for i, content in enumerate(conversation)],
            add_generation_prompt=False,
        )
        for conversation in CONVERSATIONS
    ]


def test_int8_keeps_the_perplexity_within_half_a_percent(loaded: Loaded, texts: list[list[int]]) -> None:
    def perplexity(quantize: str) -> float:
        runner = loaded.native(quantize)  # type: ignore[arg-type]
        scores: list[float] = []
        for text in texts:
            row = Row(0, 0, text[:-1], blocks_for(len(text)), Want.SCORE, targets=text[1:], opens=Sampling())
            scores += run(runner, row).scores[0]
        return float(np.exp(-np.mean(scores)))

    exact, rounded = perplexity("none"), perplexity("int8")
    assert exact < 20  # the model knows this kind of text, so the comparison means something
    assert abs(rounded / exact - 1) < 0.005


def plant_outliers(weights: ModelWeights, channels: Sequence[int], factor: float, compensated: bool) -> ModelWeights:
    """Some channels of every normed activation made larger; compensated, the next weights undo it exactly."""

    def scale_norm(norm: Norm) -> Norm:
        weight = norm.weight.copy()
        weight[list(channels)] *= factor
        return Norm(weight, norm.bias)

    def scale_linear(linear: Linear) -> Linear:
        values = linear.weight.to_f32().copy()
        if compensated:
            values[:, list(channels)] /= factor
        return Linear(Tensor(linear.weight.name, "F32", values), linear.bias)

    layers = tuple(
        replace(
            layer,
            attention_norm=scale_norm(layer.attention_norm),
            mlp_norm=scale_norm(layer.mlp_norm),
            query=scale_linear(layer.query),
            key=scale_linear(layer.key),
            value=scale_linear(layer.value),
            gate=None if layer.gate is None else scale_linear(layer.gate),
            up=scale_linear(layer.up),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers)


@pytest.mark.parametrize("compensated", [True, False])
def test_with_300x_outlier_channels_int8_diverges_no_more_than_with_blocks_of_32(
    compensated: bool, loaded: Loaded, texts: list[list[int]]
) -> None:
    planted = Loaded(loaded.config, plant_outliers(loaded.weights, (3, 77, 200, 301), 300.0, compensated))
    text = texts[0]
    exact_runner = planted.reference("none")

    def log_probabilities(runner: NativeRunner | ReferenceRunner) -> NDArray[np.float64]:
        """Of every next token. The head is exact, so that only what is before it differs."""
        row = Row(0, 0, text, blocks_for(len(text)), Want.HIDDEN, opens=Sampling())
        states = hidden_of(run(runner, row), 0, planted.config.hidden_size)
        return log_softmax(states @ planted.head().T).astype(np.float64)

    exact = log_probabilities(exact_runner)

    def divergence(runner: NativeRunner | ReferenceRunner) -> float:
        return float((np.exp(exact) * (exact - log_probabilities(runner))).sum(axis=1).mean())

    def rounded(group: int) -> ReferenceRunner:
        quantization = Quantization(activation_group=group, keep_outliers=False)
        return ReferenceRunner(planted.config, planted.weights, quantization=quantization)

    ours, blocks_of_32 = divergence(planted.native("int8")), divergence(rounded(32))
    print(f"KL: ours {ours:.4f}, blocks of 32 {blocks_of_32:.4f}, groups of 128 {divergence(rounded(128)):.4f}")
    assert ours <= blocks_of_32
