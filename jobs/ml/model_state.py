"""A model for a while other than it is: without dropout, or with one of its attributes replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def causal_model(model: Any) -> Any:
    """The language model itself: of a PeftModel, the one that it wraps, with its adapter at work."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout; afterwards in training mode again where it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """With an attribute of one object replaced."""
    own = vars(thing)
    was_own, before = name in own, own.get(name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        if was_own:
            setattr(thing, name, before)
        else:
            delattr(thing, name)
