"""What runs on the machine with the GPU: Python, NumPy, PyTorch if it is there, TVM's runtime."""
