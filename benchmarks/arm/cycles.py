"""Advisory cycles: llvm-mca's model of each hot block, times how often the block ran.

A block is a run of instructions that were executed equally often, up to a branch. llvm-mca knows
the pipeline of a core and the dependencies of registers; it assumes that every load hits the first
cache and every branch is predicted, and it takes a block as if it followed itself. LLVM describes
a Cortex-A72 with its model of the A57. It does so with a Cortex-A76, too, which is wrong: there a
table look-up takes one operation instead of three to five, for example. Its sibling Neoverse N1
has a model of its own, which is taken for it here. So these are no times.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.arm.isa import is_branch
from benchmarks.arm.plugin import Counts
from tests.emulated_pi import Unavailable

# Blocks are looked at until they hold this much of all executed instructions.
COVERED = 0.98
_ITERATIONS = 100
_VERSIONS = ("-20", "-19", "-18", "")
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)
_MODELS = {"cortex-a76": "neoverse-n1"}
_FEATURES = "+v8.2a,+dotprod,+i8mm,+fullfp16,+bf16,+fp16fml"


@dataclass(frozen=True)
class Block:
    """Instructions that follow each other.

    Attributes
    ----------
    offset : int
        In the library's file.
    words : np.ndarray
        uint32 ``[n]``.
    executions : int
    cycles : float
        llvm-mca's cycles of one execution.
    """

    offset: int
    words: np.ndarray
    executions: int
    cycles: float = 0.0

    @property
    def instructions(self) -> int:
        """Executed instructions."""
        return self.executions * len(self.words)


@dataclass(frozen=True)
class Cycles:
    """Advisory cycles of one call.

    Attributes
    ----------
    total : float
        Cycles of the blocks looked at, scaled to all executed instructions.
    covered : float
        Part of the executed instructions that lie in those blocks.
    hottest : Block
        The block with the most executed instructions: the inner loop.
    blocks : tuple of Block
    """

    total: float
    covered: float
    hottest: Block
    blocks: tuple[Block, ...]


def blocks_of(counts: Counts) -> list[Block]:
    """All blocks, those with the most executed instructions first."""
    follows = np.diff(counts.offsets) == 4
    same = np.diff(counts.executions) == 0
    cut = np.flatnonzero(~(follows & same) | is_branch(counts.words)[:-1]) + 1
    blocks = []
    for part in np.split(np.arange(len(counts.offsets)), cut):
        first = part[0]
        block = Block(int(counts.offsets[first]), counts.words[part], int(counts.executions[first]))
        blocks.append(block)
    return sorted(blocks, key=lambda block: -block.instructions)


def estimate(counts: Counts, cpu: str) -> Cycles:
    """Advisory cycles of ``counts`` on ``cpu``.

    Raises
    ------
    Unavailable
        If LLVM's tools are missing.
    """
    chosen: list[Block] = []
    seen = 0
    for block in blocks_of(counts):
        if seen >= COVERED * counts.total:
            break
        seen += block.instructions
        chosen.append(block)
    cycles = block_cycles([block.words for block in chosen], cpu)
    blocks = tuple(replace(block, cycles=each) for block, each in zip(chosen, cycles))
    total = sum(block.cycles * block.executions for block in blocks)
    return Cycles(total * counts.total / seen, seen / counts.total, blocks[0], blocks)


def block_cycles(blocks: Sequence[np.ndarray], cpu: str) -> list[float]:
    """Cycles of one execution of each block, taken as if it followed itself."""
    lines = iter(disassemble(np.concatenate(blocks)))
    regions = []
    for block in blocks:
        regions += ["# LLVM-MCA-BEGIN", *itertools.islice(lines, len(block)), "# LLVM-MCA-END"]
    command = [_tool("llvm-mca"), "-mtriple=aarch64-linux-gnu", f"-mcpu={_MODELS.get(cpu, cpu)}"]
    command += [f"-mattr={_FEATURES}", f"-iterations={_ITERATIONS}"]
    command += ["-instruction-info=false", "-resource-pressure=false"]
    text = "\n".join(regions)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = [int(cycles) / _ITERATIONS for cycles in _CYCLES.findall(done.stdout)]
    if len(found) != len(blocks):
        raise RuntimeError(f"llvm-mca on {cpu}: {done.stderr.strip()}")
    return found


def disassemble(words: np.ndarray) -> list[str]:
    """Assembly text of uint32 instruction words, an element an instruction."""
    text = " ".join(f"0x{byte:02x}" for byte in words.astype("<u4").tobytes())
    command = [_tool("llvm-mc"), "--disassemble", "-triple=aarch64-linux-gnu"]
    done = subprocess.run(
        [*command, f"-mattr={_FEATURES}"], input=text, capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line.replace("\t", " ") for line in lines if line and not line.startswith(".")]


@functools.cache
def _tool(name: str) -> str:
    for version in _VERSIONS:
        path = shutil.which(name + version)
        if path:
            return path
    raise Unavailable(f"no {name}: apt-get install llvm-19")


@functools.cache
def llvm_version() -> str:
    """Version of the tools."""
    text = subprocess.run(
        [_tool("llvm-mca"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return re.search(r"LLVM version (\S+)", text)[1]
