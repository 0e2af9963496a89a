"""Arguments of a pipeline's call, from texts."""

from __future__ import annotations

import pytest
from PIL import Image

import hasten
from hasten.media import pictures
from hasten.media.arguments import argument
from made_clips import make_clip, moving


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guidance_scale=4", ("guidance_scale", 4)),
        ("guidance-scale = 4.5", ("guidance_scale", 4.5)),
        ("clip_skip=None", ("clip_skip", None)),
        ("zero=True", ("zero", True)),
        ("sigmas=[1.0, 0.5]", ("sigmas", [1.0, 0.5])),
        ("prompt_2=a = b", ("prompt_2", "a = b")),
        ("prompt_2='4'", ("prompt_2", "4")),
    ],
)
def test_a_value_is_a_number_a_list_or_a_text(text, expected):
    assert argument(text) == expected


@pytest.mark.parametrize("text", ["guidance_scale", "=4", "a b=4", "guidance_scale=", "1a=2"])
def test_what_is_no_argument_is_refused(text):
    with pytest.raises(hasten.UserError, match="it takes name=value"):
        argument(text)


def test_a_picture_is_opened(tmp_path):
    file = tmp_path / "a=b.png"
    Image.new("RGBA", (3, 2), (255, 0, 0, 255)).save(file)
    for name in ("image", "mask_image", "control_image"):
        key, value = argument(f"{name}={file}")
        assert (key, value.mode, value.size) == (name, "RGB", (3, 2))


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("%!PS-Adobe", encoding="ascii")
    with pytest.raises(hasten.UserError, match=r"call: image: .*text\.png cannot be read"):
        argument(f"image={tmp_path / 'text.png'}")
    with pytest.raises(hasten.UserError, match="there is no file"):
        argument(f"image={tmp_path / 'gone.png'}")
    Image.new("L", (30, 20)).save(tmp_path / "large.png")
    monkeypatch.setattr(pictures, "LARGEST", 500)
    with pytest.raises(hasten.UserError, match="has 30x20 pixels"):
        argument(f"image={tmp_path / 'large.png'}")
    with pytest.raises(hasten.UserError, match="clip"):
        argument(f"video={tmp_path / 'clip.mp4'}")


def test_a_clip_is_a_list_of_pictures(tmp_path):
    make_clip(tmp_path / "clip.mp4", moving(5, 32, 48))
    name, frames = argument(f"video={tmp_path / 'clip.mp4'}")
    assert name == "video"
    assert [frame.size for frame in frames] == [(48, 32)] * 5
    assert frames[0].mode == "RGB"
