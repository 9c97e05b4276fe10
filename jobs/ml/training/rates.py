"""The learning rate as a function of the step: it is warmed up and falls anew in each cycle."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["cosine", "linear", "constant"]


def rate_factor(step: int, num_steps: int, kind: Kind, warmup_ratio: float) -> float:
    """What the peak rate is multiplied by in a step, counted from 0.

    In the first `warmup_ratio` of the steps (rounded up) it rises evenly to 1, and then falls: along half a
    cosine, or evenly, to what would be 0 behind the last step. No step has 0, as transformers' first
    one has: a week's mail makes few steps.
    """
    num_warmup = math.ceil(num_steps * warmup_ratio)
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    if kind == "constant":
        return 1.0
    behind = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    return 1.0 - behind if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * behind))
