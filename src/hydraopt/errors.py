"""Errors of hydraopt: one class for each kind of problem that a caller can act on.

Every class also derives from the builtin that a caller who does not know hydraopt would catch.
Messages are built by :func:`explain`, so that each says what went wrong, where, what was found,
what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

__all__ = [
    "EXTRA_OF",
    "AdapterFormatError",
    "AlignmentError",
    "BaseMismatchError",
    "BatchError",
    "BudgetError",
    "BundleFormatError",
    "ChecksumError",
    "ExportError",
    "HydraoptError",
    "LockedError",
    "MemoryLimitError",
    "Message",
    "MissingExtraError",
    "NotThereError",
    "NumericalError",
    "PluginError",
    "RemoteError",
    "TaskNotFoundError",
    "UnsupportedVersionError",
    "UsageError",
    "WorkerError",
    "explain",
    "require",
]


class Message(str):
    """Text of an error, with the facts that it states. facts: by name; see :func:`explain`."""

    facts: Mapping[str, object] = MappingProxyType({})


class HydraoptError(Exception):
    """Root of every error that hydraopt raises on purpose.

    what, adapter, file, module, got, expected, do: facts of the message, as :func:`explain` got
        them; None where the message states none.
    """

    what: str | None = None
    adapter: object = None
    file: object = None
    module: object = None
    got: object = None
    expected: object = None
    do: str | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if args and isinstance(args[0], Message):
            vars(self).update(args[0].facts)

    def within(self, before: str = "", after: str = "", **facts: object) -> Message:
        """Return the message with a text before and after it, for another error with its facts.

        facts: further ones; those of this error take precedence.
        """
        result = Message(f"{before}{self}{after}")
        result.facts = {**facts, **(getattr(self.args[0], "facts", {}) if self.args else {})}
        return result

    def __str__(self) -> str:
        # KeyError shows repr(message), which turns a sentence into a quoted, escaped one.
        return Exception.__str__(self)


class AdapterFormatError(HydraoptError, ValueError):
    """An adapter's files cannot be read, or say something that hydraopt does not understand."""


class BatchError(AdapterFormatError):
    """Several adapters of one batch cannot be read, or several tasks cannot be exported.

    problems: one error for each adapter or task, and one for the batch if its adapters do not fit
        together.
    """

    problems: tuple[HydraoptError, ...] = ()


class AlignmentError(HydraoptError, ValueError):
    """Adapters that were given together do not fit together."""


class BaseMismatchError(AlignmentError):
    """Adapters belong to different base models.

    groups: adapters that fit together, as pairs of the base model and task names.
    paths: what to type for each adapter, by task name: PATH or NAME=PATH.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    paths: Mapping[str, str] = MappingProxyType({})


class NumericalError(HydraoptError, ArithmeticError):
    """A tensor holds NaN or infinity, or a computation left the range of its numbers."""


class MemoryLimitError(HydraoptError, MemoryError):
    """Memory that the work needs exceeds the limit of the process."""


class BudgetError(HydraoptError, ValueError):
    """Requested size or quality cannot be reached."""


class BundleFormatError(HydraoptError, ValueError):
    """A bundle file is damaged or is not a bundle."""


class ChecksumError(BundleFormatError):
    """Bytes of a bundle differ from its checksums."""


class UnsupportedVersionError(BundleFormatError):
    """A bundle was written in a format version that this library cannot read."""


class LockedError(HydraoptError, BlockingIOError):
    """Another process is writing to the same place."""


class RemoteError(HydraoptError, OSError):
    """Data at an address cannot be read or written."""


class NotThereError(RemoteError, FileNotFoundError):
    """Nothing is at that address."""


class ExportError(HydraoptError, ValueError):
    """A task cannot be returned in the form that was asked for."""


class MissingExtraError(HydraoptError, ModuleNotFoundError):
    """A library is not installed. extra: name of the extra of hydraopt that installs it."""

    extra: str = ""


class PluginError(HydraoptError, ImportError):
    """An entry point that another package registers cannot be used."""


class TaskNotFoundError(HydraoptError, KeyError):
    """No task of that name."""


class UsageError(HydraoptError, ValueError):
    """An argument or a combination of arguments makes no sense."""


class WorkerError(HydraoptError, ChildProcessError):
    """A process that did a share of the work ended in the middle of it."""


def explain(
    what: str,
    *,
    adapter: object = None,
    file: object = None,
    module: object = None,
    got: object = None,
    expected: object = None,
    do: str | None = None,
) -> Message:
    """Format a message in the house style; facts that are None are left out.

    The error that is raised with it has the facts as attributes.

    >>> print(explain("rank differs", adapter="fr", module="h.0.q", got=8, expected=4, do="Fix r."))
    rank differs [adapter fr, module h.0.q]; got 8, expected 4. Fix r.
    """
    named = (("adapter", adapter), ("file", file), ("module", module))
    where = ", ".join(f"{label} {value}" for label, value in named if value is not None)
    facts = ", ".join(
        f"{label} {value}"
        for label, value in (("got", got), ("expected", expected))
        if value is not None
    )
    message = what + (f" [{where}]" if where else "") + (f"; {facts}" if facts else "")
    result = Message(f"{message}. {do}" if do else f"{message}.")
    stated = {"what": what, **dict(named), "got": got, "expected": expected, "do": do}
    result.facts = {name: value for name, value in stated.items() if value is not None}
    return result


EXTRA_OF: Final[Mapping[str, str]] = {
    "torch": "model",
    "transformers": "model",
    "nltk": "eval",
    "rouge_score": "eval",
    "sacrebleu": "eval",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "gguf": "gguf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "matplotlib": "plot",
    "ray": "ray",
    "huggingface_hub": "hub",
}
"""Extra that installs a library, by the name under which the library is imported."""


def require(*libraries: str, file: object = None) -> None:
    """Raise MissingExtraError unless all libraries are installed; none is imported.

    libraries: keys of :data:`EXTRA_OF`.
    file: file that needs them, for the message.
    """
    for library in libraries:
        if find_spec(library) is None:
            extra = EXTRA_OF[library]
            do = f"Run: pip install 'hydraopt[{extra}]'"
            error = MissingExtraError(explain(f"{library} is not installed", file=file, do=do))
            error.extra = extra
            raise error
