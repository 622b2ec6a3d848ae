from typing import Any

def supported_isas() -> list[str]: ...

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
        isa: str,
        threads: int,
        slots: int,
        blocks: int,
        max_batch_tokens: int,
    ) -> None: ...
    def set_linear(self, layer: int, name: str, parts: list[tuple[Any, Any]]) -> None: ...
    def set_norm(self, layer: int, name: str, weight: Any, bias: Any) -> None: ...
    def set_final_norm(self, weight: Any, bias: Any) -> None: ...
    def set_embedding(self, table: Any) -> None: ...
    def set_head(self, matrix: Any) -> None: ...
    def set_positions(self, table: Any) -> None: ...
    def check_complete(self) -> None: ...
    def step(
        self,
        rows: list[tuple[int, int, int, int, int, int, int, bool]],
        tokens: list[int],
        blocks: list[int],
        targets: list[int],
        samplings: list[tuple[float, int, float, int, list[int]]],
        max_steps: int,
        burst_ms: float,
    ) -> tuple[list[list[int]], int, dict[int, list[float]], dict[int, bytes]]: ...
    def interrupt(self) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
