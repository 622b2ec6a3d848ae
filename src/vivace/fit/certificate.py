"""The certificate: what was measured of a variant on a machine, in a form that can be read strictly and replayed.

Written beside the variant as `certificate.json`. Every file of the variant is in it with its digest, so that a
changed model is not taken for the one that was measured. Knows how a certificate is written, read and put together;
it measures nothing, and does not judge whether it still holds (`verify`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vivace.engine.cost import StepCost
from vivace.errors import CertificateError, ConfigError
from vivace.fit.objective import NAMES, Objective
from vivace.fit.settings import EngineSettings
from vivace.fit.workload import WorkloadSpec
from vivace.machine import find_versions
from vivace.models.hub import locate_model

FORMAT: Literal[1] = 1
CERTIFICATE = "certificate.json"
PAGE = "certificate.html"
BESIDE = "."
"""As a variant's place: the certificate's own directory."""
MAX_BYTES = 16 * 2**20
"""Of a certificate's file."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.gguf", "*.jsonl")
"""What a server may read of a variant, and what must therefore be as it was."""
_LIBRARIES = (
    "vivace",
    "numpy",
    "tokenizers",
    "msgspec",
    "uvicorn",
    "uvloop",
    "torch",
    "transformers",
    "compressed-tensors",
)

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""Of the percentiles that a budget can name."""

AboveZero = Annotated[float, Meta(gt=0)]
NotBelowZero = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a certificate. An unknown field is an error."""


