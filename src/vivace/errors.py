"""The exception tree.

    VivaceError
    ├── ConfigError                 a setting or option that cannot be used
    │   ├── RecipeError             a recipe that cannot be read, or cannot work on this model
    │   ├── DataError               a file of texts is missing, broken, or holds too little
    │   └── CertificateError        a certificate is missing, broken, or of something else
    ├── ModelError
    │   ├── ModelNotFoundError      no such directory, and no such model on the hub
    │   ├── CheckpointError         a file is missing, truncated, or contradicts itself
    │   └── UnsupportedModelError   a sound checkpoint of a kind this engine does not run
    ├── RequestError                a request that can never be answered as it stands
    │   ├── ContextLengthError      prompt and answer do not fit the model's context
    │   └── UnreachableBudgetError  the budget is less than this machine needs at its best
    ├── EngineError
    │   ├── QueueFullError          too much is waiting already; try again later
    │   │   └── OverloadedError     a deadline would not be kept behind what is accepted already
    │   ├── DeadlineError           a deadline came before the answer was whole
    │   ├── EngineStoppedError      the engine was closed, or its thread died
    │   └── StepFailedError         the runner raised while this request was being computed
    └── NativeError                 the C++ core is missing, or lacks what was asked of it

Every message says what happened and what to do about it.
"""


class VivaceError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(VivaceError):
    """A setting or option that cannot be used."""


class RecipeError(ConfigError):
    """A recipe of compression steps cannot be read, or cannot work on the model it is for."""


class DataError(ConfigError):
    """A file of texts or conversations is missing, broken, or holds too little."""


class CertificateError(ConfigError):
    """A certificate cannot be read or written, or is not about what it stands beside."""


class ModelError(VivaceError):
    """A model could not be loaded."""


class ModelNotFoundError(ModelError):
    """The name is neither a directory, nor an embedded model, nor a model on the hub."""


class CheckpointError(ModelError):
    """A checkpoint file is missing, truncated, or contradicts itself."""


class UnsupportedModelError(ModelError):
    """The checkpoint is sound, but of a kind this engine does not run."""


class RequestError(VivaceError):
    """The request can never be answered as it stands."""


class ContextLengthError(RequestError):
    """Prompt and answer together do not fit the model's context."""


class UnreachableBudgetError(RequestError):
    """The budget is less than this machine needs for the request with nothing else to do."""


class EngineError(VivaceError):
    """The engine could not do what was asked of it now."""


class QueueFullError(EngineError):
    """Too much is waiting already."""


class OverloadedError(QueueFullError):
    """The request was not accepted, since it would have been late, or too much waits. `retry_after_ms` says when it
    would be accepted, if nothing else came."""

    def __init__(self, message: str, retry_after_ms: float) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineError(EngineError):
    """A request's deadline came before its answer was whole."""


class EngineStoppedError(EngineError):
    """The engine was closed, or its thread died."""


class StepFailedError(EngineError):
    """The runner raised while this request was being computed."""


class NativeError(VivaceError):
    """The C++ core is missing, or lacks what was asked of it."""
