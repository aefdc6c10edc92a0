"""Checks of the values in a recipe, and objects of plain JSON data."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tvmquant.errors import RecipeError


def one_of(name: str, value: Any, allowed: tuple) -> None:
    """Raise ``RecipeError`` unless ``value`` is one of ``allowed``."""
    # True == 1 and 4.0 == 4, but neither is a number of bits.
    if isinstance(value, bool | float) or value not in allowed:
        raise RecipeError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def is_a(name: str, value: Any, kind: Any, named: str) -> None:
    """Raise ``RecipeError`` unless ``value`` is of the type ``kind``, in words ``named``."""
    if not isinstance(value, kind):
        raise RecipeError(f"{name} must be {named}, got {value!r}")


def json_object(data: Any, where: str) -> dict[str, Any]:
    """``data``, which must be a dictionary."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where} must be a JSON object, got {type(data).__name__}")
    return data


def build(kind: type, data: Any, where: str) -> Any:
    """Make a dataclass of its fields; ``RecipeError`` names what is unknown or missing."""
    data = json_object(data, where)
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise RecipeError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    try:
        return kind(**data)
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from None
