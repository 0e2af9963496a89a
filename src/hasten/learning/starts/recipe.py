"""The recipe of a start that is trained."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic

from hasten.training.recipe import Recipe, Whole


class VaeRecipe(Recipe):
    """A small variational autoencoder of a model's latents.

    Attributes:
        objective: always vae.
        code: numbers in the code of a picture.
        width: channels of the first layer.
    """

    command: ClassVar[str] = "hasten learn start MODEL --kind vae --recipe RECIPE"

    objective: Literal["vae"]
    network: dict[str, object] = pydantic.Field(default_factory=dict)
    code: Whole = 16
    width: Whole = 64

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "vae"
