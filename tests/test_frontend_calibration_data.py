"""tvmquant.frontend.calibration_data and samples."""

import numpy as np
import pytest

from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend import (
    CalibrationSource,
    InputInfo,
    calibration_batches,
    synthetic_batches,
)

ONE = [InputInfo("x", (1, 3), "float32")]
TWO = [InputInfo("ids", (2, 4), "int64"), InputInfo("mask", (2, 4), "float32")]


def arange(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def read(data, inputs=ONE):
    return list(calibration_batches(data, inputs))


def single(data, inputs=ONE):
    """The batches of a model with one input, as one array."""
    return np.stack([batch["x"] for batch in read(data, inputs)])


class Reader:
    """Like a calibration data reader of ONNX Runtime."""

    def __init__(self, samples):
        self.samples, self.position = samples, 0

    def get_next(self):
        self.position += 1
        return self.samples[self.position - 1] if self.position <= len(self.samples) else None

    def rewind(self):
        self.position = 0


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


def test_two_inputs():
    ids, mask = np.ones((6, 4), np.int64), np.ones((6, 4), np.float32)
    assert [b["ids"].shape for b in read({"ids": ids, "mask": mask}, TWO)] == [(2, 4)] * 3
    assert read([(ids[:2], mask[:2])], TWO)[0]["mask"].dtype == np.float32
    with pytest.raises(CalibrationError, match=r"2 inputs.*'ids', 'mask'.*dictionaries"):
        read(mask, TWO)
    with pytest.raises(
        CalibrationError, match="sample 0 has 3 arrays, the model has 2 inputs: 'ids', 'mask'"
    ):
        read([(ids[:2], mask[:2], mask[:2])], TWO)


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


@pytest.mark.parametrize("data", [[], np.zeros((0, 3), np.float32), {"x": np.zeros((0, 3), "f4")}])
def test_empty(data):
    with pytest.raises(CalibrationError, match="empty"):
        read(data)
    with pytest.raises(CalibrationError, match="empty"):
        CalibrationSource(data).peek(ONE)


def test_kind_that_cannot_be_read():
    with pytest.raises(CalibrationError, match="type int: pass an array"):
        read(3)
    with pytest.raises(CalibrationError, match="sample 1 is a set"):
        read([arange(1, 3), {"a"}])
    with pytest.raises(CalibrationError, match="sample 0 is a str"):
        read(["image.png"])
    with pytest.raises(
        CalibrationError, match="sample 0 has 2 arrays, the model has 1 inputs: 'x'"
    ):
        read([(arange(1, 3), np.array([7]))])  # image and label
    with pytest.raises(CalibrationError, match="sample 0 is no array"):
        read([[[1.0], [1.0, 2.0]]])


@pytest.mark.parametrize(
    "sample,message",
    [
        (arange(1, 4), r"1: input 'x' \(float32 \[1, 3\]\).*shape \[1, 4\], expected \[1, 3\]"),
        (np.zeros((1, 3), np.uint8), "sample 1: input 'x'.*uint8 values, expected float32; scale"),
        (np.zeros((1, 3), np.int64), "sample 1: input 'x'.*int64 values, expected float32"),
        ({"y": arange(1, 3)}, "sample 1 has an array 'y'.*inputs are 'x'"),
        ({}, "sample 1 has no array for input 'x'"),
    ],
)  # fmt: skip
def test_bad_samples(sample, message):
    batches = calibration_batches([arange(1, 3), sample], ONE)
    next(batches)
    with pytest.raises(CalibrationError, match=message):
        next(batches)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite_are_skipped(value, tmp_path):
    data = arange(5, 3).astype(np.float64)
    data[1, 2] = data[3, 0] = value
    path = tmp_path / "data.npz"
    np.savez(path, x=data)
    for source in (data, path, list(data), (row for row in data)):
        with pytest.warns(CalibrationWarning, match="samples 1, 3 skipped: input 'x'") as caught:
            got = single(source)
        assert len(caught) == 1
        np.testing.assert_array_equal(got[:, 0], data[[0, 2, 4]])
    data[:] = value
    with pytest.raises(CalibrationError, match=r"sample 4: input 'x'.*NaN.*no sample is left"):
        read(data)


def test_identity_tells_data_apart(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=arange(2, 3))
    sources = [path, arange(2, 3), {"x": arange(2, 3)}, [arange(3)], [(arange(3),)], arange(3, 2)]
    found = [CalibrationSource(source).identity for source in sources]
    assert len(set(found)) == len(found)
    assert found == [CalibrationSource(source).identity for source in sources]
    changed = arange(2, 3)
    changed[1, 1] += 1e-6
    assert CalibrationSource(changed).identity not in found
    for unknown in (iter([arange(3)]), Reader([]), ["text"], np.array([None])):
        assert CalibrationSource(unknown).identity is None


def test_safe_casts():
    assert read([np.ones((1, 3))])[0]["x"].dtype == np.float32
    ids = [InputInfo("x", (1, 3), "int64")]
    assert read([np.ones((1, 3), np.int32)], ids)[0]["x"].dtype == np.int64
    assert read([np.ones((1, 3), np.int64)], [InputInfo("x", (1, 3), "int32")])
    with pytest.raises(CalibrationError, match="int64 values, expected int8"):
        read([np.full((1, 3), 300)], [InputInfo("x", (1, 3), "int8")])
    with pytest.raises(CalibrationError, match="float32 values, expected int64"):
        read([arange(1, 3)], ids)


OPEN = [InputInfo("x", (None, None), "float32")]


@pytest.mark.parametrize(
    "data", [arange(5, 3), {"x": arange(5, 3)}, [arange(1, 3)] * 5, (a for a in [arange(1, 3)] * 5)]
)
def test_peek_consumes_nothing(data):
    source = CalibrationSource.of(data)
    assert CalibrationSource.of(source) is source
    assert source.peek(OPEN)["x"].shape == (1, 3)
    assert len(list(source.batches(ONE))) == 5


def test_peek_adds_the_batch():
    assert CalibrationSource([arange(3)]).peek(OPEN)["x"].shape == (1, 3)


def test_peek_before_a_larger_batch_is_known():
    source = CalibrationSource(arange(6, 3))
    source.peek(OPEN)
    assert len(list(source.batches([InputInfo("x", (2, 3), "float32")]))) == 3


def test_synthetic():
    inputs = [*ONE, InputInfo("ids", (2, 4), "int64"), InputInfo("b", (2,), "bool")]
    batches = list(synthetic_batches(inputs, 3, seed=1))
    assert len(batches) == 3
    for info in inputs:
        assert batches[0][info.name].shape == info.shape
        assert batches[0][info.name].dtype == info.dtype
    assert not np.array_equal(batches[0]["x"], batches[1]["x"])
    again = next(synthetic_batches(inputs, 3, seed=1))
    np.testing.assert_array_equal(again["x"], batches[0]["x"])
    assert list(calibration_batches(synthetic_batches(ONE, 2), ONE))
