"""Prepared kernels of one workload: whether they are exact, and what to time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import data
from .runtime import Processor, TorchGpu
from .timing import Contender, copies_of, told

# Rows of a matrix product up to which weights are read from memory, as in a large network.
COLD_ROWS = 64


class Prepared:
    """A folder that ``python -m benchmarks.gpu prepare`` wrote.

    Attributes
    ----------
    about : dict
        Its ``case.json``.
    """

    def __init__(self, folder: Path, device: Processor) -> None:
        self.folder, self.device = folder, device
        self.about = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        # The output of the first plan that equals the reference where it was computed.
        self._first: Any = None

    @cached_property
    def _module(self) -> Any:
        return self.device.ffi.load_module(str(self.folder / "kernels.so"))

    @cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "arrays.npz") as arrays:
            return dict(arrays)

    def _array(self, entry: dict[str, Any]) -> np.ndarray:
        """A stored array; of what repeats one period is stored."""
        return np.resize(self._stored[entry["array"]], entry["shape"])

    @cached_property
    def _x(self) -> Any:
        x = self.about["x"]
        return self.device.put(self._array(x) if "array" in x else data.activations(**x))

    @cached_property
    def _after(self) -> list[Any]:
        return [self.device.put(self._array(entry)) for entry in self.about["after"].values()]

    @property
    def cold(self) -> bool:
        """Whether weights are to be read from memory, not from a cache."""
        shape = self.about["out"][0]
        return len(shape) == 2 and shape[0] <= COLD_ROWS

    def contenders(
        self, only: int | None = None, avoid: Sequence[str] = ()
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """Row and :class:`Contender` of every plan, or of one, after a run that is checked.

        There is nothing to time, ``None``, where a kernel fails, is wrong, or is of a family
        (see :func:`family`) to avoid.
        """
        for failure in self.about["failed"] if only is None else ():
            yield {**failure, "exact": None}, None
        for index, plan in enumerate(self.about["plans"]):
            if only not in (None, index):
                continue
            if family(plan) in avoid:
                row = {key: plan[key] for key in ("rule", "config", "label", "default")}
                told = f"not run: others of {family(plan)} ended their process"
                yield {**row, "plan": index, "exact": None, "error": told}, None
            else:
                yield self._contender(index, plan)

    def _contender(self, index: int, plan: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        row = {key: plan[key] for key in ("rule", "config", "label", "default")}
        row["plan"] = index
        try:
            function, constants, size = self._bind(plan)
            out = self.device.empty(*self.about["out"])
            given = self._given(constants, out)
            function(*given)
            self.device.sync()
            row |= self._check(out)
            if not row["exact"]:
                return row, None
            sets = [given]
            for _ in range(copies_of(size, self.cold) - 1):
                sets.append(self._given([self.device.copy(a) for a in constants], out))
        except Exception as error:
            return {**row, "exact": row.get("exact"), "error": told(error)}, None
        first = self._digest(out)
        unchanged = lambda: self._digest(out) == first  # noqa: E731
        run = lambda copy: function(*sets[copy])  # noqa: E731
        return row, Contender("tvmquant", run, len(sets), row, out, unchanged)

    def _digest(self, out: Any) -> int:
        return zlib.crc32(np.ascontiguousarray(self.device.get(out)))

    def _bind(self, plan: dict[str, Any]) -> tuple[Callable[..., Any], list[Any], int]:
        """A kernel, its constants on the device, and their bytes."""
        device = self.device
        arrays = [self._array(entry) for entry in plan["arrays"]]
        constants = [device.put(array) for array in arrays]
        expand = plan["expand"]
        if expand:
            made = [device.empty(shape, dtype) for shape, dtype in expand["outputs"]]
            taken = [*constants[: expand["inputs"]], *made]
            self._module[expand["function"]](*map(device.given, taken))
            constants[: expand["inputs"]] = made
        return self._module[plan["function"]], constants, sum(a.nbytes for a in arrays)

    def _given(self, constants: list[Any], out: Any) -> list[Any]:
        return [self.device.given(a) for a in (self._x, *constants, *self._after, out)]

    def _check(self, out: Any) -> dict[str, Any]:
        """``exact``, and what was ``wrong``."""
        check, got = self.about["check"], self.device.get(out)
        if "bound" in check:
            error = np.abs(got.astype(np.float64) - self._array(check["whole"]))
            worst = float((error / self._array(check["bound"])).max())
            # A comparison with NaN is no success.
            return _verdict(worst <= 1, f"off by {worst:.3g} times the bound")
        if "whole" in check:
            different = int((got != self._array(check["whole"])).sum())
            return _verdict(not different, f"{different} of {got.size} values differ")
        rows = got.reshape(-1, got.shape[-1])[check["rows"]]
        pairs = zip(data.row_digests(rows), check["digests"], strict=True)
        different = sum(one != other for one, other in pairs)
        if different:
            return _verdict(False, f"{different} of {len(rows)} rows differ")
        return self._agree(out, got)

    def _agree(self, out: Any, got: np.ndarray) -> dict[str, Any]:
        """All values: against PyTorch in float64, where it is there; plans with each other."""
        if self._first is None:
            whole = self._whole()
            self._first = got if whole is None else self.device.get(whole)
        different = int((got != self._first).sum())
        return _verdict(not different, f"{different} of {got.size} values differ")

    def _whole(self) -> Any:
        """A matrix product whose sums float64 holds exactly, and its requantization."""
        full = self.about["check"]["full"]
        if not full or not isinstance(self.device, TorchGpu):
            return None
        torch, put = self.device.torch, self.device.put
        weight = put(data.weights(self.about["x"]["seed"], full["w_shape"], full["w_bits"]))
        bias, multiplier = (put(self._array(full[key])) for key in ("bias", "multiplier"))
        return requantized(torch, self._x, weight, bias, multiplier, self._after[0].tolist())


def family(plan: dict[str, Any]) -> str:
    """Rule of a kernel and what its configuration names: kernels of one text."""
    words = [plan["rule"].rpartition(".")[2]]
    for key, value in plan["config"].items():
        if isinstance(value, str):
            words.append(value)
        elif value is True or key == "producers":
            words.append(f"{key}={value}")
    return " ".join(words)


def requantized(
    torch: Any, x: Any, weight: Any, bias: Any, multiplier: Any, qinfo: list[int]
) -> Any:
    """``x @ weight.T + bias``, exact in float64, times ``multiplier`` in float32, as uint8.

    Parameters
    ----------
    torch : module
    x, weight : tensor
        ``[M, K]`` and ``[N, K]``, integers.
    bias : tensor
        int32 ``[N]``.
    multiplier : tensor
        float32 ``[N]``.
    qinfo : list of int
        Zero points of input and output, least and greatest output.
    """
    zero_point, low, high = qinfo[1:4]
    total = (x.double() @ weight.double().T).add_(bias.double())
    scaled = total.float().mul_(multiplier).round_()
    clamped = scaled.clamp_(low - zero_point, high - zero_point)
    return clamped.add_(zero_point).to(torch.uint8)


def _verdict(right: bool, wrong: str) -> dict[str, Any]:
    return {"exact": True} if right else {"exact": False, "wrong": wrong}
