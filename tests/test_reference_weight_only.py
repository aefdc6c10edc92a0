"""The meaning of the weight-only product, and its error bound."""

import numpy as np
import pytest
from weight_only_tools import WeightOnlyData, weight_only_workload

from tvmquant import reference


@pytest.mark.parametrize("zero_points", [False, True])
def test_it_is_the_product_of_dequantized_weights(zero_points):
    data = WeightOnlyData.of(weight_only_workload(3, 20, 5, 4, 8, zero_points))
    made, _ = data.expected()
    for row in range(3):
        for n in range(5):
            total = float(data.bias[n])
            for k in range(20):
                zero = int(data.zero_point[n, k // 8]) if zero_points else 0
                weight = float(data.scale[n, k // 8]) * (int(data.w[n, k]) - zero)
                total += float(data.x[row, k]) * weight
            np.testing.assert_allclose(made[row, n], total, rtol=1e-6)


def test_leading_dimensions_are_kept():
    data = WeightOnlyData.of(weight_only_workload(6, 16, 5, 4))
    flat, _ = data.expected()
    made = reference.weight_only_matmul(
        data.x.reshape(2, 3, 16), data.w, data.scale, data.bias, group_size=16
    )
    np.testing.assert_array_equal(made, flat.reshape(2, 3, 5))


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_float32_sums_in_any_order_are_within_the_bound(spread):
    data = WeightOnlyData.of(weight_only_workload(4, 256, 8, 4, 32, True), 1, spread)
    made, bound = data.expected()
    weight = (data.w - np.repeat(data.zero_point, 32, 1)).astype(np.float32)
    weight = weight * np.repeat(data.scale, 32, 1)
    total = np.zeros((4, 8), np.float32) + data.bias
    for k in range(256):
        total = total + data.x[:, k : k + 1] * weight[:, k]
    # One order after the other, without blocks: as many roundings as inputs.
    assert (np.abs(total - made) <= bound * 256 / 32).all()
    np.testing.assert_array_less(bound, 1e-4 * np.abs(data.x).max() * 256 * 32)


def test_the_bound_notices_one_wrong_weight():
    data = WeightOnlyData.of(weight_only_workload(1, 512, 4, 4, 32), 2)
    made, bound = data.expected()
    data.w[:, 100] ^= 1
    other, _ = data.expected()
    assert (np.abs(other - made) > bound).all()
