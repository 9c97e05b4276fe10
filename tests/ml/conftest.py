"""A tiny base model, and an archive that was split with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import mailgen
import pytest
from components import require
from splitting import split

try:
    import torch
    from ml.tiny import tiny_base

    from jobs.ml.base_model import find_base, load_encoder, load_model
except ImportError:
    torch = None

from jobs.assignments.archive import Archive
from jobs.contracts.records import Chunk
from jobs.corpus.reading import as_chunk
from jobs.intake.reading import read_data
from jobs.mail.limits import Limits
from jobs.mail.mbox import RawMail
from jobs.mail.record import to_record

NUM_MAILS = 150
WINDOWS = {"window_size": 4, "window_overlap": 1, "max_tokens": 450}


def records(num_messages: int = NUM_MAILS) -> Iterator[dict[str, str]]:
    """Mails of the generator as `parse` writes them."""
    for one in mailgen.mails(num_messages, seed=3, days=30):
        when = datetime.fromtimestamp(one.epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield asdict(to_record(RawMail(one.raw, "generated", 0, when), Limits()))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    require(torch, "torch is not installed")
    texts = (record["email_message"] for record in records())
    return tiny_base(tmp_path_factory.mktemp("model") / "base", texts, begins=True)


@pytest.fixture(scope="session")
def base(base_folder):
    return find_base(str(base_folder))


@pytest.fixture(scope="session")
def encoder(base):
    return load_encoder(base)


@pytest.fixture
def model(base):
    """A model of one's own: adapters change it."""
    return load_model(base, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def archive(base_folder, tmp_path_factory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    opened = Archive.open(str(folder / "archive"))
    split(opened, list(records()), folder, tokenizer=str(base_folder), **WINDOWS)
    return opened


@pytest.fixture(scope="session")
def chunks(archive) -> list[Chunk]:
    return [as_chunk(record, "archive") for record in read_data(archive, "chunks")]


ADAPTER = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "seed": 1}


@pytest.fixture(scope="session")
def make_adapter(base, tmp_path_factory):
    """Saves an adapter whose B matrices are not zero, as a trained one: `make_adapter(rank=8)` -> its folder."""

    def make(**settings: object) -> Path:
        from jobs.ml.adapters import add_adapter, save_adapter

        peft_model = add_adapter(load_model(base, device=torch.device("cpu")), **ADAPTER | settings)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in peft_model.named_parameters():
            if ".lora_B." in name:
                parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        save_adapter(peft_model, folder, base=base)
        return folder

    return make


@pytest.fixture(scope="session")
def adapter(make_adapter) -> Path:
    """A trained adapter; not to be changed."""
    return make_adapter()
