"""Options of the commands that compile a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tvmquant.errors import InputError, TargetError

_OPTIONS = (
    click.option("--bits", help="16, 8 (default), 4, 2, 1 or a name as w4a8, w4a16."),
    click.option("--recipe", help="A name of tvmquant recipes, or a JSON file (not with --bits)."),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        help=".npz, one array an input, samples first.",
    ),
    click.option(
        "--calibration-cache",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Folder: calibration that was interrupted goes on, what is done is not repeated.",
    ),
    click.option(
        "--input-shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="Repeatable."
    ),
    click.option(
        "--database",
        type=click.Path(path_type=Path),
        help="Measurements of tvmquant tune; TVMQUANT_DATABASE=off ignores the shipped ones, too.",
    ),
)


def model_options(command: Any) -> Any:
    """Decorator: the options that :func:`model_settings` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def model_settings(
    bits: str | None,
    recipe: str | None,
    calibration: Path | None,
    calibration_cache: Path | None,
    shapes: tuple[str, ...],
    database: Path | None,
) -> dict[str, Any]:
    """Keyword arguments of :func:`tvmquant.compile`, from the options; all cheap checks are made.

    Raises
    ------
    InputError
        If an option is not valid.
    """
    from tvmquant.precision import parse_bits
    from tvmquant.recipes import find_recipe

    input_shapes = dict(parse_shape(text) for text in shapes)
    parse_bits(bits or "8")
    return {
        "bits": bits or "8",
        "calibration": calibration,
        "calibration_cache": calibration_cache,
        "recipe": find_recipe(recipe, bits) if recipe is not None else None,
        "input_shapes": input_shapes or None,
        "database": database,
    }


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME=1,3,224,224``."""
    name, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(dim) for dim in dims.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise InputError(f"--input-shape {text!r}: write NAME=1,3,224,224 with positive numbers")
    return name, shape


def parse_target(text: str) -> str | dict[str, Any]:
    """Name of a device, or a TVM target as JSON.

    Raises
    ------
    TargetError
        If there is no such device.
    """
    from tvmquant.targets.device import get_device

    target: Any = text
    if text.lstrip().startswith("{"):
        try:
            target = json.loads(text)
        except ValueError as error:
            raise TargetError(f"--target is not valid JSON ({error}): use host or JSON") from None
    get_device(target)
    return target


def parse_fatbin(text: str | None, target: str | dict[str, Any]) -> list[str]:
    """``sm_80,sm_90``, for a target.

    Raises
    ------
    TargetError
        If there is no such architecture, or the target is no GPU.
    """
    from tvmquant.targets.device import get_device

    if text is None:
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise TargetError(f"--fatbin {text!r}: write the architectures as sm_80,sm_90")
    get_device(target).with_fatbin(names)
    return names


def target_option(default: str | None = "host") -> Callable[[Any], Any]:
    """``--target``."""
    return click.option(
        "--target",
        default=default,
        show_default=default is not None,
        help="A device of tvmquant devices, or a TVM target as JSON.",
    )
