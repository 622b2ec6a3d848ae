"""A linear that is the product of two. Needs torch."""

from __future__ import annotations

from typing import Any

import torch


class Factored(torch.nn.Module):  # type: ignore[misc]
    """y = up(down(x)) + bias"""

    def __init__(self, out: int, rank: int, width: int, bias: Any = None) -> None:
        super().__init__()
        self.up = torch.nn.Linear(rank, out, bias=False)
        self.down = torch.nn.Linear(width, rank, bias=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias.clone())
        self.requires_grad_(False)

    def forward(self, inputs: Any) -> Any:
        outputs = self.up(self.down(inputs))
        return outputs if self.bias is None else outputs + self.bias
