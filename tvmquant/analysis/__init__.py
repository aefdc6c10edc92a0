"""Where accuracy goes: layer by layer, before and after compiling, and how to get it back."""

from tvmquant.analysis.report import EdgeSensitivity, LayerSensitivity, SensitivityReport
from tvmquant.analysis.sensitivity import sensitivity

__all__ = ["EdgeSensitivity", "LayerSensitivity", "SensitivityReport", "sensitivity"]
