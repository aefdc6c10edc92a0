"""Signal-to-noise ratios."""

import numpy as np
import pytest

from tvmquant.analysis.decibel import EXACT, OutputNoise, Ratio, decibel


def test_a_tenth_of_the_amplitude_is_20_db():
    ratio = Ratio()
    x = np.arange(1, 9, dtype=np.float32)
    ratio.update(x, 1.1 * x)
    assert ratio.db == pytest.approx(20, abs=1e-3)


def test_samples_add_up_as_energies():
    ratio = Ratio()
    ratio.update(np.array([3.0]), np.array([3.0]))
    ratio.update(np.array([1.0]), np.array([2.0]))
    assert ratio.relative == pytest.approx(1 / 10)


def test_limits():
    assert decibel(0) == EXACT
    assert decibel(np.inf) == -EXACT
    ratio = Ratio()
    ratio.update(np.zeros(3), np.ones(3))
    assert ratio.db == -EXACT
    ratio.update(np.array([np.nan, 2.0]), np.array([1.0, np.inf]))
    assert (ratio.signal, ratio.noise) == (0, 3)


def test_outputs_count_alike_and_integers_do_not():
    noise = OutputNoise()
    big, small = np.full(4, 1000.0), np.full(4, 0.001)
    noise.update([big, small, np.arange(4)], [big, 1.1 * small, np.arange(4)[::-1]])
    assert noise.relative == pytest.approx(0.005)
    classes = OutputNoise()
    classes.update([np.array([2, 2])], [np.array([2, 0])])
    assert classes.relative == pytest.approx(0.5)
