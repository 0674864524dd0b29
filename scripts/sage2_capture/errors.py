"""Errors carry one sentence for the user and the exit code they end a command with (the same codes as sage2-eval)."""

from __future__ import annotations


class Sage2Error(RuntimeError):
    """Base of all errors of this package. `exit_code`: 1 a check failed, 2 usage, 3 bad data, 4 device."""

    exit_code = 1


class CheckFailed(Sage2Error):
    """Something that was compared does not agree."""

    exit_code = 1


class UsageError(Sage2Error):
    """What was asked for does not exist or makes no sense."""

    exit_code = 2


class DataError(Sage2Error):
    """A file or a tensor is not what it should be."""

    exit_code = 3


class DeviceError(Sage2Error):
    """No usable device, or not enough of it."""

    exit_code = 4
