"""The learning half of a cycle: what is trained and how, how the winner is chosen and comes into service."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from jobs.contracts.cycle.bounds import DAY_SECONDS, ENTRIES, YEAR_SECONDS, CycleModel, rules, text

MANY_RANKS = 128
"""The most that an adapter is known to have use for."""


def rank_notes(rank: int) -> list[str]:
    """What a user should know of a rank."""
    if rank <= MANY_RANKS:
        return []
    what = f"rank {rank} is more than {MANY_RANKS}: an adapter of mail has no known use for it"
    return [f"{what}, and memory, checkpoints and time grow with it"]


class Lora(CycleModel):
    """The adapter."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update; more than 128 has no known use."""
    alpha: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Scale: the update is multiplied by alpha / rank; absent: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapter's input."""
    target_modules: Annotated[str, text(1024)] = "all-linear"
    """all-linear, or names of modules with commas between them."""


class ModelSpec(CycleModel):
    """What is trained."""

    base: Annotated[str, text(512)]
    """Base model: a name on the hub, a folder, or s3://. Fixed for an archive at its first cycle."""
    revision: Annotated[str, text(128)] | None = None
    """Commit of the base model on the hub; absent: the one that the first cycle found."""
    start_from: Literal["Incumbent", "Base"] = "Incumbent"
    """Train the adapter in service further, or a fresh one."""
    lora: Lora = Lora()
    """The adapter."""


class EarlyStopping(CycleModel):
    """When training ends before its time."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without improvement."""
    min_delta: Annotated[float, Field(ge=0, le=100)] = 0.001
    """Fall in val loss that counts as improvement."""


_NOBODY_TO_SHARE_WITH = "shardModel needs several processes: nodes or processesPerNode above 1"
_SHARDED_IN_4_BITS = "shardModel and quantization exclude each other: a model in 4 bits is not cut up"


class TrainingSpec(CycleModel):
    """How it is trained."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("!self.shardModel || self.nodes * self.processesPerNode > 1", _NOBODY_TO_SHARE_WITH),
            ("!self.shardModel || !has(self.quantization)", _SHARDED_IN_4_BITS),
        )
    )

    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    """Passes over the new mail."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Peak learning rate."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Chunks in a batch."""
    batch_tokens: Annotated[int, Field(ge=64, le=2**31)] | None = None
    """Tokens in a batch, padding included, instead of a number of chunks."""
    learning_rate_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the rate rises to its peak."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Norm that gradients are clipped to."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Batches of the schedule in one optimiser step."""
    micro_batch_tokens: Annotated[int, Field(ge=64, le=2**31)] | None = None
    """Tokens, padding included, that go through the model at once; absent: a whole batch."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""
    quantization: Literal["4bit"] | None = None
    """Load the base model in 4 bits; NVIDIA GPUs alone."""
    report_to: Annotated[list[Literal["tensorboard", "mlflow", "wandb"]], Field(max_length=3)] = []
    """Where metrics are also sent, by each tool's own settings in the environment."""
    save_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """Steps between two checkpoints; an epoch's end is one too."""
    early_stopping: EarlyStopping | None = None
    """Absent: train to the end."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes, and GPUs, in each."""
    shard_model: bool = False
    """Cut the base model up over all processes (FSDP), for one that no GPU holds; false: each process holds it all."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of activations and of the frozen weights."""

    @model_validator(mode="after")
    def _can_be_cut_up(self) -> Self:
        if self.shard_model and self.nodes * self.processes_per_node == 1:
            raise ValueError(_NOBODY_TO_SHARE_WITH)
        if self.shard_model and self.quantization:
            raise ValueError(_SHARDED_IN_4_BITS)
        return self


