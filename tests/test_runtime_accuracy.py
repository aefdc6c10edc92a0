"""Top-1 accuracy."""

import numpy as np
import pytest

from tvmquant.errors import InputError
from tvmquant.runtime.accuracy import top1
from tvmquant.runtime.manifest import TensorInfo


class Identity:
    """Scores are the samples themselves, as ``[batch, classes, 1, 1]`` in a tuple."""

    def __init__(self, batch, classes=4):
        self.inputs = (TensorInfo("x", (batch, classes), "float32"),)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return (x[:, :, None, None], x)


X = np.eye(4, dtype="float32")[[0, 1, 2, 3, 0, 1, 2]]


@pytest.mark.parametrize(("batch", "calls"), [(1, 7), (2, 4), (7, 1), (10, 1)])
def test_share_of_right_answers_whatever_the_batch(batch, calls):
    model, seen = Identity(batch), []
    y = np.array([0, 1, 2, 3, 1, 1, 1], "uint8")
    accuracy = top1(model, X, y, progress=lambda *step: seen.append(step))
    assert accuracy == pytest.approx(5 / 7)
    assert model.calls == calls and seen[-1] == ("evaluate", 7, 7)


def test_padding_samples_are_not_counted():
    assert top1(Identity(4), X[:1], np.array([0])) == 1
    # Zeros would give class 0.
    assert top1(Identity(4), X[1:2], np.array([1])) == 1


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, np.zeros(6, int), r"x has shape \[7, 4\], expected \[6, 4\]"),
        (X[:, :3], np.zeros(7, int), r"expected \[7, 4\]"),
        (X, np.zeros(7), "y must hold one class number"),
        (X, np.zeros((7, 4), int), "y must hold"),
        (X[:0], np.zeros(0, int), "y must hold"),
        (X.astype("uint8"), np.zeros(7, int), "dtype uint8"),
    ],
)
def test_wrong_data_is_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        top1(Identity(2), x, y)


def test_a_model_with_two_inputs_is_no_classifier(tiny_model):
    with pytest.raises(InputError, match="one batched input, this one has x: float32"):
        top1(tiny_model, X, np.zeros(7, int))
