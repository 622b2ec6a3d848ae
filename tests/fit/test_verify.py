"""Each verdict on a certificate, with its exit status; and a real server's certificate from end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.checkpoints import write_llama
from tests.fit.certificates import MACHINE, certify_fake, document, measurement, write_model
from vivace.cli import main
from vivace.errors import CertificateError, VivaceError
from vivace.fit.certificate import CERTIFICATE, PAGE, Certificate, MachineRecord
from vivace.fit.certify import certify
from vivace.fit.objective import parse_objective
from vivace.fit.settings import EngineSettings
from vivace.fit.verify import EXIT_STATUS, Tools, Verdict, Verification, judge, verify
from vivace.fit.workload import WorkloadSpec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "variant")


@dataclass
class Fakes:
    """A machine and a server that are what a test says."""

    machine: MachineRecord = MACHINE
    read_gb_per_s: float = 40.0
    documents: list[dict[str, Any]] = field(default_factory=lambda: [document()])
    """Round by round; the last one again and again."""
    fails: str = ""
    replays: list[tuple[int, int]] = field(default_factory=list)

    def replay(self, certificate: Certificate, directory: Path, requests: int, first: int) -> dict[str, Any]:
        self.replays.append((requests, first))
        if self.fails:
            raise VivaceError(self.fails)
        return self.documents[min(len(self.replays), len(self.documents)) - 1]

    def verify(self, place: Path) -> Verification:
        return verify(place, tools=Tools(lambda _: self.machine, lambda _: self.read_gb_per_s, self.replay))


def test_a_certificate_whose_limits_are_kept_holds(model: Path) -> None:
    certify_fake(model)
    found = Fakes().verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.HOLDS, 0)
    assert [check.kept for check in found.checks] == [True, True]
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cpu": "Another CPU"}, "measured with the CPU A CPU, and this machine has Another CPU"),
        ({"isa": "avx512"}, "instruction set"),
        ({"cores": 3}, "number of cores 2, and this machine has 3"),
    ],
)
def test_another_machine_is_refused_with_the_reason_and_nothing_is_measured(
    model: Path, changes: dict[str, Any], reason: str
) -> None:
    certify_fake(model)
    fakes = Fakes(machine=msgspec.structs.replace(MACHINE, **changes))
    found = fakes.verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.REFUSED, 13)
    assert reason in found.reasons[0]
    assert fakes.replays == []


def test_a_changed_model_is_refused_with_the_file_and_nothing_is_measured(model: Path) -> None:
    certify_fake(model)
    (model / "model.safetensors").write_bytes(b"wEights")
    fakes = Fakes()
    found = fakes.verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.REFUSED, 13)
    assert "model.safetensors is not the one that was measured" in found.reasons[0]
    assert fakes.replays == []


def test_late_on_a_machine_that_reads_more_slowly_is_a_slower_machine(model: Path) -> None:
    certify_fake(model)
    found = Fakes(documents=[document(ttft=200.0)], read_gb_per_s=20.0).verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.SLOWER, 10)
    assert "reads 20.0 GB/s, where it was certified at 40.0 GB/s" in found.reasons[0]
    assert any("ttft_p99" in reason for reason in found.reasons)


def test_late_on_a_machine_as_fast_as_it_was_is_drift(model: Path) -> None:
    certify_fake(model)
    found = Fakes(documents=[document(ttft=200.0)]).verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.DRIFTED, 11)


def test_a_slower_machine_that_keeps_the_limits_holds(model: Path) -> None:
    certify_fake(model)
    assert Fakes(read_gb_per_s=20.0).verify(model).verdict is Verdict.HOLDS


def test_medians_far_from_what_they_were_are_drift_though_the_limits_are_kept(model: Path) -> None:
    certify_fake(model, "ttft_p99=10s")
    found = Fakes(documents=[document(ttft=20.0)]).verify(model)
    assert found.verdict is Verdict.DRIFTED
    assert "ttft_p50 was 10 ms" in found.reasons[0]
    assert all(check.kept for check in found.checks)


def test_a_certificate_without_limits_holds_by_its_medians(model: Path) -> None:
    certificate = certify_fake(model, "loss=2%")
    assert judge(certificate, measurement(), 40.0).verdict is Verdict.HOLDS
    assert judge(certificate, measurement(tpot=2.0), 40.0).verdict is Verdict.DRIFTED


def test_failing_requests_are_broken(model: Path) -> None:
    certify_fake(model)
    found = Fakes(documents=[document(errors={"timeout": 10})]).verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.BROKEN, 12)
    assert "10 of 800 requests failed" in found.reasons[0]


def test_requests_that_time_ended_are_late_and_not_broken(model: Path) -> None:
    certify_fake(model)
    assert Fakes(documents=[document(errors={"http_504": 20})]).verify(model).verdict is Verdict.DRIFTED


def test_a_server_that_does_not_start_is_broken(model: Path) -> None:
    certify_fake(model)
    found = Fakes(fails="The server did not start. It said: no").verify(model)
    assert (found.verdict, found.exit_status) == (Verdict.BROKEN, 12)
    assert "It said: no" in found.reasons[0]


def test_a_miss_that_chance_may_explain_is_looked_at_again(model: Path) -> None:
    certify_fake(model, "ttft_p50=9.9ms")
    fakes = Fakes(documents=[document(seed=2), document(ttft=9.0, seed=1)])
    found = fakes.verify(model)
    assert fakes.replays == [(800, 0), (800, 800)]
    assert found.verdict is Verdict.HOLDS
    assert found.measured is not None
    assert found.measured.offered == 1600


def test_as_many_requests_are_sent_as_the_percentile_takes(model: Path) -> None:
    certify_fake(model, workload=WorkloadSpec(rate=10.0, requests=20))
    fakes = Fakes()
    fakes.verify(model)
    assert fakes.replays == [(662, 0)]


def test_a_memory_limit_is_checked_too(model: Path) -> None:
    certify_fake(model, "memory=50MB")
    found = Fakes().verify(model)
    assert found.verdict is Verdict.DRIFTED
    assert "memory is 1e+08 bytes" in found.reasons[0]


def test_an_unreadable_certificate_is_an_error_and_no_verdict(model: Path) -> None:
    (model / CERTIFICATE).write_text("{}")
    with pytest.raises(CertificateError):
        Fakes().verify(model)
    assert CliRunner().invoke(main, ["verify", str(model)]).exit_code == 1


def test_every_verdict_has_an_exit_status_of_its_own_that_help_names() -> None:
    assert set(EXIT_STATUS) == set(Verdict)
    assert len(set(EXIT_STATUS.values())) == len(Verdict)
    text = CliRunner().invoke(main, ["verify", "--help"]).output
    for status in EXIT_STATUS.values():
        assert f"{status} " in text


# With a real server


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model beside its certificate; nobody is in a hurry."""
    out = write_llama(tmp_path_factory.mktemp("certified"), context=4096, vocab=259, seed=3)  # it says plain letters
    workload = WorkloadSpec(input_tokens="60", output_tokens="6", concurrency=2, requests=20, warmup=2)
    settings = EngineSettings(threads=1, max_sequences=4, max_batch_tokens=64)
    certify(str(out), out, settings, workload, parse_objective("ttft_p50=20s total_p50=60s"))
    return out


