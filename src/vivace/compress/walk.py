"""Runs calibration text through a decoder one layer at a time, and looks at what goes into its linears.

Only the states between two layers are kept, [sequences, length, hidden]: a layer is done with before the next is begun.
Linears that read the same tensor (query, key and value; gate and up) share one set of moments. Knows no family: which
linears share inputs is seen as the layer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vivace.compress.variant import find_decoder, find_linears

BATCH_TOKENS = 2048
"""Computed together."""


@dataclass(slots=True)
class Moments:
    """What goes into some linears: x, [in], over all tokens seen."""

    linears: list[str]
    """Names in the layer."""
    second: Any
    """E[x xᵀ], float32 [in, in]"""
    mean: Any
    """E[x], [in]"""
    tokens: int = 0

    @property
    def power(self) -> Any:
        """E[x²], [in]"""
        return self.second.diagonal()

    def scale(self, factors: Any) -> None:
        """As of inputs that are multiplied by `factors`, [in]."""
        self.second.mul_(factors[:, None]).mul_(factors)
        self.mean.mul_(factors)


class LayerWalk:
    """The states that go into one layer after the other."""

    def __init__(self, model: Any, sequences: Sequence[Sequence[int]]) -> None:
        self._layers = find_decoder(model).layers
        rows = max(1, BATCH_TOKENS // len(sequences[0]))
        ids = torch.tensor(sequences)
        self.states: list[Any] = []
        """For each batch, [sequences, length, hidden]."""
        self._settings: list[list[dict[str, Any]]] = []
        """What each layer is told besides, by batch and layer: positions and masks."""
        with torch.no_grad():
            for batch in ids.split(rows):
                states, settings = _record_inputs(find_decoder(model), self._layers, batch)
                self.states.append(states)
                self._settings.append(settings)

    def run(self, index: int) -> list[Any]:
        """The states after a layer as it is now."""
        with torch.no_grad():
            return [
                _first(self._layers[index](states, **settings[index]))
                for states, settings in zip(self.states, self._settings, strict=True)
            ]

    def run_rest(self, index: int, batch: int) -> Any:
        """The states of one batch after this layer and all that follow it."""
        with torch.no_grad():
            states = self.states[batch]
            for place in range(index, len(self._layers)):
                states = _first(self._layers[place](states, **self._settings[batch][place]))
            return states

    def observe(self, index: int) -> tuple[list[Moments], list[Any]]:
        """The moments of a layer's linears, and the states after it."""
        observer = _Observer()
        hooks = [
            linear.register_forward_pre_hook(observer.hook(name)) for name, linear in find_linears(self._layers[index])
        ]
        try:
            after = []
            with torch.no_grad():
                for states, settings in zip(self.states, self._settings, strict=True):
                    after.append(_first(self._layers[index](states, **settings[index])))
                    observer.begin_batch()
        finally:
            for hook in hooks:
                hook.remove()
        return observer.finish(), after


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _record_inputs(decoder: Any, layers: Any, ids: Any) -> tuple[Any, list[dict[str, Any]]]:
    """What the first layer is given for these ids, and what each is told besides. No layer is run."""
    states: list[Any] = []
    settings: list[dict[str, Any]] = []

    def record(hidden: Any, **told: Any) -> Any:
        states.append(hidden)
        settings.append(told)
        return hidden

    try:
        for layer in layers:
            layer.forward = record  # on the instance, so that it hides the class's own
        decoder(input_ids=ids, use_cache=False)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
    return states[0], settings


class _Observer:
    """Sums up what goes into linears. Within a batch, one tensor is one tensor however many read it."""

    def __init__(self) -> None:
        self._seen: list[tuple[Any, Moments]] = []
        self._found: dict[str, Moments] = {}

    def hook(self, name: str) -> Any:
        def look(module: Any, arguments: tuple[Any, ...]) -> None:
            self._add(name, arguments[0])

        return look

    def begin_batch(self) -> None:
        self._seen.clear()

    def finish(self) -> list[Moments]:
        moments = list({id(found): found for found in self._found.values()}.values())
        for found in moments:
            found.second.div_(found.tokens)
            found.mean.div_(found.tokens)
        return moments

    def _add(self, name: str, inputs: Any) -> None:
        for tensor, moments in self._seen:
            if tensor is inputs:
                if name not in moments.linears:
                    moments.linears.append(name)
                self._found[name] = moments
                return
        rows = inputs.reshape(-1, inputs.shape[-1])
        moments = self._found.get(name) or Moments([name], torch.zeros(rows.shape[1], rows.shape[1]), 0.0)
        moments.second.addmm_(rows.T, rows)
        moments.mean = moments.mean + rows.sum(0)
        moments.tokens += len(rows)
        self._found[name] = moments
        self._seen.append((inputs, moments))
