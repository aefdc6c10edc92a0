"""tvmquant: a low-bit quantization compiler on Apache TVM."""

from tvmquant._versions import check_versions

check_versions()
