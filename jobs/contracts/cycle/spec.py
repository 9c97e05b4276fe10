"""The RetrainCycle itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from jobs.contracts.cycle.bounds import DAY_SECONDS, ENTRIES, YEAR_SECONDS, Address, CycleModel, Labels, Name, StageName
from jobs.contracts.cycle.data import (
    Filters,
    RehearsalSpec,
    Retention,
    Source,
    SplitSpec,
    StoreSpec,
    WindowSpec,
)
from jobs.contracts.cycle.learning import EvaluationSpec, ModelSpec, PromotionSpec, SelectionSpec, TrainingSpec
from jobs.contracts.cycle.pods import StageOverride
from jobs.contracts.stages import STAGES


class CycleSpec(CycleModel):
    """What one cycle is to do."""

    archive: Name
    """Which log, chunks, index and adapters. Cycles of one archive run one at a time, in order of creation."""
    store: StoreSpec
    """Where the archive is kept."""
    model: ModelSpec
    """What is trained."""
    sources: Annotated[list[Source], Field(max_length=64)] = []
    """New mail; empty: what is in the log already."""
    split: SplitSpec = SplitSpec()
    """How mail becomes chunks."""
    window: WindowSpec = WindowSpec()
    """Which chunks are this cycle's."""
    filters: Filters = Filters()
    """Which mail comes in."""
    persona: Annotated[list[Address], Field(max_length=100)] = []
    """Addresses of those whose voice is learnt; empty: everyone's."""
    rehearsal: RehearsalSpec = RehearsalSpec()
    """How much of the old is mixed in."""
    retention: Retention = Retention()
    """What is kept."""
    training: TrainingSpec = TrainingSpec()
    """How it is trained."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How checkpoints are scored."""
    selection: SelectionSpec = SelectionSpec()
    """How the winner is chosen."""
    promotion: PromotionSpec = PromotionSpec()
    """How the winner comes into service."""
    stages: Annotated[dict[StageName, StageOverride], Field(max_length=len(STAGES)), ENTRIES] = {}
    """What may differ in single stages' pods."""
    deadline_seconds: Annotated[int, Field(ge=1, le=YEAR_SECONDS)] | None = None
    """How long the whole cycle may take from its first stage on, suspensions included; then it has failed."""
    suspend: bool = False
    """Stop what runs, which saves, and go on from there when this is false again."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=10 * YEAR_SECONDS)] = 30 * DAY_SECONDS
    """How long a finished cycle stays."""

    @property
    def archive_url(self) -> str:
        """The archive's own place in the store."""
        return f"{self.store.url.rstrip('/')}/{self.archive}"


class Metadata(CycleModel):
    """As of every object of Kubernetes; what a server adds is passed over."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    """Name of the cycle."""
    namespace: Name | None = None
    """Its namespace."""
    labels: Labels = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class RetrainCycle(CycleModel):
    """One cycle: new mail in, and perhaps a better adapter in service."""

    api_version: Literal["refrain.dev/v1alpha1"]
    """refrain.dev/v1alpha1"""
    kind: Literal["RetrainCycle"]
    """RetrainCycle"""
    metadata: Metadata
    """Its name."""
    spec: CycleSpec
    """What it is to do."""
    status: dict[str, Any] | None = None
    """Written by the controller; a file needs none."""
