from collections.abc import Sequence
from typing import Any

def supported_isas() -> list[str]: ...
def measure_read_bandwidth(bytes: int, threads: int, passes: int) -> float: ...
def measure_multiply_rate(format: str, isa: str, threads: int, passes: int) -> float: ...

class Integers:
    def __init__(self, codes: Any, scales: Any, zeros: Any, group_size: int) -> None: ...

class Sampling:
    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        stop_token_ids: Sequence[int],
        min_p: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        logit_bias: Sequence[tuple[int, float]],
        min_tokens: int,
        prompt_length: int,
        logprobs: int,
    ) -> None: ...

class Decoder:
    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        context_length: int,
        norm: str,
        norm_eps: float,
        activation: str,
        attention_scale: float,
        embedding_scale: float,
        layers: list[tuple[int, int, int]],
        ropes: list[tuple[list[float], float]],
        format: str,
        table_format: str,
        group_size: int,
        isa: str,
        threads: int,
        slots: int,
        blocks: int,
        max_batch_tokens: int,
    ) -> None: ...
    def set_linear(self, layer: int, name: str, parts: list[tuple[Any, Any, Any]]) -> None: ...
    def set_norm(self, layer: int, name: str, weight: Any, bias: Any) -> None: ...
    def set_final_norm(self, weight: Any, bias: Any) -> None: ...
    def set_embedding(self, table: Any) -> None: ...
    def set_head(self, part: tuple[Any, Any, Any]) -> None: ...
    def set_positions(self, table: Any) -> None: ...
    def check_complete(self) -> None: ...
    def step(
        self,
        rows: list[tuple[int, int, int, int, int, int, int, int, bool]],
        tokens: list[int],
        blocks: list[int],
        targets: list[int],
        history: list[int],
        samplings: list[Sampling],
        masks: dict[int, bytes],
        max_steps: int,
        burst_ms: float,
    ) -> tuple[
        list[list[int]],
        int,
        dict[int, list[float]],
        dict[int, bytes],
        dict[int, list[tuple[float, list[tuple[int, float]]]]],
    ]: ...
    def interrupt(self) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def step_bytes(self) -> int: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