class MachineRecord(Record, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    isa: str
    """The instruction set whose kernels ran."""
    cores: Annotated[int, Meta(ge=1)]
    """Those that the server might use."""
    memory_bytes: Count
    read_bytes: Annotated[int, Meta(ge=1)]
    """How much was read at a time to measure the bandwidth: what one decoding step of the variant reads."""
    read_gb_per_s: AboveZero
    """The median of several looks."""
    read_gb_per_s_low: AboveZero
    """The worst of them: a machine that reads more slowly than that is not what it was."""
    multiply_gops_per_s: NotBelowZero = 0.0
    """The best that the kernels' inner loop does here; 0 where it was not measured."""
    system: str = ""

    def find_difference(self, other: MachineRecord) -> str:
        """Why a time measured on the one says nothing of the other; empty if it does."""
        for name, mine, yours in (
            ("CPU", self.cpu, other.cpu),
            ("instruction set", self.isa, other.isa),
            ("number of cores", self.cores, other.cores),
        ):
            if mine != yours:
                return f"it was measured with the {name} {mine}, and this machine has {yours}"
        return ""


class FileRecord(Record, frozen=True, kw_only=True):
    bytes: Count
    sha256: Digest


class BaseRecord(Record, frozen=True, kw_only=True):
    """The model that the variant was made of."""

    name: str
    sha256: Digest
    """Over its files; see `hash_base`."""


class VariantRecord(Record, frozen=True, kw_only=True):
    """What was measured."""

    model: str
    """`.` if it lies beside the certificate, else as `vivace serve` takes it."""
    name: str
    recipe: str
    """What was done to the base, as `vivace compress --recipe` takes it; empty if nothing was."""
    base: BaseRecord
    files: dict[str, FileRecord]
    """By name, without a directory."""


class Estimate(Record, frozen=True, kw_only=True):
    """A figure with its 95% interval; None stands for no end: too many requests had no answer."""

    value: NotBelowZero | None
    low: NotBelowZero | None
    high: NotBelowZero | None


class Times(Record, frozen=True, kw_only=True):
    """One metric over the requests offered, those without an answer counted as the slowest; milliseconds."""

    n: Count
    percentiles: dict[str, Estimate]
    """Those that the sample bears with 99% confidence."""


class LengthsRecord(Record, frozen=True, kw_only=True):
    """Tokens, as the server counted them: the log-normal distribution that they are nearest to."""

    median: Annotated[float, Meta(ge=1)]
    sigma: NotBelowZero


class Measurement(Record, frozen=True, kw_only=True):
    """A run of the workload through HTTP."""

    began: str
    seconds: AboveZero
    offered: Annotated[int, Meta(ge=1)]
    answered: Count
    refused: Count
    """For want of time or room."""
    late: Count = 0
    """Ended by their deadline, or refused as asking for less time than the machine needs at its best."""
    failed: Count
    """For any other reason."""
    requests_per_s: NotBelowZero
    output_tokens_per_s: NotBelowZero
    prompt_tokens: LengthsRecord
    answer_tokens: LengthsRecord
    ttft: Times
    tpot: Times
    total: Times
    timeline_ms: dict[str, NotBelowZero] = {}
    """Where the mean answer's time went, by part."""
    server_bytes: Count = 0
    """The most memory that the server had resident; 0 where that is not known."""
    client_share: NotBelowZero = 0.0
    """Of the tail, what the measuring client itself explains."""

    def times(self) -> dict[str, Times]:
        """By the name that a budget has for them."""
        return {"ttft": self.ttft, "tpot": self.tpot, "total": self.total}

    def find(self, name: str) -> Estimate | None:
        """Of a limit's name, such as `ttft_p99`; None where the sample does not bear it."""
        metric, _, percentile = name.partition("_")
        return self.times()[metric].percentiles.get(percentile)

    def values(self) -> dict[str, float]:
        """By the names of limits, as an `Objective` takes them; infinite where too many had no answer."""
        found = {
            f"{metric}_{name}": math.inf if estimate.value is None else estimate.value
            for metric, times in self.times().items()
            for name, estimate in times.percentiles.items()
        }
        return found | ({"memory": float(self.server_bytes)} if self.server_bytes else {})

    def outside_ms(self, *parts: str) -> float:
        """Of the mean answer, what those parts of the timeline took."""
        return sum(self.timeline_ms.get(part, 0.0) for part in parts)


class QualityRecord(Record, frozen=True, kw_only=True):
    """How much worse the variant is than its base, on data set aside."""

    measure: str
    """What was measured, such as `perplexity`."""
    base: float
    variant: float
    loss: float
    """(worse - better) / base, above 0 when the variant is worse."""
    loss_low: float
    loss_high: float
    """The 95% interval, by bootstrap over documents."""
    documents: Count
    tokens: Count = 0
    data: str
    data_sha256: Digest


class FloorRecord(Record, frozen=True, kw_only=True):
    """The least time that physics allows, and how much of the measured time it explains."""

    step_bytes: Count
    """Read by a decoding step at batch 1."""
    token_ms: NotBelowZero
    """The time to read them at the measured bandwidth."""
    token_share: NotBelowZero
    """`token_ms` over the measured median time per token."""
    prompt_tokens: Count = 0
    """Of the workload's median prompt."""
    prompt_operations: NotBelowZero = 0.0
    """Multiplications and additions of that prompt."""
    prompt_ms: NotBelowZero = 0.0
    """The time they take at the measured rate of the inner loop."""
    prompt_share: NotBelowZero = 0.0
    """`prompt_ms` over the measured median time to the first token."""


class CostRecord(Record, frozen=True, kw_only=True):
    """What steps cost here (see `engine.cost`), and what they have room for."""

    base_ms: NotBelowZero
    token_ms: NotBelowZero
    sequence_ms: NotBelowZero
    context_ms: NotBelowZero
    noise: NotBelowZero
    """Sigma of the log-normal factor that the model leaves unexplained."""
    error: NotBelowZero
    """Mean share of a pass's time that the model misses, over kinds of passes."""
    passes: Count
    """How many were timed."""
    slots: Annotated[int, Meta(ge=1)]
    blocks: Annotated[int, Meta(ge=1)]
    """Of the KV cache."""
    max_batch_tokens: Annotated[int, Meta(ge=1)]
    context_length: Annotated[int, Meta(ge=1)]

    def step_cost(self) -> StepCost:
        return StepCost(self.base_ms, self.token_ms, self.sequence_ms, self.context_ms)


class Prediction(Record, frozen=True, kw_only=True):
    """What a stage of the search foretold of the variant, and what came of it."""

    stage: str
    figure: str
    """Such as `tpot_p50_ms`."""
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return (self.predicted - self.measured) / self.measured if self.measured else 0.0


class Candidate(Record, frozen=True, kw_only=True):
    """A variant and settings that none of the others beats in everything."""

    name: str
    loss: float
    """Of quality, as a share of the base's."""
    ttft_ms: NotBelowZero
    tpot_ms: NotBelowZero
    total_ms: NotBelowZero
    weight_bytes: Count
    measured: bool
    """Through HTTP; else predicted."""
    chosen: bool = False


class Rejection(Record, frozen=True, kw_only=True):
    """What was not taken, and why; several of one kind may stand together."""

    name: str
    reason: str
    count: Annotated[int, Meta(ge=1)] = 1


class Certificate(Record, frozen=True, kw_only=True):
    format: Literal[1] = FORMAT
    issued: str
    versions: dict[str, str]
    machine: MachineRecord
    variant: VariantRecord
    settings: EngineSettings
    workload: WorkloadSpec
    objective: Objective
    measured: Measurement
    quality: QualityRecord | None = None
    floor: FloorRecord
    cost: CostRecord
    predictions: tuple[Prediction, ...] = ()
    pareto: tuple[Candidate, ...] = ()
    rejected: tuple[Rejection, ...] = ()


def read_certificate(place: Path) -> tuple[Certificate, Path]:
    """The certificate of a directory, or of its own file, and the directory that it lies in.

    Raises `CertificateError` for what is missing, too large, no JSON, or has a field that is unknown, missing or out of
    its range.
    """
    path = place / CERTIFICATE if place.is_dir() else place
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CertificateError(f"{path} is larger than {MAX_BYTES} bytes, and so no certificate. {_AGAIN}")
        data = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"There is no certificate to read at {path} ({error.strerror}). {_AGAIN}") from error
    return parse_certificate(data, str(path)), path.parent


