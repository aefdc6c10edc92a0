"""Wording shared by the error messages."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """First line of an exception's text, or its class when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
