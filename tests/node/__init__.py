"""A whole Kubernetes node on this machine, for as long as a command runs: `python -m node run COMMAND`."""