class EvaluationSpec(CycleModel):
    """How checkpoints are scored."""

    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """Passages that are retrieved for a question."""
    embedding_model: Annotated[str, text(512)] = "sentence-transformers/all-MiniLM-L6-v2"
    """Model that passages are embedded with: a name on the hub, a folder, s3:// or package:."""
    max_queries: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """Questions asked of each checkpoint at most; 0: nothing is generated, perplexity alone."""
    max_new_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Tokens of an answer at most."""
    rag_metric: Literal["token_f1", "bleu", "rouge_l", "exact_match"] = "token_f1"
    """What RAG accuracy is the mean of."""
    batch_tokens: Annotated[int, Field(ge=64, le=2**31)] = 16_384
    """Tokens, padding included, that go through the model at once."""
    pods: Annotated[int, Field(ge=1, le=256)] = 1
    """Pods that the checkpoints are dealt among. A checkpoint whose pod fails for good is named, and not chosen."""


WEIGHTS = ("ppl", "rag", "recall")
"""What the weighted strategy adds up: 1 / val_perplexity, RAG accuracy and retrieval recall."""

_COMPARISON = r" *(<=|>=|<|>) *"
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_METRIC = r"(val_perplexity|val_loss|fluency|(rag_accuracy|retrieval_recall)_at_[0-9]{1,4})"
_THRESHOLD = re.compile(rf"([a-z][a-z0-9_]*){_COMPARISON}({_NUMBER})")


def _refuse_test_metric(name: str) -> None:
    """ValueError where a rule that chooses would look at the test set."""
    if "test" in name.split("_"):
        raise ValueError(f"{name} is a test metric: val chooses, test reports. Name a val metric")


def check_weights(weights: dict[str, float]) -> None:
    """ValueError for a weight that is not one of WEIGHTS, and where none is above 0."""
    for name in weights:
        _refuse_test_metric(name)
        if name not in WEIGHTS:
            raise ValueError(f"no weight is called {name!r}: there are {', '.join(WEIGHTS)}")
    if not sum(weights.values()):
        raise ValueError("at least one weight must be above 0")


def parse_threshold(text: str) -> tuple[str, str, float]:
    """Metric, comparison and limit of `val_perplexity <= 15`; ValueError for another form or an unknown metric."""
    match = _THRESHOLD.fullmatch(text)
    if not match:
        raise ValueError(f"not a threshold: {text!r}. Write it as val_perplexity <= 15")
    _refuse_test_metric(match[1])
    if not re.fullmatch(_METRIC, match[1]):
        raise ValueError(
            f"no metric is called {match[1]!r}: there are val_perplexity, val_loss, fluency, "
            "rag_accuracy_at_<k> and retrieval_recall_at_<k>"
        )
    return match[1], match[2], float(match[3])


_NO_TEST_METRIC = "a test metric chooses nothing: val chooses, test reports. Name a val metric"
_WEIGHT_RULES = rules(
    ("!self.exists(name, 'test' in name.split('_'))", _NO_TEST_METRIC),
    (f"self.all(name, name in {list(WEIGHTS)})", f"the weights are {', '.join(WEIGHTS)}"),
    ("self.exists(name, self[name] > 0.0)", "at least one weight must be above 0"),
)
_THRESHOLD_RULES = rules(
    (f"self.matches(r'^[a-z][a-z0-9_]*{_COMPARISON}{_NUMBER}$')", "write a threshold as val_perplexity <= 15"),
    ("!self.matches(r'^([a-z0-9]*_)*test(_|[^a-z0-9_])')", _NO_TEST_METRIC),
    (
        f"self.matches(r'^{_METRIC}[^a-z0-9_]')",
        "the metrics are val_perplexity, val_loss, fluency, rag_accuracy_at_<k> and retrieval_recall_at_<k>",
    ),
)
Weights = Annotated[
    dict[Annotated[str, text(63)], Annotated[float, Field(ge=0, le=1000)]],
    Field(max_length=len(WEIGHTS), json_schema_extra=_WEIGHT_RULES),
    ENTRIES,
]
Threshold = Annotated[str, text(128), Field(json_schema_extra=_THRESHOLD_RULES)]


class Rung(CycleModel):
    """How a further attempt trains, in relation to the cycle's settings."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    """What training.learningRate is multiplied by."""
    replay_at_cap: bool = False
    """Rehearse as much as rehearsal.maxShare allows, whatever rehearsal.ratio says."""


class SelectionSpec(CycleModel):
    """How the winner is chosen."""

    strategy: Literal["LowestLoss", "Weighted", "Pareto"] = "Weighted"
    """By val loss, by a weighted sum, or from the Pareto front."""
    weights: Weights = {"ppl": 0.5, "rag": 0.5}
    """Weights of the weighted strategy: ppl, rag, recall."""
    thresholds: Annotated[list[Threshold], Field(max_length=16)] = []
    """What every candidate must reach, such as `val_perplexity <= 15`."""
    improvement_threshold: Annotated[float, Field(ge=0, le=10)] = 0.02
    """Gain over the incumbent below which the cycle trains again."""
    max_retrain_attempts: Annotated[int, Field(ge=0, le=10)] = 2
    """How often it may."""
    ladder: Annotated[list[Rung], Field(min_length=1, max_length=10)] = [
        Rung(learning_rate_factor=0.5),
        Rung(learning_rate_factor=0.25, replay_at_cap=True),
    ]
    """How each further attempt trains, the first of them first; those beyond the last rung train like it."""

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        check_weights(weights)
        return weights

    @field_validator("thresholds")
    @classmethod
    def _known_thresholds(cls, thresholds: list[str]) -> list[str]:
        for threshold in thresholds:
            parse_threshold(threshold)
        return thresholds


class Gate(CycleModel):
    """What the winner must show against the incumbent."""

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Of the interval that must lie above zero."""
    min_threads: Annotated[int, Field(ge=2, le=100_000)] = 12
    """With fewer val threads in the half that judges, evidence is insufficient and the incumbent stays."""


class PromotionSpec(CycleModel):
    """How the winner comes into service."""

    mode: Literal["Automatic", "Manual"] = "Automatic"
    """Manual waits for `approve`."""
    gate: Gate = Gate()
    """What the winner must show."""
    timeout_seconds: Annotated[int, Field(ge=1, le=DAY_SECONDS)] = 600
    """How long new pods may take to serve before the former adapter is restored."""
    approve: Annotated[str, text(64, r"^[0-9a-f]{64}$", "64 hex digits")] | None = None
    """SHA-256 of the candidate that a person has approved."""
    approval_timeout_seconds: Annotated[int, Field(ge=1, le=YEAR_SECONDS)] = 7 * DAY_SECONDS
    """How long a candidate waits to be approved; then the incumbent stays. Other cycles of the archive wait with it."""
