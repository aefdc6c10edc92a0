"""A wrong TVM is refused before it is imported."""

from importlib import metadata

import pytest

from tvmquant import _versions


@pytest.fixture
def installed(monkeypatch):
    versions = dict(_versions.PINS)

    def version(package):
        if versions[package] is None:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(metadata, "version", version)
    return versions


def test_the_pinned_versions_pass(installed):
    _versions.check_versions()


@pytest.mark.parametrize("package", list(_versions.PINS))
@pytest.mark.parametrize("found", ["0.1.15.post2", None])
def test_any_other_version_is_refused_with_the_pip_line(installed, package, found):
    installed[package] = found
    with pytest.raises(ImportError) as caught:
        _versions.check_versions()
    message = str(caught.value)
    assert f"{package}=={_versions.PINS[package]} (found: {found or 'not installed'})" in message
    assert "python -m pip install 'apache-tvm==0.27.0.post1' 'apache-tvm-ffi==" in message


def test_pins_are_those_of_the_package():
    required = metadata.requires("tvmquant")
    for package, version in _versions.PINS.items():
        assert f"{package}=={version}" in required
