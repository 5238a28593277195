"""Files of our own: whole or not there, flushed to the disk, and hashed without ever waiting."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from anchorshot.core.errors import InputError
from anchorshot.core.files import (
    TEMPORARY,
    atomic_path,
    check_folder,
    file_identity,
    is_temporary,
    model_files,
    sha256_file,
    write_atomic,
)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_content_that_cannot_be_flushed_is_not_written(error: int, tmp_path: Path, monkeypatch) -> None:
    """Only for folders, which not every system can flush, that is no error."""
    file = write_atomic(tmp_path / "x.json", "old")
    real = os.fsync

    def fails(descriptor: int, folders: bool) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(error, os.strerror(error))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", lambda descriptor: fails(descriptor, folders=False))
    with pytest.raises(OSError, match=os.strerror(error)):
        write_atomic(file, "new")
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["x.json"]
    monkeypatch.setattr(os, "fsync", lambda descriptor: fails(descriptor, folders=True))
    write_atomic(file, "new")
    assert file.read_text() == "new"


def test_half_written_files_are_known_by_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.mkv") as temporary:
        temporary.write_bytes(b"")
        assert is_temporary(temporary) and TEMPORARY.fullmatch(temporary.name)
    (tmp_path / temporary.name).mkdir()
    assert not is_temporary(temporary) and not is_temporary(tmp_path / "x.mkv")


def test_hashes_are_of_regular_files(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"x" * 100)
    assert sha256_file(file) == file_identity(file) == hashlib.sha256(b"x" * 100).hexdigest()
    others = [tmp_path, tmp_path / "gone"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        others += [tmp_path / "pipe", Path("/dev/zero")]
    for other in others:
        for call in (sha256_file, file_identity):
            with pytest.raises(InputError):
                call(other)
    with pytest.raises(InputError):
        model_files(others[-1])


def test_a_model_s_folder_has_not_everything_in_it(tmp_path: Path, monkeypatch) -> None:
    for name in ("model.safetensors", "config.json", "readme.md", "inner/spiece.model"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [path.relative_to(tmp_path).as_posix() for path in model_files(tmp_path)]
    assert names == ["config.json", "inner/spiece.model", "model.safetensors"]
    monkeypatch.setattr("anchorshot.core.files._MOST_ENTRIES", 4)
    with pytest.raises(InputError, match="must be a model's folder"):
        model_files(tmp_path)


def test_folders_are_looked_at_without_being_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_folder(tmp_path / "a" / "b", "--out")
    assert not (tmp_path / "a").exists()
    for bad in ("file", "file/below", "x" * 300, "a\0b", "link"):
        with pytest.raises(InputError, match="--out: must be a writable folder"):
            check_folder(tmp_path / bad, "--out")
