"""The API, through OpenAI's own client and bare HTTP."""

import base64
import concurrent.futures
import io
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

import hasten
from hasten.core.plan import Plan
from hasten.serving.served import Served
from served_models import serving

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def png(size=(28, 28), colour=0, mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_models_are_listed_with_their_plans(client):
    (model,) = client.models.list().data
    assert model.id == "builtin:mnist"
    assert set(model.plans) == {"fast", "balanced", "best"}
    assert client.models.retrieve("builtin:mnist").default_plan == "balanced"


def test_pictures_are_those_that_a_sampler_makes(client, served_mnist):
    answer = client.images.generate(prompt="3", n=2, extra_body={"seed": 7, "plan": "best"})
    sampler = served_mnist.sampler(served_mnist.plans["best"])
    pictures = sampler.sample(2, seed=7, condition=3)
    for entry, picture in zip(answer.data, pictures, strict=True):
        shown = np.asarray(opened(entry.b64_json), dtype=np.float32) / 255
        assert np.abs(shown - picture[0].numpy()).max() < 0.003  # 8 bits
    assert answer.model_extra["evaluations"] == 8


def test_openai_s_words_for_quality_name_plans(client):
    answer = client.images.generate(prompt="3", quality="low")
    assert answer.model_extra["plan"] == "fast"
    assert client.images.generate(prompt="3").model_extra["plan"] == "balanced"


def test_steps_and_guidance_of_a_request_take_the_place_of_the_plan_s(client):
    body = {"num_inference_steps": 3, "guidance_scale": 1.5}
    answer = client.images.generate(prompt="3", extra_body=body)
    assert answer.model_extra["evaluations"] == 3
    assert "guidance=1.5" in answer.model_extra["plan_text"]


def test_a_request_without_a_seed_is_told_one_that_makes_it_again(client):
    first = client.images.generate(prompt="3")
    again = client.images.generate(prompt="3", extra_body={"seed": first.model_extra["seed"]})
    assert first.data[0].b64_json == again.data[0].b64_json


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_that_is_asked_for(client, kind):
    answer = client.images.generate(prompt="3", output_format=kind, output_compression=60)
    assert opened(answer.data[0].b64_json).format == kind.upper()


def test_a_stream_shows_pictures_on_their_way(client):
    events = list(
        client.images.generate(
            prompt="3", stream=True, partial_images=3, extra_body={"plan": "best", "seed": 1}
        )
    )
    assert [event.type.rpartition(".")[2] for event in events] == [
        *["partial_image"] * 3,
        "completed",
    ]
    whole = client.images.generate(prompt="3", extra_body={"plan": "best", "seed": 1})
    assert events[-1].b64_json == whole.data[0].b64_json


def test_an_edit_leaves_what_lies_outside_the_mask(client):
    picture = Image.new("L", (28, 28), 0)
    ImageDraw.Draw(picture).rectangle((10, 4, 16, 22), fill=255)
    source = io.BytesIO()
    picture.save(source, "PNG")
    mask = Image.new("RGBA", (28, 28), (0, 0, 0, 255))
    ImageDraw.Draw(mask).rectangle((0, 0, 13, 27), fill=(0, 0, 0, 0))  # transparent may change
    region = io.BytesIO()
    mask.save(region, "PNG")
    answer = client.images.edit(
        image=source.getvalue(),
        mask=region.getvalue(),
        prompt="8",
        extra_body={"source_prompt": "1"},
    )
    edited, before = np.asarray(opened(answer.data[0].b64_json)), np.asarray(picture)
    assert (edited[:, 14:] == before[:, 14:]).all()
    assert (edited[:, :14] != before[:, :14]).any()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "3", "n": 5}, "n"),
        ({"prompt": "3", "n": 0}, "n"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "10"}, "prompt"),
        ({"prompt": "a cat"}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "3", "size": "512x512"}, "size"),
        ({"prompt": "3", "size": "large"}, "size"),
        ({"prompt": "3", "response_format": "url"}, "response_format"),
        ({"prompt": "3", "plan": "../plan.json"}, "plan"),
        ({"prompt": "3", "plan": "solver=ddim,steps=3"}, "plan"),
        ({"prompt": "3", "seed": -1}, "seed"),
        ({"prompt": "3", "seed": 2**63}, "seed"),
        ({"prompt": "3", "num_inference_steps": 201}, "num_inference_steps"),
        ({"prompt": "3", "guidance_scale": 20.5}, "guidance_scale"),
        ({"prompt": "3", "negative_prompt": "4"}, "negative_prompt"),
        ({"prompt": "3", "lora": "x"}, "lora"),
    ],
)
def test_a_field_that_does_not_fit_is_named(address, fields, param):
    answer = httpx.post(f"{address}/v1/images/generations", json=fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"type", "message", "param", "code"}
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_an_unknown_model_is_told_those_that_there_are(client):
    with pytest.raises(openai.NotFoundError, match="builtin:mnist"):
        client.images.generate(prompt="3", model="dall-e-3")


