"""Which checkpoint wins, and whether it may replace the adapter in service. Pure."""
