"""Which candidates to measure next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmquant.schedules.workload import Workload
from tvmquant.tuning.candidates import Candidate
from tvmquant.tuning.cost_model import CostModel

# Share of a batch that is drawn at random, so that the model also learns where it is wrong.
_EXPLORE = 0.2


def next_batch(
    workload: Workload,
    untried: Sequence[Candidate],
    model: CostModel,
    size: int,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Up to ``size`` candidates: all defaults first, then the most promising and some others.

    Parameters
    ----------
    workload : Workload
    untried : sequence of Candidate
        Not measured yet.
    model : CostModel
    size : int
    rng : np.random.Generator
    """
    batch = [candidate for candidate in untried if candidate.default][:size]
    rest = [candidate for candidate in untried if not candidate.default]
    room = min(size - len(batch), len(rest))
    if room <= 0:
        return batch
    order = np.argsort(-model.scores(workload, rest), kind="stable")
    # At least one of a batch of one is the best guess.
    random = int(rng.binomial(room - 1, _EXPLORE)) if len(rest) > room else 0
    chosen = list(order[: room - random])
    if random:
        chosen += list(rng.choice(order[room - random :], random, replace=False))
    return [*batch, *(rest[i] for i in chosen)]
