"""The RetrainCycle: what one cycle is to do, as a person writes it.

The same file is applied to a cluster and run without one. Field docstrings are what `kubectl explain`
says; names are Python's here and camelCase in the file. Every string, list and map is bounded.
"""

from jobs.contracts.cycle.reading import json_schema, load_cycle
from jobs.contracts.cycle.spec import CycleSpec, RetrainCycle

__all__ = ["CycleSpec", "RetrainCycle", "json_schema", "load_cycle"]
