"""CUDA source of a kernel: the headers in ``assets/cuda``, and the sizes of this one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def header(name: str) -> str:
    """Text of a header, without its ``#include`` of another one of ours."""
    text = (files("tvmquant") / "assets" / "cuda" / name).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith('#include "'))


def with_headers(body: str, *names: str) -> str:
    """``body`` behind headers, which may appear several times in a file."""
    return "".join(map(header, names)) + body


def settings(name: str, values: Mapping[str, int | str], enums: Mapping[str, str]) -> str:
    """A struct of constants.

    Parameters
    ----------
    name : str
    values : mapping of str to int
    enums : mapping of str to str
        Name of a constant → ``Type::VALUE``.
    """
    lines = [f"  static constexpr int {key} = {value};" for key, value in values.items()]
    for key, value in enums.items():
        kind, _, constant = value.partition("::")
        lines.append(f"  static constexpr tvmquant::{kind} {key} = tvmquant::{constant};")
    return "\n".join([f"struct {name}_sizes {{", *lines, "};", ""])
