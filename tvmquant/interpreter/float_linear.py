"""Float convolution and pooling in NumPy (BLAS does the work)."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.ops.integer import ints
from tvmquant.reference.pooling import pool_geometry

# Bytes of a strip of rows of a depthwise convolution: three of them fit a second-level cache.
_STRIP = 1 << 17


def conv2d(args: list, call: relax.Call) -> np.ndarray:
    """2-D convolution in either layout; an int32-exact variant is not needed before realize."""
    x, w = args
    attrs = call.attrs
    nhwc = str(attrs["data_layout"]) == "NHWC"
    x = x if nhwc else x.transpose(0, 2, 3, 1)
    w = w if str(attrs["kernel_layout"]) == "OHWI" else w.transpose(0, 2, 3, 1)
    (sh, sw), (dh, dw) = ints(attrs["strides"]), ints(attrs["dilation"])
    top, left, bottom, right = ints(attrs["padding"])
    groups = int(attrs["groups"])
    if top or left or bottom or right:
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    n, h, wd, c = x.shape
    o, kh, kw, cg = w.shape
    oh = (h - (kh - 1) * dh - 1) // sh + 1
    ow = (wd - (kw - 1) * dw - 1) // sw + 1

    def tap(i: int, j: int) -> np.ndarray:
        rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
        cols = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
        return x[:, rows, cols]

    if cg == 1 and groups == c and o == c:
        out = _depthwise(x, w[..., 0], (oh, ow), (sh, sw), (dh, dw))
    elif groups == 1:
        patches = [tap(i, j) for i in range(kh) for j in range(kw)]
        columns = patches[0] if len(patches) == 1 else np.concatenate(patches, -1)
        out = columns.reshape(-1, kh * kw * c) @ w.reshape(o, -1).T
        out = out.reshape(n, oh, ow, o)
    else:
        og = o // groups
        out = np.zeros((groups, n * oh * ow, og), x.dtype)
        for i in range(kh):
            for j in range(kw):
                part = tap(i, j).reshape(-1, groups, cg).transpose(1, 0, 2)
                out += part @ w[:, i, j].reshape(groups, og, cg).transpose(0, 2, 1)
        out = out.transpose(1, 0, 2).reshape(n, oh, ow, o)
    return out if nhwc else np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def _depthwise(
    x: np.ndarray,
    w: np.ndarray,
    size: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
) -> np.ndarray:
    """One filter ``w[c]`` a channel over padded ``x`` ``[N, H, W, C]``.

    Works on strips of rows that stay in the cache, in loops as long as a row: NumPy's own order
    takes ten times as long.
    """
    n, _, _, c = x.shape
    (oh, ow), (sh, sw), (dh, dw) = size, strides, dilation
    kh, kw = w.shape[1:]
    # Every sw-th column, so that the columns which a tap reads lie side by side.
    phases = [x] if sw == 1 else [np.ascontiguousarray(x[:, :, p::sw]) for p in range(sw)]
    phases = [phase.reshape(n, x.shape[1], -1) for phase in phases]
    taps = np.tile(w.transpose(1, 2, 0), (1, 1, ow)).astype(x.dtype)
    out = np.zeros((n, oh, ow * c), x.dtype)
    strip = max(1, min(oh, _STRIP // max(ow * c * x.itemsize, 1)))
    buffer = np.empty((strip, ow * c), x.dtype)
    for image in range(n):
        for start in range(0, oh, strip):
            total = out[image, start : start + strip]
            product = buffer[: len(total)]
            for i in range(kh):
                first = start * sh + i * dh
                rows = slice(first, first + (len(total) - 1) * sh + 1, sh)
                for j in range(kw):
                    phase, skip = (j * dw) % sw, (j * dw) // sw * c
                    window = phases[phase][image, rows, skip : skip + ow * c]
                    np.multiply(window, taps[i, j], out=product)
                    total += product
    return out.reshape(n, oh, ow, c)


def pool2d(args: list, call: relax.Call) -> np.ndarray:
    """Max or average pooling in either layout."""
    attrs = call.attrs
    nhwc = str(attrs["layout"]) == "NHWC"
    x = args[0] if nhwc else args[0].transpose(0, 2, 3, 1)
    size, strides, dilation = (ints(attrs[k]) for k in ("pool_size", "strides", "dilation"))
    top, left, bottom, right = ints(attrs["padding"])
    ceil = bool(attrs["ceil_mode"])
    is_max = str(call.op.name).endswith("max_pool2d")
    n, h, w, c = x.shape
    oh = pool_geometry(h, size[0], strides[0], top, bottom, dilation[0], ceil)
    ow = pool_geometry(w, size[1], strides[1], left, right, dilation[1], ceil)
    need_h = max((oh - 1) * strides[0] + (size[0] - 1) * dilation[0] + 1, h + top)
    need_w = max((ow - 1) * strides[1] + (size[1] - 1) * dilation[1] + 1, w + left)
    lowest = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    padded = np.full((n, need_h, need_w, c), lowest if is_max else 0, x.dtype)
    padded[:, top : top + h, left : left + w] = x
    out: np.ndarray | None = None
    for i in range(size[0]):
        for j in range(size[1]):
            i0, j0 = i * dilation[0], j * dilation[1]
            rows = slice(i0, i0 + (oh - 1) * strides[0] + 1, strides[0])
            cols = slice(j0, j0 + (ow - 1) * strides[1] + 1, strides[1])
            part = padded[:, rows, cols]
            if out is None:
                out = part.copy()
            else:
                (np.maximum if is_max else np.add)(out, part, out=out)
    if not is_max:
        divisor = window_counts((h, w), (oh, ow), call)
        out = out / divisor[..., None].astype(x.dtype)
    return out if nhwc else np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def window_counts(size: tuple[int, int], out: tuple[int, int], call: relax.Call) -> np.ndarray:
    """Divisor of every average-pooling window, float64 ``[OH, OW]``.

    With ``count_include_pad`` the cells of the padding count, those beyond it (``ceil_mode``)
    never do.
    """
    attrs = call.attrs
    top, left, bottom, right = ints(attrs["padding"])
    include = bool(attrs["count_include_pad"])
    counts = []
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        length, n_out = size[axis], out[axis]
        k, s, d = (ints(attrs[key])[axis] for key in ("pool_size", "strides", "dilation"))
        cells = np.arange(n_out)[:, None] * s + np.arange(k) * d - before
        low, high = (-before, length + after) if include else (0, length)
        counts.append(((cells >= low) & (cells < high)).sum(1))
    return np.maximum(np.outer(*counts), 1).astype(np.float64)
