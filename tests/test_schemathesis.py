"""Thousands of requests made from the API's own description: none makes the server fail or hang."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.checkpoints import HERMES, write_llama
from tests.test_serve_process import serving

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 700
"""For each operation and phase."""
LEAST = 5000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_that_the_description_leads_to_makes_the_server_fail_or_hang(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    directory = write_llama(tmp_path / "caller", context=512)
    (directory / "chat_template.jinja").write_text(HERMES)
    with serving(str(directory), "--threads", "1") as server:
        command = [sys.executable, "-W", "default", "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        command += [
            "--checks",
            CHECKS,
            "--max-examples",
            str(EXAMPLES),
            "--mode",
            "all",
            "--phases",
            "coverage,fuzzing",
        ]
        command += ["--request-timeout", "60", "--workers", "4", "--continue-on-failure", "--seed", "1"]
        command += ["--header", "Content-Type: application/json"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1700, check=False)
        found = re.search(r"(\d[\d,]*) generated", run.stdout)
        cases = int(found[1].replace(",", "")) if found else 0
        with capsys.disabled():
            print(f" {cases} cases", end="", flush=True)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert cases >= LEAST, run.stdout[-3000:]
        assert server.process.poll() is None
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
