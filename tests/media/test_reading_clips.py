"""Video files are read upright, in the right colours, at the right times, and within limits."""

from __future__ import annotations

import io
import struct
import weakref
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from hasten.core.errors import UserError
from hasten.media.reading import open_clip
from made_clips import make_clip, moving, turn

LOSSLESS = {"codec": "png", "pixels": "rgb24"}  # in a MOV
BARE = ("ffv1", "bgr0")  # lossless in an MKV


def frames_of(source) -> torch.Tensor:
    with open_clip(source) as clip:
        return clip.read_all()[0]


def until_it_breaks(source) -> tuple[dict[Fraction, torch.Tensor], str]:
    """The frames that can be read, by their times, and the error that ends them, if any."""
    frames: dict[Fraction, torch.Tensor] = {}
    try:
        with open_clip(source) as clip:
            frames.update((time, pixels) for pixels, time in clip)
    except UserError as error:
        return frames, str(error)
    return frames, ""


# What is read.


def test_a_lossless_clip_is_read_to_the_bit(tmp_path):
    clip = moving(7, 31, 17)
    with open_clip(make_clip(tmp_path / "a.mov", clip, **LOSSLESS)) as reader:
        facts = reader.facts
        assert (facts.width, facts.height, facts.rate, facts.frames) == (17, 31, 10, 7)
        assert (facts.duration, facts.has_audio, facts.has_alpha) == (Fraction(7, 10), False, False)
        assert (facts.rotation, facts.mirrored, facts.pixel_aspect) == (0, False, 1)
        frames, times = reader.read_all()
    assert torch.equal(frames, clip)
    assert times == [Fraction(number, 10) for number in range(7)]


def test_sound_is_noticed(tmp_path):
    with open_clip(make_clip(tmp_path / "a.mp4", moving(), sound="aac")) as reader:
        assert reader.facts.has_audio


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.flv", "libx264"),
    ],
)
def test_common_files_are_read(tmp_path, name, codec):
    clip = moving(6)
    with open_clip(make_clip(tmp_path / name, clip, codec)) as reader:
        frames, times = reader.read_all()
        assert reader.facts.rate == 10
    assert times == [Fraction(number, 10) for number in range(6)]
    # What the codecs lose at their usual quality, and 4:2:0.
    assert (frames.float() - clip.float()).abs().mean() < 4


def test_a_file_object_is_read_and_stays_open(tmp_path):
    clip = moving(4)
    file = io.BytesIO(make_clip(tmp_path / "a.mov", clip, **LOSSLESS).read_bytes())
    assert torch.equal(frames_of(file), clip)
    assert not file.closed
    assert torch.equal(frames_of(file), clip)


def test_frames_are_not_held(tmp_path):
    with open_clip(make_clip(tmp_path / "a.mov", moving(20), **LOSSLESS)) as reader:
        alive: list[weakref.ref[torch.Tensor]] = []
        for pixels, _ in reader:
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(pixels))


def test_a_clip_is_read_once(tmp_path):
    with open_clip(make_clip(tmp_path / "a.mov", moving(3), **LOSSLESS)) as reader:
        assert len(list(reader)) == 3
        with pytest.raises(UserError, match="open it again"):
            iter(reader)


def test_a_closed_clip_is_not_read(tmp_path):
    path = make_clip(tmp_path / "a.mov", moving(6), **LOSSLESS)
    with open_clip(path) as reader:
        frames = iter(reader)
        next(frames)
    with pytest.raises(UserError, match="is closed"):
        next(frames)
    with open_clip(path) as reader:
        pass
    with pytest.raises(UserError, match="is closed"):
        iter(reader)


# Which way up.


