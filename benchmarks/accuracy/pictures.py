"""Pictures as the networks take them: Fashion-MNIST, crops of photos, drawn lines of text."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.accuracy.network import Inputs
from benchmarks.peers.base import need

CROP = 224
LINE_HEIGHT, LINE_WIDTH = 48, 320


def normalise(x: np.ndarray) -> np.ndarray:
    """uint8 pictures ``[N, 28, 28]`` → float32 ``[N, 1, 28, 28]`` in [-1, 1]."""
    return ((x.astype(np.float32) / 255 - 0.5) / 0.5)[:, None]


def crops(photos: Sequence[Path], count: int, seed: int) -> list[Inputs]:
    """Random crops, half of them mirrored, as EfficientNet-Lite takes them: ``[1, 3, 224, 224]``.

    The short side of a photo is scaled to 232 to 400 pixels first.
    """
    image = need("PIL.Image", "pillow")
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        photo = image.open(photos[index % len(photos)]).convert("RGB")
        factor = int(rng.integers(232, 400)) / min(photo.size)
        size = [max(CROP, round(v * factor)) for v in photo.size]
        pixels = np.asarray(photo.resize(size, image.Resampling.BICUBIC))
        top, left = (int(rng.integers(0, n - CROP + 1)) for n in pixels.shape[:2])
        crop = pixels[top : top + CROP, left : left + CROP]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        found.append({"image": ((crop.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]})
    return found


def lines(count: int, seed: int) -> list[Inputs]:
    """Random words drawn dark on light, as PP-OCR's recognizer takes them: ``[1, 3, 48, 320]``."""
    image, draw, font = (need(f"PIL.{n}", "pillow") for n in ("Image", "ImageDraw", "ImageFont"))
    rng = np.random.default_rng(seed)
    letters = np.array(list(string.ascii_letters + string.digits))
    found = []
    for _ in range(count):
        words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(4)]
        paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
        page = image.new("RGB", (LINE_WIDTH, LINE_HEIGHT), (paper,) * 3)
        face = font.load_default(size=int(rng.integers(24, 36)))
        draw.Draw(page).text((6, int(rng.integers(0, 8))), " ".join(words), (ink,) * 3, face)
        pixels = np.asarray(page).astype(np.float32)
        pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.float32)
        found.append({"x": ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]})
    return found
