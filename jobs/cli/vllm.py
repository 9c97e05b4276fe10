"""`refrain vllm`: what a vLLM beside `refrain serve --vllm` is to serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli import options
from jobs.contracts.errors import UsageError

if TYPE_CHECKING:
    from jobs.contracts.records import Json
    from jobs.ml.base_model import Base

CONFIG = "vllm.yaml"
SERVED = "served"
"""Key and digest of what was brought: the store may have something newer by the time somebody stands in front."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM knows for --max-lora-rank."""


@click.command(name="vllm")
@options.store
@click.option("--base", help="Base model: a name on the hub, a folder, or s3://.  [default: the archive's]")
@click.option("--revision", help="Its commit on the hub.")
@click.option(
    "--served",
    default="",
    envvar="REFRAIN_ADAPTER",
    show_envvar=True,
    metavar="KEY@DIGEST",
    help="An adapter in the store; @ for the bare base model.  [default: the newest production record]",
)
@click.option("-o", "--output", type=options.Place(path_type=Path), required=True, metavar="DIR", help="A new folder.")
def command(*, store: str | None, base: str | None, revision: str | None, served: str, output: Path) -> None:
    """Bring base model and adapter, every digest checked, and write the configuration of a vLLM that serves them.

    \b
      refrain vllm --store s3://mail/list -o /vllm
      vllm serve --config /vllm/vllm.yaml --host 127.0.0.1 --port 8001
      refrain serve --store s3://mail/list --vllm http://127.0.0.1:8001 --served-file /vllm/served
    """
    if store is None:
        raise UsageError("needs a store", hint="name it: --store, or REFRAIN_STORE in the environment")
    output.mkdir(parents=True, exist_ok=True)
    _bring(store, base, revision, served, output)
    click.echo(f"wrote {output / CONFIG} and {output / SERVED}")


def _bring(store: str, base: str | None, revision: str | None, served: str, output: Path) -> None:
    import yaml

    from jobs.contracts.store import StoreOptions, open_archive
    from jobs.serving.wanted import InStore, Wanted, bring, find_wanted_base, in_service, parse_served, versioned_name

    settings = StoreOptions.from_environment()
    archive = open_archive(store, settings)
    found = find_wanted_base(Wanted(store_url=store, base=base, revision=revision), archive, settings)
    if found is None:
        raise UsageError("there is no base model to serve", hint="name it: --base")
    adapter = parse_served(served) if served else in_service(archive) or InStore()
    name = versioned_name(adapter.digest)
    folder = bring(archive, adapter, output / name)
    (output / CONFIG).write_text(yaml.safe_dump(_configuration(found, name, folder), sort_keys=False))
    (output / SERVED).write_text(f"{adapter.key}@{adapter.digest}\n")


def _configuration(base: Base, name: str, folder: Path | None) -> Json:
    """What vLLM is started with: the base model, and an adapter under its name."""
    from jobs.ml.adapter_files import read_settings
    from jobs.serving.vllm import BARE_NAME

    said: dict[str, Any] = {"model": str(base.folder), "served-model-name": BARE_NAME}
    if folder is None:
        return said
    rank = next((one for one in _RANKS if one >= read_settings(folder)["r"]), _RANKS[-1])
    return said | {"enable-lora": True, "max-lora-rank": rank, "lora-modules": [f"{name}={folder.resolve()}"]}
