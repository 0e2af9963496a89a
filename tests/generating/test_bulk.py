"""Bulk generation in one process: what is written, resumed, refused, and what fails."""

from __future__ import annotations

import errno
import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bulk_reading import TWO, contents_of, files_of, rows_of, whole
from PIL import Image
from safetensors.torch import load as load_tensors

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.errors import NonFiniteError, UserError
from hasten.generating import UnfinishedError, generate
from hasten.generating import shards as storing
from hasten.generating.maker import Maker
from hasten.generating.shards import Shards

SMALL = {"plan": TWO, "n": 7, "shard": 3, "batch": 2, "threads": 1}


def interrupted(monkeypatch, at: int, error: BaseException) -> None:
    """Let the batch that begins with item ``at`` raise ``error``."""
    sampled = Maker._sampled

    def broken(self, sampler, numbers, condition):
        if numbers.start == at:
            raise error
        return sampled(self, sampler, numbers, condition)

    monkeypatch.setattr(Maker, "_sampled", broken)


def test_item_i_is_picture_i_of_the_seed_for_class_i_in_turn(tmp_path):
    generate("builtin:mnist", tmp_path / "a", seed=5, image="latents", **SMALL)
    assert whole(tmp_path / "a", 7)
    sampler = hasten.build(hasten.load("builtin:mnist"), TWO)
    torch.set_num_threads(1)
    table = pq.read_table(sorted((tmp_path / "a").glob("*.parquet"))[1]).to_pylist()
    assert [(row["number"], row["label"]) for row in table] == [(3, 3), (4, 4), (5, 5)]
    expected = [
        sampler.sample(2, seed=5, first=3, condition=[3, 4], raw=True),
        sampler.sample(1, seed=5, first=5, condition=[5], raw=True),
    ]
    for row, latents in zip(table, torch.cat(expected), strict=True):
        there = np.frombuffer(row["latents"], "<f4").reshape(row["shape"])
        assert torch.equal(torch.from_numpy(there.copy()), latents)


@pytest.mark.parametrize("format", ["parquet", "tar", "files"])
@pytest.mark.parametrize("image", ["png", "jpeg", "webp", "latents"])
def test_every_format_holds_every_item_once(folder, tmp_path, format, image):
    out = tmp_path / "out"
    result = generate(folder, out, format=format, image=image, **SMALL)
    assert (result.made, result.done, result.n, result.shards) == (7, 7, 7, 3)
    assert whole(out, 7)
    picture = contents_of(out)[4]
    if image != "latents":
        with Image.open(io.BytesIO(picture)) as opened:
            assert (opened.format.lower(), opened.size) == (image, (8, 8))
    elif format != "parquet":
        assert load_tensors(picture)["x0"].shape == (1, 8, 8)


def test_a_png_is_that_of_the_sampler(folder, tmp_path):
    torch.set_num_threads(1)
    generate(folder, tmp_path / "a", **SMALL)
    sampler = hasten.build(hasten.load(folder), TWO)
    expected = sampler.pil(2, first=3, condition=[0, 1])
    for number, picture in zip((3, 4), expected, strict=True):
        with Image.open(io.BytesIO(contents_of(tmp_path / "a")[number])) as opened:
            assert opened.tobytes() == picture.tobytes()


def test_a_tar_is_laid_out_as_webdataset_reads_it_and_names_no_time_or_user(folder, tmp_path):
    generate(folder, tmp_path / "a", format="tar", **SMALL)
    with tarfile.open(tmp_path / "a" / "shard-000002.tar") as tar:
        entries = tar.getmembers()
        facts = json.load(tar.extractfile("000000006.json"))
    assert [entry.name for entry in entries] == ["000000006.png", "000000006.json"]
    assert {(entry.mtime, entry.uid, entry.uname) for entry in entries} == {(0, 0, "")}
    assert (facts["number"], facts["label"]) == (6, 0)