def placed(frame: torch.Tensor, matrix: tuple[int, int, int, int]) -> torch.Tensor:
    """Every pixel where the display matrix puts it."""
    a, b, c, d = matrix
    _, height, width = frame.shape
    target = {(a * x + c * y, b * x + d * y): (x, y) for y in range(height) for x in range(width)}
    left, top = min(x for x, _ in target), min(y for _, y in target)
    wide = max(x for x, _ in target) - left + 1
    out = torch.zeros(3, len(target) // wide, wide, dtype=frame.dtype)
    for (x, y), (from_x, from_y) in target.items():
        out[:, y - top, x - left] = frame[:, from_y, from_x]
    return out


@pytest.mark.parametrize(
    ("matrix", "rotation", "mirrored"),
    [
        ((0, 1, -1, 0), 90, False),
        ((-1, 0, 0, -1), 180, False),
        ((0, -1, 1, 0), 270, False),
        ((-1, 0, 0, 1), 0, True),
        ((1, 0, 0, -1), 180, True),
        ((0, 1, 1, 0), 90, True),
        ((0, -1, -1, 0), 270, True),
    ],
)
def test_a_turned_or_mirrored_clip_is_read_upright(tmp_path, matrix, rotation, mirrored):
    clip = moving(3, 16, 24)
    path = make_clip(tmp_path / "a.mov", clip, **LOSSLESS)
    turn(path, matrix)
    with open_clip(path) as reader:
        frames, _ = reader.read_all()
        assert (reader.facts.height, reader.facts.width) == tuple(frames.shape[-2:])
        assert (reader.facts.rotation, reader.facts.mirrored) == (rotation, mirrored)
    assert torch.equal(frames, torch.stack([placed(frame, matrix) for frame in clip]))


@pytest.mark.parametrize(("degrees", "quarters"), [("90", -1), ("180", 2), ("270", 1), ("-90", 1)])
def test_the_old_tag_turns_clockwise(tmp_path, degrees, quarters):
    clip = moving(3, 16, 24)
    path = make_clip(tmp_path / "a.mkv", clip, *BARE, tags={"rotate": degrees})
    assert torch.equal(frames_of(path), torch.rot90(clip, quarters, (-2, -1)))


def test_a_tag_that_is_no_number_is_ignored(tmp_path):
    clip = moving(3, 16, 24)
    path = make_clip(tmp_path / "a.mkv", clip, *BARE, tags={"rotate": "left"})
    assert torch.equal(frames_of(path), clip)


def test_a_slanted_clip_is_refused(tmp_path):
    path = make_clip(tmp_path / "a.mov", moving(3), **LOSSLESS)
    turn(path, (0.7, 0.7, -0.7, 0.7))
    with pytest.raises(UserError, match="multiple of 90"):
        open_clip(path)


def test_a_matrix_of_zeros_is_ignored(tmp_path):
    clip = moving(3)
    path = make_clip(tmp_path / "a.mov", clip, **LOSSLESS)
    turn(path, (0, 0, 0, 0))
    assert torch.equal(frames_of(path), clip)


def test_pixels_that_are_not_square_turn_too(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "rgb24"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for pixels in moving(2, 16, 24):
            array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        output.mux(stream.encode(None))
    with open_clip(path) as reader:
        assert reader.facts.pixel_aspect == Fraction(4, 3)
    turn(path, (0, 1, -1, 0))
    with open_clip(path) as reader:
        assert reader.facts.pixel_aspect == Fraction(3, 4)


# Colours.

KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}  # fmt: skip  # noqa: E501


def yuv_frame(rgb: np.ndarray, matrix: int, full: bool, bits: int = 8) -> av.VideoFrame:
    """Colours (h, w, 3) from 0 to 255 as 4:4:4, by the formulas of H.273."""
    kr, kb = KR_KB[matrix]
    value = rgb.astype(np.float64) / 255
    luma = value @ np.array([kr, 1 - kr - kb, kb])
    blue, red = (value[..., 2] - luma) / (2 - 2 * kb), (value[..., 0] - luma) / (2 - 2 * kr)
    step = 1 << (bits - 8)
    if full:
        top, middle = (1 << bits) - 1, 128 * step
        planes = [luma * top, blue * top + middle, red * top + middle]
    else:
        planes = [
            (luma * 219 + 16) * step, (blue * 224 + 128) * step, (red * 224 + 128) * step
        ]  # fmt: skip
    height, width = luma.shape
    kind = np.uint8 if bits == 8 else np.uint16
    frame = av.VideoFrame(width, height, "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    for plane, values in zip(frame.planes, planes, strict=True):
        room = np.frombuffer(plane, kind).reshape(height, -1)
        room[:, :width] = values.round().clip(0, (1 << bits) - 1).astype(kind)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def patches(height: int = 32, width: int = 64) -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3))
    return colours.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def coloured(path, matrix: int, full: bool, bits: int = 8, tagged: bool = True, **size: int):
    frame = yuv_frame(patches(**size), matrix, full, bits)
    colours = {"colorspace": matrix, "color_range": 2 if full else 1} if tagged else {}
    form = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    if not tagged:
        frame.colorspace, frame.color_range = 2, 0
    return make_clip(path, [frame], "ffv1", form, colours=colours)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(KR_KB))
