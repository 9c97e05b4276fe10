"""Local files: compression seen by its first bytes, results whole or not there, one clear error."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from jobs.contracts.errors import InputError, MissingInputError, OutputError
from jobs.files import (
    atomic_output,
    decompressed,
    open_input,
    read_json,
    read_records,
    scratch_folder,
    write_json,
    write_json_array,
    write_json_lines,
)

CONTENTS = b"From ann@a.example\n" * 100_000


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_compression_is_seen_by_the_first_bytes_whatever_the_name(tmp_path, pack):
    (tmp_path / "mail").write_bytes(pack(CONTENTS))
    with open_input(tmp_path / "mail") as stream:
        assert stream.readline() == b"From ann@a.example\n"
        assert stream.read() == CONTENTS[19:]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_parts_compressed_one_by_one_are_read_as_one(tmp_path, pack):
    (tmp_path / "mail").write_bytes(pack(b"one\n") + pack(b"") + pack(b"two\n"))
    with open_input(tmp_path / "mail") as stream:
        assert stream.read() == b"one\ntwo\n"


def read_in_pieces(path: Path) -> bytes:
    with open_input(path) as stream:
        return b"".join(iter(lambda: stream.read(1000), b""))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("missing", [1, 5, 10_000])
def test_a_compressed_file_cut_short_is_an_error_and_not_a_short_file(tmp_path, pack, missing):
    (tmp_path / "mail").write_bytes(pack(os.urandom(50_000))[:-missing])
    with pytest.raises(InputError, match=r"mail: the compressed data is damaged or cut short"):
        read_in_pieces(tmp_path / "mail")


@pytest.mark.parametrize("name", ["mail.gz", "mail.zst"])
def test_a_flipped_byte_in_what_we_compressed_is_an_error(tmp_path, name):
    with atomic_output(tmp_path / name) as stream:
        stream.write(random.Random(1).randbytes(5000))
    whole = (tmp_path / name).read_bytes()
    for position in range(len(whole) // 10, len(whole), len(whole) // 10):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_in_pieces(tmp_path / name)


def test_a_zstd_bomb_is_read_in_bounded_memory(tmp_path):
    (tmp_path / "bomb.zst").write_bytes(zstandard.ZstdCompressor().compress(bytes(400 << 20)))
    program = f"""
from pathlib import Path
from jobs.files import open_input
size = 0
with open_input(Path({str(tmp_path / "bomb.zst")!r})) as stream:
    while piece := stream.read(1 << 20):
        size += len(piece)
status = Path("/proc/self/status").read_text()
print(size, status.partition("VmHWM:")[2].split()[0])
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    size, peak_kib = map(int, run.stdout.split())
    assert size == 400 << 20
    assert peak_kib < 160 << 10


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 64))
def test_any_frames_read_in_any_pieces_come_out_whole(parts, piece_bytes):
    stream = decompressed(io.BufferedReader(io.BytesIO(b"".join(map(zstd, parts)))))
    read = b"".join(iter(lambda: stream.read(piece_bytes), b""))
    assert read == b"".join(parts)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(MissingInputError, match="no such file or folder"), open_input(tmp_path / "nowhere"):
        pass
    with pytest.raises(InputError, match="cannot be read: Is a directory"), open_input(tmp_path):
        pass


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst"])
def test_equal_contents_give_equal_bytes(tmp_path, name):
    for folder in ("one", "two"):
        with atomic_output(tmp_path / folder / name) as stream:
            stream.write(CONTENTS)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with open_input(tmp_path / "one" / name) as stream:
        assert stream.read() == CONTENTS
    assert ((tmp_path / "one" / name).stat().st_size < 10_000) is (name != "a.json")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst"])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_json_lines(tmp_path / name, (1 / number for number in (2, 1, 0)))
    assert (tmp_path / name).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_visible_before_the_end(tmp_path):
    with atomic_output(tmp_path / "a") as stream:
        stream.write(CONTENTS)
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == CONTENTS