@pytest.mark.timeout(600)
def test_a_certificate_of_a_real_server_is_whole_and_is_verified_by_a_fresh_one(certified: Path) -> None:
    assert (certified / PAGE).read_text().startswith("<!doctype html>")
    ran = CliRunner().invoke(main, ["verify", str(certified), "--json", "--quiet"])
    found = json.loads(ran.stdout)
    # A machine that is busy with other tests may be slower than it was; all else would be a fault.
    assert found["verdict"] in (Verdict.HOLDS, Verdict.SLOWER, Verdict.DRIFTED), found["reasons"]
    assert all(check["kept"] for check in found["checks"])
    assert found["measured"]["answered"] == found["measured"]["offered"] >= 20
    assert ran.exit_code == found["exit_status"]


def test_the_real_one_names_the_machine_and_the_floor(certified: Path) -> None:
    document = json.loads((certified / CERTIFICATE).read_text())
    assert document["machine"]["cpu"]
    assert document["machine"]["read_gb_per_s"] >= document["machine"]["read_gb_per_s_low"] > 0
    assert document["variant"]["model"] == "."
    assert document["floor"]["token_ms"] > 0
    assert document["cost"]["passes"] > 0
    assert document["measured"]["prompt_tokens"]["median"] > 30
    assert document["measured"]["answer_tokens"] == {"median": 6.0, "sigma": 0.0}


def test_a_real_certificate_of_another_cpu_and_one_of_another_model_are_refused(
    certified: Path, tmp_path: Path
) -> None:
    elsewhere, changed = (shutil.copytree(certified, tmp_path / name) for name in ("elsewhere", "changed"))
    text = json.loads((elsewhere / CERTIFICATE).read_text())
    text["machine"]["cpu"] = "Another CPU"
    (elsewhere / CERTIFICATE).write_text(json.dumps(text))
    weights = next(changed.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    for out, reason in ((elsewhere, "Another CPU"), (changed, weights.name)):
        ran = CliRunner().invoke(main, ["verify", str(out), "--quiet"])
        assert ran.exit_code == 13
        assert ran.stdout.startswith("REFUSED: ")
        assert reason in ran.stdout
