"""Conditions: rows, joining and flattening of every kind of part."""

from __future__ import annotations

import pytest
import torch

from hasten.core.condition import (
    COND,
    NULL,
    Condition,
    Derived,
    PerSample,
    Ragged,
    Shared,
    as_condition,
)
from hasten.core.errors import UserError

POSITIONS = torch.arange(5.0)
X, T = torch.ones(3, 2), torch.tensor([1.0, 2.0, 3.0])


def embedding(x, t, condition):
    """What a network would make of the level and of another condition."""
    return t[:, None] + condition.branches[COND]["text"].tensor.sum(-1, keepdim=True)


def tree(n: int = 3, start: float = 0.0) -> dict:
    """Every kind of part, for ``n`` samples whose numbers begin at ``start``."""
    places = torch.arange(n) + start
    text = places[:, None] * 10 + torch.arange(4.0)
    return {
        "text": PerSample(text),
        "frames": PerSample((places[:, None] * 100 + torch.arange(2.0)).view(-1, 1), each=2),
        "positions": Shared(POSITIONS),
        "scale": Shared(2.0),
        "prompts": Ragged(tuple(torch.full((int(p) + 1, 2), float(p)) for p in places)),
        "embedding": Derived(embedding, Condition(n, {COND: {"text": PerSample(text)}})),
    }


def condition(n: int = 3, start: float = 0.0) -> Condition:
    return Condition(n, {COND: tree(n, start)})


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert same(one[name], other[name]), name


def test_what_a_network_is_given_of_every_part():
    given = condition().values(X, T)
    assert torch.equal(given["text"][1], torch.tensor([10.0, 11.0, 12.0, 13.0]))
    assert given["frames"].flatten().tolist() == [0, 1, 100, 101, 200, 201]
    assert given["positions"] is POSITIONS
    assert given["scale"] == 2.0
    assert [len(prompt) for prompt in given["prompts"]] == [1, 2, 3]
    assert given["embedding"].flatten().tolist() == [1 + 6, 2 + 46, 3 + 86]


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([1, 1, 2]), [0], []])
def test_rows_are_those_samples_with_all_that_is_theirs(index):
    picked = condition().rows(index)
    places = torch.as_tensor(index, dtype=torch.long)
    assert len(picked) == len(places)
    whole, given = condition().values(X, T), picked.values(X[places], T[places])
    assert torch.equal(given["text"], whole["text"][places])
    assert torch.equal(given["frames"].view(-1, 2), whole["frames"].view(3, 2)[places])
    assert given["positions"] is POSITIONS
    assert same(given["prompts"], [whole["prompts"][place] for place in places.tolist()])
    assert torch.equal(given["embedding"], whole["embedding"][places])


def test_conditions_are_joined_and_their_rows_are_those_they_came_from():
    one, other = condition(3), condition(2, start=3)
    assert one.signature == other.signature
    joined = Condition.cat([one, other])
    assert len(joined) == 5
    x, t = torch.ones(5, 2), torch.arange(5.0)
    assert_same(joined.rows([0, 1, 2]).values(x[:3], t[:3]), one.values(x[:3], t[:3]))
    assert_same(joined.rows([3, 4]).values(x[3:], t[3:]), other.values(x[3:], t[3:]))
    assert_same(joined.values(x, t), condition(5).values(x, t))
    assert Condition.cat([one]) is one


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("text", PerSample(torch.zeros(3, 5))),
        ("text", PerSample(torch.zeros(3, 4, dtype=torch.float64))),
        ("text", PerSample(torch.zeros(6, 4), each=2)),
        ("positions", Shared(torch.arange(5.0))),
        ("scale", Shared(3.0)),
        ("scale", PerSample(torch.zeros(3))),
        ("prompts", Ragged(tuple(torch.zeros(1, 3) for _ in range(3)))),
        ("embedding", Derived(lambda x, t, condition: t, Condition.none(3))),
    ],
)
def test_samples_that_cannot_share_a_call_have_another_signature(name, part):
    other = Condition(3, {COND: {**tree(), name: part}})
    assert other.signature != condition().signature
    assert Condition(3, {COND: {**tree(), "more": Shared(1)}}).signature != condition().signature


