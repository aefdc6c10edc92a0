"""The networks of the laboratory, from the models and data at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.accuracy import pictures, sentences
from benchmarks.accuracy.network import Inputs, Network, batches
from benchmarks.peers.base import Unavailable

TRAINED = Path(__file__).parent / "networks"
# Divides the 10,000 test pictures.
BATCH = 50
CALIBRATION = {"fashion": 250, "photos": 32, "lines": 32, "sentences": 32}


def load(name: str, shared: Path, models: Path, data: Path, quick: bool) -> Network:
    """A network by its name in ``NETWORKS``.

    Parameters
    ----------
    name : str
    shared : Path
        Folder with ``models`` and ``data``.
    models : Path
        Folder of the fetched ONNX files.
    data : Path
        ``fashion_mnist.npz``.
    quick : bool
        Less test data.

    Raises
    ------
    Unavailable
        If a file is missing; the message names it.
    """
    return NETWORKS[name](shared, models, data, quick)


def _there(path: Path) -> Path:
    if not path.exists():
        raise Unavailable(f"there is no {path.name}")
    return path


def _fashion(name: str, _shared: Path, _models: Path, data: Path, quick: bool) -> Network:
    with np.load(_there(data)) as archive:
        train, test = archive["x_train"], archive["x_test"]
        labels = archive["y_test"].astype(np.int64)
    count = (min(2000, len(test)) if quick else len(test)) // BATCH * BATCH

    def draw(seed: int) -> list[Inputs]:
        chosen = np.random.default_rng(seed).choice(
            len(train), min(CALIBRATION["fashion"], len(train)), replace=False
        )
        return batches("image", pictures.normalise(train[chosen]), BATCH)

    return Network(
        name,
        _there(TRAINED / f"{name}_fashion.onnx"),
        "top1",
        draw,
        batches("image", pictures.normalise(test[:count]), BATCH),
        labels[:count],
        about=f"Fashion-MNIST, {count} test pictures, {CALIBRATION['fashion']} to calibrate",
    )


def _efficientnet(shared: Path, _models: Path, _data: Path, quick: bool) -> Network:
    path = _there(shared / "models" / "efficientnet_lite0.onnx")
    photos = [p for p in sorted(_there(shared / "data" / "photos").glob("*")) if p.is_file()]
    photos = [p for p in photos if not p.name.startswith("imagenet_")]
    count = 40 if quick else 400
    return Network(
        "efficientnet_lite0",
        path,
        "agreement",
        lambda seed: pictures.crops(photos, CALIBRATION["photos"], 1000 + seed),
        pictures.crops(photos, count, 0),
        about=f"{count} random crops of {len(photos)} photos without labels, "
        f"{CALIBRATION['photos']} other crops to calibrate",
    )


def _ocr(_shared: Path, models: Path, _data: Path, quick: bool) -> Network:
    path = _there(models / "ppocrv4_rec.onnx")
    count = 8 if quick else 64
    return Network(
        "ppocrv4_rec",
        path,
        "cosine",
        lambda seed: pictures.lines(CALIBRATION["lines"], 1000 + seed),
        pictures.lines(count, 0),
        about=f"{count} drawn lines of text, {CALIBRATION['lines']} others to calibrate",
    )


def _minilm(shared: Path, models: Path, _data: Path, quick: bool) -> Network:
    path = _there(models / "minilm_l3_paraphrase.onnx")
    vocabulary = _there(shared / "data" / "tokenizer.json")
    count = 8 if quick else 64
    return Network(
        "minilm_l3",
        path,
        "cosine",
        lambda seed: sentences.token_batches(vocabulary, CALIBRATION["sentences"], 1000 + seed),
        sentences.token_batches(vocabulary, count, 0),
        output=-1,
        about=f"embeddings of {2 * count} random sentences of the documentation, "
        f"{2 * CALIBRATION['sentences']} others to calibrate",
    )


NETWORKS: dict[str, Callable[[Path, Path, Path, bool], Network]] = {
    "resnet20": partial(_fashion, "resnet20"),
    "mobilenetv2": partial(_fashion, "mobilenetv2"),
    "efficientnet_lite0": _efficientnet,
    "ppocrv4_rec": _ocr,
    "minilm_l3": _minilm,
}
