"""Training an adapter by a schedule: steps, the loss, the trainer, its checkpoints."""
