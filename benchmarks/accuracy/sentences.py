"""Sentences as MiniLM takes them: tokens of a WordPiece vocabulary and a mask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from benchmarks.accuracy.network import Inputs

LENGTH, PER_BATCH = 32, 2
TEXTS = ("README.md", "docs/design.md", "benchmarks/README.md")


def token_batches(tokenizer: Path, count: int, seed: int) -> list[Inputs]:
    """``count`` batches of two random sentences of the documentation, 32 tokens each."""
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(_sentences(), PER_BATCH * count)
    ids = np.stack([encode(str(text), vocabulary) for text in chosen])
    ids = ids.reshape(count, PER_BATCH, LENGTH)
    return [{"input_ids": row, "attention_mask": (row != 0).astype(np.int64)} for row in ids]


def _sentences() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    text = " ".join((root / name).read_text(encoding="utf-8") for name in TEXTS)
    found = re.split(r"(?<=[.:;])\s+", re.sub(r"\s+", " ", text))
    return [sentence for sentence in found if len(sentence.split()) > 4]


def encode(text: str, vocabulary: dict[str, int]) -> np.ndarray:
    """Token numbers, int64 ``[32]``: longest pieces first, padded with 0."""
    tokens = []
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        tokens += _pieces(word, vocabulary)
    tokens = [vocabulary["[CLS]"], *tokens[: LENGTH - 2], vocabulary["[SEP]"]]
    return np.array(tokens + [0] * (LENGTH - len(tokens)), np.int64)


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            number = vocabulary.get(prefix + word[start:end])
            if number is not None:
                pieces.append(number)
                start = end
                break
        else:
            return [vocabulary["[UNK]"]]
    return pieces
