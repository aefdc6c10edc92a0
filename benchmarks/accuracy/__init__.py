"""The accuracy laboratory: what every method of quantization is worth, on trained networks.

``python -m benchmarks.accuracy`` measures each row of :mod:`benchmarks.accuracy.methods` and the
other tools (``peers_*.py``) on the same networks and the same calibration data.
"""
