"""Pictures as PIL images, PNG files, grids and GIFs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import hasten
from hasten.core.errors import NonFiniteError, UserError
from hasten.media import grid, png, save_gif, save_pictures, save_png, to_pil


def ramp(channels: int = 1) -> torch.Tensor:
    """A picture (c, 4, 4) whose pixels are 0, 1/15, ..., 1."""
    return (torch.arange(16).view(1, 4, 4) / 15).expand(channels, 4, 4)


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_files_are_named_by_text_or_path(tmp_path, kind):
    save_png(ramp(), kind(tmp_path / "inner" / "one.png"))
    save_gif([ramp(), 1 - ramp()], kind(tmp_path / "two.gif"))
    save_pictures(torch.stack([ramp(), ramp()]), kind(tmp_path / "many"))
    with Image.open(tmp_path / "inner" / "one.png") as picture:
        assert list(picture.getdata()) == [17 * value for value in range(16)]  # 255 / 15
    assert (tmp_path / "two.gif").is_file()
    assert sorted(file.name for file in (tmp_path / "many").iterdir()) == [
        "00000.png",
        "00001.png",
        "grid.png",
    ]


def test_media_is_a_public_name():
    assert "media" in dir(hasten)
    assert hasten.media.save_png is save_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_becomes_eight_bits(channels, mode):
    image = to_pil(ramp(channels))
    assert image.mode == mode
    assert image.getpixel((3, 3)) == (255 if channels == 1 else (255,) * 3)


def test_values_outside_of_the_range_are_clamped():
    image = to_pil(torch.tensor([[[-1.0, 2.0]]]))
    assert list(image.getdata()) == [0, 255]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (torch.zeros(2, 1, 4, 4), "one picture at a time"),
        (torch.zeros(4, 4), r"\(c, h, w\)"),
        (torch.zeros(4, 4, 4), "1 or 3 channels"),
        ("picture.png", "picture is a str"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(picture, words):
    with pytest.raises(UserError, match=words) as caught:
        to_pil(picture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_not_written(tmp_path, value):
    with pytest.raises(NonFiniteError):
        save_png(torch.full((1, 4, 4), value), tmp_path / "one.png")
    assert not list(tmp_path.iterdir())


def test_a_grid_puts_pictures_side_by_side_on_white():
    sheet = grid(torch.zeros(3, 1, 2, 2), columns=2, gap=1)
    assert sheet.shape == (1, 7, 7)
    black = torch.ones(7, 7)
    for top, left in ((1, 1), (1, 4), (4, 1)):
        black[top : top + 2, left : left + 2] = 0
    assert torch.equal(sheet[0], black)


@pytest.mark.parametrize("pictures", [torch.zeros(0, 1, 2, 2), torch.zeros(1, 2, 2)])
def test_a_grid_of_nothing_is_refused(pictures):
    with pytest.raises(UserError, match=r"\(n, c, h, w\)"):
        grid(pictures)


def test_facts_are_in_the_text_and_zoom_makes_pixels_larger(tmp_path):
    file = tmp_path / "one.png"
    file.write_bytes(png(ramp(), {"seed": 3}, zoom=2))
    with Image.open(file) as picture:
        assert picture.size == (8, 8)
        assert picture.info["hasten:seed"] == "3"


def test_a_gif_stays_a_second_on_the_last_picture(tmp_path):
    save_gif([ramp(), 1 - ramp()], tmp_path / "two.gif", milliseconds=50)
    with Image.open(tmp_path / "two.gif") as gif:
        assert gif.n_frames == 2
        assert gif.info["duration"] == 50
        gif.seek(1)
        assert gif.info["duration"] == 1000
    with pytest.raises(UserError, match="frames is empty"):
        save_gif([], tmp_path / "none.gif")
