"""Checks of the values in a recipe, and objects of plain JSON data."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
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
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    missing = [name for name in needed if name not in data]
    if missing:
        raise RecipeError(f"{where}: missing key {', '.join(missing)}")
    return kind(**data)


def number_range(name: str, value: Any) -> tuple[float, float]:
    """Two finite numbers, the smaller first; else ``RecipeError``."""
    numbers = value if isinstance(value, list | tuple) else ()
    real = all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
    if len(numbers) != 2 or not real or not -math.inf < numbers[0] < numbers[1] < math.inf:
        raise RecipeError(f"{name} must be two finite numbers, the smaller first, got {value!r}")
    return float(numbers[0]), float(numbers[1])
