"""Calibration that goes on where it stopped."""

import numpy as np
import pytest
from networks import Net

import tvmquant
from tvmquant.calibration.cache import CalibrationCache, Progressed
from tvmquant.edges import describe_edges
from tvmquant.errors import CalibrationWarning, InputError
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.recipe import Recipe


def model():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6, name="x"), 3, 4))
    return net.model(net.conv(y, 4, 5, 2))


DATA = np.random.default_rng(3).standard_normal((12, 3, 6, 6)).astype(np.float32)


def edges(**options):
    options = {"calibration": DATA, **options}
    return describe_edges(tvmquant.quantize(model(), **options).mod)


@pytest.fixture
def runs(monkeypatch):
    """How many batches the interpreter has run; ``stop_at`` makes it fail there."""
    counter = {"runs": 0, "stop_at": None}
    run = Interpreter.run

    def counted(self, inputs, tap=None):
        if tap is not None and any(is_op(v, "tvmquant.observe") for _, v in self.graph.bindings):
            counter["runs"] += 1
            if counter["runs"] == counter["stop_at"]:
                raise KeyboardInterrupt
        return run(self, inputs, tap)

    monkeypatch.setattr(Interpreter, "run", counted)
    return counter


def test_what_is_done_is_not_repeated(tmp_path, runs):
    want = edges()
    assert edges(calibration_cache=tmp_path / "new" / "cache") == want
    runs["runs"] = 0
    assert edges(calibration_cache=tmp_path / "new" / "cache") == want
    assert runs["runs"] == 0
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["data", "bits", "estimator", "percentile", "model"])
def test_anything_that_matters_makes_another_file(tmp_path, runs, change, monkeypatch):
    edges(calibration_cache=tmp_path)
    options = {
        "data": {"calibration": DATA * 2},
        "bits": {"bits": 4, "recipe": Recipe.for_bits(4, first_last_bits=None)},
        "estimator": {"recipe": tvmquant.recipes.find_recipe("fast")},
        "percentile": {"recipe": Recipe(percentile=99.0)},
        "model": {},
    }[change]
    if change == "model":
        other = model()
        monkeypatch.setitem(globals(), "model", lambda: other)
        weight = other.graph.initializer[0]
        weight.raw_data = (np.frombuffer(weight.raw_data, "f4") * 1.5).tobytes()
    runs["runs"] = 0
    edges(calibration_cache=tmp_path, **options)
    assert runs["runs"] == len(DATA)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["percentile", "moving_average", "entropy", "aciq"])
def test_an_interrupted_run_goes_on(tmp_path, runs, monkeypatch, name):
    monkeypatch.setattr(CalibrationCache.__init__, "__defaults__", (-1.0,))
    recipe = Recipe()
    recipe = Recipe(activations=type(recipe.activations)(estimator=name))
    want = edges(recipe=recipe)
    runs.update(runs=0, stop_at=9)
    with pytest.raises(KeyboardInterrupt):
        edges(recipe=recipe, calibration_cache=tmp_path)
    runs.update(runs=0, stop_at=None)
    assert edges(recipe=recipe, calibration_cache=tmp_path) == want
    assert runs["runs"] == len(DATA) - 8


def test_corrections_see_the_data_of_a_finished_calibration(tmp_path):
    first, second = (
        tvmquant.quantize(model(), "w4a8", calibration=DATA, calibration_cache=tmp_path)
        for _ in range(2)
    )
    for a, b in zip(*(Interpreter(q.mod).run([DATA[:1]]) for q in (first, second))):
        np.testing.assert_array_equal(a, b)
    assert first.recipe.rounding == "gptq"


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "arrays"])
def test_a_damaged_file_is_replaced(tmp_path, runs, damage):
    want = edges(calibration_cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        with path.open("wb") as file:
            np.savez(file, x=np.zeros(3))
    else:
        with np.load(path) as stored:
            kept = {name: stored[name] for name in stored.files if "limit" not in name}
        np.savez(path, **kept)
    runs["runs"] = 0
    with pytest.warns(CalibrationWarning, match="is damaged: calibrating anew"):
        assert edges(calibration_cache=tmp_path) == want
    assert runs["runs"] == len(DATA)
    runs["runs"] = 0
    assert edges(calibration_cache=tmp_path) == want
    assert runs["runs"] == 0


def test_data_without_identity(tmp_path):
    with pytest.warns(CalibrationWarning, match="calibration_cache is not used"):
        edges(calibration=({"x": x[None]} for x in DATA), calibration_cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_folders(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"calibration cache .*file: cannot make"):
        edges(calibration_cache=tmp_path / "file")
    cache = CalibrationCache(tmp_path / "gone", "data")
    cache.folder.rmdir()
    with pytest.warns(CalibrationWarning, match="cannot write"):
        cache.store("model", Progressed(1, 1, True, {}))


def test_ctrl_c_while_writing_leaves_nothing(tmp_path, monkeypatch):
    cache = CalibrationCache(tmp_path, "data")
    cache.store("model", Progressed(1, 1, False, {}))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", stop)
    with pytest.raises(KeyboardInterrupt):
        cache.store("model", Progressed(2, 2, False, {}))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
