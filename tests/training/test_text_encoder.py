"""Text encoders that learn from captions alone which object stands where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hasten.adapters.text_to_image import CaptionReader, load_text_encoder, new_text_encoder
from hasten.adapters.word_tokenizer import token_ids, word_tokenizer
from hasten.core.errors import UserError
from hasten.data.drawn import Shapes
from hasten.data.shapes.layouts import CLASSES, LOOK, layouts
from hasten.data.shapes.scenes import RELATIONS, Scene, Thing
from hasten.training.objective import Batch
from hasten.training.text_encoder import Reading, TextEncoderRecipe, attributes_read
from hasten.training.text_to_image import TextToImageRecipe
from hasten.training.train import train

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def recipe(**changes: Any) -> TextEncoderRecipe:
    fields = {
        "objective": "text-encoder",
        "name": "tiny-text",
        "data": {"source": "shapes(count=64)", "shape": (3, 64, 64)},
        "text": TEXT,
        "length": 32,
        "pictures": 64,
        "optimizer": {"rate": 1e-3, "batch": 16, "warmup": 0},
        "ema": 0.5,
        "checkpoint_every": 32,
        "preview_every": 0,
    }
    return TextEncoderRecipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return train(recipe(preview_every=64), tmp_path_factory.mktemp("text"), quiet=True)


def test_a_layout_lists_objects_from_the_left_and_from_the_top():
    star = Thing(shape="star", colour="red", size="small", x=10, y=50)
    ring = Thing(shape="ring", colour="blue", size="large", x=40, y=20)
    (row,) = layouts([Scene(things=(ring, star), relation="right of")]).tolist()
    shapes, colours, sizes = LOOK
    looks = {
        thing: [
            shapes.index(thing.shape),
            colours.index(thing.colour),
            sizes.index(thing.size),
        ]
        for thing in (star, ring)
    }
    nothing = [len(shapes), len(colours), len(sizes)]
    assert row[0] == 1 + RELATIONS.index("right of")
    assert row[1:10] == looks[star] + looks[ring] + nothing
    assert row[10:] == looks[ring] + looks[star] + nothing
    assert all(value < classes for value, classes in zip(row, CLASSES, strict=True))


def test_relations_are_learned_from_captions_alone():
    """A reader that begins untrained tells the relation of captions that it has not seen."""
    source, steps = Shapes(count=1200), 90
    captions, classes = source.captions(np.arange(1200)), layouts(source.scenes(np.arange(1200)))
    tokenizer = word_tokenizer(captions, 32)
    tokens = token_ids(tokenizer, captions)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = CaptionReader(new_text_encoder(TEXT, tokenizer), CLASSES)
    objective, optimizer = (
        Reading(end=tokenizer.eos_token_id),
        torch.optim.Adam(reader.parameters(), 1e-2),
    )
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % 1000
        batch = Batch(rows=tokens[rows], labels=classes[rows], generator=torch.Generator())
        optimizer.zero_grad()
        objective.loss(reader, batch).backward()
        optimizer.step()
    read = attributes_read(reader.eval(), tokens[1000:], tokenizer.eos_token_id)
    assert float((read[:, 0] == classes[1000:, 0]).float().mean()) > 0.9


def test_every_token_after_the_first_says_what_is_known():
    end, tokens = 1, torch.tensor([[0, 5, 6, 1, 1, 1, 1]])
    logits = torch.zeros(1, 7, 3)
    logits[:, 1:5, 2] = 50.0
    logits[:, 0, 0] = logits[:, 5:, 0] = 50.0  # wrong, before the caption and in its padding
    batch = Batch(rows=tokens, labels=torch.tensor([[2]]), generator=torch.Generator())
    net: Any = lambda rows: (logits[:, : rows.shape[1]],)  # noqa: E731
    assert float(Reading(end=end).loss(net, batch)) == pytest.approx(0.0, abs=1e-6)
    logits[:, 2, 2] = 0.0
    assert float(Reading(end=end).loss(net, batch)) == pytest.approx(math.log(3) / 4, abs=1e-6)


def test_a_text_to_image_model_begins_with_a_text_encoder_that_was_trained(encoder, tmp_path):
    trained, tokenizer = load_text_encoder(encoder)
    assert tokenizer.model_max_length == 32
    assert trained(token_ids(tokenizer, ["a red star"]))[0].shape == (1, 32, 32)
    fields = {"objective": "text-to-image", "name": "x", "network": {}, "autoencoder": "a"}
    shared = {"data": {"source": "shapes(count=4)", "shape": (3, 64, 64)}, "pictures": 4}
    taken = TextToImageRecipe(**fields, **shared, text_encoder=str(encoder))
    assert taken.text is None
    with pytest.raises(UserError, match="text and text_encoder: give one of them"):
        TextToImageRecipe(**fields, **shared)
    with pytest.raises(UserError, match="length: that of text_encoder is taken; leave it out"):
        TextToImageRecipe(**fields, **shared, text_encoder=str(encoder), length=16)


def test_a_run_that_was_killed_ends_as_one_that_was_not(encoder, tmp_path):
    whole, _ = load_text_encoder(encoder)
    with pytest.raises(UserError, match="another recipe"):
        train(recipe(seed=3, preview_every=64), encoder.parent, quiet=True)
    again, _ = load_text_encoder(train(recipe(preview_every=64), tmp_path, quiet=True))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_what_holds_no_text_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no text_encoder/ and tokenizer/"):
        load_text_encoder(tmp_path)
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="holds no CLIP text encoder that can be read"):
        load_text_encoder(tmp_path)
    with pytest.raises(UserError, match=r"scenes whose layout is known: give shapes"):
        train(recipe(data={"source": "objects(count=4)", "shape": (3, 64, 64)}), tmp_path)
