"""Files and folders that replace others: nothing that hasten did not write is ever lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hasten.core.errors import UserError
from hasten.core.files import (
    MANIFEST,
    new_folder,
    read_json,
    read_lines,
    require_writable,
    verify,
    write_text,
)


def written(folder: Path, text: str) -> None:
    with new_folder(folder) as inside:
        (inside / "a.txt").write_text(text)


def test_a_folder_that_hasten_wrote_is_replaced_whole(tmp_path):
    written(tmp_path / "out", "old")
    written(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    verify(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    written(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(UserError, match=r"thesis holds files that hasten did not write.*choose"):
        written(tmp_path / "thesis", "new")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"
    assert not (tmp_path / "thesis" / MANIFEST).exists()


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UserError, match="out is a file; choose"):
        written(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "precious"


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "out"
    written(target, "old")
    real = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(UserError, match="out cannot be written"):
        written(target, "new")
    assert (target / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["", ".", "a/..", "a\0b", None])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(UserError, match="names no file or folder to write"):
        require_writable(name)


def test_a_file_is_no_folder_to_write_into(tmp_path):
    (tmp_path / "afile").write_text("")
    with pytest.raises(UserError, match="afile is a file; choose another place"):
        write_text(tmp_path / "afile" / "plan.json", "")


def test_only_newlines_end_a_line_and_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa cat\r\n\r\na dog\u2028with a hat\x0b\x85\n  a fox \r".encode())
    assert read_lines("prompts", file) == ["a cat", "a dog\u2028with a hat", "a fox"]
    (tmp_path / "facts.json").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(tmp_path / "facts.json") == {"a": 1}
