"""Classes of A64 instructions, read from the instruction word.

Encodings: Arm Architecture Reference Manual for A-profile, "A64 instruction set encoding". The
first level of the decoding (bits 28:25) tells branches, loads and stores, vector and scalar
computation apart; tables name the vector multiplications.
"""

from __future__ import annotations

import numpy as np

CLASSES = (
    "simd_multiply",
    "simd_other",
    "simd_load",
    "simd_store",
    "load",
    "store",
    "scalar",
    "branch",
)
_INDEX = {name: index for index, name in enumerate(CLASSES)}

# (mask, value) of the vector instructions that multiply, with or without accumulation. U (bit 29)
# and size (bits 23:22) are left open where they choose signedness, subtraction or element size.
_MULTIPLY = (
    # Three vectors of one type.
    (0x9F20FC00, 0x0E209400),  # MLA, MLS
    (0x9F20FC00, 0x0E209C00),  # MUL, PMUL
    (0x9F20FC00, 0x0E20B400),  # SQDMULH, SQRDMULH
    (0xBF20FC00, 0x0E20CC00),  # FMLA, FMLS
    (0x9F20FC00, 0x0E20DC00),  # FMUL, FMULX
    (0xBF60FC00, 0x0E400C00),  # FMLA of half precision
    (0xBF60FC00, 0x0EC00C00),  # FMLS of half precision
    (0x9F60FC00, 0x0E401C00),  # FMUL, FMULX of half precision
    # Widening.
    (0x9F20FC00, 0x0E208000),  # SMLAL, UMLAL
    (0x9F20FC00, 0x0E20A000),  # SMLSL, UMLSL
    (0x9F20FC00, 0x0E20C000),  # SMULL, UMULL
    (0xBF20FC00, 0x0E20E000),  # PMULL
    (0xBF20FC00, 0x0E209000),  # SQDMLAL
    (0xBF20FC00, 0x0E20B000),  # SQDMLSL
    (0xBF20FC00, 0x0E20D000),  # SQDMULL
    # Dot products and matrices.
    (0x9F20FC00, 0x0E009400),  # SDOT, UDOT
    (0xBF20FC00, 0x0E009C00),  # USDOT
    (0xBFA0FC00, 0x2E008400),  # SQRDMLAH
    (0xBFA0FC00, 0x2E008C00),  # SQRDMLSH
    (0x9F20FC00, 0x0E00A400),  # SMMLA, UMMLA
    (0xBF20FC00, 0x0E00AC00),  # USMMLA
    (0xBF20FC00, 0x2E00EC00),  # BFMMLA
    (0xBF20FC00, 0x2E00FC00),  # BFDOT, BFMLAL
    # By one element.
    (0xBF00F400, 0x2F000000),  # MLA
    (0xBF00F400, 0x2F004000),  # MLS
    (0xBF00F400, 0x0F008000),  # MUL
    (0x9F00F400, 0x0F002000),  # SMLAL, UMLAL
    (0x9F00F400, 0x0F006000),  # SMLSL, UMLSL
    (0x9F00F400, 0x0F00A000),  # SMULL, UMULL
    (0x9F00F400, 0x0F00E000),  # SDOT, UDOT
    (0xBF00F400, 0x0F00F000),  # USDOT, SUDOT, BFDOT
    (0xBF00F400, 0x0F001000),  # FMLA
    (0xBF00F400, 0x0F005000),  # FMLS
    (0x9F00F400, 0x0F009000),  # FMUL, FMULX
    (0xBF00F400, 0x0F003000),  # SQDMLAL
    (0xBF00F400, 0x0F007000),  # SQDMLSL
    (0xBF00F400, 0x0F00B000),  # SQDMULL
    (0xBF00F400, 0x0F00C000),  # SQDMULH
    (0xBF00F400, 0x0F00D000),  # SQRDMULH
    (0xBF00F400, 0x2F00D000),  # SQRDMLAH
    (0xBF00F400, 0x2F00F000),  # SQRDMLSH
)


def classify(words: np.ndarray) -> np.ndarray:
    """Class of each instruction.

    Parameters
    ----------
    words : np.ndarray
        uint32 ``[n]``.

    Returns
    -------
    np.ndarray
        Indices into :data:`CLASSES`, ``[n]``. Floating-point instructions count as ``simd_other``
        even on one number, prefetches as ``load``, hints as ``branch`` (they share its group).
    """
    words = np.asarray(words, np.uint32)
    group = words >> 25 & 0xF
    vector = words >> 26 & 1 == 1
    result = np.full(words.shape, _INDEX["scalar"])
    result[group & 0b1110 == 0b1010] = _INDEX["branch"]
    computes = group & 0b0111 == 0b0111
    result[computes] = _INDEX["simd_other"]
    for mask, value in _MULTIPLY:
        result[computes & (words & np.uint32(mask) == value)] = _INDEX["simd_multiply"]
    memory = group & 0b0101 == 0b0100
    stores = memory & _is_store(words, vector)
    result[memory & vector] = _INDEX["simd_load"]
    result[memory & ~vector] = _INDEX["load"]
    result[stores & vector] = _INDEX["simd_store"]
    result[stores & ~vector] = _INDEX["store"]
    return result


def _is_store(words: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Whether loads and stores are stores."""
    kind = words >> 28 & 3
    bit_22 = words >> 22 & 1 == 0
    # Bits 23:22 of one register: 00 stores, 01 loads, 1x depends on what it is.
    opc = words >> 22 & 3
    one_register = np.where(vector, opc & 1 == 0, opc == 0)
    # 00: structures and exclusives; 01: literals (loads); 10: pairs; 11: one register.
    return np.select([kind == 0, kind == 1, kind == 2], [bit_22, False, bit_22], one_register)


def is_branch(words: np.ndarray) -> np.ndarray:
    """Whether the instructions may end a basic block."""
    return classify(words) == _INDEX["branch"]
