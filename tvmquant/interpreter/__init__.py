"""Run a Relax graph in any stage (float, QDQ, realized) operator by operator in NumPy.

Integer operators run through :mod:`tvmquant.reference`, so the result of a realized graph is what
every compiled module must reproduce bit for bit. Nothing is compiled, except for float operators
without a NumPy evaluator (see :mod:`tvmquant.interpreter.fallback`).
"""

from tvmquant.interpreter.interpreter import Interpreter

__all__ = ["Interpreter"]
