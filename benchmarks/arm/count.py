"""Counts one layer: ``python -m benchmarks.arm.count "3x3 64->64 @28" --cpu cortex-a72``."""

from __future__ import annotations

import click

from benchmarks.arm.isa import CLASSES
from benchmarks.arm.ncnn_layer import count_ncnn
from benchmarks.arm.ours import count_kernel, device_of, find, workload_of
from benchmarks.arm.plugin import Counts
from benchmarks.arm.table_layers import find_layer
from tests.emulated_pi import CPUS, emulated_pi
from tvmquant.precision import parse_bits


def describe(name: str, counts: Counts, macs: int, reference: int | None = None) -> str:
    """One line: executed instructions, by class, multiply-accumulates a SIMD instruction."""
    classes = counts.by_class()
    simd = classes["simd_multiply"] + classes["simd_other"]
    columns = [f"{name:30}", f"{counts.total:12,}"]
    columns += [f"{classes[name]:11,}" for name in CLASSES]
    columns.append(f"{macs / max(simd, 1):7.2f}")
    if reference:
        columns.append(f"{counts.total / reference:6.3f}")
    return " ".join(columns)


def header() -> str:
    """What the columns of :func:`describe` are."""
    columns = [f"{'':30}", f"{'executed':>12}", *(f"{name[-11:]:>11}" for name in CLASSES)]
    return " ".join([*columns, "MAC/op ", "x int8"])


@click.command()
@click.argument("layer")
@click.option("--bits", default="8", help="Precisions, for example 8,w4a8,4,2,w1a2,1.")
@click.option("--cpu", default="cortex-a72", help=f"Of {', '.join(CPUS)}, or any of qemu's.")
@click.option("--mattr", multiple=True, help="Feature of the kernel's target, such as +i8mm.")
@click.option(
    "--kernel", default="", help="Part of the kernel's name; default: what compile takes."
)
@click.option("--ncnn/--no-ncnn", default=True)
def main(layer: str, bits: str, cpu: str, mattr: tuple[str, ...], kernel: str, ncnn: bool) -> None:
    """Count the executed instructions of LAYER, such as "3x3 64->64 @28" or "dw 3x3 144 @56"."""
    found = find_layer(layer)
    device = device_of(cpu, *mattr)
    click.echo(f"{found.name}, {found.macs:,} multiply-accumulates, {cpu}, executed instructions")
    click.echo(header())
    reference = None
    if ncnn:
        for precision in ("int8", "int8 inner", "fp32"):
            counts = count_ncnn(emulated_pi(python=True), cpu, found, precision)
            reference = reference or counts.total
            click.echo(describe(f"ncnn {precision}", counts, found.macs, reference))
    for precision in bits.split(","):
        w_bits, x_bits = parse_bits(precision)
        workload = workload_of(found, x_bits, w_bits)
        result = count_kernel(emulated_pi(), cpu, find(workload, device, kernel), workload)
        name = f"w{w_bits}a{x_bits} {result.label}" + ("" if result.exact else " WRONG")
        click.echo(describe(name, result.counts, found.macs, reference))


if __name__ == "__main__":
    main()
