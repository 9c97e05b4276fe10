"""Base models that are not on this machine yet: from the model hub, or from a store."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from jobs.contracts.errors import AccessError, IntegrityError, MissingInputError, RefrainError, TransientError
from jobs.contracts.records import Json, short_digest
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.files import one_at_a_time, output_error
from jobs.items import COMPLETE, file_digest, seal, verify
from jobs.ml.model_files import CONFIG, require_safe, wanted
from jobs.ml.quiet import quiet_libraries

_BLOCK_BYTES = 1 << 20


def from_hub(
    name: str, revision: str | None, choose: Callable[[list[str], str], list[str]] | None = None
) -> tuple[Path, str]:
    """The folder of a model of the hub, and its commit; it stays in Hugging Face's own cache.

    `choose` says which of its files are wanted, or refuses them; by default those of a base model.

    The hub is that of HF_ENDPOINT, and HF_TOKEN opens what is private. Without a network a commit that was
    fetched before is taken. Raises MissingInputError, AccessError, TransientError, and what `require_safe` does.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    with _hub(name), quiet_libraries():
        if constants.is_offline_mode():
            return _fetched_before(name, revision)
        try:
            info = HfApi(endpoint=endpoint).model_info(name, revision=revision)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            return _fetched_before(name, revision)
        files = (choose or _of_base_model)([one.rfilename for one in info.siblings or ()], name)
        # By the name that was asked for, so that its commit is known without a network another time.
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, endpoint=endpoint))
        return folder, folder.name


def file_from_hub(name: str, commit: str, file: str) -> Path | None:
    """One file of a model of the hub, fetched once, and again never asked for; None where the model has none such.

    It needs no library but the hub's own. See `from_hub` for what it raises.
    """
    from huggingface_hub import errors, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    with _hub(name), quiet_libraries():
        try:
            return Path(hf_hub_download(name, file, revision=commit, endpoint=endpoint))
        except errors.LocalEntryNotFoundError:  # nobody could be asked
            raise
        except errors.EntryNotFoundError:
            return None


def _fetched_before(name: str, revision: str | None) -> tuple[Path, str]:
    """What the cache has; whether it is all that is wanted is for the caller to see, for here nobody knows."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[CONFIG]))
    return folder, folder.name


def _of_base_model(names: list[str], where: str) -> list[str]:
    require_safe(names, where)
    return wanted(names)


@contextmanager
def _hub(name: str) -> Iterator[None]:
    """The hub's errors as ours."""
    try:
        yield
    except Exception as error:
        told = _told(error, name)
        if told is None:
            raise
        raise told from error


def _told(error: Exception, name: str) -> RefrainError | None:
    """What a user is told; None for a defect, or what is told already."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        hint = "ask for access on its page, and set HF_TOKEN"
        return AccessError("the hub does not give this model to everybody", where=name, hint=hint)
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingInputError("the model has no such revision", where=name, hint="name a commit of it")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        hint = "name a folder, s3://…, or organisation/model; a private one needs HF_TOKEN"
        return MissingInputError("no such model, neither here nor on the hub", where=name, hint=hint)
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_unreachable(error):
        hint = "name a folder, or try again; HF_ENDPOINT names another hub"
        return TransientError("no such folder, and the model hub cannot be reached", where=name, hint=hint)
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error.response.status_code if error.response is not None else 0, name)
    return output_error(name, error) if isinstance(error, OSError) else None


def _refused(status: int, name: str) -> RefrainError:
    if status in {401, 403}:
        return AccessError(f"the model hub refused ({status})", where=name, hint="check HF_TOKEN")
    return TransientError(f"the model hub does not answer ({status})", where=name, hint="try again")


def _is_unreachable(error: Exception) -> bool:
    """Whether no answer came; the hub's client has gone from one HTTP library to another, and they share no class."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.partition(".")[0] in _HTTP


_HTTP = {"httpx", "httpx2", "requests"}


def from_store(
    url: str, options: StoreOptions | None = None, choose: Callable[[list[str], str], list[str]] | None = None
) -> Path:
    """A folder with the model's files of a store, under HF_HOME/refrain, named by their digests; `choose` as above.

    Where the prefix has a `_COMPLETE.json` (`jobs.items`), files are checked against it, and those that were
    fetched before are taken; without one it is fetched anew each time. Processes of a machine that want the same
    wait for each other. See `from_hub` for what it raises.
    """
    # Not in the cache, which may be a volume whose kind knows no locks.
    lock = Path(tempfile.gettempdir()) / f"refrain-fetching-{os.getuid()}-{short_digest(url)}.lock"
    with one_at_a_time(lock):
        return _from_store(url, options, choose)


def _from_store(url: str, options: StoreOptions | None, choose: Callable[[list[str], str], list[str]] | None) -> Path:
    store = open_store(url, options or StoreOptions.from_environment(), read_only=True)
    names = list(store.list())
    if not names:
        raise MissingInputError("there is no such model", where=url)
    files = [name for name in (choose or _of_base_model)(names, url) if name != COMPLETE]
    cache = _cache() / short_digest(url)
    marker = store.get(COMPLETE) if COMPLETE in names else b""
    if marker and _is_whole(known := cache / _name(marker)):
        return known
    with _new_folder(cache) as scratch:
        for name in files:
            _download(store, name, scratch / name)
        if marker:
            _require_digests(scratch, marker, url)
        sealed = seal(scratch).read_bytes()
        return _placed(scratch, cache / _name(marker or sealed))


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "refrain"


def _name(marker: bytes) -> str:
    return hashlib.sha256(marker).hexdigest()[:32]


def _is_whole(folder: Path) -> bool:
    """Whether all of it is there as it was fetched; what is not is removed, to be fetched again."""
    if not folder.is_dir():
        return False
    try:
        verify(folder)
    except RefrainError:
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


@contextmanager
def _new_folder(cache: Path) -> Iterator[Path]:
    """An empty folder beside where it will go, so that others never see it half full; gone if it stays."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
    except OSError as error:
        raise output_error(cache, error) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(store: Store, key: str, path: Path) -> None:
    with store.open(key) as source:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
        except OSError as error:
            raise output_error(path, error) from error


def _require_digests(folder: Path, marker: bytes, url: str) -> None:
    files: Json = orjson.loads(marker)["files"]
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        name = path.relative_to(folder).as_posix()
        if file_digest(path) != files.get(name, {}).get("sha256"):
            hint = f"upload the model again, its {COMPLETE} last"
            raise IntegrityError(f"it is not what {COMPLETE} says", where=f"{url}/{name}", hint=hint)


def _placed(scratch: Path, target: Path) -> Path:
    """Where the folder is now; another process may have put the same there first."""
    try:
        return scratch.rename(target)
    except OSError as error:
        if target.is_dir():
            return target
        raise output_error(target, error) from error