_AGAIN = "Write one with: vivace fit MODEL OUT --budget ..."


def parse_certificate(data: bytes, where: str = "The certificate") -> Certificate:
    """Raises `CertificateError`."""
    try:
        raw = msgspec.json.decode(data)
        found = raw.get("format") if isinstance(raw, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise CertificateError(f"{where} is of format {found}; this version reads {FORMAT}. {_AGAIN}")
        certificate = msgspec.convert(raw, Certificate)
        _refuse_unknown(raw, msgspec.to_builtins(certificate), where)
    except (msgspec.MsgspecError, ConfigError, UnicodeError, RecursionError) as error:
        if isinstance(error, CertificateError):
            raise
        raise CertificateError(f"{where} cannot be read: {error} {_AGAIN}") from error
    _check(certificate, where)
    return certificate


def _refuse_unknown(raw: Any, known: Any, where: str) -> None:
    """Fields of dataclasses, which the decoder passes over. Raises `CertificateError`."""
    for part in ("settings", "objective"):
        unknown = sorted(raw[part].keys() - known[part].keys())
        if unknown:
            raise CertificateError(f"{where} has an unknown field {unknown[0]!r} in {part}. {_AGAIN}")
    for limit in raw["objective"]["constraints"]:
        if limit.keys() - {"name", "limit"}:
            raise CertificateError(f"{where} has a limit with unknown fields. {_AGAIN}")


def _check(certificate: Certificate, where: str) -> None:
    """What the types alone do not hold."""
    measured = certificate.measured
    if measured.answered + measured.refused + measured.late + measured.failed != measured.offered:
        raise CertificateError(f"{where} contradicts itself: its requests do not add up to those offered. {_AGAIN}")
    limits = certificate.objective.constraints
    names = [limit.name for limit in limits]
    if len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise CertificateError(f"{where} limits {', '.join(sorted(names))}: not each once, or not known. {_AGAIN}")
    if not all(0 <= limit.limit < math.inf for limit in limits):
        raise CertificateError(f"{where} has a limit that is no number from 0 on. {_AGAIN}")
    percentiles = {name for times in measured.times().values() for name in times.percentiles}
    if not percentiles <= set(QUANTILES):
        raise CertificateError(f"{where} has unknown percentiles: {', '.join(sorted(percentiles))[:80]}. {_AGAIN}")
    strange = next((name for name in certificate.variant.files if Path(name).name != name or not name), None)
    if strange is not None:
        raise CertificateError(f"{where} names a file outside of the variant's directory: {strange[:80]!r}. {_AGAIN}")


def write_certificate(certificate: Certificate, directory: Path) -> Path:
    """As `certificate.json`, whole or not at all. Raises `CertificateError` when it cannot be written."""
    path = directory / CERTIFICATE
    scratch = directory / f"{CERTIFICATE}.new"
    try:
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n")
        os.replace(scratch, path)
    except OSError as error:
        raise CertificateError(f"Cannot write {path}: {error.strerror}. Give a directory to write to.") from error
    return path


# Files and digests


def locate_variant(variant: VariantRecord, directory: Path) -> str:
    """What `vivace serve` is to be given; `directory` is the certificate's own."""
    return str(directory) if variant.model == BESIDE else variant.model


def list_files(place: Path) -> Iterator[Path]:
    """The files of a model's directory that a server may read, or its GGUF file alone."""
    if place.is_file():
        yield place
        return
    found = {path for pattern in MODEL_FILES for path in place.glob(pattern) if path.is_file()}
    yield from sorted(path for path in found if path.name != CERTIFICATE)


def hash_file(path: Path) -> FileRecord:
    """Raises `CertificateError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileRecord(bytes=file.tell(), sha256=digest)
    except OSError as error:
        raise CertificateError(f"Cannot read {path}: {error.strerror}. Give the variant as it was written.") from error


def hash_files(model: str) -> dict[str, FileRecord]:
    """Every file of a model, as `vivace serve` takes it, by name. Raises `ModelNotFoundError` or `CertificateError`."""
    return {path.name: hash_file(path) for path in list_files(locate_model(model))}


def hash_base(model: str) -> BaseRecord:
    """A model's name and one digest over the names and digests of all its files."""
    return BaseRecord(name=model, sha256=_combine(hash_files(model)))


def _combine(files: Mapping[str, FileRecord]) -> str:
    lines = "".join(f"{name} {record.sha256}\n" for name, record in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def find_changes(certificate: Certificate, directory: Path, *, hashes: bool = True) -> list[str]:
    """How the variant's files differ from those that were measured, in words; nothing if they do not.

    Without `hashes` only names and sizes are compared, which takes no time. Raises `ModelNotFoundError`.
    """
    place = locate_model(locate_variant(certificate.variant, directory))
    here = {path.name: path for path in list_files(place)}
    changes = []
    for name, record in sorted(certificate.variant.files.items()):
        if name not in here:
            changes.append(f"{name} is missing")
        elif here[name].stat().st_size != record.bytes:
            changes.append(f"{name} has {here[name].stat().st_size:,} bytes instead of {record.bytes:,}")
        elif hashes and hash_file(here[name]) != record:
            changes.append(f"{name} is not the one that was measured")
    return changes + [f"{name} was not there" for name in sorted(here.keys() - certificate.variant.files.keys())]


# Putting one together


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What a certificate is made of, beside what can be looked up when it is written."""

    model: str
    """The variant as `vivace serve` takes it."""
    directory: Path
    """Where the certificate is to lie."""
    base: str
    """The model that the variant was made of; the same as `model` if nothing was done to it."""
    recipe: str
    settings: EngineSettings
    workload: WorkloadSpec
    objective: Objective
    machine: MachineRecord
    measured: Measurement
    quality: QualityRecord | None
    floor: FloorRecord
    cost: CostRecord
    predictions: Sequence[Prediction] = ()
    pareto: Sequence[Candidate] = ()
    rejected: Sequence[Rejection] = ()


def build_certificate(pieces: Pieces) -> Certificate:
    """A certificate of now, with digests of the files as they are. Raises `ModelNotFoundError`, `CertificateError`."""
    place = locate_model(pieces.model)
    beside = place.resolve() == pieces.directory.resolve()
    variant = VariantRecord(
        model=BESIDE if beside else pieces.model,
        name=place.resolve().name,
        recipe=pieces.recipe,
        base=hash_base(pieces.base),
        files=hash_files(pieces.model),
    )
    certificate = Certificate(
        issued=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=find_versions(_LIBRARIES),
        machine=pieces.machine,
        variant=variant,
        settings=pieces.settings,
        workload=pieces.workload,
        objective=pieces.objective,
        measured=pieces.measured,
        quality=pieces.quality,
        floor=pieces.floor,
        cost=pieces.cost,
        predictions=tuple(pieces.predictions),
        pareto=tuple(pieces.pareto),
        rejected=tuple(pieces.rejected),
    )
    _check(certificate, "The certificate")
    return certificate
