"""Frames from pipes and cameras, read ahead by a thread; and frames written to a pipe."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from hasten.core.errors import UserError
from hasten.media import arrivals as arriving
from hasten.media import live
from hasten.media.arrivals import Arrivals
from hasten.media.live import open_source
from hasten.media.piping import PipeWriter
from hasten.media.reading import open_clip
from made_clips import make_clip, moving, packets


def pipe_of(content: bytes) -> int:
    """What a pipe is read by into which ``content`` is written."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write, daemon=True).start()
    return reading


@pytest.fixture
def piped(monkeypatch):
    """Puts a pipe in the place of stdin."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(live, "STDIN", pipe_of(content))

    return put


Y4M = {"codec": "rawvideo", "container": "yuv4mpegpipe"}


@pytest.mark.parametrize(
    ("name", "how"),
    [("a.y4m", Y4M), ("a.mkv", {}), ("a.ts", {"container": "mpegts"})],
)
def test_a_pipe_gives_the_frames_of_the_file_that_it_carries(tmp_path, piped, name, how):
    file = make_clip(tmp_path / name, moving(9), **how)
    piped(file.read_bytes())
    with open_source("-") as reader, open_clip(file) as wanted:
        frames, times = reader.read_all()
        assert torch.equal(frames, wanted.read_all()[0])
    assert times == [Fraction(number, 10) for number in range(9)]


@pytest.mark.parametrize("content", [b"", b"no clip" * 1000])
def test_a_pipe_that_carries_no_clip_is_refused(piped, content):
    piped(content)
    with pytest.raises(UserError, match=r"clip on stdin cannot be read .*; send y4m, Matroska"):
        open_source("-")


def test_a_pipe_that_ends_within_a_frame_gives_those_before(tmp_path, piped):
    content = make_clip(tmp_path / "a.y4m", moving(9), **Y4M).read_bytes()
    piped(content[: len(content) * 2 // 3])
    with open_source("-") as reader:
        frames, _ = reader.read_all()
    with open_clip(tmp_path / "a.y4m") as reader:
        wanted, _ = reader.read_all()
    assert len(frames) >= 5
    assert torch.equal(frames[:5], wanted[:5])


def test_a_terminal_is_no_pipe(monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda _: True)
    with pytest.raises(UserError, match="stdin is a terminal; pipe a clip into it"):
        open_source("-")
    with pytest.raises(UserError, match="stdout is a terminal; pipe it to a player"):
        PipeWriter(64, 48, 10)


def test_a_camera_is_opened_by_the_format_of_its_platform(monkeypatch):
    drawn = ("lavfi", lambda number: f"testsrc2=size=64x48:rate=10:duration=0.{number}")
    monkeypatch.setitem(live.CAMERAS, sys.platform, drawn)
    with open_source("camera:5") as reader:
        assert (reader.facts.width, reader.facts.height, reader.facts.rate) == (64, 48, 10)
        assert len(reader.read_all()[0]) == 5


def test_a_camera_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setitem(live.CAMERAS, sys.platform, ("v4l3", str))
    with pytest.raises(UserError, match="camera:7 cannot be opened through v4l3"):
        open_source("camera:7")
    monkeypatch.delitem(live.CAMERAS, sys.platform)
    with pytest.raises(UserError, match="cameras are not supported on"):
        open_source("camera:7")


class Given:
    """A clip whose frames come when they are told to."""

    def __init__(self, times: list[int], error: Exception | None = None) -> None:
        self.times, self.error, self.closed = times, error, False
        self.go = threading.Semaphore(len(times))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Fraction]]:
        for number, time in enumerate(self.times):
            self.go.acquire()
            yield torch.full((3, 2, 2), number, dtype=torch.uint8), Fraction(time)
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed = True


def numbers(found: Any) -> list[int]:
    return [int(each.pixels[0, 0, 0]) for each in found]


def test_a_source_that_waits_loses_no_frame():
    clip = Given(list(range(50)))
    with Arrivals(clip) as arrivals:  # type: ignore[arg-type]
        assert numbers(arrivals.frames()) == list(range(50))
    assert arrivals.skipped == 0
    assert clip.closed


def test_the_newest_frame_takes_the_place_of_those_that_came_meanwhile():
    with Arrivals(Given(list(range(50))), drop=True) as arrivals:  # type: ignore[arg-type]
        arrivals._thread.join()  # meanwhile all have come
        assert numbers(arrivals.frames()) == [49]
    assert arrivals.skipped == 49


def test_an_error_comes_after_the_frames_before_it():
    with Arrivals(Given([0, 1, 2], UserError("it breaks off"))) as arrivals:  # type: ignore[arg-type]
        frames = arrivals.frames()
        assert numbers(next(frames) for _ in range(3)) == [0, 1, 2]
        with pytest.raises(UserError, match="breaks off"):
            next(frames)


def test_work_is_not_held_up_by_a_frame_that_has_not_come():
    clip = Given([0, 1])
    clip.go = threading.Semaphore(1)
    with Arrivals(clip) as arrivals:  # type: ignore[arg-type]
        frames = arrivals.frames(busy=lambda: True)
        found = next(each for each in frames if each is not None)
        assert numbers([found]) == [0]
        assert next(frames) is None
        clip.go.release()
        assert numbers(each for each in frames if each is not None) == [1]


def test_a_paced_clip_comes_at_its_own_times():
    waits: list[float] = []
    arrivals = Arrivals(Given([0, 1000, 3000]), paced=True)  # type: ignore[arg-type]
    arrivals._stopped.wait = waits.append  # type: ignore[assignment,method-assign]
    with arrivals:
        assert numbers(arrivals.frames()) == [0, 1, 2]
    assert [round(wait, -3) for wait in waits] == [1000, 3000]


def test_a_source_that_is_blocked_is_left_open(monkeypatch):
    monkeypatch.setattr(arriving, "PATIENCE", 0.01)
    clip = Given([0])
    clip.go = threading.Semaphore(0)
    with Arrivals(clip):  # type: ignore[arg-type]
        pass
    assert not clip.closed
    clip.go.release()


def written(path: Path, clip: torch.Tensor, **others: Any) -> Path:
    """``clip`` written to a file by its handle, as to a pipe."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    height, width = clip.shape[-2:]
    with PipeWriter(width, height, 10, handle=handle, **others) as writer:
        for frame in clip:
            writer.write(frame)
    os.close(handle)
    assert writer.written == len(clip)
    return path


