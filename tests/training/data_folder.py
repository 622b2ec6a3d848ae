"""A data folder of a few records a file, in the schemas of the real one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from training.sources import DIALOGUES, QUESTIONS


def write_data(directory: Path, *, reply: str = "It opens at nine.", turns: int = 2) -> None:
    talk = [{"role": "user", "content": "When does it open?"}, {"role": "assistant", "content": reply}] * turns
    question = {"context": "The shop opens at nine.", "question": "When?", "title": "", "source": ""}
    answered = {**question, "answers": ["at nine", "nine"]}
    for split in ("train", "valid", "test"):
        for name in DIALOGUES:
            _write(directory / "dialogue" / f"{name}.{split}.jsonl.gz", [{"messages": talk}] * 4)
        for name in QUESTIONS:
            unanswered = {**question, "question": "Why?", "answers": []}
            _write(
                directory / "qa" / f"{name}.{split}.jsonl.gz",
                [answered, unanswered] if name == "squad2" else [answered],
            )
    _write(directory / "instruct" / "self_instruct_seed.train.jsonl", [{"messages": talk}])


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
