"""The meaning of workloads, on layers small enough to be computed by hand."""

import numpy as np

from tvmquant import reference
from tvmquant.schedules.linear.addition import Sum
from tvmquant.schedules.meaning import integer_layer, with_sum
from tvmquant.schedules.workload import Workload

ONE = reference.make_requantize_params(np.array([1.0]), "float")


def test_padding_is_the_zero_point_and_results_are_clamped():
    layer = Workload("conv2d", (1, 1, 2, 1), (1, 1, 3, 1), (1, 1), (0, 1, 0, 1), (1, 1))
    x = np.array([5, 9], np.uint8).reshape(layer.x_shape)
    weight = np.array([1, 2, 1], np.int8).reshape(layer.w_shape)
    # The zero point's share is part of the bias.
    bias = np.array([-3 * 4], np.int32)
    out = integer_layer(layer, x, weight, bias, ONE, np.array([3, 10, 0, 23], np.int32))
    assert out.ravel().tolist() == [3 + 10 + 9 - 12 + 10, 23]


def test_matrix_products():
    layer = Workload("matmul", (1, 3), (2, 3))
    x, weight = np.array([[1, 2, 3]], np.uint8), np.array([[1, 1, 1], [2, 0, -1]], np.int8)
    out = integer_layer(
        layer, x, weight, np.array([1, 0], np.int32), ONE, np.array([0, 100, 0, 255], np.int32)
    )
    assert out.tolist() == [[107, 99]]


def test_sums_take_both_zero_points_off():
    total = Sum("float", ONE, 10, 20, 2, 3, 5, 0, 255)
    own, other = np.array([[12]], np.uint8), np.array([[21]], np.uint8)
    assert with_sum(own, other, total).tolist() == [[2 * 2 + 1 * 3 + 5]]
