"""The tree of errors: every fault maskline reports on purpose.

Each class says how a command ends (``exit_code``) and what a server answers (``http_status``). The message is one line
that tells what was given, what was expected and what to do; details, where there are many, follow on indented lines.
Classes also derive from the built-in error a Python user would catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_NAME = 100  # characters of an unknown name that a message repeats


class MasklineError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1
    http_status = 500


class ParameterError(MasklineError, ValueError):
    """An argument, option or configuration value is out of range or of the wrong type."""

    exit_code = 2
    http_status = 422


class UnknownNameError(ParameterError):
    """A name (model, pipeline, key, device) is not in the list it must come from."""

    @classmethod
    def of(cls, kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message: what was given, the nearest known name (if any is near), and all known names."""
        names = list(known)
        given = given if len(given) <= LONGEST_NAME else f"{given[:LONGEST_NAME]}…"
        lowered = {name.lower(): name for name in names}
        near = difflib.get_close_matches(given.lower(), list(lowered), n=1)
        hint = f"did you mean {lowered[near[0]]!r}? " if near else ""
        return cls(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")


class InputError(MasklineError, ValueError):
    """An input (image, folder, file) can't be used.

    Attributes:
        reason: why, in a word or two, to count errors by.
    """

    http_status = 422
    reason = "not usable"

    def because(self, reason: str) -> InputError:
        """This error, with a reason."""
        self.reason = reason
        return self


class InputNotFoundError(InputError, FileNotFoundError):
    """An input file or folder does not exist."""

    http_status = 404
    reason = "missing"


class InputTypeError(InputError, TypeError):
    """An input is of a type that is not accepted."""


class DatasetError(InputError):
    """A data set, or a file of one, can't be used."""


class DatasetNotFoundError(DatasetError, InputNotFoundError):
    """A data set, or a file it must have, does not exist."""

    http_status = 404


class DeviceError(MasklineError, RuntimeError):
    """The device asked for is not there, or this installation can't use it."""


class ModelError(MasklineError):
    """A model directory or graph is damaged, foreign, or breaks the contract."""


class WeightsError(MasklineError, ValueError):
    """A weights file is damaged, unsafe, or does not fit the network."""


class DownloadError(MasklineError, OSError):
    """A file could not be fetched, or is not what was promised."""

    http_status = 502
    reason = "not downloaded"


class ExportError(MasklineError):
    """An exported graph disagrees with its network; nothing was written."""


class OutputError(MasklineError, OSError):
    """A result could not be written."""


class MissingDependencyError(MasklineError, ImportError):
    """An optional part of the installation is needed: names the extra to install."""
