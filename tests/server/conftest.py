"""One tiny model for all tests of the server."""

from __future__ import annotations

import pytest

from tests.checkpoints import write_llama
from tests.server.serving import make_model
from vivace.models.model import Model


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(write_llama(tmp_path_factory.mktemp("checkpoint")))
