"""From a trained ONNX file to a Raspberry Pi, without a toolchain and without Python on the Pi.

Needs ``pip install -e '.[cross]'``. Against a real board, over ssh::

    python tutorials/deploy_raspberry_pi.py --ssh pi@raspberrypi --target rpi4

Without one, on an emulated board (``apt-get install qemu-user``; downloads 26 MB)::

    python tutorials/deploy_raspberry_pi.py --target rpi4

The network is the Fashion-MNIST classifier of ``tvmquant demo``; put your own ONNX file, your own
calibration pictures and your own preparation of them in its place.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import click
import numpy as np

import tvmquant
from tvmquant.demo import normalise
from tvmquant.errors import InputError
from tvmquant.runtime.export import exported_bytes

PICTURES = 20
ASSETS = Path(str(files("tvmquant") / "assets"))
# Processor that qemu emulates for each board.
CPUS = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76"}

# Runs a program of the bundle on the device, in its folder, and returns what it printed.
Device = Callable[[Sequence[str]], str]


def emulated(bundle: Path, target: str) -> Device:
    """The Raspberry Pi that the tests use: qemu and a folder of Debian's libraries."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from emulated_pi import Unavailable, emulated_pi

    try:
        pi = emulated_pi()
    except Unavailable as reason:
        raise click.ClickException(f"no emulated Raspberry Pi: {reason}") from None

    def run(command: Sequence[str]) -> str:
        program = [bundle / command[0], *command[1:]]
        return pi.run(program, cpu=CPUS[target], cwd=bundle).stdout

    return run


def over_ssh(bundle: Path, host: str) -> Device:
    """A real board: the folder is copied to the home directory of ``host``."""
    subprocess.run(["scp", "-rq", str(bundle), f"{host}:"], check=True)

    def run(command: Sequence[str]) -> str:
        line = f"cd {bundle.name} && ./{' '.join(command)}"
        return subprocess.run(
            ["ssh", host, line], check=True, capture_output=True, text=True
        ).stdout

    return run


@click.command()
@click.option("--target", default="rpi4", show_default=True, type=click.Choice(sorted(CPUS)))
@click.option("--bits", default="w4a8", show_default=True)
@click.option("--ssh", metavar="USER@HOST", help="A real board; an emulated one by default.")
def main(target: str, bits: str, ssh: str | None) -> None:
    """Quantize, compile, export, copy, run, and compare with this machine."""
    data = np.load(ASSETS / "demo_test.npz")
    pictures, labels = normalise(data["x"][:PICTURES]), data["y"][:PICTURES]

    # 1. Quantize once. Everything after this is exact: each device gives the same bits.
    calibration = {"image": normalise(data["x_calib"])}
    quantized = tvmquant.quantize(ASSETS / "demo.onnx", bits, calibration=calibration)

    # 2. Compile twice: for this machine, to check, and for the board.
    here = tvmquant.compile(quantized)
    there = tvmquant.compile(quantized, target=target)
    try:
        there(pictures[:1])
    except InputError as error:
        click.echo(f"As it should be: {error}")

    with tempfile.TemporaryDirectory() as work:
        # 3. Export: model, runtime, a C program that runs it, and a manifest, in one folder.
        bundle = there.export(Path(work) / f"fashion-{target}")
        click.echo(f"{bundle.name}: {exported_bytes(bundle):,} bytes")
        for entry in sorted(bundle.iterdir()):
            click.echo(f"  {entry.stat().st_size:>9,}  {entry.name}")

        # 4. Run it there, on .npy files.
        for index, picture in enumerate(pictures):
            np.save(bundle / f"picture{index}.npy", picture[None])
        run = over_ssh(bundle, ssh) if ssh else emulated(bundle, target)
        click.echo(run(["run", "--info"]).strip())
        results = []
        for index in range(PICTURES):
            run(["run", f"picture{index}.npy", "-o", f"scores{index}.npy"])
            if ssh:
                source = f"{ssh}:{bundle.name}/scores{index}.npy"
                subprocess.run(["scp", "-q", source, str(bundle)], check=True)
            results.append(np.load(bundle / f"scores{index}.npy"))

        # 5. The same bits as here, and right for most pictures.
        same = all(np.array_equal(a, here(x[None])) for a, x in zip(results, pictures))
        right = np.mean([scores.argmax() == label for scores, label in zip(results, labels)])
        click.echo(f"same bits as on this machine: {same}; top-1 {right:.0%} of {PICTURES}")

        # 6. How long it takes: of a real board. Times of an emulated one mean nothing.
        if ssh:
            click.echo(run(["run", "--bench", "50", "picture0.npy"]).strip())
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