def test_datasets_decodes_the_pictures_of_parquet_and_of_files(folder, tmp_path):
    from datasets import load_dataset

    for format, kind in (("parquet", "parquet"), ("files", "imagefolder")):
        out = tmp_path / format
        generate(folder, out, format=format, **SMALL)
        where = {"data_files": str(out / "*.parquet")} if kind == "parquet" else {}
        where = where or {"data_dir": str(out)}
        rows = load_dataset(kind, split="train", cache_dir=str(tmp_path / "cache"), **where)
        assert sorted(rows["number"]) == list(range(7))
        assert rows[0]["image"].size == (8, 8)


@pytest.mark.parametrize("format", ["parquet", "files"])
def test_what_is_missing_or_damaged_is_made_again_with_the_same_bytes(folder, tmp_path, format):
    out = tmp_path / "a"
    generate(folder, out, format=format, **SMALL)
    before = files_of(out)
    (out / "shard-000000.jsonl").unlink()
    end = "/000000004.png" if format == "files" else ".parquet"
    (out / f"shard-000001{end}").write_bytes(b"damaged")
    (out / ".shard-000002.1.tmp").write_bytes(b"left by one that was killed")
    result = generate(folder, out, format=format, **SMALL)
    assert (result.made, result.done) == (6, 7)
    assert files_of(out) == before
    assert generate(folder, out, format=format, **SMALL).made == 0


def test_another_job_in_the_folder_is_refused_by_what_differs(folder, tmp_path):
    generate(folder, tmp_path / "a", **SMALL)
    with pytest.raises(UserError, match=r"seed differs \(0 there, 1 here\); choose another folder"):
        generate(folder, tmp_path / "a", seed=1, **SMALL)
    with pytest.raises(UserError, match="plan differs, and so do plan_key; choose"):
        generate(folder, tmp_path / "a", **{**SMALL, "plan": "steps=3,grid=uniform,solver=ddim"})
    with pytest.raises(UserError, match=r"format differs \(parquet there, tar here\)"):
        generate(folder, tmp_path / "a", format="tar", **SMALL)