def test_every_matrix_and_range_gives_the_same_colours(tmp_path, matrix, full):
    frames = frames_of(coloured(tmp_path / "a.mkv", matrix, full))
    wanted = torch.from_numpy(patches()).permute(2, 0, 1)
    # Rounding luma and chroma to 8 bits costs up to (0.5 + 0.5 * 1.86) * 255 / 219 of 255, and
    # rounding back half a step.
    assert (frames[0].int() - wanted.int()).abs().max() <= 2


@pytest.mark.parametrize("full", [False, True])
def test_ten_bits_become_eight(tmp_path, full):
    frames = frames_of(coloured(tmp_path / "a.mkv", 1, full, bits=10))
    wanted = torch.from_numpy(patches()).permute(2, 0, 1)
    assert frames.dtype == torch.uint8
    assert (frames[0].int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize(("width", "matrix"), [(64, 5), (1280, 1)])
def test_a_clip_without_a_matrix_is_read_as_players_do(tmp_path, width, matrix):
    path = coloured(tmp_path / "a.mkv", matrix, False, tagged=False, height=16, width=width)
    wanted = torch.from_numpy(patches(16, width)).permute(2, 0, 1)
    assert (frames_of(path)[0].int() - wanted.int()).abs().max() <= 2


def test_a_matrix_that_cannot_be_converted_is_refused(tmp_path):
    frame = yuv_frame(patches(), 1, False)
    frame.colorspace = 8
    path = make_clip(tmp_path / "a.mkv", [frame], "ffv1", "yuv444p", colours={"colorspace": 8})
    with open_clip(path) as reader, pytest.raises(UserError, match=r"matrix 8 of H\.273"):
        reader.read_all()


@pytest.mark.parametrize(("span", "black", "white"), [(1, 16, 235), (2, 0, 255)])
def test_grey_becomes_rgb_in_its_range(tmp_path, span, black, white):
    ramp = torch.linspace(black, white, 64).round().to(torch.uint8).expand(1, 16, 64)
    path = make_clip(tmp_path / "a.mkv", ramp[None], "ffv1", "gray", colours={"color_range": span})
    frames = frames_of(path)
    wanted = (ramp.float() - black) / (white - black) * 255
    assert frames.shape == (1, 3, 16, 64)
    assert (frames[0] - wanted).abs().max() <= 0.51


def test_high_dynamic_range_has_white_where_paper_is_white(tmp_path):
    frame = av.VideoFrame(64, 16, "yuv420p10le")
    for plane, value in zip(frame.planes, (64 + 0.75 * 876, 512, 512), strict=True):
        np.frombuffer(plane, np.uint16)[:] = round(value)
    colours = {"colorspace": 9, "color_range": 1, "color_trc": 18, "color_primaries": 9}
    path = make_clip(tmp_path / "a.mkv", [frame], "ffv1", "yuv420p10le", colours=colours)
    # BT.2408: 75% of HLG is the white of paper, 203 candela.
    assert frames_of(path).min() >= 245


# Transparency.


def test_transparency_is_a_fourth_channel(tmp_path):
    clip = moving(4, 32, 48, channels=4)
    with open_clip(make_clip(tmp_path / "a.mov", clip, "png", "rgba")) as reader:
        assert reader.facts.has_alpha
        assert torch.equal(reader.read_all()[0], clip)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "qtrle", "argb"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_transparency_of_common_codecs_is_read(tmp_path, name, codec, pixels):
    clip = moving(4, 32, 48, channels=4)
    frames = frames_of(make_clip(tmp_path / name, clip, codec, pixels))
    assert frames.shape == clip.shape
    assert (frames.float() - clip.float())[:, 3].abs().mean() < 4
    assert (frames.float() - clip.float())[:, :3].abs().mean() < 4


# Times.


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_a_variable_frame_rate_keeps_its_times(tmp_path, name):
    times = [0, 40, 90, 400, 440, 1500]
    codec = {"a.mov": "png"}.get(name, "libx264")
    pixels = {"a.mov": "rgb24"}.get(name, "yuv420p")
    path = make_clip(
        tmp_path / name, moving(6), codec, pixels, times=times, time_base=Fraction(1, 1000)
    )
    with open_clip(path) as reader:
        assert reader.read_all()[1] == [Fraction(time, 1000) for time in times]


def test_a_clip_that_starts_late_starts_at_zero(tmp_path):
    path = make_clip(tmp_path / "a.mkv", moving(3), times=[7, 9, 10])
    with open_clip(path) as reader:
        assert reader.start == Fraction(7, 10)
        assert reader.read_all()[1] == [0, Fraction(2, 10), Fraction(3, 10)]


def test_frames_without_times_follow_at_the_rate(tmp_path):
    path = make_clip(tmp_path / "a.h264", moving(5), container="h264")
    with open_clip(path) as reader:
        times = reader.read_all()[1]
    assert times == [number / reader.facts.rate for number in range(5)]


def test_times_that_stand_still_are_moved_on(tmp_path):
    path = make_clip(tmp_path / "a.mkv", moving(4), *BARE, times=[0, 1, 1, 2])
    with open_clip(path) as reader:
        times = reader.read_all()[1]
    tick = reader.facts.time_base
    assert times == [0, Fraction(1, 10), Fraction(1, 10) + tick, Fraction(2, 10)]


# Pictures.


def test_pictures_and_gifs_are_clips(tmp_path):
    clip = moving(1, 24, 32)[0]
    image = Image.fromarray(np.ascontiguousarray(clip.permute(1, 2, 0).numpy()))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.jpg", quality=95)
    assert torch.equal(frames_of(tmp_path / "a.png"), clip[None])
    assert (frames_of(tmp_path / "a.jpg").float() - clip.float()).abs().mean() < 2
    image.save(tmp_path / "a.gif", save_all=True, append_images=[image.rotate(180)], duration=200)
    with open_clip(tmp_path / "a.gif") as reader:
        frames, times = reader.read_all()
    assert frames.shape == (2, 4, 24, 32)
    assert times == [0, Fraction(1, 5)]


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    clip = moving(1, 24, 32)[0]
    image = Image.fromarray(np.ascontiguousarray(clip.permute(1, 2, 0).numpy()))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", quality=95, exif=exif)
    turned = torch.rot90(clip, -1, (-2, -1))
    assert (frames_of(tmp_path / "a.jpg")[0].float() - turned.float()).abs().mean() < 2


# Limits.


@pytest.mark.parametrize("size", [(1, 64), (8193, 2), (2, 8200), (8192, 4321)])
def test_a_size_out_of_range_is_refused_from_the_header(tmp_path, size):
    width, height = size
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a side takes 2 to 8192|holds no frame"):
        open_clip(tmp_path / "a.png")


def test_a_budget_is_kept_while_frames_are_counted(tmp_path):
    path = make_clip(tmp_path / "a.mov", moving(9, 16, 16), **LOSSLESS)
    with open_clip(path) as reader, pytest.raises(UserError, match="more than 8 frames of 16x16"):
        reader.read_all(most_frames=8)
    with open_clip(path) as reader, pytest.raises(UserError, match="more than 5 frames of 16x16"):
        reader.read_all(most_pixels=16 * 16 * 6 - 1)
    with open_clip(path) as reader:
        assert len(reader.read_all(most_frames=9, most_pixels=16 * 16 * 9)[0]) == 9


def test_a_header_that_says_fewer_frames_is_not_believed(tmp_path):
    path = make_clip(tmp_path / "a.avi", moving(30, 16, 16), "mpeg4")
    content = bytearray(path.read_bytes())
    content[48:52] = struct.pack("<I", 10)  # of the file
    at = content.index(b"strh") + 8 + 32
    content[at : at + 4] = struct.pack("<I", 10)  # of the stream
    path.write_bytes(content)
    with open_clip(path) as reader:
        assert reader.facts.frames == 10
        with pytest.raises(UserError, match="more than 20 frames"):
            reader.read_all(most_frames=20)
    assert len(frames_of(path)) == 30


def test_a_size_that_only_the_header_has_is_not_believed(tmp_path):
    clip = moving(4)
    path = make_clip(tmp_path / "a.mov", clip, **LOSSLESS)
    content = bytearray(path.read_bytes())
    at = content.index(b"png ", content.index(b"stsd")) + 28
    assert struct.unpack(">HH", content[at : at + 4]) == (64, 48)
    content[at : at + 4] = struct.pack(">HH", 8000, 4000)
    path.write_bytes(content)
    with open_clip(path) as reader:
        assert (reader.facts.width, reader.facts.height) == (64, 48)
        assert torch.equal(reader.read_all()[0], clip)


def test_a_size_that_changes_is_noticed(tmp_path):
    small = make_clip(tmp_path / "a.h264", moving(4, 16, 16), container="h264")
    large = make_clip(tmp_path / "b.h264", moving(4, 32, 32), container="h264")
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames, error = until_it_breaks(both)
    assert len(frames) == 4
    assert "breaks off after 4 frames (the next frame has another size)" in error


# Files that are cut or damaged.

KINDS = {
    "fast.mp4": {"options": {"movflags": "faststart"}, "sound": "aac"},
    "plain.mp4": {"sound": "aac"},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mkv": {"sound": "aac"},
    "a.webm": {"codec": "libvpx-vp9"},
    "a.avi": {"codec": "mpeg4"},
    "a.mov": LOSSLESS,
    "a.ts": {"codec": "mpeg2video", "rate": 25},
    "a.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_cut_file_gives_the_frames_before_the_cut(tmp_path, name):
    path = make_clip(tmp_path / name, moving(12), codec_options={"g": "4"}, **KINDS[name])
    content, (whole, _) = path.read_bytes(), until_it_breaks(path)
    assert len(whole) == 12
    numbers = set()
    for cut in sorted({*range(0, 40, 3), *range(40, len(content), len(content) // 40)}):
        frames, error = until_it_breaks(io.BytesIO(content[:cut]))
        if name not in ("a.ts", "a.gif"):  # which show half a frame, as players do
            # Where frames are stored out of order, one may be missing before the last ones.
            assert all(torch.equal(frame, whole[time]) for time, frame in frames.items()), cut
        assert "\n" not in error
        if frames and error:
            assert f"breaks off after {len(frames)} frame" in error
        numbers.add(len(frames))
    if name not in ("plain.mp4", "a.mov"):  # whose index comes last
        assert len(numbers) > 3


@pytest.mark.parametrize("name", ["fast.mp4", "a.mkv", "a.webm", "a.avi"])
def test_a_cut_file_never_passes_for_a_whole_one(tmp_path, name):
    path = make_clip(tmp_path / name, moving(12), **KINDS[name])
    content = path.read_bytes()
    for cut in range(len(content) // 3, len(content) * 3 // 4, len(content) // 12):
        frames, error = until_it_breaks(io.BytesIO(content[:cut]))
        assert error
        assert len(frames) < 12


@pytest.mark.parametrize("name", list(KINDS))
def test_damage_is_one_line(tmp_path, name):
    content = make_clip(tmp_path / name, moving(8), **KINDS[name]).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 6):
            damaged[place] = rng.integers(256)
        _, error = until_it_breaks(io.BytesIO(bytes(damaged)))
        assert "\n" not in error


# What is no clip.


def test_what_is_no_clip_is_refused_in_a_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.txt").write_text("no clip " * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), format="fltp")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    make_clip(tmp_path / "a.mkv", moving(1), *BARE)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "frameless.mkv").write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])
    for name, words in {
        "empty.mp4": "cannot be read",
        "text.txt": "no video format that hasten knows",
        "noise.mp4": "cannot be read",
        "sound.mp4": r"holds no pictures \(only sound\)",
        "frameless.mkv": "cannot be read",
        "missing.mp4": "there is no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            open_clip(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/a.mp4",
        "https://localhost/a.mp4",
        "file:a.mp4",
        "concat:a.ts|b.ts",
        "data:video/mp4;base64," + "A" * 9000,
        "subfile,,start,0,end,0,,:a.mp4",
        "rtsp://localhost/a",
    ],
)
def test_addresses_are_refused(address):
    with pytest.raises(UserError, match="only local files"):
        open_clip(address)


def closed() -> io.BytesIO:
    file = io.BytesIO(b"closed")
    file.close()
    return file


@pytest.mark.parametrize(
    "wrong", [None, 3, io.StringIO("text"), closed(), b"bytes", "", "a\0b", "a" * 9000]
)
def test_what_names_no_file_is_refused(wrong):
    with pytest.raises(UserError, match=r"clip is|there is no file|is a folder"):
        open_clip(wrong)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4", "list.sdp"])
def test_a_playlist_fetches_nothing(tmp_path, name, as_file):
    part = make_clip(tmp_path / "part.ts", moving(5))
    assert len(frames_of(part)) == 5
    texts = {
        "list.ffconcat": "ffconcat version 1.0\nfile part.ts\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{part}\n#EXT-X-ENDLIST\n"
    path = tmp_path / name
    path.write_text(texts.get(name, playlist))
    with (
        pytest.raises(UserError, match="cannot be read"),
        open_clip(io.BytesIO(path.read_bytes()) if as_file else path) as reader,
    ):
        reader.read_all()
