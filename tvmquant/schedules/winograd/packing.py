"""Constants in the order in which the kernel and its expansion read them."""

from __future__ import annotations

import numpy as np

from tvmquant.reference import wrap_int32
from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.winograd.plan import Plan


def packed_vectors(plan: Plan) -> int:
    """Vectors of weights of a channel block: for every turn the nine taps."""
    per = 8 // plan.workload.w_bits
    return -(-9 * plan.turns // per) * per


def pack_weights(weight: np.ndarray, plan: Plan) -> np.ndarray:
    """Order and pack weights.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, 3, 3, C]``, values within ``w_bits`` bits.
    plan : Plan

    Returns
    -------
    np.ndarray
        uint8 ``[channel block, bytes, flush * lanes * step]``: for every turn and tap a vector
        in the order of the transformed weights; ``8 // w_bits`` successive vectors share their
        bytes, the first in the lowest bits (codes in two's complement, for 1 bit 1 is -1).
    """
    bits, operands = plan.workload.w_bits, plan.operands
    spare = (plan.padded_outputs - plan.outputs, plan.depth - plan.channels)
    full = np.pad(weight, ((0, spare[0]), (0, 0), (0, 0), (0, spare[1])))
    shape = (plan.channel_blocks, plan.lanes, 9, plan.turns, operands.flush, operands.step)
    vectors = full.reshape(shape).transpose(0, 3, 2, 4, 1, 5)
    vectors = vectors.reshape(plan.channel_blocks, 9 * plan.turns, -1)
    codes = (vectors < 0) if bits == 1 else vectors.astype(np.int16) & ((1 << bits) - 1)
    count = packed_vectors(plan)
    codes = np.pad(codes.astype(np.uint8), ((0, 0), (0, count - codes.shape[1]), (0, 0)))
    per = 8 // bits
    codes = codes.reshape(plan.channel_blocks, count // per, per, -1)
    shifts = (bits * np.arange(per)).astype(np.uint8)[:, None]
    return np.bitwise_or.reduce(codes << shifts, axis=2)


def pack_biases(weight: np.ndarray, bias: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """What is added before and after the division.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, 3, 3, C]``.
    bias : np.ndarray
        int32 ``[O]``.

    Returns
    -------
    centre, bias : np.ndarray
        int32 ``[padded outputs]``: minus the middle of the range of ``sum(x * w)``, scaled as
        position (1, 1) needs it, and the bias with that middle added. Both modulo 2**32.
    """
    algorithm = plan.algorithm
    x_max = (1 << plan.workload.x_bits) - 1
    middle = weight.astype(np.int64).reshape(plan.outputs, -1).sum(axis=1) * x_max // 2
    centre = -middle * ((algorithm.odd << algorithm.shift) // algorithm.gain)
    return tuple(
        pack_outputs(wrap_int32(values), plan.outputs, 1, plan.padded_outputs)
        for values in (centre, bias.astype(np.int64) + middle)
    )