def test_the_mode_is_what_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_full_device_is_an_output_error_and_stays_a_device():
    with pytest.raises(OutputError, match=r"/dev/full: cannot be written: No space left on device\n  free some space"):
        write_json(Path("/dev/full"), {"a": 1})
    assert Path("/dev/full").is_char_device()


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path):
    program = f"""
import resource, sys
from pathlib import Path
from jobs.contracts.errors import OutputError
from jobs.files import write_json_lines
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_json_lines(Path({str(tmp_path / "big.jsonl")!r}), ("x" * 1000 for _ in range(5000)))
except OutputError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == f"{tmp_path}/big.jsonl: cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_cannot_be_written_over(tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        write_json(tmp_path, {})


def test_a_path_through_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "a.json")
    write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real" / "a.json") == [1]


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        write_json_lines(tmp_path / "pipe", [1, 2])
        assert reader.communicate()[0] == b"1\n2\n"
    assert (tmp_path / "pipe").is_fifo()


def test_a_dash_is_standard_input_and_output():
    program = """
from pathlib import Path
from jobs.files import read_records, write_json_lines
write_json_lines(Path("-"), read_records(Path("-")))
import sys
assert sys.stdin.fileno() == 0 and sys.stdin.read() == ""
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, input=gzip.compress(b'{"a": 1}\n[2]\n')
    )
    assert run.stdout == b'{"a":1}\n[2]\n'


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_fills_up_under_standard_output_is_an_error(unbuffered, tmp_path):
    program = """
import resource
from pathlib import Path
from jobs.files import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write_json(Path("-"), "x" * 150_000)
"""
    with (tmp_path / "out").open("wb") as output:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=False, stdout=output, stderr=subprocess.PIPE
        )
    assert run.returncode == 1
    assert b"OutputError: standard output: cannot be written: File too large" in run.stderr


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, [2], "three"]',
        '\n [\n{"a": 1},[2],\n"three"]\n',
        '{"a": 1}\n[2]\n"three"\n',
        '\n\n{"a": 1}\n\n[2]\n"three"',
    ],
)
def test_records_of_an_array_and_of_lines_are_the_same(tmp_path, text):
    (tmp_path / "a").write_text(text)
    assert list(read_records(tmp_path / "a")) == [{"a": 1}, [2], "three"]


def test_a_bad_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n{"a": \n{"a": 3}\n')
    records = read_records(tmp_path / "a.jsonl")
    assert next(records) == {"a": 1}
    with pytest.raises(InputError, match=r"a\.jsonl, line 4: not JSON"):
        next(records)


@pytest.mark.parametrize("text", ["[1, 2", "[1, 2] 3"])
def test_a_bad_array_is_an_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: not JSON"):
        list(read_records(tmp_path / "a.json"))
    with pytest.raises(InputError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "a").write_text(" \n")
    assert list(read_records(tmp_path / "a")) == []


def test_what_is_written_is_read_again(tmp_path):
    values = [{"b": [1, 2], "a": "ä"}, {}, None, 1.5]
    assert write_json_lines(tmp_path / "a.jsonl.zst", iter(values)) == 4
    assert write_json_array(tmp_path / "a.json.gz", iter(values)) == 4
    assert list(read_records(tmp_path / "a.jsonl.zst")) == values
    assert list(read_records(tmp_path / "a.json.gz")) == values
    assert read_json(tmp_path / "a.json.gz") == values
    assert write_json_array(tmp_path / "none.json", []) == 0
    assert read_json(tmp_path / "none.json") == []


def test_a_full_disk_under_scratch_files_is_told_as_such():
    with (
        pytest.raises(OutputError, match="scratch files") as caught,
        scratch_folder("refrain-test-") as folder,
        (folder / "scratch").open("wb"),
        open("/dev/full", "wb", buffering=0) as full,  # noqa: PTH123
    ):
        full.write(b"x")
    assert "TMPDIR" in caught.value.hint
    assert not folder.exists()