@pytest.mark.parametrize(
    ("fields", "files", "what"),
    [
        ({"prompt": "3"}, {}, "no file came"),
        ({"prompt": "3"}, {"image": b"no picture"}, "cannot be read"),
        ({"prompt": "3"}, {"image": png(), "mask": png((8, 8))}, "size of image"),
        ({"prompt": "3"}, {"image": png(), "mask": png()}, "nothing may change"),
        ({"prompt": "3"}, {"image": png((2100, 2100), mode="1")}, "pixels"),
        ({"prompt": "3", "n": "2"}, {"image": png()}, "one picture"),
        ({"prompt": "3", "method": "nothing"}, {"image": png()}, "is unknown"),
        ({"prompt": "3", "method": "sdedit(strength=7)"}, {"image": png()}, "strength"),
        ({"prompt": "3", "other": "x"}, {"image": png()}, "other"),
        ({"image": "text", "prompt": "3"}, {}, "image: it is a file"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(address, fields, files, what):
    answer = httpx.post(f"{address}/v1/images/edits", data=fields, files=files)
    assert answer.status_code == 400
    assert what in answer.json()["error"]["message"]


def test_a_clip_is_edited_as_a_job(client, tmp_path):
    av = pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width = stream.height = 28
        for number in range(5):
            pixels = np.zeros((28, 28, 3), np.uint8)
            pixels[4:24, 8 + number : 14 + number] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())
    job = client.videos.create(prompt="7", input_reference=file, extra_body={"plan": "fast"})
    while job.status in ("queued", "in_progress"):
        time.sleep(0.05)
        job = client.videos.retrieve(job.id)
    assert job.status == "completed", job.error
    edited = client.videos.download_content(job.id).read()
    with av.open(io.BytesIO(edited)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 5
    client.videos.delete(job.id)
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(job.id)


def test_a_model_of_pictures_makes_no_clip_from_nothing(client):
    with pytest.raises(openai.BadRequestError, match="input_reference"):
        client.videos.create(prompt="7")


def test_many_clients_are_answered_or_told_to_come_back_in_time(served_mnist):
    with serving([served_mnist], queue=4) as address:
        url = f"{address}/v1/images/generations"

        def ask(_):
            body = {"prompt": "3", "num_inference_steps": 40}
            return httpx.post(url, json=body, timeout=60)

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(48)))
        codes = {answer.status_code for answer in answers}
        assert 200 in codes
        assert codes <= {200, 429, 503}
        for answer in answers:
            if answer.status_code != 200:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"
        assert ask(0).status_code == 200  # once there is room again


def test_a_client_that_leaves_gives_its_request_up(served_mnist):
    with serving([served_mnist], queue=1) as address:
        host, port = address.removeprefix("http://").split(":")
        body = b'{"prompt": "3", "num_inference_steps": 200, "plan": "best", "n": 4}'
        for _ in range(3):  # the queue has room for one, so each has to have left
            with socket.create_connection((host, int(port))) as sock:
                head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                sock.sendall(head.encode() + body)
                time.sleep(0.1)
        for _ in range(200):
            answer = httpx.post(f"{address}/v1/images/generations", json={"prompt": "3"})
            if answer.status_code == 200:
                return
            time.sleep(0.05)
        pytest.fail("the requests of clients that left still hold the queue")


def test_prometheus_reads_what_was_answered(client, address):
    client.images.generate(prompt="3")
    text = httpx.get(f"{address}/metrics").text
    assert 'hasten_pictures_total{model="builtin:mnist",plan="balanced"}' in text
    assert 'route="/v1/images/generations",status="200"' in text


def test_the_page_needs_nothing_from_elsewhere(address):
    page = httpx.get(address)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for name in ("page.js", "page.css"):
        assert name in page.text
        assert "http" not in httpx.get(f"{address}/{name}").text.replace("http://www.w3.org", "")


def test_requests_in_threads_do_not_mix_their_pictures(client, served_mnist):
    def made(number):
        return client.images.generate(prompt=str(number % 10), extra_body={"seed": number})

    barrier = threading.Barrier(4)

    def together(number):
        barrier.wait(20)
        return made(number)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(together, range(8)))
    sampler = served_mnist.sampler(served_mnist.plans["balanced"])
    for number, answer in enumerate(answers):
        (picture,) = sampler.sample(1, seed=number, condition=number % 10)
        shown = np.asarray(opened(answer.data[0].b64_json), dtype=np.float32) / 255
        assert np.abs(shown - picture[0].numpy()).max() < 0.003


