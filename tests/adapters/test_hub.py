"""Pushing to and pulling from a stand-in of the hub, through the real huggingface_hub."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

import hasten
from hasten.adapters import hub as names
from hasten.adapters import hub_errors
from hasten.adapters.folder import save_folder
from hasten.adapters.hub_exchange import Upload, pull, push
from hasten.core.artifact import ASSETS, digest
from hasten.core.errors import UserError
from hasten.core.files import MANIFEST, cache_root, read_json, sha256, verify
from hasten.core.learned_program import LearnedProgram
from hasten.core.model import Model
from hasten.core.plan import Plan
from hub_stand_in import TOKEN, Hub

REPO = "ada/fast"
PLAN = Plan(solver="unipc(order=2)", grid="uniform", steps=3)


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """An empty hub, an empty cache, and a token that may write."""
    server = Hub()
    point_at(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    names._kept.cache_clear()
    yield server
    names._kept.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture
def plan_file(tmp_path) -> Path:
    PLAN.write(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def pictures(model: Model, plan: object) -> torch.Tensor:
    return hasten.build(model, plan).sample(2, seed=1)


def learned(model: Model, file: Path) -> Path:
    """A learned program for ``model``, that of a solver."""
    facts = {"pairs": 8, "ode_error": {"before": 0.04, "after": 0.02, "n": 8}}
    program = hasten.trace(PLAN, model.schedule)
    LearnedProgram(program=program, weights=digest(model), model=model.name, facts=facts).write(
        file
    )
    return file


def refused(match: str, call: Callable[..., object], *arguments: object, **more: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)


# --- round trips --------------------------------------------------------------------------------


def test_a_plan_comes_back_equal_and_makes_the_same_pictures(hub, plan_file, tiny_model, tmp_path):
    pushed = push(plan_file, REPO)
    pulled = pull(REPO, tmp_path / "got")
    assert pulled.commit == pushed.commit == hub.branches[REPO]["main"]
    assert Plan.read(tmp_path / "got/plan.json") == PLAN == Plan.read(f"hub:{REPO}")
    model = tiny_model()
    assert torch.equal(pictures(model, f"hub:{REPO}"), pictures(model, PLAN))
    origin = verify(tmp_path / "got")["hub"]
    assert origin == {"repo": REPO, "revision": pushed.commit}


def test_a_model_loads_from_the_hub_by_its_name(hub, folder):
    push(folder, REPO)
    model, own = hasten.load(f"hub:{REPO}"), hasten.load(folder)
    assert model.name == f"hub:{REPO}"
    assert digest(model) == digest(own)
    assert torch.equal(pictures(model, PLAN), pictures(own, PLAN))


def test_a_learned_program_runs_from_the_hub_and_from_a_pulled_folder(hub, teacher, tmp_path):
    file = learned(teacher, tmp_path / "three.json")
    push(file, REPO)
    pull(REPO, tmp_path / "got")
    own = pictures(teacher, Plan(program=str(file)))
    for plan in (f"hub:{REPO}", tmp_path / "got/plan.json", f"program='hub:{REPO}/program.json'"):
        assert torch.equal(pictures(teacher, plan), own)


def test_a_plan_that_was_learned_for_other_weights_is_refused(hub, teacher, tiny_model, tmp_path):
    push(learned(teacher, tmp_path / "three.json"), REPO)
    refused("other weights", hasten.build, tiny_model(), f"hub:{REPO}")


def test_the_files_that_a_plan_names_go_with_it(hub, teacher, tmp_path):
    file = learned(teacher, tmp_path / "three.json")
    Plan(program=str(file)).write(tmp_path / "plan.json")
    pushed = push(tmp_path / "plan.json", REPO)
    assert "files/three.json" in pushed.files
    plan = Plan.read(f"hub:{REPO}")
    assert plan.program == f"hub:{REPO}@{pushed.commit}/files/three.json"
    own = pictures(teacher, Plan(program=str(file)))
    file.unlink()
    pull(REPO, tmp_path / "got")
    assert torch.equal(pictures(teacher, tmp_path / "got/plan.json"), own)
    assert torch.equal(pictures(teacher, plan), own)


def test_a_student_stands_in_for_its_teacher_from_the_hub(hub, teacher, tmp_path):
    student = hasten.load(teacher.folder)
    fields = {"plans": (PLAN.model_dump(),), "teacher": digest(teacher)}
    save_folder(hasten.Model(**{**vars(student), **fields}), tmp_path / "student")
    pushed = push(tmp_path / "student", REPO, base_model="ada/teacher")
    assert pushed.kind == "student"
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert card.data.base_model == "ada/teacher"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    here = pictures(teacher, f"levers=student(folder='{tmp_path / 'student'}')")
    there = pictures(teacher, f"levers=student(folder='hub:{REPO}')")
    assert torch.equal(here, there)


def test_pulling_for_a_model_takes_the_plans_of_its_weights_alone(
    hub, teacher, tiny_model, tmp_path
):
    other = tiny_model(labels=3)
    for name, model in (("one", teacher), ("two", other)):
        (tmp_path / "all" / name).mkdir(parents=True)
        PLAN.write(tmp_path / "all" / name / "plan.json")
        subject = {"version": 2, "subject": {"sha256": digest(model)}}
        (tmp_path / "all" / name / "trials.jsonl").write_text(json.dumps(subject) + "\n")
    push(tmp_path / "all", REPO)
    assert pull(REPO, tmp_path / "both").plans == ("one/plan.json", "two/plan.json")
    assert pull(REPO, tmp_path / "got", model=other).plans == ("two/plan.json",)
    assert not (tmp_path / "got/one").exists()
    assert Plan.read(f"hub:{REPO}/two/plan.json") == PLAN
    refused("name one of its plans: hub:ada/fast/one/plan.json", Plan.read, f"hub:{REPO}")
    third = tiny_model()
    refused("holds nothing for the weights of 'tiny'", pull, REPO, tmp_path / "x", model=third)


def test_a_branch_a_message_and_privacy_are_as_asked(hub, plan_file, tmp_path):
    push(plan_file, REPO, upload=Upload(private=True, revision="next", message="Three steps"))
    assert hub.private[REPO]
    assert hub.messages == ["Three steps"]
    assert "plan.json" not in hub.files(REPO)
    assert Plan.read(f"hub:{REPO}@next") == PLAN
    assert pull(f"{REPO}@next", tmp_path / "got").commit == hub.branches[REPO]["next"]


def test_a_dry_run_writes_the_folder_and_uploads_nothing(hub, plan_file, tmp_path, run):
    status, said, _ = run("push", plan_file, REPO, "--dry-run", "--out", tmp_path / "would")
    assert status == 0
    assert "uploaded nothing" in said
    assert set(verify(tmp_path / "would")["files"]) == {"plan.json", "README.md"}
    assert not hub.commits


def test_the_commands_push_and_pull(hub, plan_file, folder, tmp_path, run):
    status, said, _ = run("push", plan_file, REPO, "--base-model", "ada/teacher")
    assert status == 0, said
    assert f"pushed hub:{REPO}@" in said
    status, said, _ = run("pull", REPO, "--out", tmp_path / "got")
    assert status == 0
    assert f"plan: {tmp_path / 'got/plan.json'}" in said
    shown = ("--n", 1, "--out", tmp_path / "pictures")
    assert run("sample", folder, "--plan", f"hub:{REPO}", *shown)[0] == 0


def test_an_endpoint_from_the_environment_is_used(hub, plan_file, tmp_path):
    push(plan_file, REPO)
    code = f"import sys, hasten; sys.exit(str(hasten.Plan.read('hub:{REPO}')) != {str(PLAN)!r})"
    place = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other")}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **place})


# --- the card -----------------------------------------------------------------------------------


def test_the_card_says_what_the_tuner_recorded(hub, tmp_path):
    conditions = {"device": "cpu: a processor", "threads": 2}
    best = {
        "plan": PLAN.model_dump(mode="json"),
        "evaluations": 3.0,
        "race_ms": {"median": 7.25, "low": 7.0, "high": 7.5, "n": 24},
        "ode_error": {"rmse": 0.0321, "low": 0.03, "high": 0.034, "n": 32},
        "peak_mb": 100.0,
    }
    report = {"model": "hub:ada/teacher@v1", "best": best["plan"], "batch": 1, "passed": True}
    report |= {"front": [best], "notes": ["levers were not tried"], "conditions": conditions}
    folder = tmp_path / "tuned"
    folder.mkdir()
    PLAN.write(folder / "plan.json")
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "report.html").write_text("<script>1</script>")
    assert push(folder, REPO).kind == "tuned"
    files = hub.files(REPO)
    assert set(files) == {".gitattributes", "README.md", MANIFEST, "plan.json", "report.json"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "hasten"
    assert card.data.base_model == "ada/teacher"
    assert card.data.license is None
    assert "| ms for 1 | 7.25 | 7 to 7.5 | 24 |" in card.text
    assert "| ODE error (RMSE) | 0.0321 | 0.03 to 0.034 | 32 |" in card.text
    for words in ("cpu: a processor", "- levers were not tried", str(PLAN), f"hub:{REPO}"):
        assert words in card.text


def test_the_head_of_a_models_own_card_stays(hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [tiny]\n---\n# Tiny\n\nA word.\n")
    hasten.core.files.write_manifest(folder)
    push(folder, REPO)
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.library_name == "diffusers"
    assert card.data.tags == ["tiny", "hasten", "diffusion"]
    assert "A word." in card.text


def test_a_quantized_plan_says_so(tmp_path):
    from hasten.adapters.hub_card import card_of
    from hasten.adapters.hub_contents import contents_of

    (tmp_path / "w8a8.safetensors").write_bytes(b"")
    plan = Plan(levers=(f"quantize(file='{tmp_path / 'w8a8.safetensors'}')",))
    plan.write(tmp_path / "plan.json")
    card = ModelCard(card_of(contents_of(tmp_path / "plan.json"), REPO, "ada/teacher"))
    assert card.data.to_dict()["base_model_relation"] == "quantized"


# --- what is not taken --------------------------------------------------------------------------


def test_a_tampered_file_is_refused(hub, folder):
    push(folder, REPO)
    weights = "unet/diffusion_pytorch_model.safetensors"
    body = bytearray(hub.files(REPO)[weights])
    body[-1] ^= 1
    hub.put(REPO, {weights: bytes(body)})
    refused("is damaged", hasten.load, f"hub:{REPO}")
    refused("is damaged", pull, REPO, folder.with_name("got"))
    assert not folder.with_name("got").exists()


def test_a_repo_with_code_is_pulled_without_it(hub, plan_file, tmp_path):
    push(plan_file, REPO)
    hub.put(REPO, {"pipeline.py": b"raise SystemExit", "weights.bin": b"", "plan.pkl": b""})
    pull(REPO, tmp_path / "got")
    there = {file.name for file in (tmp_path / "got").rglob("*")}
    assert there == {"plan.json", "README.md", MANIFEST}
    assert not any(path.endswith((".py", ".bin", ".pkl")) for path in hub.asked)


@pytest.mark.parametrize(
    "name", ["../plan.json", "/etc/plan.json", "a/../../plan.json", "c:\\plan.json", "*.json", ".x"]
)
def test_a_manifest_that_leaves_the_repo_is_refused(hub, tmp_path, name):
    listed = {"files": {name: {"bytes": 2, "sha256": "0" * 64}}}
    hub.put(REPO, {MANIFEST: json.dumps(listed).encode(), name: b"{}"})
    refused("no plain path inside the repo", pull, REPO, tmp_path / "got")


@pytest.mark.parametrize("name", ["model.py", "unet/weights.bin", "a.pt", "a.pkl", "a.json.py"])
def test_a_manifest_that_lists_code_is_refused(hub, tmp_path, name):
    listed = {"files": {name: {"bytes": 0, "sha256": "0" * 64}}}
    hub.put(REPO, {MANIFEST: json.dumps(listed).encode(), name: b""})
    refused("safetensors", pull, REPO, tmp_path / "got")
    assert not any(path.endswith(name) for path in hub.asked)


def test_a_plan_that_names_a_file_outside_its_repo_is_refused(hub, tmp_path):
    plan = Plan(program="/home/ada/secret.json")
    plan.write(tmp_path / "plan.json")
    file = tmp_path / "plan.json"
    facts = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    listed = {"hasten": {"plans": {"plan.json": ""}}, "files": {"plan.json": facts}}
    hub.put(REPO, {MANIFEST: json.dumps(listed).encode(), "plan.json": file.read_bytes()})
    refused("names '/home/ada/secret.json', which", Plan.read, f"hub:{REPO}")
    refused("names '/home/ada/secret.json', which", pull, REPO, tmp_path / "got")


def test_what_is_no_data_is_left_out_of_a_push_and_said(hub, tiny_model, tmp_path, run):
    folder = tmp_path / "model"
    save_folder(tiny_model(), folder)
    (folder / MANIFEST).unlink()
    (folder / "train.py").write_text("")
    status, said, _ = run("push", folder, REPO)
    assert status == 0
    assert "left out, as no data that hasten shares: train.py" in said
    assert "train.py" not in hub.files(REPO)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder / "nothing", "is no file and no folder here"),
        (lambda folder: folder, "holds no hasten.json"),
    ],
)
def test_what_hasten_did_not_write_is_not_pushed(hub, tmp_path, make, match):
    refused(match, push, make(tmp_path), REPO)


def test_a_plan_whose_file_is_not_here_is_not_pushed(hub, tmp_path):
    Plan(program="gone.json").write(tmp_path / "plan.json")
    refused("names 'gone.json', which is not here", push, tmp_path / "plan.json", REPO)


# --- what the hub refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "a/b/c", "../x", "a/..", "hub:", "a b/c"])
def test_a_name_that_is_no_repo_is_one_line(hub, plan_file, tmp_path, name):
    refused("takes owner/name", push, plan_file, name)
    refused("takes owner/name", pull, name, tmp_path / "got")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((401, ""), "does not exist, or is private.*hf auth login"),
        ((404, "RepoNotFound"), "does not exist, or is private"),
        ((403, "GatedRepo"), "is gated; ask for access at"),
        ((403, ""), "your token may not do this"),
        ((500, ""), "answers 500"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, tmp_path, answer, match):
    hub.put(REPO, {MANIFEST: b"{}"})
    hub.answers[REPO] = answer
    refused(match, pull, REPO, tmp_path / "got")
    refused(match, hasten.load, f"hub:{REPO}")


def test_a_revision_that_is_not_there_is_one_line(hub, plan_file, tmp_path):
    push(plan_file, REPO)
    refused("no such revision", pull, REPO, tmp_path / "got", revision="v9")


def test_a_repo_that_hasten_did_not_push_says_how_to_load_it(hub, tmp_path):
    hub.put(REPO, {"config.json": b"{}"})
    refused(r"hasten.load\('ada/fast'\)", pull, REPO, tmp_path / "got")


def test_pushing_without_a_token_says_how_to_log_in(hub, plan_file, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused("log in with `hf auth login`, or set HF_TOKEN", push, plan_file, REPO)


def test_a_token_that_may_not_write_is_one_line(hub, plan_file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("hf auth login", push, plan_file, REPO)


def test_offline_says_so_and_takes_what_the_cache_has(hub, plan_file, monkeypatch, tmp_path):
    commit = push(plan_file, REPO).commit
    Plan.read(f"hub:{REPO}")
    names._kept.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert Plan.read(f"hub:{REPO}") == PLAN
    assert Plan.read(f"hub:{REPO}@{commit}") == PLAN
    assert len(hub.asked) == asked
    refused("HF_HUB_OFFLINE is set", pull, "ada/other", tmp_path / "got")
    refused("HF_HUB_OFFLINE is set", push, plan_file, REPO)


def test_a_pinned_commit_in_the_cache_asks_nobody(hub, plan_file):
    commit = push(plan_file, REPO).commit
    Plan.read(f"hub:{REPO}@{commit}")
    names._kept.cache_clear()
    asked = len(hub.asked)
    assert Plan.read(f"hub:{REPO}@{commit}") == PLAN
    assert len(hub.asked) == asked


def test_a_hub_that_cannot_be_reached_is_one_line(hub, plan_file, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_at(f"http://127.0.0.1:{port}", monkeypatch)
    refused("cannot be reached", pull, REPO, tmp_path / "got")
    refused("cannot be reached", push, plan_file, REPO)


def test_a_hub_that_never_answers_is_not_waited_for_without_an_end(
    hub, plan_file, monkeypatch, tmp_path
):
    monkeypatch.setattr(hub_errors, "PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        refused("does not answer", pull, REPO, tmp_path / "got")
        refused("does not answer", push, plan_file, REPO)


def test_files_that_repos_share_in_the_cache_are_inside_it(tmp_path):
    snapshot = tmp_path / "models--ada--fast/snapshots/abc"
    snapshot.mkdir(parents=True)
    assert cache_root(snapshot) == tmp_path / "models--ada--fast"
    (tmp_path / "blobs").mkdir()
    assert cache_root(snapshot) == tmp_path


def test_the_built_in_models_can_be_shared(tmp_path):
    pushed = push(ASSETS / "mnist-2", REPO, dry_run=tmp_path / "would")
    assert pushed.kind == "student"
    assert (
        hasten.load(tmp_path / "would").teacher
        == read_json(ASSETS / "mnist-2/hasten.json")["teacher"]
    )
    shutil.rmtree(tmp_path / "would")
