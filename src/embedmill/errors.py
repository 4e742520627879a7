"""The error tree. Owns what can go wrong, in words that say what to do next; imports nothing.

    EmbedmillError
    ├── ConfigurationError      a setting, an option or a missing extra; the user mends it
    ├── DatabaseError           the database cannot be used as it is
    │   ├── DatabaseUnreachableError
    │   ├── DatabaseUnsuitableError   too old, pgvector missing, no rights
    │   └── SchemaVersionError        the schema is older or newer than this embedmill
    ├── NotFoundError           no such pipeline, document, job
    ├── ConflictError           it is not in a state in which this can be done
    ├── NotAllowedError         whoever asks may not do this: a higher role must
    ├── BudgetReachedError      a tenant's or a job's budget leaves no room for a call
    ├── AddressRefusedError     we do not talk to this address outside: private, no http(s), not who it says
    ├── SourceUnavailableError  the server that content is fetched from is down or busy: try again later
    ├── DocumentError           this document cannot be embedded; carries a stable `reason`
    ├── StorageError            the store of originals cannot do it; `retryable`, and a stable `reason`
    └── ProviderError           a provider call failed; `retryable` decides what happens to its items
        ├── ProviderUnavailableError  down, hung, dropped or 5xx: try again later
        ├── RateLimitedError          429: wait, costs no attempt
        ├── BadResponseError          answered, but wrongly: never stored
        ├── InputRejectedError        this input will never be taken: isolate it
        └── ProviderRefusedError      key, quota or model refused: a person must act

Callers branch on the type. Whether a failed call may be tried again is a property of the error.
"""


class EmbedmillError(Exception):
    """Base of all errors that embedmill raises on purpose; the message is for its user."""


class ConfigurationError(EmbedmillError):
    """A setting or option is wrong, or an optional part is not installed."""


class DatabaseError(EmbedmillError):
    """The database cannot be used as it is."""


class DatabaseUnreachableError(DatabaseError):
    """No connection could be made."""


class DatabaseUnsuitableError(DatabaseError):
    """The server answered but is too old, lacks pgvector, or gives too few rights."""


class SchemaVersionError(DatabaseError):
    """The embedmill schema is older or newer than this embedmill."""


class NotFoundError(EmbedmillError):
    """What was named does not exist (or is another tenant's)."""


class ConflictError(EmbedmillError):
    """What was named is not in a state in which this can be done to it."""


class NotAllowedError(EmbedmillError):
    """The role of whoever asks does not reach so far."""


class BudgetReachedError(EmbedmillError):
    """A budget leaves no room for a call: raise it, remove it, or wait for the next month."""


class DocumentError(EmbedmillError):
    """A document that cannot be turned into chunks.

    `reason` is a stable, machine-readable word (`encrypted`, `corrupt`, `empty`, `too_large`,
    `too_long`, `unsupported`, `no_text`, `timeout`, `memory`, `unreadable`); the message is for a person.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AddressRefusedError(EmbedmillError):
    """An address outside that we do not talk to: no http(s), private, or not who it says it is."""


class SourceUnavailableError(EmbedmillError):
    """What content is fetched from is down, busy, slow or broke off: the same address may answer later."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StorageError(EmbedmillError):
    """The store of originals could not take, give or remove something.

    `reason` is a stable, machine-readable word (`full`, `forbidden`, `credentials`, `no_bucket`, `missing`,
    `bad_key`, `unreachable`, `failed`). `retryable`: the same call may succeed later with nothing changed here.
    """

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable


class ProviderError(EmbedmillError):
    """A provider call failed. `charged` is true where the provider may have been paid all the same."""

    retryable = False
    charged = False

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ProviderUnavailableError(ProviderError):
    """The provider is down, hangs, drops connections or answers 5xx."""

    retryable = True

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, charged: bool = False
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.charged = charged


class RateLimitedError(ProviderError):
    """The provider said 429: everybody who shares the quota waits; no attempt is spent."""

    retryable = True


class BadResponseError(ProviderError):
    """The answer does not fit the question: wrong count, order, dimensions, or a number not finite."""

    retryable = True
    charged = True


class InputRejectedError(ProviderError):
    """The provider refuses this content (400, 413, 422); with several inputs, one of them is to blame."""


class ProviderRefusedError(ProviderError):
    """The provider refuses the caller: a bad key, no access to the model, no credit (401, 402, 403, 404)."""
