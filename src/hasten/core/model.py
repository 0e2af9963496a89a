"""A trained network with everything that is needed to sample from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path as Folder

import torch

from hasten.core.codec import Codec, Identity, Shape
from hasten.core.condition import Condition
from hasten.core.errors import require
from hasten.core.family import Family, family_of
from hasten.core.files import JsonObject
from hasten.core.labels import whole_labels
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.prediction import Prediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """``net(x, t, condition)`` and what its answer means.

    Attributes:
        net: module that maps x (n, ...), times t (n,) and a Condition to its prediction.
        schedule: how noise is added over time.
        prediction: what the network answers.
        shape: of one sample in the network's space, of any rank: (c, h, w), (c, frames, h, w).
        codec: pictures in [0, 1] to the network's space and back.
        labels: how many classes there are, None for a model without labels.
        null_label: the label that stands for "no label", None where there is none.
        learned_variance: the network answers 2c channels, the last c a variance (2102.09672).
        name: what the user called it, for reports.
        sha256: digest of the weights' file, "" for a module from memory.
        folder: where it was loaded from, None for a module from memory.
        plans: fields of plans that suit it, the best first; () where the default plan does.
        teacher: sha256 of the weights it was distilled from, "" for a model that was not.
        guidance: the classifier-free guidance scale that was distilled into it, 1 for none.
        imitates: it answers as its teacher does at every level, so any plan of that suits it.
        prompts: what its labels stand for, () where they are no texts.
    """

    net: torch.nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    shape: Shape
    codec: Codec = dataclasses.field(default_factory=Identity)
    labels: int | None = None
    null_label: int | None = None
    learned_variance: bool = False
    name: str = "module"
    sha256: str = ""
    folder: Folder | None = None
    plans: tuple[JsonObject, ...] = ()
    teacher: str = ""
    guidance: float = 1.0
    imitates: bool = False
    prompts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        network = type(getattr(self.net, "module", self.net)).__name__
        millions = sum(value.numel() for value in self.net.parameters()) / 1e6
        labels = "no labels" if self.labels is None else f"{self.labels} labels"
        return (
            f"<Model {self.name!r}: {network}, {millions:.3g}M parameters, pictures "
            f"{self.picture_shape}, {labels}, predicts {self.prediction.part_name} on "
            f"{self.schedule.part_name}, on {self.device.type}>"
        )

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters(), torch.empty(0)).dtype

    @property
    def family(self) -> Family:
        """What others may ask of the network without knowing its class: the network carries it."""
        return family_of(self.net)

    @property
    def plan(self) -> JsonObject:
        """Fields of the plan it is sampled with where none is given."""
        return self.plans[0] if self.plans else {}

    @property
    def picture_shape(self) -> Shape:
        return self.codec.decoded_shape(self.shape)

    @property
    def guidable(self) -> bool:
        """Whether its conditions have a branch for "no condition"."""
        return self.labels is not None and self.null_label is not None

    def condition(self, n: int, condition: object = None) -> Condition:
        """The condition of ``n`` samples, on the CPU, from a Condition, one label or prompt, a list
        of n of them, or None.

        None means "no label" where the model knows that, and every class in turn where it does not.
        Prompts are those the model was loaded for, or any where it can encode them.

        Raises:
            UserError: labels that the model does not have, or not as many as samples.
        """
        if isinstance(condition, Condition):
            require(
                len(condition) == n, f"condition is of {len(condition)} samples for {n} pictures."
            )
            return condition
        if self.labels is None:
            require(
                condition is None,
                f"condition is {condition!r}, but model {self.name!r} has no labels.",
            )
            return Condition.none(n)
        written = self._written(n, condition)
        return written or Condition.labels_of(self._labels(n, condition), self.null_label)

    def _written(self, n: int, condition: object) -> Condition | None:
        """The condition of prompts that the model was not loaded for; None where it was, or where
        these are no prompts, or it has no text encoder."""
        texts = [condition] * n if isinstance(condition, str) else condition
        if not (isinstance(texts, (list, tuple)) and len(texts) == n > 0 and self.prompts):
            return None
        if not all(isinstance(text, str) for text in texts) or set(texts) <= set(self.prompts):
            return None
        prompts = self.family.prompts(self.net)
        return None if prompts is None else prompts.condition(texts)

    def request(self, n: int) -> Condition:
        """The condition of a request of ``n`` pictures, the first label for each. A prompt is
        encoded anew where the model has its text encoder, so that it counts where requests are
        timed."""
        text = self.family.text(self.net) if self.prompts else None
        if text is not None:
            return text.condition([self.prompts[0]] * n)
        return self.condition(n, None if self.labels is None else [0] * n)

    def labels_in_turn(self, n: int, first: int = 0) -> list[int] | None:
        """A label for each of ``n`` samples, every class in turn, from sample ``first`` on; None
        for a model without labels."""
        if self.labels is None:
            return None
        return [(first + number) % self.labels for number in range(n)]

    def _labels(self, n: int, labels: object) -> torch.Tensor:
        assert self.labels is not None
        if labels is None and self.null_label is not None:
            return torch.full((n,), self.null_label)
        if labels is None:
            return torch.tensor(self.labels_in_turn(n))
        return torch.tensor(whole_labels(labels, n, self.labels, self.prompts))
