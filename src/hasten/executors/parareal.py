"""Parareal iteration (SRDS, Selvam et al. 2412.08292)."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch

from hasten.core.ask import Ask
from hasten.core.errors import require, require_number, require_whole
from hasten.core.executor import Executor, Registers, Watch, executors
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.executors.rows import Crossing, Rows, follow, require_parallel, step


@executors.add("parareal")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Parareal(Executor):
    """The program in blocks of rows, crossed coarsely one after another and finely side by side.

    The fine crossing F of a block asks all its questions; the coarse one G asks the first and takes
    its x0 for the rest. From the coarse result, each iteration moves every block's entrance to
    ``F(x) + G(new x) - G(x)``, on all registers alive there. After k iterations the first k
    blocks are exact. A picture's blocks are settled, one after another, when their ends move by no
    more than ``tolerance`` (root mean square, relative to the level's spread). All noise of the
    program is held at once.

    Attributes:
        blocks: 1 (the sequential run) to as many as there are evaluations; their square root makes
            the fewest rounds.
        tolerance: see above.
    """

    adaptive = True
    wide = True

    blocks: int = 10
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        require_whole("executor option blocks", self.blocks, 1, 100_000)
        require_number("executor option tolerance", self.tolerance, 1e-9, 1e3)

    def check(self, program: Program) -> None:
        require_parallel(self.part_name, program)
        require(
            self.blocks <= program.evaluations,
            f"executor option blocks is {self.blocks}, but the program has {program.evaluations} "
            "evaluations; a block needs one or more.",
        )

    def run(
        self,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        self.check(program)
        return _Run(self, program, registers, session, watch).result()


class _Run:
    """One run: the registers at each block's entrance, and what the block made of them."""

    def __init__(
        self,
        part: Parareal,
        program: Program,
        registers: Registers,
        session: Session,
        watch: Watch | None,
    ) -> None:
        self._rows, self._session, self._watch = Rows(program, session), session, watch
        self._part, self._program, self._round = part, program, 0
        firsts = [k * program.evaluations // part.blocks for k in range(part.blocks)]
        self._levels = [program.levels[call] for call in firsts]
        entrances = [self._rows.calls[call] for call in firsts[1:]]
        bounds = [0, *entrances, len(program.rows)]
        self._blocks = [range(*pair) for pair in pairwise(bounds)]
        reads = [program.rows[row].ask.reads()[0] for row in entrances]
        self._main = [*reads, program.output]  # the register of x at the end of each block
        self._asks = [program.asks[a:b] for a, b in zip(firsts, [*firsts[1:], None], strict=True)]
        self._states: list[Registers] = [registers]
        self._first: list[torch.Tensor] = []  # x0 that the first call of each block answered
        self._coarse: list[Registers] = []  # each block's end, crossed coarsely

    def result(self) -> torch.Tensor:
        for block in range(len(self._blocks)):
            answer, end = self._cross_coarsely(block)
            self._first.append(answer)
            self._coarse.append(end)
            self._states.append(dict(end))
        n = len(self._states[0]["x"])
        device = self._states[0]["x"].device
        settled = torch.zeros(n, dtype=torch.long, device=device)  # blocks, a picture
        while (begin := int(settled.min())) < len(self._blocks):
            settled = self._iterate_(begin, settled)
        return self._states[-1][self._program.output]

    def _iterate_(self, begin: int, settled: torch.Tensor) -> torch.Tensor:
        """Correct every block's end from ``begin`` on; returns the blocks settled, a picture."""
        fine = self._cross_finely(begin)
        running = settled >= begin
        for block, end in enumerate(fine, begin):
            if block > begin:
                self._first[block], again = self._cross_coarsely(block)
                end = {name: end[name] + again[name] - self._coarse[block][name] for name in end}
                self._coarse[block] = again
            done = settled > block
            before = self._states[block + 1]
            moved = end[self._main[block]] - before[self._main[block]]
            ahead = self._levels[min(block + 1, len(self._levels) - 1)].spread
            far = moved.flatten(1).square().mean(1).sqrt() > self._part.tolerance * ahead
            running = running & (~far | done | (block == begin))  # the first block is exact
            self._states[block + 1] = {
                name: torch.where(done.view(-1, *[1] * (value.ndim - 1)), before[name], value)
                for name, value in end.items()
            }
            settled = torch.where(running & ~done, block + 1, settled)
        return settled

    def _cross_coarsely(self, block: int) -> tuple[torch.Tensor, Registers]:
        """What the block's first call answers, and the block's end with that x0 throughout."""
        values, answers = dict(self._states[block]), []

        def answer(u: torch.Tensor) -> torch.Tensor:
            if not answers:
                answers.extend(self._ask([u], [self._asks[block][0]]))
            return answers[0]

        follow(self._rows.cross(self._blocks[block], values), answer)
        return answers[0], values

    def _cross_finely(self, begin: int) -> list[Registers]:
        """The end of every block from ``begin`` on, all crossed side by side."""
        ends = [dict(state) for state in self._states[begin:-1]]
        walks: dict[int, tuple[Crossing, torch.Tensor | None]] = {}
        for block, values in enumerate(ends, begin):
            walk = self._rows.cross(self._blocks[block], values)
            step(walk)
            walks[block] = walk, step(walk, self._first[block])
        for call in range(1, max(map(len, self._asks))):
            waiting = {block: (walk, u) for block, (walk, u) in walks.items() if u is not None}
            asks = [self._asks[block][call] for block in waiting]
            x0s = self._ask([u for _, u in waiting.values()], asks) if waiting else []
            pairs = zip(waiting.items(), x0s, strict=True)
            walks = {block: (walk, step(walk, x0)) for (block, (walk, _)), x0 in pairs}
        return ends

    def _ask(self, us: list[torch.Tensor], asks: list[Ask]) -> list[torch.Tensor]:
        x0s = self._session.denoise_many(us, asks)
        if self._watch is not None:
            self._watch(self._round, x0s[-1])
        self._round += 1
        return x0s
