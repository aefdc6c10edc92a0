"""The labelled and unlabelled photos of ``../shared`` as inputs of EfficientNet-Lite0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIZE = 224


def _load(path: Path, short_side: int) -> np.ndarray:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    factor = short_side / min(image.size)
    size = [max(short_side, round(v * factor)) for v in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _to_input(crop: np.ndarray) -> np.ndarray:
    return ((crop.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]


def center_crop(path: Path) -> np.ndarray:
    """Float32 ``[1, 3, 224, 224]``: the middle of the photo, short side 256 (87.5 %)."""
    pixels = _load(path, 256)
    top, left = ((n - SIZE) // 2 for n in pixels.shape[:2])
    return _to_input(pixels[top : top + SIZE, left : left + SIZE])


def labelled() -> tuple[list[np.ndarray], list[int]]:
    """Ten inputs and their ImageNet classes."""
    paths = sorted((SHARED / "data/photos").glob("imagenet_*.jpg"))
    return [center_crop(p) for p in paths], [int(p.stem.split("_")[2]) for p in paths]


def calibration_crops(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random crops (half of them mirrored) of the photos without labels."""
    rng = np.random.default_rng(seed)
    photos = sorted((SHARED / "data/photos").glob("*"))
    photos = [p for p in photos if not p.name.startswith("imagenet_")]
    crops = []
    for index in range(count):
        pixels = _load(photos[index % len(photos)], int(rng.integers(232, 400)))
        top, left = (int(rng.integers(0, n - SIZE + 1)) for n in pixels.shape[:2])
        crop = pixels[top : top + SIZE, left : left + SIZE]
        crops.append({"image": _to_input(crop[:, ::-1] if rng.random() < 0.5 else crop)})
    return crops