def test_what_is_written_to_a_pipe_has_the_frames_and_their_times(tmp_path):
    clip = moving(12)
    with open_clip(written(tmp_path / "a.mkv", clip, facts={"seed": 3})) as reader:
        frames, times = reader.read_all()
    assert times == [Fraction(number, 10) for number in range(12)]
    assert (frames.float() - clip.float()).abs().mean() < 3  # of 255; H.264 loses some


def test_the_sound_goes_into_the_pipe_too(tmp_path):
    source = make_clip(tmp_path / "a.mp4", moving(12), sound="aac")
    with open_clip(source) as reader:
        out = written(tmp_path / "b.mkv", moving(12), audio_from=reader)
    before, after = packets(source, "audio"), packets(out, "audio")
    assert [data for _, data in after] == [data for _, data in before][: len(after)]
    assert len(before) - len(after) < 3


def test_a_frame_is_sent_when_the_next_one_is_written():
    reading, writing = os.pipe()
    with PipeWriter(64, 48, 10, handle=writing) as writer:
        for frame in moving(4):
            writer.write(frame)
        sent = os.read(reading, 1 << 20)
        assert sent.count(b"\x1f\x43\xb6\x75") == 3  # clusters, each of a frame
    os.close(writing)
    whole = sent + os.read(reading, 1 << 20)
    with open_clip(io.BytesIO(whole)) as clip:
        assert len(clip.read_all()[0]) == 4


def test_a_player_that_has_gone_ends_it():
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write_all(writing)
    os.close(writing)


def write_all(handle: int) -> None:
    with PipeWriter(64, 48, 10, handle=handle) as writer:
        for frame in moving(9):
            writer.write(frame)
