"""The emulated Raspberry Pi itself, and the whole chain on it."""

import pytest
from emulated_pi import CPUS


@pytest.mark.parametrize("cpu", CPUS)
def test_the_emulated_pi_runs_arm_code_of_the_chosen_core(pi, cpu):
    done = pi.run([pi.root / "lib" / "ld-linux-aarch64.so.1", "--help"], cpu=cpu)
    # The loader lists the features that it sees; only the Cortex-A76 has these.
    assert "ld.so" in done.stdout


def test_python_on_the_emulated_pi_has_tvm(pi_python):
    code = "import platform, tvm; print(platform.machine(), tvm.__version__)"
    assert pi_python.run_python(["-c", code]).stdout.split()[0] == "aarch64"
