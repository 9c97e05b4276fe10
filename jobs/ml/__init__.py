"""Models: the only package that may import torch, transformers, peft or faiss."""
