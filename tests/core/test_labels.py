"""Class labels as people give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasten.core.errors import UserError
from hasten.core.labels import labels_in_turn, whole_labels

NAMES = ("cat", "dog, wet", "owl")


@pytest.mark.parametrize(
    "condition",
    [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), "dog, wet"],
    ids=["int", "int64", "uint8", "array", "tensor", "name"],
)
def test_one_label_is_for_all(condition):
    assert whole_labels(condition, 3, 3, NAMES) == [1, 1, 1]


@pytest.mark.parametrize(
    "condition",
    [
        [0, 2],
        (0, 2),
        range(0, 3, 2),
        np.array([0, 2]),
        np.array([0, 2], dtype=np.uint8),
        torch.tensor([0, 2]),
        [np.int64(0), torch.tensor(2)],
        ["cat", "owl"],
        [0, "owl"],
    ],
    ids=str,
)
def test_several_labels_are_one_each(condition):
    labels = whole_labels(condition, 2, 3, NAMES)
    assert labels == [0, 2]
    assert all(type(label) is int for label in labels)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("cat", "condition is 'cat', but the classes of this model have no names"),
        (["cat", "dog"], "no names; give a whole number from 0 to 2"),
        (3, "condition is 3; it takes a whole number from 0 to 2"),
        (-1, "condition is -1"),
        (1.0, "condition is 1.0"),
        (np.float32(1.5), "condition is 1.5"),
        (True, "condition is True"),
        ([0, None], "condition is None"),
        ([0, 1, 2], "condition has 3 labels for 2 pictures; give one label, or a list of 2"),
        ([], "condition has 0 labels for 2 pictures"),
        (torch.zeros(2, 2), "condition is a list"),
        ({"label": 1}, "no names"),
    ],
    ids=str,
)
def test_what_is_no_label_is_refused_in_one_line(condition, words):
    with pytest.raises(UserError) as caught:
        whole_labels(condition, 2, 3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match=r"condition is 'cats'.*Did you mean 'cat'"):
        whole_labels("cats", 1, 3, NAMES)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (None, [0, 1, 2, 0]),
        ("2", [2, 2, 2, 2]),
        ("2,0", [2, 0, 2, 0]),
        ("0, 1, 2, 1, 0", [0, 1, 2, 1]),
        ("cat,owl", [0, 2, 0, 2]),
        ("dog, wet", [1, 1, 1, 1]),
    ],
)
def test_labels_of_a_command_line_are_taken_in_turn(text, labels):
    assert labels_in_turn(text, 4, 3, NAMES) == labels


def test_a_model_without_classes_takes_no_label():
    assert labels_in_turn(None, 4, None) is None
    with pytest.raises(UserError, match="no labels"):
        labels_in_turn("1", 4, None)