def test_the_report_of_a_tuning_run_is_a_page_of_the_server(served_mnist, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("<h1>tuned</h1>")
    monkeypatch.setattr(served_mnist, "report", page)
    with serving([served_mnist]) as address:
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["report"] is True
        assert "tuned" in httpx.get(f"{address}/report/builtin:mnist").text
        assert httpx.get(f"{address}/report/other").status_code == 404


def test_an_edit_shows_the_edit_on_its_way(client):
    events = list(
        client.images.edit(
            image=png(colour=128),
            prompt="3",
            stream=True,
            partial_images=3,
            extra_body={"plan": "best", "method": "sdedit(strength=1.0)", "seed": 1},
        )
    )
    assert len(events) == 4
    shown = [np.asarray(opened(event.b64_json), dtype=float) for event in events]
    apart = [np.abs(picture - shown[-1]).mean() for picture in shown[:-1]]
    assert apart == sorted(apart, reverse=True)


def test_sixteen_bits_of_grey_stay_grey(client):
    grey = io.BytesIO()
    Image.fromarray(np.full((28, 28), 30000, np.uint16)).save(grey, "PNG")
    white = Image.fromarray(np.full((28, 28), 0, np.uint16))
    white.putpixel((0, 0), 65535)
    region = io.BytesIO()
    white.save(region, "PNG")
    answer = client.images.edit(image=grey.getvalue(), mask=region.getvalue(), prompt="3")
    edited = np.asarray(opened(answer.data[0].b64_json))
    assert edited[14, 14] in (117, 118)  # 30000 / 257


def test_pictures_are_counted_once(served_mnist):
    with serving([served_mnist]) as address:
        other = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        list(other.images.generate(prompt="3", n=4, stream=True))
        text = httpx.get(f"{address}/metrics").text
    assert 'hasten_pictures_total{model="builtin:mnist",plan="balanced"} 4.0' in text


def test_an_edit_of_too_many_evaluations_is_refused(address):
    fields = {"prompt": "3", "method": "flowedit(average=64)", "num_inference_steps": "100"}
    answer = httpx.post(f"{address}/v1/images/edits", data=fields, files={"image": png()})
    assert answer.status_code == 400
    assert "up to 1000" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "64x64"}, "size"),
        ({"seconds": "4"}, "seconds"),
        ({"plan": "none"}, "plan"),
        ({"method": "none"}, None),
        ({"source_prompt": "12"}, "prompt"),
    ],
)
def test_a_field_of_a_video_that_does_not_fit_is_named(address, fields, param):
    files = {"input_reference": b"no clip"}
    answer = httpx.post(f"{address}/v1/videos", data={"prompt": "3", **fields}, files=files)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_clip_that_cannot_be_read_fails_without_naming_a_path(client):
    job = client.videos.create(prompt="3", input_reference=("x.mp4", b"no clip"))
    while job.status in ("queued", "in_progress"):
        time.sleep(0.05)
        job = client.videos.retrieve(job.id)
    assert job.status == "failed"
    assert job.error.message.startswith("input_reference cannot be read")


def test_a_clip_that_cannot_be_stored_leaves_no_job(address, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hasten.serving.videos.Path.write_bytes", full)
    before = httpx.get(f"{address}/v1/videos").json()["data"]
    files = {"input_reference": b"a clip"}
    answer = httpx.post(f"{address}/v1/videos", data={"prompt": "3"}, files=files)
    assert answer.status_code == 503
    assert "No space left" in answer.json()["error"]["message"]
    assert httpx.get(f"{address}/v1/videos").json()["data"] == before


def test_a_video_that_is_deleted_stops(client, served_mnist, tmp_path):
    av = pytest.importorskip("av")
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width = stream.height = 28
        for _ in range(200):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((28, 28, 3), np.uint8))))
        out.mux(stream.encode())
    slow = {"plan": "best", "method": "flowedit(average=32)"}
    job = client.videos.create(prompt="7", input_reference=file, extra_body=slow)
    client.videos.delete(job.id)
    files = {"input_reference": ("x.mp4", b"no clip")}
    job = client.videos.create(prompt="3", **files)  # waits for the one before
    for _ in range(1200):
        job = client.videos.retrieve(job.id)
        if job.status == "failed":
            return
        time.sleep(0.05)
    pytest.fail("the deleted video still runs")


def test_a_negative_prompt_without_guidance_is_refused():
    model = hasten.load("builtin:shapes", prompts=[""])
    plan = Plan(solver="ddim", grid="uniform", steps=1, guidance=3.0)
    with serving([Served("builtin:shapes", model, {"balanced": plan})]) as address:
        url = f"{address}/v1/images/generations"
        body = {"prompt": "a red circle", "negative_prompt": "a blue star", "seed": 1}
        answer = httpx.post(url, json={**body, "guidance_scale": 1})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "negative_prompt"
        pictures = [
            httpx.post(url, json=each, timeout=60).json()["data"]
            for each in (body, {**body, "negative_prompt": ""})
        ]
        assert pictures[0] != pictures[1]
