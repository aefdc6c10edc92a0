"""The counter of executed ARM instructions, on loops whose counts are known."""

import numpy as np
import pytest
from emulated_pi import Unavailable

from benchmarks.arm import cycles
from benchmarks.arm.cross import cross_compile
from benchmarks.arm.isa import CLASSES, classify
from benchmarks.arm.plugin import Counts, count_call

# A vector loop of known length: seven instructions an iteration.
LOOP = """
void loop(const short *x, long n) {
    __asm__ volatile(
        "1: ldr q0, [%0]\\n"
        "ldr x9, [%0]\\n"
        "str q0, [sp, #-16]\\n"
        "smlal v1.4s, v0.4h, v2.4h\\n"
        "addp v3.4s, v3.4s, v1.4s\\n"
        "subs %1, %1, #1\\n"
        "b.ne 1b\\n"
        : "+r"(x), "+r"(n) :: "v0", "v1", "v2", "v3", "x9", "memory", "cc");
}
"""
MAIN = """
#include <dlfcn.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    short x[8] = {0};
    void (*loop)(const short *, long) = (void (*)(const short *, long))dlsym(
        dlopen(argv[1], RTLD_NOW), "loop");
    for (long calls = atol(argv[2]); calls > 0; calls--)
        loop(x, atol(argv[3]));
    return argc != 4;
}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A library with the loop, and a program that calls it."""
    folder = tmp_path_factory.mktemp("loop").resolve()
    (folder / "loop.c").write_text(LOOP)
    (folder / "main.c").write_text(MAIN)
    library, program = folder / "loop.so", folder / "main"
    try:
        shared = ["-shared", "-fPIC", "-nostdlib"]
        cross_compile(["-O2", *shared, "-o", library, folder / "loop.c"])
        cross_compile(["-O2", "-o", program, folder / "main.c", "-ldl"])
    except Unavailable as reason:
        pytest.skip(str(reason))
    return library, program


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_counts_of_a_loop(pi, programs, cpu):
    library, program = programs

    def executed(iterations):
        def command(calls):
            return [program, library, str(calls), str(iterations)]

        try:
            return count_call(pi, cpu, command, library)
        except Unavailable as reason:
            pytest.skip(str(reason))

    long, short = executed(1000), executed(10)
    assert long.total - short.total == 7 * 990
    ours, fewer = long.by_class(), short.by_class()
    assert {name: ours[name] - fewer[name] for name in CLASSES} == {
        "simd_multiply": 990,
        "simd_other": 990,
        "simd_load": 990,
        "simd_store": 990,
        "load": 990,
        "store": 0,
        "scalar": 990,
        "branch": 990,
    }
    hottest = cycles.blocks_of(long)[0]
    assert (len(hottest.words), hottest.executions) == (7, 1000)


# Words of the assembler, with the class each belongs to.
WORDS = {
    0x0E628020: "simd_multiply",  # smlal v0.4s, v1.4h, v2.4h
    0x4F422020: "simd_multiply",  # smlal2 v0.4s, v1.8h, v2.h[0]
    0x0E22C020: "simd_multiply",  # smull v0.8h, v1.8b, v2.8b
    0x4E829420: "simd_multiply",  # sdot v0.4s, v1.16b, v2.16b
    0x4F82E020: "simd_multiply",  # sdot v0.4s, v1.16b, v2.4b[0]
    0x4E82A420: "simd_multiply",  # smmla v0.4s, v1.16b, v2.16b
    0x4E229420: "simd_multiply",  # mla v0.16b, v1.16b, v2.16b
    0x4E22CC20: "simd_multiply",  # fmla v0.4s, v1.4s, v2.4s
    0x4F821020: "simd_multiply",  # fmla v0.4s, v1.4s, v2.s[0]
    0x4E606820: "simd_other",  # sadalp v0.4s, v1.8h
    0x4E205820: "simd_other",  # cnt v0.16b, v1.16b
    0x6E221C20: "simd_other",  # eor v0.16b, v1.16b, v2.16b
    0x4E020020: "simd_other",  # tbl v0.16b, {v1.16b}, v2.16b
    0x4EA28420: "simd_other",  # add v0.4s, v1.4s, v2.4s
    0x4E040C20: "simd_other",  # dup v0.4s, w1
    0x3DC00020: "simd_load",  # ldr q0, [x1]
    0xAD400420: "simd_load",  # ldp q0, q1, [x1]
    0x4C407020: "simd_load",  # ld1 {v0.16b}, [x1]
    0x4D40C820: "simd_load",  # ld1r {v0.4s}, [x1]
    0x3D800020: "simd_store",  # str q0, [x1]
    0x4C007020: "simd_store",  # st1 {v0.16b}, [x1]
    0xAD000420: "simd_store",  # stp q0, q1, [x1]
    0xF9400020: "load",  # ldr x0, [x1]
    0x38C00020: "load",  # ldursb w0, [x1]
    0xA9400420: "load",  # ldp x0, x1, [x1]
    0x58000040: "load",  # ldr x0, literal
    0xF9000020: "store",  # str x0, [x1]
    0xA9000420: "store",  # stp x0, x1, [x1]
    0x8B020020: "scalar",  # add x0, x1, x2
    0x9B020C20: "scalar",  # madd x0, x1, x2, x3
    0xD2800020: "scalar",  # mov x0, #1
    0x54000001: "branch",  # b.ne
    0x94000000: "branch",  # bl
    0xD65F03C0: "branch",  # ret
    0x37000000: "branch",  # tbnz w0, #0
}


def test_classes():
    words = np.array(list(WORDS), np.uint32)
    found = [CLASSES[index] for index in classify(words)]
    assert found == list(WORDS.values())


def test_words_are_what_the_comments_say():
    try:
        text = cycles.disassemble(np.array(list(WORDS), np.uint32))
    except Unavailable as reason:
        pytest.skip(str(reason))
    multiplies = ("mla", "mlal", "mull", "dot", "mmla")
    for line, kind in zip(text, WORDS.values(), strict=True):
        name = line.split()[0].removesuffix("2")
        assert name.endswith(multiplies) == (kind == "simd_multiply"), line


def test_blocks_end_at_branches_and_where_counts_change():
    words = np.array([0x8B020020, 0x54000001, 0x8B020020, 0x8B020020, 0xD65F03C0], np.uint32)
    counts = Counts(None, np.arange(0, 20, 4), words, np.array([5, 5, 5, 1, 1]))
    blocks = [(b.offset, len(b.words), b.executions) for b in cycles.blocks_of(counts)]
    assert blocks == [(0, 2, 5), (8, 1, 5), (12, 2, 1)]


def test_advisory_cycles_of_a_dependent_chain():
    # Each fmla waits for the sum of the one before.
    chain, one = np.array([0x4E22CC20] * 4, np.uint32), np.array([0x4E22CC20], np.uint32)
    try:
        long, short = cycles.block_cycles([chain, one], "cortex-a53")
        assert short > 1 and long == pytest.approx(4 * short, rel=0.05)
    except Unavailable as reason:
        pytest.skip(str(reason))
