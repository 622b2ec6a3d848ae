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
    ├── SupportError                what the customer-service application refuses to do
    │   ├── InvalidError            a request that cannot be used as it stands
    │   ├── SignedOutError          no session, or one that has expired or was revoked
    │   ├── CredentialsError        e-mail or password is wrong
    │   ├── ForbiddenError          the role may not do this
    │   ├── NotFoundError           no such thing, or another person's
    │   ├── ConflictError           it changed since it was read, or its state does not allow this
    │   ├── TooLargeError           a body is over the limit
    │   ├── RateLimitedError        too often; `retry_after_s` says when again
    │   ├── BusyError               too much to do; the same
    │   └── ModelServerError        the model server cannot be reached, or did not answer
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


class SupportError(VivaceError):
    """The customer-service application does not do this."""


class InvalidError(SupportError):
    """The request cannot be used as it stands."""


class SignedOutError(SupportError):
    """There is no session, or it has expired or was revoked."""


class CredentialsError(SupportError):
    """E-mail or password is wrong."""


class ForbiddenError(SupportError):
    """The role may not do this."""


class NotFoundError(SupportError):
    """There is no such thing, or it is another person's, which must look the same."""


class ConflictError(SupportError):
    """The thing changed since it was read, or its state does not allow this."""

    def __init__(self, message: str, code: str = "conflict") -> None:
        super().__init__(message)
        self.code = code


class TooLargeError(SupportError):
    """A body is over the limit."""


class RateLimitedError(SupportError):
    """Too often. `retry_after_s` says when again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BusyError(SupportError):
    """Too much to do now."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelServerError(SupportError):
    """The model server cannot be reached, refused, or did not finish its answer."""