def test_rows_of_a_condition_can_share_a_call_with_it():
    assert condition().rows([1]).signature == condition().signature


def test_floating_parts_are_cast_and_whole_numbers_are_not():
    labels = Condition.labels_of(torch.tensor([0, 1, 2]), 3).to("cpu", torch.bfloat16)
    assert labels.labels.dtype == torch.int64
    moved = condition().to("cpu", torch.bfloat16)
    given = moved.values(X, T)
    kinds = {name: value.dtype for name, value in given.items() if hasattr(value, "dtype")}
    assert kinds["text"] == kinds["frames"] == kinds["positions"] == torch.bfloat16
    assert {prompt.dtype for prompt in given["prompts"]} == {torch.bfloat16}
    assert given["scale"] == 2.0
    assert moved.to("cpu").branches[COND]["text"].tensor.dtype == torch.bfloat16


def test_a_shared_tensor_that_stays_where_it_is_stays_the_same():
    """Otherwise conditions that were moved apart could never share a call."""
    assert condition().to("cpu").signature == condition().signature


def test_dropped_samples_take_the_null_branch():
    null = {
        "text": PerSample(torch.full((3, 4), -1.0)),
        "frames": PerSample(torch.full((6, 1), -2.0), each=2),
        "positions": Shared(POSITIONS),
    }
    condition = {name: part for name, part in tree().items() if name in null}
    dropped = Condition(3, {COND: condition, NULL: null}).null_where(
        torch.tensor([False, True, False])
    )
    assert list(dropped.branches) == [COND]
    given, whole = dropped.values(X, T), Condition(3, {COND: condition}).values(X, T)
    assert torch.equal(given["text"][[0, 2]], whole["text"][[0, 2]])
    assert (given["text"][1] == -1).all()
    assert given["frames"].flatten().tolist() == [0, 1, -2, -2, 200, 201]
    labels = Condition.labels_of(torch.tensor([0, 1, 2]), 9)
    assert labels.null_where(torch.tensor([True, False, True])).labels.tolist() == [9, 1, 9]


def test_without_a_null_branch_nothing_is_dropped():
    kept = condition().null_where(torch.ones(3, dtype=torch.bool))
    assert_same(kept.values(X, T), condition().values(X, T))


def test_a_flat_condition_is_built_again():
    structure, tensors = condition().flat(X, T)
    assert all(isinstance(value, torch.Tensor) for value in tensors)
    # text, frames, positions, three prompts, embedding; the scale is no tensor.
    assert len(tensors) == 1 + 1 + 1 + 3 + 1
    again = structure.build(tensors, 3)
    assert len(again) == 3
    assert_same(again.values(X, T), condition().values(X, T))
    assert Condition.none(3).flat(X, T)[1] == []


def test_the_key_of_a_structure_follows_from_what_it_holds_and_not_from_its_size():
    small = Condition.labels_of(torch.arange(2)).flat(X[:2], T[:2])[0]
    large = Condition.labels_of(torch.arange(3)).flat(X, T)[0]
    assert small.key == large.key
    assert condition().flat(X, T)[0].key == condition().flat(X, T)[0].key
    other = Condition(3, {COND: {**tree(), "scale": Shared(3.0)}})
    assert other.flat(X, T)[0].key != condition().flat(X, T)[0].key
    assert hash(small.key) == hash(large.key)


def test_branches_are_conditions_of_their_own():
    labels = Condition.labels_of(torch.tensor([0, 1]), null=5)
    assert labels.branch(NULL).labels.tolist() == [5, 5]
    assert labels.branch(COND).labels.tolist() == [0, 1]
    assert labels.branch(COND).signature == labels.branch(NULL).signature
    with pytest.raises(UserError, match="needs the branch 'image', and this condition has cond, "):
        labels.branch("image")


def test_a_condition_is_made_of_labels_or_of_nothing():
    assert as_condition(None, 3).signature == Condition.none(3).signature
    assert as_condition(torch.tensor([0, 1]), 2).labels.tolist() == [0, 1]
    given = condition()
    assert as_condition(given, 3) is given
    with pytest.raises(UserError, match="condition is of 3 samples, and x of 2"):
        as_condition(given, 2)
    with pytest.raises(UserError, match="condition is a str; give a Condition, labels"):
        as_condition("a cat", 1)
