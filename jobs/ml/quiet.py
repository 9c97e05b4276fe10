"""Libraries that say on standard error what is ours to say: warnings, progress bars, advice to developers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOGGERS = ("transformers", "huggingface_hub", "peft", "accelerate", "safetensors")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Nothing on standard error from transformers, peft and their kin within; what matters, they raise.

    transformers keeps quiet afterwards too: its progress bars know no other way.
    """
    _no_progress_bars()
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _no_progress_bars() -> None:
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with suppress(ImportError):  # a light install fetches from the hub without it
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
