"""Dense integer kernels: convolution (any groups) and matrix multiplication."""
