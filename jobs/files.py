"""Reading and writing local files: `-`, compression by suffix, and never a half-written result."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import zstandard

from jobs.contracts.errors import InputError, MissingInputError, OutputError, RefrainError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STANDARD = Path("-")
"""Standard input or output."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BUFFER_BYTES = 1 << 20


def input_error(path: Path | str, error: OSError) -> RefrainError:
    """What a user is told when a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return MissingInputError("no such file or folder", where=str(path))
    return InputError(f"cannot be read: {error.strerror or error}", where=str(path))


def output_error(path: Path | str, error: OSError) -> OutputError:
    """What a user is told when a file cannot be written."""
    hint = "free some space and run the same command again" if error.errno == errno.ENOSPC else ""
    return OutputError(f"cannot be written: {error.strerror or error}", where=str(path), hint=hint)


@contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """A readable stream of a file, or of standard input for `-`; gzip and zstd are seen by their first bytes.

    Raises MissingInputError, and InputError for a file that cannot be read or is cut short.
    """
    try:
        with _raw_input(path) as raw, decompressing(raw, str(path)) as stream:
            yield stream
    except OSError as error:
        if error.filename not in (None, str(path), path):  # an error of somebody else's file
            raise
        raise input_error(path, error) from error


@contextmanager
def decompressing(raw: io.BufferedReader, where: str) -> Iterator[BinaryIO]:
    """The contents of a stream, as `decompressed`; InputError where compressed data is damaged or cut short."""
    try:
        yield decompressed(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", where=where, hint="fetch the file again"
        ) from error


def _raw_input(path: Path) -> io.BufferedReader:
    if path != STANDARD:
        return io.BufferedReader(io.FileIO(path), _BUFFER_BYTES)
    if sys.stdin is None:
        raise InputError("standard input is closed", where="-")
    # A reader of its own over the same descriptor: closing it leaves standard input open.
    return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False), _BUFFER_BYTES)


def decompressed(raw: io.BufferedReader) -> BinaryIO:
    """The stream itself, or its contents where it starts like a gzip or zstd file.

    Reading to the end raises EOFError where the compressed data is cut short.
    """
    head = raw.peek(4)[:4]
    if head.startswith(_GZIP_MAGIC):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER_BYTES)
    if head == _ZSTD_MAGIC:
        return io.BufferedReader(_ZstdReader(raw), _BUFFER_BYTES)
    return raw


class _ZstdReader(io.RawIOBase):
    """The contents of zstd frames, one after another.

    The library's own reader takes a frame that is cut short for a whole one; this raises EOFError.
    """

    _PIECE_BYTES = 2048
    """Read at once: what a hostile file can blow up to in memory is 32,768 times this, 64 MiB."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._contents = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        filled = 0
        while filled < len(view):
            if not self._contents and not self._decompress():
                break
            taken = min(len(view) - filled, len(self._contents))
            view[filled : filled + taken] = self._contents[:taken]
            self._contents = self._contents[taken:]
            filled += taken
        return filled

    def _decompress(self) -> bool:
        """Decompress one more piece, which may yield nothing; False at the end of the file."""
        piece = self._compressed or self._raw.read(self._PIECE_BYTES)
        if not piece:
            if self._frame is not None:
                raise EOFError("a zstd frame has no end")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._contents = memoryview(self._frame.decompress(piece))
        self._compressed = b""
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = None
        return True


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """A writable stream that becomes `path` when the block ends well, and leaves nothing behind when it does not.

    A suffix of `.gz` or `.zst` compresses, reproducibly; `-` is standard output. A link is followed;
    a device or a pipe is written to as it is. Raises OutputError.
    """
    if path == STANDARD:
        yield from _standard_output()
        return
    if path.is_dir():
        raise OutputError("cannot be written: it is a folder", where=str(path), hint="name a file in it")
    target = path.resolve()
    if target.exists() and not target.is_file():
        yield from _direct_output(path)
        return
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES) as raw:
            with _compressing(raw, path.suffix) as stream:
                yield stream
            raw.flush()
            os.fsync(raw.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        temporary = None
    except BrokenPipeError:  # of standard output: files have none
        raise
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """OutputError where no file can be made in a folder, or in the nearest one above it that is there."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise output_error(folder, error) from error


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lock a file, which is made, while the block runs; waits for the process that has it. OutputError.

    `waiting` is called where there is one. The system frees it whatever ends the holder.
    """
    with ExitStack() as stack:
        try:
            _lock(file := stack.enter_context(_opened(path)), waiting)
            while not _is_at(path, file):  # who had it has removed it meanwhile
                _lock(file := stack.enter_context(_opened(path)), waiting)
        except OSError as error:
            raise output_error(path, error) from error
        yield


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _lock(file: BinaryIO, waiting: Callable[[], object]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder of its own for scratch files, gone afterwards; OutputError where their disk is full meanwhile."""
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            "the disk for scratch files is full",
            where=tempfile.gettempdir(),
            hint="free some space, or name a folder on another disk in TMPDIR",
        ) from error


@contextmanager
def scratch_output(path: Path) -> Iterator[BinaryIO]:
    """A writable stream into a file that nobody sees before it is copied elsewhere: compressed by suffix alike."""
    try:
        with path.open("wb", buffering=_BUFFER_BYTES) as raw, _compressing(raw, path.suffix) as stream:
            yield stream
    except OSError as error:
        raise output_error(path, error) from error


def _standard_output() -> Iterator[BinaryIO]:
    stream: BinaryIO = sys.stdout.buffer
    if isinstance(stream, io.RawIOBase):  # PYTHONUNBUFFERED; a full disk would take a part, and raise nothing
        stream = io.BufferedWriter(io.FileIO(sys.stdout.fileno(), "wb", closefd=False))
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:  # the reader has gone, which is no error: the command line ends quietly
        raise
    except OSError as error:
        raise output_error("standard output", error) from error


def _direct_output(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as stream:
            yield stream
    except OSError as error:
        raise output_error(path, error) from error


@contextmanager
def _compressing(raw: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix == ".gz":
        # No file name and no time in the header: equal contents give equal bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream:
            yield stream  # type: ignore[misc]
    elif suffix == ".zst":
        with zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(raw, closefd=False) as stream:
            yield stream
    else:
        yield raw


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: Path) -> Any:
    """A whole JSON file; InputError where it is not JSON."""
    with open_input(path) as stream:
        data = stream.read()
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """A value as indented JSON, atomically."""
    with atomic_output(path) as stream:
        stream.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_json_lines(path: Path, values: Iterable[Any]) -> int:
    """Values as JSON, one a line, atomically; how many there were."""
    count = 0
    with atomic_output(path) as stream:
        for value in values:
            stream.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def write_json_array(path: Path, values: Iterable[Any]) -> int:
    """Values as one JSON array with an element a line, atomically and without holding them; how many there were."""
    count = 0
    with atomic_output(path) as stream:
        stream.write(b"[")
        for value in values:
            stream.write((b",\n" if count else b"\n") + orjson.dumps(value))
            count += 1
        stream.write(b"\n]\n")
    return count


def write_json_object(path: Path, entries: Iterable[tuple[str, Any]]) -> int:
    """Entries as one JSON object with an entry a line, atomically and without holding them; how many there were."""
    count = 0
    with atomic_output(path) as stream:
        stream.write(b"{")
        for name, value in entries:
            stream.write(b"%b%b: %b" % (b",\n" if count else b"\n", orjson.dumps(name), orjson.dumps(value)))
            count += 1
        stream.write(b"\n}\n")
    return count


def read_records(path: Path) -> Iterator[Any]:
    """The elements of a JSON array, or the lines of a JSON-lines file, whichever the file is.

    Lines are streamed; an array is read whole. InputError names the line.
    """
    with open_input(path) as stream:
        number = 1
        first = stream.read(1)
        while first.isspace():
            number += first == b"\n"
            first = stream.read(1)
        if first == b"[":
            try:
                yield from orjson.loads(first + stream.read())
            except orjson.JSONDecodeError as error:
                raise InputError(f"not JSON: {error}", where=str(path)) from error
            return
        line = first + stream.readline()
        while line:
            if not line.isspace():
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"not JSON: {error}", where=f"{path}, line {number}") from error
            line = stream.readline()
            number += 1
