"""vivace: real-time LLM inference.

Load a model and ask it:

    >>> import vivace
    >>> llm = vivace.load("mini")
    >>> answer = llm.generate([{"role": "user", "content": "Hello!"}], max_tokens=32)
    >>> print(answer.text, answer.timing.total_ms)

Everything else is in the modules; only these four names are kept stable.
"""

from __future__ import annotations

from vivace.llm import LLM, Generation, load
from vivace.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "Generation", "SamplingParams", "load"]
