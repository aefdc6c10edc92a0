"""What others offer for the same shapes: PyTorch with cuBLASLt and cuDNN, torchao, gemlite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .timing import Contender, copies_of

GROUP = 128
# cuBLASLt's int8 product wants more rows than that.
_ROWS = 17
Maker = Callable[[], Contender]


def gemm_peers(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> dict[str, Maker]:
    """Products of ``[rows, depth]`` and ``[depth, outputs]`` by name, made when called."""
    shape = (rows, depth, outputs)
    makers: dict[str, Maker] = {
        "torch int8": lambda: _int8(torch, *shape, cold),
        "torch fp16": lambda: _half(torch, *shape, cold, torch.float16),
        "torch bf16": lambda: _half(torch, *shape, cold, torch.bfloat16),
    }
    if rows <= 64:
        makers["torch int4 tinygemm"] = lambda: _tinygemm(torch, *shape, cold)
    return makers


def slow_peers(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> dict[str, Maker]:
    """Peers that compile or tune first, and may fail: not in the process of the others."""
    shape = (rows, depth, outputs)
    makers: dict[str, Maker] = {"gemlite W8A8": lambda: _gemlite_int8(torch, *shape, cold)}
    if rows <= 64:
        makers["torchao int4"] = lambda: _torchao(torch, *shape, cold)
        makers["gemlite W4A16"] = lambda: _gemlite_int4(torch, *shape, cold)
    return makers


def conv_peers(
    torch: Any, x_shape: list[int], w_shape: list[int], stride: int, pad: int
) -> dict[str, Maker]:
    """The convolution in float16 and bfloat16 by cuDNN, channels last; shapes as tvmquant's."""

    def make(dtype: Any) -> Contender:
        batch, height, width, inputs = x_shape
        outputs, kh, kw, _ = w_shape
        last = {"memory_format": torch.channels_last}
        x = torch.randn(batch, inputs, height, width, device="cuda", dtype=dtype).to(**last)
        weight = torch.randn(outputs, inputs, kh, kw, device="cuda", dtype=dtype).to(**last)
        bias = torch.randn(outputs, device="cuda", dtype=dtype)
        torch.backends.cudnn.benchmark = True
        call = torch.nn.functional.conv2d
        return Contender("", lambda copy: call(x, weight, bias, stride, pad))

    return {
        "cuDNN fp16": lambda: make(torch.float16),
        "cuDNN bf16": lambda: make(torch.bfloat16),
    }


def made(makers: dict[str, Maker]) -> Iterator[tuple[str, Contender | Exception]]:
    """Every peer, or why there is none."""
    for name, make in makers.items():
        try:
            contender = make()
            contender.name = name
            yield name, contender
        except Exception as error:
            yield name, error


def _int8(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> Contender:
    padded = max(rows, -(-_ROWS // 16) * 16) if rows < _ROWS else rows
    x = torch.randint(-128, 128, (padded, depth), device="cuda", dtype=torch.int8)
    weights = [
        torch.randint(-128, 128, (outputs, depth), device="cuda", dtype=torch.int8).t()
        for _ in range(copies_of(outputs * depth, cold))
    ]
    out = torch.empty(padded, outputs, device="cuda", dtype=torch.int32)
    about = {"rows": padded} if padded != rows else {}
    run = lambda copy: torch._int_mm(x, weights[copy], out=out)  # noqa: E731
    return Contender("", run, len(weights), about)


def _half(torch: Any, rows: int, depth: int, outputs: int, cold: bool, dtype: Any) -> Contender:
    x = torch.randn(rows, depth, device="cuda", dtype=dtype)
    weights = [
        torch.randn(outputs, depth, device="cuda", dtype=dtype).t()
        for _ in range(copies_of(outputs * depth * 2, cold))
    ]
    out = torch.empty(rows, outputs, device="cuda", dtype=dtype)
    return Contender("", lambda copy: torch.mm(x, weights[copy], out=out), len(weights))


def _tinygemm(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> Contender:
    """The product that torchao's 4-bit weights run on, without its wrapper."""
    x = torch.randn(rows, depth, device="cuda", dtype=torch.bfloat16)
    size = outputs * depth // 2
    scales = torch.ones(depth // GROUP, outputs, 2, device="cuda", dtype=torch.bfloat16)
    packed = []
    for _ in range(copies_of(size, cold)):
        codes = torch.randint(0, 256, (outputs, depth // 2), device="cuda", dtype=torch.uint8)
        packed.append(torch.ops.aten._convert_weight_to_int4pack(codes, 8))
    call = torch.ops.aten._weight_int4pack_mm
    return Contender("", lambda copy: call(x, packed[copy], GROUP, scales), len(packed))


def _torchao(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> Contender:
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    x = torch.randn(rows, depth, device="cuda", dtype=torch.bfloat16)
    layers = []
    for _ in range(copies_of(outputs * depth // 2, cold)):
        layer = torch.nn.Linear(depth, outputs, bias=False, device="cuda", dtype=torch.bfloat16)
        quantize_(layer.requires_grad_(False), config)
        layers.append(layer)
    return Contender("", lambda copy: layers[copy](x), len(layers))


def _gemlite_int4(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> Contender:
    from gemlite.helper import A16W4_HQQ_INT

    x = torch.randn(rows, depth, device="cuda", dtype=torch.float16)
    count = outputs * depth // GROUP
    maker = A16W4_HQQ_INT(device="cuda:0", dtype=torch.float16)
    layers = []
    for _ in range(copies_of(outputs * depth // 2, cold)):
        codes = torch.randint(0, 16, (outputs, depth), device="cuda", dtype=torch.uint8)
        scales = torch.full((count, 1), 0.01, device="cuda", dtype=torch.float16)
        layers.append(maker.from_weights(codes, scales, torch.full_like(scales, 8.0)))
    return Contender("", lambda copy: layers[copy](x), len(layers))


def _gemlite_int8(torch: Any, rows: int, depth: int, outputs: int, cold: bool) -> Contender:
    """Its activations are quantized in each call."""
    from gemlite.helper import A8W8_int8_dynamic

    x = torch.randn(rows, depth, device="cuda", dtype=torch.float16)
    maker = A8W8_int8_dynamic(device="cuda:0", dtype=torch.float16)
    layers = [
        maker.from_weights(torch.randn(outputs, depth, device="cuda", dtype=torch.float16))
        for _ in range(copies_of(outputs * depth, cold))
    ]
    return Contender("", lambda copy: layers[copy](x), len(layers))
