"""ARM without ARM hardware: executed instructions under emulation, next to ncnn."""
