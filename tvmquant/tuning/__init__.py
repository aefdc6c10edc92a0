"""Auto-scheduling: measure kernels and their sizes on this machine and keep the fastest."""

from tvmquant.tuning.active import active_database, open_database
from tvmquant.tuning.database import Database, DatabaseWarning
from tvmquant.tuning.model import functions_of, tune_traces, tune_workloads, workloads_of
from tvmquant.tuning.trials import LayerTuning, Trials, TuneReport

__all__ = [
    "Database",
    "DatabaseWarning",
    "LayerTuning",
    "Trials",
    "TuneReport",
    "active_database",
    "functions_of",
    "open_database",
    "tune_traces",
    "tune_workloads",
    "workloads_of",
]
