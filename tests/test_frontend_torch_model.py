"""tvmquant.frontend.torch_model; without PyTorch only its absence is tested."""

import importlib.util
import sys

import numpy as np
import pytest
from frontend_tools import bindings, run_tvm  # noqa: F401  (registers the lowering)

from tvmquant.errors import InputError, ModelError
from tvmquant.frontend import load_model
from tvmquant.frontend.torch_model import export_torch, from_torch, is_torch_module
from tvmquant.passes.batch_norms import find_batch_norms

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


class LooksLikeTorch:
    """Has the attributes by which a torch module is known."""

    def state_dict(self):
        return {}

    def forward(self, image):
        return image


def test_torch_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert is_torch_module(LooksLikeTorch())
    with pytest.raises(InputError, match=r"python -m pip install torch"):
        load_model(LooksLikeTorch(), example_inputs=np.zeros(1))


def test_other_models_are_not_torch():
    assert not is_torch_module("model.onnx")


def network():
    import torch

    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, padding=1, stride=2),
                torch.nn.BatchNorm2d(8),
                torch.nn.ReLU6(),
                torch.nn.Dropout(0.5),
            )
            self.head = torch.nn.Linear(8, 5)

        def forward(self, image):
            return self.head(self.features(image).mean((2, 3)))

    return Net(), torch.randn(1, 3, 16, 16)


def run(loaded, x):
    import tvm

    vm = tvm.relax.VirtualMachine(tvm.compile(loaded.mod, target="llvm"), tvm.cpu())
    return vm["main"](tvm.runtime.tensor(x.numpy())).numpy()


@needs_torch
def test_module_equals_torch_and_keeps_its_mode():
    import torch

    module, x = network()
    loaded = load_model(module, example_inputs=x)
    assert module.training and module.features[3].training
    with torch.no_grad():
        want = module.eval()(x).numpy()
    np.testing.assert_allclose(run(loaded, x), want, rtol=1e-4, atol=1e-5)
    assert [i.name for i in loaded.inputs] == ["image"]
    assert loaded.output_names == ("output",)
    assert any("features.0/Conv" in name for name, _ in bindings(loaded.mod))
    assert [norm.mean.shape for norm in find_batch_norms(loaded.mod).values()] == [(8,)]


@needs_torch
def test_through_torch_export():
    import torch

    module, x = network()
    mod = from_torch(module, (x,))
    with torch.no_grad():
        want = module.eval()(x).numpy()
    loaded = load_model(mod)
    np.testing.assert_allclose(run(loaded, x), want, rtol=1e-4, atol=1e-5)


@needs_torch
def test_module_that_onnx_export_cannot_trace_goes_through_torch_export(monkeypatch):
    import torch

    def fail(*args, **kwargs):
        raise RuntimeError("unsupported")

    monkeypatch.setattr(torch.onnx, "export", fail)
    module, x = network()
    with pytest.raises(ModelError, match="to ONNX: unsupported"):
        export_torch(module, x)
    assert load_model(module, example_inputs=[x]).inputs[0].shape == (1, 3, 16, 16)


@needs_torch
def test_example_inputs_are_needed():
    module, _ = network()
    with pytest.raises(InputError, match=r"example_inputs=torch\.randn"):
        load_model(module)


@needs_torch
def test_module_that_fails():
    import torch

    class Bad(torch.nn.Module):
        def forward(self, x):
            raise ValueError("broken layer")

    with pytest.raises(ModelError, match="broken layer"):
        load_model(Bad(), example_inputs=torch.ones(1))


@needs_torch
def test_nothing_is_printed(capfd):
    module, x = network()
    load_model(module, example_inputs=x)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
