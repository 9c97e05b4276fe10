"""Adapters scored one after the other over one loaded base model: what evaluate does between reading and writing."""
