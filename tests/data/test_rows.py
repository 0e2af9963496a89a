"""Pictures from folders and parquet files."""

from __future__ import annotations

import io
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hasten.core.errors import UserError
from hasten.data.rows import (
    MAX_PIXELS,
    Pictures,
    evenly_spread,
    load_rows,
    picture_column,
    to_tensor,
)
from many_pictures import many_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return many_pictures(tmp_path_factory.mktemp("many"))


def test_a_broken_picture_is_named(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "copy")
    whole = (place / "cats" / "test-03.png").read_bytes()
    (place / "cats" / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cats/half\.png cannot be read") as caught:
        Pictures(load_rows(str(place)), (3, 8, 8))
    assert "\n" not in str(caught.value)
    broken = [{"bytes": whole, "path": None}, {"bytes": b"no picture", "path": None}]
    pq.write_table(pa.table({"image": broken}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="row 1 cannot be read"):
        Pictures(load_rows(str(tmp_path / "rows.parquet")), (3, 8, 8))


def test_a_folder_is_read_by_its_classes_or_its_splits(folder, tmp_path):
    found = load_rows(str(folder))
    assert (len(found), found.features["label"].names) == (80, ["cats", "do[g]s"])
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / split / "inner").mkdir(parents=True)
        for index in range(count):
            Image.new("L", (8, 8)).save(tmp_path / split / "inner" / f"{index}.png")
    assert len(load_rows(str(tmp_path))) == 3
    assert len(load_rows(str(tmp_path), "test")) == 2
    shutil.rmtree(tmp_path / "train")
    assert len(load_rows(str(tmp_path))) == 2


def test_a_folder_without_pictures_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    with pytest.raises(UserError, match="holds no picture"):
        load_rows(str(tmp_path))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(grey).save(tmp_path / "deep.png")
    found = Pictures(load_rows(str(tmp_path)), (1, 8, 8))[np.arange(1)][0, 0]
    assert (found.double() - torch.from_numpy(grey / 257.0)).abs().max() <= 0.5


def test_a_text_and_a_path_name_the_same_data(folder, data):
    from pathlib import Path

    for source in (str(folder), data):
        by_text, by_path = load_rows(source), load_rows(Path(source))
        assert len(by_text) == len(by_path) > 0
        shape = (1, 8, 8)
        first = np.arange(4)
        assert torch.equal(Pictures(by_text, shape)[first], Pictures(by_path, shape)[first])


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / split / "0.png")
    with pytest.raises(UserError, match=r"no split 'tset'.*test, train.*'test'"):
        load_rows(tmp_path, "tset")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "imge"}, "no column 'imge'.*'image'"),
        ({"label": "labels"}, "no column 'labels'.*'label'"),
    ],
)
def test_a_column_that_is_not_there_names_the_nearest(data, options, words):
    with pytest.raises(UserError, match=words) as caught:
        Pictures(load_rows(data), (1, 8, 8), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [2, 4])
def test_pictures_have_one_or_three_channels(data, channels):
    with pytest.raises(UserError, match=f"{channels} channels; pictures have 1 or 3"):
        Pictures(load_rows(data), (channels, 8, 8))


def test_labels_are_those_of_the_column(data):
    labels = Pictures(load_rows(data), (1, 8, 8), label="label").labels
    assert labels is not None
    assert labels.tolist() == [index % 2 for index in range(40)]


def test_pictures_that_do_not_fit_into_memory_are_the_same(data, monkeypatch):
    whole = Pictures(load_rows(data), (1, 8, 8))
    monkeypatch.setattr("hasten.data.rows.IN_MEMORY_BYTES", 0)
    streamed = Pictures(load_rows(data), (1, 8, 8))
    index = np.array([31, 0, 7, 7])
    assert torch.equal(whole[index], streamed[index])


def test_another_size_covers_the_shape_and_is_cut_to_its_centre():
    wide = torch.zeros(8, 16, dtype=torch.uint8)
    wide[:, 4:12] = torch.arange(8, dtype=torch.uint8)
    picture = to_tensor(Image.fromarray(wide.numpy()), (1, 8, 8))
    assert torch.equal(picture[0], wide[:, 4:12])  # its middle half, as it is
    assert to_tensor(Image.new("L", (4, 4)), (3, 8, 8)).shape == (3, 8, 8)


def test_a_picture_of_too_many_pixels_is_refused():
    class Huge:
        width, height = MAX_PIXELS, 2

    with pytest.raises(UserError, match=f"{MAX_PIXELS} is the most"):
        to_tensor(Huge(), (1, 8, 8))  # type: ignore[arg-type]


def test_the_column_of_pictures_is_found(data, tmp_path):
    assert picture_column(load_rows(data)) == "image"
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "words.parquet")
    with pytest.raises(UserError, match=r"no column 'image' or 'img'.*text"):
        picture_column(load_rows(tmp_path / "words.parquet"))


@pytest.mark.parametrize(
    ("n", "most", "places"), [(10, 5, [0, 2, 4, 6, 8]), (3, 5, [0, 1, 2]), (0, 5, []), (5, 0, [])]
)
def test_rows_are_evenly_spread(n, most, places):
    assert evenly_spread(n, most).tolist() == places


def test_a_missing_package_is_named_with_the_line_that_installs_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "hasten\[tune\]"'):
        load_rows(folder)


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.7, 1.9], [0, None]])
def test_labels_that_are_no_whole_numbers_are_refused(labels, tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    rows = [{"bytes": buffer.getvalue(), "path": None}] * 2
    pq.write_table(pa.table({"image": rows, "kind": labels}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="labels are whole numbers"):
        Pictures(load_rows(str(tmp_path / "rows.parquet")), (1, 8, 8), label="kind")