def test_a_folder_with_files_of_others_is_refused(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cat.png").write_bytes(b"cat")
    with pytest.raises(UserError, match=r"holds files, but no job\.json"):
        generate(folder, tmp_path / "a", **SMALL)


def test_ctrl_c_leaves_whole_shards_and_the_same_command_goes_on(
    run, folder, tmp_path, monkeypatch
):
    asked = ("generate", folder, "--plan", TWO, "--n", 7, "--shard", 3, "--batch", 2)
    asked = (*asked, "--threads", 1, "--quiet", "--out")
    assert run(*asked, tmp_path / "a")[0] == 0
    with monkeypatch.context() as patch:
        interrupted(patch, 5, KeyboardInterrupt())
        status, _, err = run(*asked, tmp_path / "b")
    line = "hasten: stopped; 3 of 7 pictures are done, and the same command goes on.\n"
    assert (status, err) == (130, line)
    assert sorted(contents_of(tmp_path / "b")) == [0, 1, 2]
    assert not list((tmp_path / "b").glob(".*.tmp"))
    status, said, _ = run(*asked, tmp_path / "b", "--json")
    assert (status, json.loads(said)["made"]) == (0, 4)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_full_disk_is_one_line_and_what_is_done_stays(run, folder, tmp_path, monkeypatch):
    out, fsync = tmp_path / "a", storing.fsync

    def full(path):
        if "shard-000001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(path)

    monkeypatch.setattr(storing, "fsync", full)
    asked = ("--plan", TWO, "--n", 7, "--shard", 3, "--quiet", "--out", out)
    status, _, err = run("generate", folder, *asked)
    assert status == 2
    assert err.startswith(f"hasten: {out} cannot be written: No space left on device; what is done")
    assert sorted(contents_of(out)) == [0, 1, 2]
    assert not list(out.glob(".*.tmp"))


def test_a_picture_that_is_not_finite_fails_its_shard_alone(run, tiny_model, tmp_path):
    model = tiny_model(labels=7)
    with torch.no_grad():
        model.net.module.class_embedding.weight[4] = 1e38  # overflows
    save_folder(model, tmp_path / "model")
    out, before = tmp_path / "a", torch.get_num_threads()
    asked = ("--plan", TWO, "--n", 7, "--shard", 3, "--batch", 2, "--out", out, "--json", "--quiet")
    status, said, err = run("generate", tmp_path / "model", *asked)
    assert status == 1
    lines = err.splitlines()
    assert lines[0].startswith("hasten: items 3 to 4: ")
    assert lines[1].startswith("hasten: 1 of 3 shards failed, and 4 of 7 pictures are done;")
    assert len(json.loads(said)["failed"]) == 1
    assert sorted(contents_of(out)) == [0, 1, 2, 6]
    assert torch.get_num_threads() == before


def test_a_failed_shard_is_tried_again_by_the_next_run(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 3, NonFiniteError("it is not finite."))
        with pytest.raises(UnfinishedError) as caught:
            generate(folder, tmp_path / "a", **SMALL)
    assert (caught.value.result.made, caught.value.exit_status) == (4, 1)
    assert generate(folder, tmp_path / "a", **SMALL).made == 3
    assert whole(tmp_path / "a", 7)


def test_a_picture_that_turns_to_nan_in_the_decoder_is_named(folder, tmp_path, monkeypatch):
    sampled = Maker._sampled

    def broken(self, sampler, numbers, condition):
        pictures = sampled(self, sampler, numbers, condition).clone()
        pictures[-1] = float("nan")
        return pictures

    monkeypatch.setattr(Maker, "_sampled", broken)
    with pytest.raises(UnfinishedError) as caught:
        generate(folder, tmp_path / "a", **{**SMALL, "n": 2})
    assert caught.value.result.failed[0].startswith("item 1: ")


def test_a_shard_that_another_command_holds_is_waited_for(folder, tmp_path, monkeypatch):
    from hasten.generating import bulk

    out = tmp_path / "a"
    (out / ".locks").mkdir(parents=True)
    held = Shards(out, "parquet").lock(1)
    assert held.__enter__() is True
    waited = []

    def sleep(_):
        waited.append(sorted(contents_of(out)))
        held.__exit__(None, None, None)

    monkeypatch.setattr(bulk.time, "sleep", sleep)
    assert generate(folder, out, **SMALL).made == 7
    assert waited == [[0, 1, 2, 6]]
    assert whole(out, 7)


def test_each_process_of_torchrun_begins_with_its_own_shards(folder, tmp_path, monkeypatch):
    out = tmp_path / "a"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert generate(folder, out, **SMALL).made == 3  # the other has not been seen in this folder
    assert sorted(contents_of(out)) == [3, 4, 5]
    monkeypatch.setenv("RANK", "0")
    assert generate(folder, out, **SMALL).made == 4
    assert whole(out, 7)
    (out / "shard-000001.jsonl").unlink()
    assert generate(folder, out, **SMALL).made == 3  # now rank 1 has, and is helped


@pytest.mark.parametrize(("name", "value"), [("RANK", "2"), ("WORLD_SIZE", "two")])
def test_an_environment_that_does_not_fit_is_refused(folder, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"the environment's {name} is '?{value}"):
        generate(folder, tmp_path / "a", **SMALL)


def test_an_executor_that_shares_pictures_out_is_refused_with_torchrun(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="executor is 'picard', which shares a picture out"):
        generate(folder, tmp_path / "a", **{**SMALL, "plan": "executor=picard,solver=ddim"})


def test_the_job_keeps_the_threads_it_was_begun_with(folder, tmp_path):
    generate(folder, tmp_path / "a", **SMALL)
    rest = {name: value for name, value in SMALL.items() if name != "threads"}
    generate(folder, tmp_path / "a", **rest)
    with pytest.raises(UserError, match=r"threads differs \(1 there, 2 here\)"):
        generate(folder, tmp_path / "a", **rest, threads=2)


def test_manifest_lines_name_the_plan_and_the_shard(folder, tmp_path):
    generate(folder, tmp_path / "a", **SMALL)
    row = rows_of(tmp_path / "a")[5]
    job = json.loads((tmp_path / "a" / "job.json").read_text())
    assert row["plan"] == job["plan_key"] == hasten.Plan.read(TWO).key
    assert (row["number"], row["shard"], row["seed"]) == (5, "shard-000001.parquet", 0)
    assert job["version"] == hasten.__version__
