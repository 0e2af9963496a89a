"""What is to be generated: a job that any process can carry on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import hasten
from hasten.core.artifact import digest
from hasten.core.errors import UserError, require, require_choice, require_whole
from hasten.core.files import JsonObject
from hasten.core.model import Model
from hasten.core.plan import Plan

FORMATS = ("parquet", "tar", "files")
IMAGES = ("png", "jpeg", "webp", "latents")
LARGEST = 100_000  # items of a shard
MOST = 1_000_000  # shards: their names have six digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Items 0 to n - 1 of a model, in shards of contiguous numbers.

    Attributes:
        model: what :func:`hasten.load` takes; out: the folder, as an absolute path.
        prompts: () for a model that is not given any.
        n, batch: None until the model is known, see :meth:`settled`.
        plan: its fields, None for the model's own.
        call: arguments of the pipeline's own call.
        device: where it runs; "cuda" is spread over the GPUs of a machine.
        threads: of a process; the last bits of a float may depend on it.

    Raises:
        UserError: a value is out of range.
    """

    model: str
    out: str
    prompts: tuple[str, ...] = ()
    n: int | None = None
    seed: int = 0
    plan: JsonObject | None = None
    format: str = "parquet"
    image: str = "png"
    shard: int = 1000
    batch: int | None = None
    negative: str | None = None
    call: JsonObject = dataclasses.field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        require_whole("n", 1 if self.n is None else self.n, 1, 2**31)
        require_whole("seed", self.seed, 0, 2**63 - 1)
        require_whole("shard", self.shard, 1, LARGEST)
        require_whole("batch", 1 if self.batch is None else self.batch, 1, 1 << 20)
        require_whole("threads", self.threads, 1, 1024)
        require_choice("format", self.format, FORMATS)
        require_choice("image", self.image, IMAGES)
        shards = -(-(self.n or 1) // self.shard)
        require(
            shards <= MOST,
            f"shard is {self.shard}, which makes {shards:,} shards; there may "
            f"be {MOST:,}, so give a larger one.",
        )

    @property
    def shards(self) -> int:
        """How many there are."""
        assert self.n is not None
        return -(-self.n // self.shard)

    def items(self, shard: int) -> range:
        """The numbers of the items of a shard."""
        assert self.n is not None
        return range(shard * self.shard, min((shard + 1) * self.shard, self.n))

    def settled(self, model: Model) -> Job:
        """The job with what follows from the model: as many items as prompts, and batches of 64,
        of 4 with prompts, unless others were asked for.

        Raises:
            UserError: the model makes clips or pictures that cannot be written so, or nothing says
                how many.
        """
        shape = model.picture_shape
        require(
            len(shape) == 3,
            f"model {model.name!r} makes clips; hasten generate makes pictures. Use hasten sample.",
        )
        require(
            self.image == "latents" or shape[0] in (1, 3),
            f"image is {self.image!r}, but the pictures of {model.name!r} have {shape[0]} "
            "channels; take latents.",
        )
        texts = self.prompts or model.prompts
        n = self.n or len(texts)
        if not n:
            raise UserError("n is not given, and there are no prompts; say how many with n.")
        return dataclasses.replace(self, n=n, batch=self.batch or (4 if texts else 64))

    def identity(self, model: Model, plan: Plan) -> JsonObject:
        """What another run has to agree in, for the same pictures in the same shards."""
        texts = self.prompts or model.prompts
        return {
            "model": model.name,
            "sha256": digest(model),
            "plan": plan.model_dump(mode="json"),
            "plan_key": plan.key,
            "prompts": len(texts),
            "prompts_sha256": prompts_sha256(texts),
            "negative": self.negative,
            "call": self.call,
            "n": self.n,
            "seed": self.seed,
            "format": self.format,
            "image": self.image,
            "shard": self.shard,
            "batch": self.batch,
            "threads": self.threads,
            "version": hasten.__version__,
        }

    def to_json(self) -> str:
        """One line, for another process."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(line: str) -> Job:
        """The job of :meth:`to_json`."""
        fields = json.loads(line)
        return Job(**{**fields, "prompts": tuple(fields["prompts"])})

    @property
    def folder(self) -> Path:
        return Path(self.out)


def prompts_sha256(prompts: Sequence[str]) -> str:
    """The digest of prompts in their order; "" without any."""
    if not prompts:
        return ""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
