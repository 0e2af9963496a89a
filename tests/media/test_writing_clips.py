"""Clips that are written are read back, with their times and their sound, and kept when cut off."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from hasten.core.errors import NonFiniteError, UserError
from hasten.media.boxes import boxes
from hasten.media.reading import open_clip
from hasten.media.writing import ClipWriter
from made_clips import SOUND, heard, make_clip, moving, packets, sweep, turn


def write(path, clip: torch.Tensor, rate=10, times=None, **others):
    height, width = clip.shape[-2:]
    with ClipWriter(path, width, height, rate, **others) as writer:
        for number, frame in enumerate(clip):
            writer.write(frame, None if times is None else times[number])
    return path


def read(path) -> tuple[torch.Tensor, list[Fraction]]:
    with open_clip(path) as reader:
        return reader.read_all()


def loudness(difference: torch.Tensor) -> float:
    """PSNR in decibels of a difference in 0..255."""
    return float(10 * torch.log10(255**2 / difference.float().square().mean()))


def copy(source, target, most: int | None = None):
    """Write what ``source`` holds to ``target``, with its sound and times."""
    with open_clip(source) as reader:
        facts = reader.facts
        with ClipWriter(target, facts.width, facts.height, facts.rate, reader) as writer:
            for number, (pixels, time) in enumerate(reader):
                if number == most:
                    break
                writer.write(pixels[:3], time)
    return target


# Frames.


def test_what_was_written_is_read_back(tmp_path):
    clip = moving(12)
    frames, times = read(write(tmp_path / "new" / "a.mp4", clip))
    assert times == [Fraction(number, 10) for number in range(12)]
    assert loudness(frames.int() - clip.int()) > 38
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_it_is_an_ordinary_mp4_that_every_player_shows(tmp_path):
    path = write(tmp_path / "a.mp4", moving(12), facts={"seed": 3})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 12)
        assert (stream.average_rate, stream.duration * stream.time_base) == (10, Fraction(12, 10))
        tags = context.color_range, context.colorspace, context.color_primaries, context.color_trc
        assert tags == (1, 1, 1, 1)
        assert container.metadata["hasten:seed"] == "3"
    with path.open("rb") as file:
        kinds = [box.kind for box in boxes(file)]
    assert b"moof" not in kinds
    assert kinds.count(b"moov") == 1


def test_colours_are_those_that_were_written(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 3)).astype(np.uint8)
    clip = torch.from_numpy(colours)[:, :, None, None].expand(4, 3, 32, 32)
    path = write(tmp_path / "a.mp4", clip)
    # Two roundings to limited range, and what a constant rate factor of 18 takes from flat frames.
    assert (read(path)[0].int() - clip.int()).abs().max() <= 6
    assert (read(path)[0].float() - clip.float()).abs().mean() <= 1.5


@pytest.mark.parametrize("rate", [10, 1, 240, Fraction(30000, 1001), Fraction(24000, 1001)])
def test_a_constant_rate_gives_exact_times(tmp_path, rate):
    path = write(tmp_path / "a.mp4", moving(8), rate)
    assert read(path)[1] == [number / Fraction(rate) for number in range(8)]
    with open_clip(path) as reader:
        assert reader.facts.rate == rate


def test_times_of_a_clip_are_kept_exactly(tmp_path):
    times = [0, 333, 1000, 1001, 7919, 8000]
    base = Fraction(1, 15360)
    source = make_clip(tmp_path / "a.mp4", moving(6), times=times, time_base=base)
    frames, read_times = read(source)
    assert read_times == [time * base for time in times]
    with open_clip(source) as reader:
        like = reader.facts
    again = write(tmp_path / "b.mp4", frames, 10, read_times, like=like)
    assert read(again)[1] == read_times
    assert read(copy(source, tmp_path / "c.mp4"))[1] == read_times


def test_times_without_a_clip_are_kept_to_the_clock_of_mpeg(tmp_path):
    times = [0.0, 0.1234567, 1.9]
    again = read(write(tmp_path / "a.mp4", moving(3), 10, times))[1]
    assert max(abs(a - b) for a, b in zip(again, times, strict=True)) <= 1 / 180_000


def test_an_odd_size_gets_one_more_row_and_column(tmp_path):
    clip = moving(6, 31, 47)
    frames, _ = read(write(tmp_path / "a.mp4", clip))
    assert frames.shape == (6, 3, 32, 48)
    assert loudness(frames[..., :31, :47].int() - clip.int()) > 38
    assert (frames[..., 31, :].int() - frames[..., 30, :].int()).abs().float().mean() < 2


@pytest.mark.parametrize("form", ["bytes", "float", "double", "grey"])
def test_bytes_fractions_and_grey_are_taken(tmp_path, form):
    clip = moving(4)
    given = {
        "bytes": clip,
        "float": clip.float() / 255,
        "double": clip.double() / 255,
        "grey": clip[:, :1],
    }[form]
    frames, _ = read(write(tmp_path / "a.mp4", given))
    assert loudness(frames.int() - (clip[:, :1] if form == "grey" else clip).int()) > 38


def test_a_turned_clip_is_written_upright_with_its_pixel_shape(tmp_path):
    source = make_clip(tmp_path / "a.mov", moving(4, 16, 32), "png", "rgb24")
    turn(source, (0, 1, -1, 0))
    target = copy(source, tmp_path / "b.mp4")
    with open_clip(target) as reader:
        assert (reader.facts.width, reader.facts.height, reader.facts.rotation) == (16, 32, 0)
    wide = write(tmp_path / "c.mp4", moving(4), like=stretched(tmp_path))
    with open_clip(wide) as reader:
        assert reader.facts.pixel_aspect == Fraction(4, 3)


def stretched(tmp_path):
    path = tmp_path / "stretched.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height = 64, 48
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(stream.encode(None))
    with open_clip(path) as reader:
        return reader.facts


def test_a_clip_can_replace_its_own_source(tmp_path):
    path = make_clip(tmp_path / "a.mp4", moving(6), sound="aac")
    sound = packets(path, "audio")
    copy(path, path)
    assert len(read(path)[0]) == 6
    assert packets(path, "audio") == sound


# Sound.


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.mp4", "mp3"), ("a.mov", "alac")]
)
def test_sound_is_copied_to_the_byte(tmp_path, name, codec):
    source = make_clip(tmp_path / name, moving(20), sound=codec)
    before, after = packets(source, "audio"), packets(copy(source, tmp_path / "b.mp4"), "audio")
    assert [content for _, content in after] == [content for _, content in before][: len(after)]
    # Cut at the end of the last frame, to a packet.
    assert 0 <= len(before) - len(after) <= 1 + (codec == "mp3")


def test_sound_of_a_transport_stream_loses_only_its_headers(tmp_path):
    source = make_clip(tmp_path / "a.ts", moving(20), sound="aac")
    before, after = packets(source, "audio"), packets(copy(source, tmp_path / "b.mp4"), "audio")
    bare = [content[7:] for _, content in before]
    assert len(after) > 80
    start = bare.index(after[0][1])
    assert [content for _, content in after] == bare[start : start + len(after)]


def lag(wave: np.ndarray, wanted: np.ndarray) -> int:
    """By how many samples ``wave`` comes later than ``wanted``."""
    length = min(len(wave), len(wanted))
    one, other = (np.fft.rfft(each[:length], 2 * length) for each in (wave, wanted))
    best = int(np.fft.irfft(one * other.conj()).argmax())
    return best - 2 * length if best > length else best


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "aac", True),
        ("a.mkv", "aac", True),
        ("a.mkv", "pcm_s16le", False),
        ("a.avi", "pcm_s16le", False),
        ("a.mkv", "flac", False),
        ("a.ts", "mp2", False),
    ],
)
def test_sound_stays_in_step(tmp_path, name, codec, kept):
    source = make_clip(tmp_path / name, moving(20), sound=codec)
    target = copy(source, tmp_path / "b.mp4")
    with av.open(str(target)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
    with open_clip(source) as reader:
        start = round(reader.start * SOUND)
    before = heard(source)[start:]
    # The clocks of MKV and MPEG-TS count to a millisecond and to 1/90000 of a second.
    assert abs(lag(heard(target), before)) <= SOUND / 1000


def test_sound_is_cut_to_what_was_written(tmp_path):
    for name, codec in (("a.mp4", "aac"), ("a.mkv", "pcm_s16le")):
        source = make_clip(tmp_path / name, moving(20), sound=codec)
        target = copy(source, tmp_path / "b.mp4", most=9)
        frames, _ = read(target)
        assert len(frames) == 9
        # To a packet of 1024 samples at the end, and one that the encoder adds at the start.
        assert abs(len(heard(target)) - 0.9 * SOUND) <= 2 * 1024
        assert abs(lag(heard(target), sweep(0.9))) <= SOUND / 1000


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_before_the_first_frame_is_left_out(tmp_path, codec):
    clip = moving(12)
    source = make_clip(tmp_path / "a.mkv", clip, sound=codec, times=range(8, 20))
    target = copy(source, tmp_path / "b.mp4")
    wanted = heard(source)[round(0.8 * SOUND) :]
    assert abs(lag(heard(target), wanted)) <= SOUND / 1000
    assert read(target)[1] == [Fraction(number, 10) for number in range(12)]


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_that_begins_later_begins_later(tmp_path, codec):
    source = make_clip(tmp_path / "a.mkv", moving(20), sound=codec, sound_start=0.5)
    target = copy(source, tmp_path / "b.mp4")
    wanted = np.concatenate([np.zeros(SOUND // 2, np.float32), sweep(2)])
    assert abs(lag(heard(target), wanted)) <= SOUND / 1000


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "aac"), ("a.ts", "aac"), ("b.mkv", "flac")])
def test_damaged_sound_is_copied_or_refused(tmp_path, name, codec):
    source = make_clip(tmp_path / name, moving(12), sound=codec)
    content = source.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(8):
        damaged = bytearray(content)
        for place in rng.integers(len(content) // 4, len(content), 5):
            damaged[place] = rng.integers(256)
        source.write_bytes(bytes(damaged))
        with contextlib.suppress(UserError):
            copy(source, tmp_path / "b.mp4")
        if (tmp_path / "b.mp4").exists():
            assert len(read(tmp_path / "b.mp4")[0]) > 0


def test_a_clip_without_sound_has_none(tmp_path):
    target = copy(make_clip(tmp_path / "a.mp4", moving(4)), tmp_path / "b.mp4")
    with av.open(str(target)) as container:
        assert len(container.streams) == 1


def test_sound_of_a_file_object_is_refused(tmp_path):
    file = io.BytesIO(make_clip(tmp_path / "a.mp4", moving(4), sound="aac").read_bytes())
    with pytest.raises(UserError, match="opened by its path"):
        copy(file, tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


# When it does not come to the end.


@pytest.mark.parametrize("frames", [1, 30])
def test_an_error_keeps_the_frames_so_far(tmp_path, frames):
    source = make_clip(tmp_path / "s.mp4", moving(40), sound="aac")
    clip, _ = read(source)

    def broken():
        yield from clip[:frames]
        raise RuntimeError("the network")

    with open_clip(source) as reader, pytest.raises(RuntimeError, match="the network"):
        write_all(ClipWriter(tmp_path / "a.mp4", 64, 48, 10, reader), broken())
    kept, times = read(tmp_path / "a.mp4")
    assert times == [Fraction(number, 10) for number in range(frames)]
    assert loudness(kept.int() - clip[:frames].int()) > 38
    assert abs(len(heard(tmp_path / "a.mp4")) - frames * SOUND / 10) <= 2 * 1024
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "s.mp4"]


def test_ctrl_c_keeps_the_frames_so_far_and_says_so(tmp_path):
    def stopped():
        yield from moving(5)
        raise KeyboardInterrupt

    writer = ClipWriter(tmp_path / "a.mp4", 64, 48, 10)
    with pytest.raises(KeyboardInterrupt, match=r"stopped; .*a.mp4 holds the first 5 frames"):
        write_all(writer, stopped())
    assert len(read(tmp_path / "a.mp4")[0]) == 5


def test_a_source_that_breaks_off_leaves_what_came_before(tmp_path):
    source = make_clip(
        tmp_path / "a.mp4", moving(20), sound="aac", options={"movflags": "faststart"}
    )
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=r"a.mp4 breaks off after \d+ frames"):
        copy(source, tmp_path / "b.mp4")
    assert 0 < len(read(tmp_path / "b.mp4")[0]) < 20


def test_without_a_frame_nothing_is_written(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"older")
    with (
        pytest.raises(UserError, match="there was no frame"),
        ClipWriter(tmp_path / "a.mp4", 64, 48, 10),
    ):
        pass
    with pytest.raises(RuntimeError), ClipWriter(tmp_path / "a.mp4", 64, 48, 10):
        raise RuntimeError
    assert (tmp_path / "a.mp4").read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1


def noise(frames: int) -> torch.Tensor:
    numbers = torch.randint(0, 256, (frames, 1, 48, 64), generator=torch.Generator().manual_seed(0))
    return numbers.to(torch.uint8).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_full_disk_keeps_what_was_written(tmp_path, sound):
    resource = pytest.importorskip("resource")  # a largest file fails as a full disk does
    source = make_clip(tmp_path / "s.mp4", moving(90), sound=sound)
    clip = noise(90)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size, seen = 0, []
    for share in (None, 0.97, 0.5, 0.001):
        target = tmp_path / f"{share}.mp4"
        with open_clip(source) as reader:
            writer = ClipWriter(target, 64, 48, 10, reader)
            room = resource.RLIM_INFINITY if share is None else int(size * share)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            try:
                message = write_all(writer, clip)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if share is None:
            assert message == ""
            size = target.stat().st_size
            continue
        assert f"{share}.mp4 cannot be written (File too large)" in message
        assert "\n" not in message
        if share == 0.001:
            assert "nothing was kept" in message
            assert not target.exists()
            continue
        frames, times = read(target)
        assert f"holds the first {len(frames)} frames and plays" in message
        assert times == [Fraction(number, 10) for number in range(len(frames))]
        assert loudness(frames.int() - clip[: len(frames)].int()) > 25
        seen.append(len(frames))
        with pytest.raises(UserError, match="inside the with block"):
            writer.write(clip[0])
    assert seen == sorted(seen, reverse=True)
    assert min(seen) >= 20
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def write_all(writer: ClipWriter, clip: Iterable[torch.Tensor]) -> str:
    """Write the frames; the error that ends that, if any."""
    try:
        with writer:
            for frame in clip:
                writer.write(frame)
    except UserError as error:
        return str(error)
    return ""


# What is refused.


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"path": "a.mkv"}, "let it end in .mp4"),
        ({"path": ""}, "names no file"),
        ({"width": 1}, "width is 1"),
        ({"height": 8193}, "height is 8193"),
        ({"width": 8192, "height": 8192}, "8192x8192"),
        ({"width": 64.0}, "width is 64.0"),
        ({"rate": 0}, "rate is 0"),
        ({"rate": 29.97}, "rate is 29.97"),
        ({"rate": 1001}, "rate is 1001"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, values, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        ClipWriter(**{"path": "a.mp4", "width": 64, "height": 48, "rate": 10, **values})


def test_frames_that_do_not_fit_are_refused_and_the_rest_is_kept(tmp_path):
    frame = torch.rand(3, 48, 64)
    wrong = [
        (frame[:, :47], None, UserError, r"frame has the shape \(3, 47, 64\)"),
        (torch.rand(4, 48, 64), None, UserError, r"takes \(3, 48, 64\)"),
        (None, None, UserError, "frame has the shape"),
        (frame * float("nan"), None, NonFiniteError, "NaN or infinity"),
        (frame, 0, UserError, "one after the last frame's"),
        (frame, -1, UserError, "seconds from 0"),
        (frame, float("nan"), UserError, "seconds from 0"),
    ]
    with ClipWriter(tmp_path / "a.mp4", 64, 48, 10) as writer:
        writer.write(frame)
        for pixels, time, kind, words in wrong:
            with pytest.raises(kind, match=words):
                writer.write(pixels, time)
        writer.write(frame)
    assert read(tmp_path / "a.mp4")[1] == [0, Fraction(1, 10)]


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="is a file"):
        ClipWriter(tmp_path / "file" / "a.mp4", 64, 48, 10)
    with pytest.raises(UserError, match="no name for an MP4"):
        ClipWriter(tmp_path / "folder.mp4", 64, 48, 10)
