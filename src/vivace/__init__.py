"""vivace: real-time LLM inference.

Load a model and ask it:

    >>> import vivace
    >>> llm = vivace.load("mini")
    >>> answer = llm.generate([{"role": "user", "content": "Hello!"}], max_tokens=32)
    >>> print(answer.text, answer.timing.total_ms)

Everything else is in the modules; only these four names are kept stable.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivace.llm import LLM, Generation, load
    from vivace.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "Generation", "SamplingParams", "load"]

_HOMES = {"LLM": "vivace.llm", "Generation": "vivace.llm", "SamplingParams": "vivace.sampling", "load": "vivace.llm"}


def __getattr__(name: str) -> Any:
    """The four names are imported when they are asked for: `vivace --help` waits for none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vivace' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
