"""A codec's decoder in another engine. Where few evaluations are left, decoding the latents takes
as long as they do."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.codec import DecoderNetwork
from hasten.core.engine import Engine, Prepared, beside, engines
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model
from hasten.core.noise_schedule import schedule
from hasten.core.prediction import prediction


@levers.add("decoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(Lever):
    """Runs the decoder of latents by ``engine`` in ``dtype``."""

    engine: str = "openvino"
    dtype: str = "float32"

    target = "decoder"
    stage = Stage.NUMBERS
    traits = frozenset({Trait.BITS})
    exports = False

    def decoder(self, decoder: DecoderNetwork) -> DecoderNetwork:
        engine = engines.parse(self.engine)
        model = Model(
            net=_OfTwo(decoder),
            schedule=schedule("flow"),
            prediction=prediction("flow"),
            shape=(1, 1),
            name="the decoder",
        )
        engine.check(model, self.dtype)
        return _Run(engine, engine.prepare(model, self.dtype))

    @classmethod
    def candidates(cls, model: Model) -> list[Lever]:
        own = model.codec.decoder is not None and model.device.type == "cpu"
        return [cls()] if own and not engines[cls.engine]().lacking() else []

    def key(self, resolved: object) -> tuple[str, ...]:
        return ()  # the network is what it was


class _OfTwo(torch.nn.Module):
    """A decoder called as a network is. Runtimes drop an argument that nothing depends on."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object = None) -> torch.Tensor:
        return self.decoder(x + 0 * t.view(-1, *[1] * (x.ndim - 1)))


class _Run(DecoderNetwork):
    """A decoder that an engine has prepared."""

    def __init__(self, engine: Engine, prepared: Prepared) -> None:
        super().__init__()
        self.engine, self.prepared = engine, prepared

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        times = latents.new_zeros(len(latents), dtype=torch.float32)
        with beside(self.engine):
            return self.prepared(latents.float(), times)
