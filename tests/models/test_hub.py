from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vivace.errors import ModelNotFoundError
from vivace.models.hub import locate_model


class FakeHub(ModuleType):
    """Stands in for huggingface_hub; remembers what was asked of it."""

    def __init__(self, outcome: Path | Exception) -> None:
        super().__init__("huggingface_hub")
        self.outcome = outcome
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.calls.append((name, options))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return str(self.outcome)


def fake_hub(monkeypatch: pytest.MonkeyPatch, outcome: Path | Exception) -> FakeHub:
    hub = FakeHub(outcome)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def test_the_embedded_model_is_whole_and_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = fake_hub(monkeypatch, OSError())
    names = {path.name for path in locate_model("mini").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "README.md"} <= names
    assert hub.calls == []


def test_a_directory_is_taken_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, OSError())
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate_model(str(tmp_path)) == tmp_path
    assert locate_model("owner/name") == Path("owner/name")


def test_an_id_is_fetched_without_pickle_or_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = fake_hub(monkeypatch, tmp_path)
    assert locate_model("some-owner/Model-1.5_x") == tmp_path
    [(name, options)] = hub.calls
    assert name == "some-owner/Model-1.5_x"
    assert sorted(options["allow_patterns"]) == ["*.jinja", "*.json", "*.safetensors"]


def test_the_patterns_keep_out_what_must_not_come() -> None:
    utils = pytest.importorskip("huggingface_hub.utils")
    names = ["model.safetensors", "config.json", "chat_template.jinja", "pytorch_model.bin", "a.pt", "b.pth", "c.py",
             "onnx/config.json", "original/consolidated.safetensors", "model.gguf"]  # fmt: skip
    kept = utils.filter_repo_objects(
        names, allow_patterns=["*.safetensors", "*.json", "*.jinja"], ignore_patterns=["*/*"]
    )
    assert list(kept) == ["model.safetensors", "config.json", "chat_template.jinja"]


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("404\nmore"), ValueError()])
def test_a_hub_that_gives_nothing_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fake_hub(monkeypatch, error)
    with pytest.raises(ModelNotFoundError, match=r"'owner/name'.*Check the name and the network.*Give the dir.*mini"):
        locate_model("owner/name")


@pytest.mark.parametrize("name", ["", "nothing", "./nothing", "/no/such/place", "a/b/c", "../x", "owner/", "a\0b"])
def test_a_name_that_is_nothing_says_what_to_give(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    hub = fake_hub(monkeypatch, OSError())
    with pytest.raises(ModelNotFoundError, match=r"Give the directory .* or an embedded model: mini"):
        locate_model(name)
    assert hub.calls == []


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file; give the directory"):
        locate_model(str(path))


@pytest.mark.parametrize("name", ["model.gguf", "model.Q4_K_M.GGUF"])
def test_a_gguf_file_is_taken_as_given(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert locate_model(str(path)) == path


def test_the_hub_is_not_imported_for_a_local_model(tmp_path: Path) -> None:
    lines = [
        "import sys",
        "from vivace.models.hub import locate_model",
        f"locate_model({str(tmp_path)!r})",
        "locate_model('mini')",
        "sys.exit('huggingface_hub' in sys.modules)",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False).returncode == 0
