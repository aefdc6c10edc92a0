"""The exceptions of tvmquant.

Everything a user can get wrong raises :class:`InputError` (or a subclass) with one line that
names the thing and says what to do; the command line turns it into exit code 2.
"""

from __future__ import annotations


class TvmQuantError(Exception):
    """Base class of every error raised on purpose by tvmquant (exit code 1)."""


class InputError(TvmQuantError, ValueError):
    """Bad input: a file, an array, an option (exit code 2)."""


class ModelError(InputError):
    """The model is missing, corrupt, or has shapes that cannot be fixed."""


class UnsupportedOperatorError(ModelError):
    """The model has operators that tvmquant cannot import; all are listed with node names."""


class CalibrationError(InputError):
    """Calibration data is missing, empty, not finite, or has a wrong shape or dtype."""


class CalibrationWarning(UserWarning):
    """Calibration data is odd (NaN, outliers, constant tensors); what could be used was used."""


class TargetError(InputError):
    """The target or the precision is unknown."""


class RecipeError(InputError):
    """A recipe file or value is not valid."""


class RecipeWarning(UserWarning):
    """A part of the recipe has nothing to act on in this model."""


class BundleError(InputError):
    """A saved model folder is missing, damaged, foreign, or cannot be written."""


class AccuracyError(TvmQuantError):
    """The accuracy that was asked for cannot be had (exit code 1)."""


class RemoteError(TvmQuantError):
    """A device or a tracker cannot be reached, refuses, hangs, or is lost (exit code 1)."""
