"""The operator: turns a RetrainCycle into Jobs. It imports `jobs.contracts` and nothing else of `jobs`."""
