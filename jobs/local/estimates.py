"""How much memory and disk training would take: formulas, each with its source. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from jobs.contracts.cycle.learning import TrainingSpec
from jobs.local.base_facts import BaseFacts

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_QUANTIZED_BYTES = 0.5 + 4.5 / 64
"""NF4 with blocks of 64 and constants quantised once more (arXiv:2305.14314, section 3), a little rounded up."""
_ADAPTER_BYTES = 4
"""Adapters are trained in fp32, whatever the base's precision."""
_ADAM_STATES = 2
_ACTIVATIONS_PER_LAYER = 34
"""Bytes per token and unit of width in 16 bits, attention's own matrix left out, which fused kernels do not keep:
Korthikanti et al., arXiv:2205.05198, section 4.1."""
_CHECKPOINTED_PER_LAYER = 2
"""With gradient checkpointing: a layer's input alone."""
_LAYERS_WHOLE = 2
"""Of a model that is cut up: the layer that computes, and the next, which is being put together."""
_LOGITS_AT_ONCE = 1 << 26
"""Logits that training holds at a time (jobs.ml.training.loss_model), in fp32, with their gradient."""
_LOGITS_BYTES = 8

ONE_GPU_BYTES = 80 << 30
"""What one GPU holds that is made for training; a few hold more."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that training needs at its peak in each process, roughly; frameworks and fragmentation come on top."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(asdict(self).values())


def training_memory(base: BaseFacts, num_trainable: int, training: TrainingSpec, num_tokens: int) -> Memory:
    """The memory for micro-batches of up to num_tokens tokens, padding included.

    weights: parameters x bytes of the precision. adapter, gradients: 4 bytes for each trainable parameter.
    optimizer: AdamW's two moments, 8 bytes. activations: tokens x width x layers x 34 bytes in 16 bits, twice
    that in fp32; with checkpointing 2 for each layer, and one layer's 34. Of a model that is cut up each process
    holds its share of weights, adapter and optimizer, two layers of them whole, and whole what is in no layer;
    gradients are whole until the end of a step.
    """
    width_bytes = _BYTES[training.precision]
    per_parameter = _QUANTIZED_BYTES if training.quantization else width_bytes
    layer = _ACTIVATIONS_PER_LAYER * num_tokens * base.width * width_bytes // 2
    held = _CHECKPOINTED_PER_LAYER * num_tokens * base.width * width_bytes // 2
    layers = base.num_layers * held + layer if training.gradient_checkpointing else base.num_layers * layer
    num_shares = num_processes(training) if training.shard_model else 1
    num_weights, num_adapter = float(base.num_parameters), float(num_trainable)
    if training.shard_model:
        num_weights, num_adapter = _held_by_each(base, num_trainable, num_shares)
    return Memory(
        weights=int(num_weights * per_parameter),
        adapter=int(num_adapter * _ADAPTER_BYTES),
        gradients=num_trainable * _ADAPTER_BYTES,
        optimizer=num_trainable * _ADAPTER_BYTES * _ADAM_STATES // num_shares,
        activations=layers,
        logits=min(num_tokens * base.vocabulary, _LOGITS_AT_ONCE) * _LOGITS_BYTES,
    )


def _held_by_each(base: BaseFacts, num_trainable: int, num_shares: int) -> tuple[float, float]:
    """Parameters of the base and of the adapter that each of so many processes holds of a model that is cut up."""
    in_layers = sum(map(math.prod, base.linear.values()))
    whole = _LAYERS_WHOLE / max(1, base.num_layers)
    num_weights = base.num_parameters / num_shares + (base.num_parameters - in_layers) + in_layers * whole
    return num_weights, num_trainable / num_shares + num_trainable * whole


def num_processes(training: TrainingSpec) -> int:
    """How many train together, each with a GPU of its own."""
    return training.nodes * training.processes_per_node


def one_gpu_notes(base: BaseFacts, training: TrainingSpec) -> list[str]:
    """What is to be told of a base model that one GPU cannot hold; evaluate never loads one in 4 bits."""
    weights = base.num_parameters * _BYTES[training.precision]
    if weights <= ONE_GPU_BYTES:
        return []
    gib = 1 << 30
    told = (
        f"the base model takes {weights / gib:,.0f} GiB in {training.precision}: a GPU of {ONE_GPU_BYTES // gib} GiB "
        "cannot hold it. evaluate, ask and serve spread it over all GPUs that they have: give them several "
        "(stages.evaluate.resources)"
    )
    if training.shard_model or training.quantization:
        return [told]
    return [f"{told}; to train, every process holds it whole, unless training.shardModel cuts it up over them"]


def checkpoint_bytes(num_trainable: int) -> int:
    """Of one checkpoint: the adapter, and AdamW's two moments to go on from."""
    return num_trainable * _ADAPTER_BYTES * (1 + _ADAM_STATES)


def num_checkpoints(steps_by_epoch: list[int], save_steps: int) -> int:
    """One every so many steps, and one at each epoch's end."""
    total = sum(steps_by_epoch)
    ends = {sum(steps_by_epoch[: number + 1]) for number in range(len(steps_by_epoch))}
    return len(ends | set(range(save_steps, total + 1, save_steps)))
