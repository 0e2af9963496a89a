"""Plans in text for people."""

from __future__ import annotations

import pytest

from hasten.core.plan import Plan
from hasten.core.words import in_words

OPENVINO = "engine=openvino,dtype=bfloat16"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            f"steps=5,solver=dpmpp(order=3),clip=1,{OPENVINO}",
            "5 steps, DPM-Solver++ (order 3), log-SNR levels, clipped to 1, OpenVINO bfloat16",
        ),
        ("steps=1,solver=ddim,grid=uniform", "1 step, DDIM, uniform levels, PyTorch float32"),
        (
            "steps=2,solver=unipc(order=3,corrector=False),grid=given(at=(900.0,30.0))",
            "2 steps, UniPC (order 3, without corrector), levels of its own, PyTorch float32",
        ),
        ("program=folder/five.json", "learned program five.json, PyTorch float32"),
        ("levers=[student(folder='a/b/fast')]", "student (folder fast), PyTorch float32"),
        (
            "steps=20,levers=[merge,deep(branch=0,every=3)],guidance=2",
            "20 steps, DPM-Solver++, log-SNR levels, merge, deep (every 3, branch 0), guidance 2, "
            "PyTorch float32",
        ),
        (
            "steps=50,solver=ddim,executor=picard(window=16)",
            "50 steps, DDIM, log-SNR levels, executor picard (window 16), PyTorch float32",
        ),
    ],
)
def test_a_plan_is_said_in_words_and_no_file_is_read(text, words):
    assert in_words(Plan.read(text)) == words
