"""An Engine runs the network: eagerly, compiled, or in another runtime.

A plan names one and a dtype; :meth:`Engine.prepare` turns a model's network into a Prepared one,
which is called like the network itself and says what it really computes in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch

from hasten.core.call import FULL, Call, Output, State
from hasten.core.condition import Condition, Structure, as_condition
from hasten.core.conditioning_cache import Rows, conditioning_cache
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.core.registry import Registry

Runner = Callable[..., Output]
"""x (n, ...) float32, times (n,) float32, the tensors of a condition one after another, and what a
network kept of its features where it keeps any; the answer in float32."""


class Prepared(ABC):
    """A network ready to run.

    Attributes:
        precision: the dtype it computes in, as the runtime reports it.
        weights_mb: megabytes of the weights it holds.
        versions: of the runtime, for the conditions of a report.
    """

    precision: str
    weights_mb: float
    versions: dict[str, str]

    @abstractmethod
    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        """The answer to x (n, ...) at the times t (n,) in float32; class labels (n,) stand for the
        condition that they are.

        A network that keeps features answers with a tuple, the answer first, and takes what was
        kept as further arguments.
        """

    def run(
        self, call: Call, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, State | None]:
        """The answer to ``call``, whose latents are ``x`` as the network sees them, at the times t
        (n,), and the state of the run after it.

        Raises:
            UserError: it has no such variant.
        """
        if call.variant != FULL:
            raise UserError(
                f"this program asks for the variant {call.variant!r} of the network, which this "
                "one does not have; build a sampler from the plan that the program was traced from."
            )
        return self(x, t, call.condition), call.state


class Engine(ABC):
    """One way to run a network.

    Attributes:
        title: its name in text for people; ``part_name`` where it is empty.
        dtypes: what it can compute in; devices: where, by kind.
        modules: what it imports; extra: the extra of hasten that installs them.
        beside_integers: what it computes in beside layers in integers.
        static: it runs a graph that is known beforehand, so nothing in it may depend on the data.
        own_threads: it computes in threads of its own. Torch's, which spin for milliseconds when
            they are done, would take their cores, so :func:`beside` it torch has one.
    """

    part_name: ClassVar[str]
    title: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps", "xpu")
    modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    beside_integers: ClassVar[tuple[str, ...]] = ("float32",)
    static: ClassVar[bool] = True
    own_threads: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, model: Model, dtype: str) -> Prepared:
        """``model``'s network, computing in ``dtype`` on the model's device.

        Raises:
            UserError: the runtime is missing, or cannot run this network in this dtype here.
        """

    def check(self, model: Model, dtype: str) -> None:
        """Refuse a dtype or device the engine does not have, before anything is prepared."""
        name, kind = self.part_name, model.device.type
        require(
            dtype in self.dtypes,
            f"dtype is {dtype!r}, but engine {name!r} computes in {', '.join(self.dtypes)}; "
            "set one of these, or engine=eager.",
        )
        require(
            kind in self.devices,
            f"engine {name!r} runs on {', '.join(self.devices)}, but model {model.name!r} is on "
            f"{kind!r}; load it with another device, or set engine=eager.",
        )
        lacking = self.lacking()
        require(not lacking, f"engine {name!r} needs: {lacking}")

    def lacking(self) -> str:
        """The line that installs what is missing, "" where nothing is."""
        gone = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f'pip install "hasten[{self.extra}]" ({gone[0]} is missing)' if gone else ""

    def here(self) -> str:
        """In words: the dtypes it computes in here, or what it needs."""
        lacking = self.lacking()
        return f"needs: {lacking}" if lacking else f"{', '.join(self.dtypes)}"


class Flat(torch.nn.Module):
    """A network as a function of tensors alone: ``(x, t, *condition, *features)``."""

    def __init__(
        self, network: torch.nn.Module | Prepared, structure: Structure, count: int
    ) -> None:
        super().__init__()
        self.network, self.structure, self.count = network, structure, count

    def forward(self, x: torch.Tensor, t: torch.Tensor, *tensors: torch.Tensor) -> Output:
        mine, features = tensors[: self.count], tensors[self.count :]
        if not self.structure.parts and not features:
            return self.network(x, t)
        return self.network(x, t, self.structure.build(mine, len(x)), *features)


class Static(Prepared):
    """A network compiled apart for every batch size it meets, because runtimes are up to twice as
    fast on fixed shapes. A batch that fills at least half of a compiled size is padded up to it, so
    the number of sizes stays below log2 of the largest.

    ``ahead``: what depends on time and label alone is computed before the runtime is called, in
    float32; ``time_in_graph`` says why it is not for this network ("" where it is).
    ``network``: what is compiled, ``(x, t, condition, *features)``.
    ``threads``: as many as torch had when it was made, for the runtime.
    """

    ahead: ClassVar[bool] = False
    network: torch.nn.Module | Prepared

    def __init__(self, model: Model) -> None:
        self.threads = torch.get_num_threads()
        self._rows: Rows | None = None
        self._takes_condition, self.time_in_graph = True, ""
        if self.ahead:
            try:
                net, self._rows, self._takes_condition = conditioning_cache(model.net)
                model = dataclasses.replace(model, net=net)
            except UserError as error:
                self.time_in_graph = str(error)
        self.model, self.network = model, model.net
        self._compiled: dict[tuple[object, ...], dict[int, Runner]] = {}

    @abstractmethod
    def compile(self, flat: Flat, inputs: list[torch.Tensor]) -> Runner:
        """``flat`` for inputs of exactly these shapes."""

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        n, condition = len(x), as_condition(condition, len(x))
        if self._rows is not None:
            t = self._rows(t, condition.labels)
            condition = condition if self._takes_condition else Condition.none(n)
        # Which graph it is follows from what the condition is made of, not from its size.
        structure, tensors = condition.flat(x, t)
        shapes = tuple((value.shape[1:], value.dtype) for value in (x, *tensors, *features))
        sizes = self._compiled.setdefault((structure.key, shapes), {})
        size = min((size for size in sizes if n <= size <= 2 * n), default=n)
        if size > n:
            places = [*range(n), *[n - 1] * (size - n)]
            x, t, *padded = (_padded(value, size) for value in (x, t, *features))
            structure, tensors = condition.rows(places).flat(x, t)
            features = tuple(padded)
        inputs = [x, t, *tensors, *features]
        if size not in sizes:
            with torch.inference_mode(False), torch.no_grad():
                flat = Flat(self.network, structure, len(tensors))
                sizes[size] = self.compile(flat, [value.clone() for value in inputs])
        answer = sizes[size](*inputs)
        if size == n:
            return answer
        return tuple(value[:n] for value in answer) if isinstance(answer, tuple) else answer[:n]


@contextlib.contextmanager
def beside(engine: Engine | None) -> Iterator[None]:
    """One thread for what torch computes beside an engine that has threads of its own; another
    thread of the program that first computes with torch meanwhile is given one as well."""
    threads = torch.get_num_threads()
    if engine is None or not engine.own_threads or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _padded(value: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])


engines: Registry[Engine] = Registry("engine", "hasten.engines")
