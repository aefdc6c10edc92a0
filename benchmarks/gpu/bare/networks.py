"""Whole networks: prepared ones against the host's outputs, and PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import data
from .runtime import Processor
from .timing import Contender

_POOLED = 2
_CPU = 1


class PreparedNetwork:
    """A folder with ``model.so`` and the outputs that the host's build computes.

    Attributes
    ----------
    about : dict
        Its ``network.json``.
    """

    def __init__(self, folder: Path, device: Processor) -> None:
        self.folder, self.device = folder, device
        self.about = json.loads((folder / "network.json").read_text(encoding="utf-8"))

    @cached_property
    def _program(self) -> Callable[[], list[Any]]:
        device = self.device
        module = device.ffi.load_module(str(self.folder / "model.so"))
        machine = module["vm_load_executable"]()
        where = [device.kind, 0, _POOLED]
        machine["vm_initialization"](*where, *([] if device.kind == _CPU else [_CPU, 0, _POOLED]))
        arrays = [device.put(data.activations(**info)) for info in self.about["inputs"]]
        # Kept: the arguments only refer to them.
        self._inputs = arrays
        given = [device.given(array) for array in arrays]
        given += list(machine["prepare"]()) if self.about["expanded"] else []
        main = machine["main"]

        def run() -> list[Any]:
            result = main(*given)
            return [result] if hasattr(result, "shape") else list(result)

        return run

    def check(self) -> dict[str, Any]:
        """Whether all outputs are those of the host's build, bit for bit."""
        got = [self.device.get(self.device.taken(t)) for t in self._program()]
        with np.load(self.folder / "outputs.npz") as stored:
            wanted = [stored[name] for name in stored.files]
        for mine, theirs in zip(got, wanted, strict=True):
            # What follows the last integer layer is float, and differs by a rounding.
            if theirs.dtype.kind == "f":
                close = np.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
                same = mine.tobytes() == theirs.tobytes()
                if not close:
                    worst = float(np.abs(mine - theirs).max())
                    return {"exact": False, "wrong": f"an output is off by {worst:.3g}"}
                if not same:
                    return {"exact": True, "note": "float outputs equal but for roundings"}
            elif not np.array_equal(mine, theirs):
                return {"exact": False, "wrong": f"{int((mine != theirs).sum())} values differ"}
        return {"exact": True}

    def contender(self) -> Contender:
        """To time whole runs."""
        about = {key: self.about[key] for key in ("precision", "batch")}
        return Contender("tvmquant", lambda copy: self._program(), 1, about)


def torch_network(torch: Any, name: str, batch: int, compiled: bool) -> Contender:
    """ResNet-50 or EfficientNet-Lite0 in float16, random weights, channels last.

    Raises
    ------
    ImportError
        If torchvision or timm is missing.
    """
    if name == "resnet50":
        from torchvision.models import resnet50

        model = resnet50()
    else:
        import timm

        model = timm.create_model("efficientnet_lite0")
    model = model.eval()
    if name == "resnet50":
        from torch.fx.experimental.optimization import fuse

        # As a compiler would: batch normalization becomes part of the convolutions.
        model = fuse(model)
    model = model.cuda().half().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16)
    x = x.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    run = torch.compile(model) if compiled else model

    def once(copy: int) -> Any:
        with torch.inference_mode():
            return run(x)

    kind = "compiled" if compiled else "eager"
    return Contender(f"torch fp16 {kind}", once, 1, {"precision": "fp16", "batch": batch})
