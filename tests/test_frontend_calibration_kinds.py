"""Every kind of calibration data, cut into the model's batches."""

import numpy as np
import pytest
from sample_tools import ONE, TWO, Reader, arange, read, single

from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend import InputInfo, calibration_batches


def test_array_is_cut_into_batches():
    data = arange(6, 3)
    np.testing.assert_array_equal(single(data), data[:, None])
    wide = [InputInfo("x", (4, 3), "float32")]
    with pytest.warns(CalibrationWarning, match="has 2 of 4 samples and is filled up"):
        np.testing.assert_array_equal(single(data, wide), [data[:4], data[[4, 5, 4, 5]]])
    np.testing.assert_array_equal(single(arange(6, 1, 3)), arange(6, 1, 3))


def test_array_that_is_too_short():
    with pytest.warns(CalibrationWarning, match="has 2 of 5 samples"):
        (batch,) = read(arange(2, 3), [InputInfo("x", (5, 3), "float32")])
    np.testing.assert_array_equal(batch["x"], arange(2, 3)[[0, 1, 0, 1, 0]])


@pytest.mark.parametrize(
    "data",
    [
        [arange(1, 3), arange(1, 3)],
        [arange(3), arange(3)],
        [(arange(1, 3),), (arange(1, 3),)],
        [{"x": arange(1, 3)}, {"x": arange(3)}],
        iter([arange(1, 3), arange(1, 3)]),
        ({"x": arange(1, 3)} for _ in range(2)),
        {"x": arange(3)[None].repeat(2, 0)},
        Reader([{"x": arange(1, 3)}, {"x": arange(1, 3)}]),
    ],
    ids=["arrays", "rows", "tuples", "dicts", "iterator", "generator", "dict", "reader"],
)
def test_kinds_of_sources(data):
    np.testing.assert_array_equal(single(data), [arange(1, 3)] * 2)


def test_reader_is_rewound():
    reader = Reader([{"x": arange(1, 3)}])
    assert len(read(reader)) == len(read(reader)) == 1


def test_reader_of_onnxruntime_that_cannot_rewind():
    from onnxruntime.quantization import CalibrationDataReader

    class Once(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": arange(1, 3)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    assert len(read(Once())) == 1


def test_scalar_inputs_go_with_every_sample():
    inputs = [*ONE, InputInfo("rate", (), "int64")]
    batches = read({"x": arange(4, 3), "rate": np.array(16000)}, inputs)
    assert [int(batch["rate"]) for batch in batches] == [16000] * 4


def test_generators_are_streamed():
    drawn = []

    def samples():
        for i in range(100):
            drawn.append(i)
            yield {"x": arange(1, 3)}

    batches = calibration_batches(samples(), ONE)
    next(batches)
    next(batches)
    assert drawn == [0, 1]


@pytest.mark.parametrize("key", ["x", "in:x", "anything"])
def test_npz(tmp_path, key):
    path = tmp_path / "data.npz"
    np.savez(path, **{key: arange(2, 3)})
    np.testing.assert_array_equal(single(path), arange(2, 1, 3))
    np.testing.assert_array_equal(single(str(path)), arange(2, 1, 3))


def test_npz_with_results_beside_the_inputs(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **{"in:x": arange(2, 3), "out:0": arange(5)})
    assert len(read(path)) == 2
    np.savez(path, x=arange(2, 3), labels=arange(2))
    assert len(read(path, [InputInfo("image", (1, 3), "float32")])) == 2


def test_npz_that_lacks_an_input(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, ids=np.ones((2, 4), np.int64))
    with pytest.raises(
        CalibrationError, match=r"data.npz: no array for .* 'mask'; the file has 'ids'"
    ):
        read(path, TWO)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged", b"text"])
def test_bad_files(tmp_path, content):
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"data\.npz"):
        read(path)
