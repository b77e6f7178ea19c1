"""Exceptions that maskline raises on purpose.

* MasklineError
  x ParameterError (ValueError)
    + UnknownNameError
  x InputError (ValueError)
    + InputNotFoundError (FileNotFoundError)
    + InputTypeError (TypeError)
    + DatasetError
      - DatasetNotFoundError, also an InputNotFoundError
  x DeviceError (RuntimeError)
  x ModelError
  x WeightsError (ValueError)
  x DownloadError (OSError)
  x ExportError
  x OutputError (OSError)
  x MissingDependencyError (ImportError)

In brackets: the built-in exception that a class also derives from. Packages derive a few classes of their own, which
are reported as these are. Catch one error or all of them:

>>> import maskline
>>> from maskline.errors import InputError
>>> model = maskline.create_model()
>>> try:
...     results = list(model.predict("missing.jpg"))
... except InputError as error:
...     print(error)
... except maskline.MasklineError as error:
...     raise SystemExit(error.exit_code)
'missing.jpg': no such file or folder

Each class defines the exit status of a command (``exit_code``) and the status of an HTTP response (``http_status``).
The message is one line: what was given, what was expected, and what to do; long details follow on indented lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_NAME = 100  # characters of an unknown name that a message repeats


class MasklineError(Exception):
    """Base class of all errors that maskline raises on purpose.

    >>> import maskline
    >>> try:
    ...     maskline.create_model("Mask-RT-DETR-Q")
    ... except maskline.MasklineError as error:
    ...     print(type(error).__name__, error.exit_code, error.http_status)
    UnknownNameError 2 422

    Attributes:
        exit_code: exit status of a command that fails with this error.
        http_status: HTTP status of a request that fails with this error.
    """

    exit_code = 1
    http_status = 500


class ParameterError(MasklineError, ValueError):
    """An argument, option or configuration value is out of range or of the wrong type."""

    exit_code = 2
    http_status = 422


class UnknownNameError(ParameterError):
    """Unknown name of a model, pipeline, key, device or the like."""

    @classmethod
    def of(cls, kind: str, given: str, known: Iterable[str], where: str = "") -> UnknownNameError:
        """Build the message: the given name, the nearest known name, if any is close, and all known names.

        Args:
            where: added to the name, such as "in engine_config".
        """
        names = list(known)
        given = given if len(given) <= LONGEST_NAME else f"{given[:LONGEST_NAME]}…"
        lowered = {name.lower(): name for name in names}
        near = difflib.get_close_matches(given.lower(), list(lowered), n=1)
        hint = f"did you mean {lowered[near[0]]!r}? " if near else ""
        what = " ".join(filter(None, (f"unknown {kind} {given!r}", where)))
        return cls(f"{what}: {hint}known: {', '.join(names)}")


class InputError(MasklineError, ValueError):
    """An input (image, folder, file) can't be used.

    Attributes:
        reason: short category, used to count errors.
    """

    http_status = 422
    reason = "not usable"

    def because(self, reason: str) -> InputError:
        """Set ``reason`` and return this error."""
        self.reason = reason
        return self


class InputNotFoundError(InputError, FileNotFoundError):
    """An input file or folder does not exist."""

    http_status = 404
    reason = "missing"


class InputTypeError(InputError, TypeError):
    """An input has an unsupported type."""


class DatasetError(InputError):
    """A data set, or one of its files, can't be used."""


class DatasetNotFoundError(DatasetError, InputNotFoundError):
    """A data set, or one of its required files, does not exist."""

    http_status = 404


class DeviceError(MasklineError, RuntimeError):
    """The requested device is missing, or this installation can't use it."""


class ModelError(MasklineError):
    """A model directory or graph is damaged, not from maskline, or breaks the contract."""


class WeightsError(MasklineError, ValueError):
    """A weights file is damaged, unsafe, or does not fit the network."""


class DownloadError(MasklineError, OSError):
    """A file could not be downloaded, or is not the expected one."""

    http_status = 502
    reason = "not downloaded"


class ExportError(MasklineError):
    """An exported graph does not match its network; nothing was written."""


class OutputError(MasklineError, OSError):
    """A result could not be written."""


class MissingDependencyError(MasklineError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""
