"""Tables of labels in the encodings that people's programs write, and the line that says which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convlens.core.errors import UserError
from convlens.data.index.listing import list_images

ROWS = [("müde_1.jpg", "Löwe"), ("ça_2.jpg", "Bär"), ("x_3.jpg", "Löwe"), ("y_4.jpg", "Bär")]


def write(folder: Path, encoding: str, rows=ROWS, separator: str = ";") -> Path:
    """Write a table as a program on Windows does, and the images that it names."""
    folder.mkdir(exist_ok=True)
    for name, _ in rows:
        (folder / name).write_bytes(b"")
    lines = [("file", "label"), *rows]
    text = "".join(separator.join(line) + "\r\n" for line in lines)
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return folder


def refused(folder: Path, **keys) -> str:
    with pytest.raises(UserError) as error:
        list_images(folder, csv="labels.csv", **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def read_note(folder: Path, **keys) -> str:
    """Return the only note of the table, after checking what was read."""
    found = list_images(folder, csv="labels.csv", **keys)
    assert found.class_names == ("Bär", "Löwe")
    read = {(f.name, found.class_names[k]) for f, k in zip(found.files, found.labels, strict=True)}
    assert read == set(ROWS)
    (note,) = found.notes
    return note


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8", "labels.csv is read as UTF-8"),
        ("utf-8-sig", "labels.csv is read as UTF-8: its mark says so"),
        ("utf-16", "labels.csv is read as UTF-16: its mark says so"),
        ("utf-32", "labels.csv is read as UTF-32: its mark says so"),
        ("cp1252", "is not UTF-8 and is read as Windows-1252, such as line 2, 'müde_1.jpg;Löwe'"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_and_the_line_says_how(tmp_path, encoding, words, separator):
    note = read_note(write(tmp_path / "pics", encoding, separator=separator))
    assert words.replace(";", separator).replace("\t", "\\t") in note


def test_big_endian_utf_16_is_recognised_by_its_mark(tmp_path):
    folder = write(tmp_path / "pics", "utf-8")
    text = (folder / "labels.csv").read_bytes().decode()
    (folder / "labels.csv").write_bytes("\ufeff".encode("utf-16-be") + text.encode("utf-16-be"))
    assert "read as UTF-16" in read_note(folder)


def test_nothing_is_said_of_plain_ascii(tmp_path):
    folder = write(tmp_path / "pics", "ascii", [("1.jpg", "a"), ("2.jpg", "b")])
    assert list_images(folder, csv="labels.csv").notes == ()


@pytest.mark.parametrize("encoding", ["cp1250", "mac-roman", "utf-16-le", "latin-1", "UTF-8"])
def test_the_user_states_the_encoding(tmp_path, encoding):
    folder = write(tmp_path / "pics", encoding)
    assert f"is read as {encoding}" in read_note(folder, encoding=encoding)


def test_a_stated_encoding_with_its_mark(tmp_path):
    folder = write(tmp_path / "pics", "utf-8-sig")
    assert "is read as utf-8" in read_note(folder, encoding="utf-8")
    text = (folder / "labels.csv").read_bytes().decode("utf-8-sig")
    (folder / "labels.csv").write_bytes(("\ufeff" + text).encode("utf-16-le"))
    read_note(folder, encoding="utf-16-le")


def test_names_of_another_code_page_are_not_found_and_the_way_out_is_named(tmp_path):
    folder = write(tmp_path / "pics", "cp1250", [("żółw.jpg", "żółw"), ("kot.jpg", "kot")])
    message = refused(folder)
    assert "do not exist" in message and "data.encoding (read as cp1252)" in message
    found = list_images(folder, csv="labels.csv", encoding="cp1250")
    assert found.class_names == ("kot", "żółw")


def test_a_byte_without_meaning_in_windows_1252(tmp_path):
    folder = write(tmp_path / "pics", "ascii", [("1.jpg", "a"), ("2.jpg", "b")])
    (folder / "labels.csv").write_bytes(b"file,label\n1.jpg,a\n2.jpg,b\x81\n")
    message = refused(folder)
    assert "labels.csv cannot be read as cp1252" in message and "set data.encoding" in message


def test_utf_16_without_a_mark_is_not_guessed(tmp_path):
    folder = write(tmp_path / "pics", "utf-16-le")
    assert "set data.encoding=utf-16-le" in refused(folder)


def test_utf_16_that_is_cut_off(tmp_path):
    folder = write(tmp_path / "pics", "utf-16")
    content = (folder / "labels.csv").read_bytes()
    (folder / "labels.csv").write_bytes(content[:-1])
    assert "cannot be read as utf-16" in refused(folder)


@pytest.mark.parametrize("named", ["utf8x", "zip", "cp1252x", ""])
def test_an_unknown_encoding(tmp_path, named):
    assert f"data.encoding={named} is no text encoding" in refused(
        write(tmp_path / "pics", "utf-8"), encoding=named
    )


def test_file_names_that_are_bytes_are_those_of_the_disk(tmp_path):
    """Names of an old Linux disk: the bytes count, in whatever encoding they once were."""
    name = os.fsdecode(b"m\xfcde.jpg")
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_bytes(b"file,label\n1.jpg,a\nm\xfcde.jpg,b\n")
    found = list_images(tmp_path, csv="labels.csv")
    assert [file.name for file in found.files] == ["1.jpg", name]
    assert found.notes == (
        f"{tmp_path / 'labels.csv'} is read as UTF-8; file names that are not UTF-8 stay bytes",
    )
