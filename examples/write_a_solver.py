"""Write a solver, and run it one by one and parallel in time: python examples/write_a_solver.py."""

import dataclasses

import hasten
from hasten.core.ask import Denoise
from hasten.core.solver import Solver, solvers


@solvers.add("midpoint")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Midpoint(Solver):
    """Every second level is the middle of a step: second order, two evaluations each."""

    def walk(self, x, levels):
        for here, middle, there in zip(levels[:-1:2], levels[1::2], levels[2::2], strict=False):
            x0 = yield Denoise(x, here)
            noise = (x - here.alpha * x0) / here.sigma
            x0 = yield Denoise(middle.alpha * x0 + middle.sigma * noise, middle)
            moved = x / here.alpha  # x / alpha moves along the noise by sigma / alpha
            noise = (moved - x0) / here.ratio
            x = there.alpha * (moved + (there.ratio - here.ratio) * noise)
        return x


def main(steps=8):
    model = hasten.load("builtin:mnist")
    print(hasten.trace(f"solver=midpoint,steps={steps}", model.schedule))
    in_order = hasten.build(model, f"solver=midpoint,steps={steps}").sample(2, condition=3)
    plan = hasten.Plan(solver="midpoint", steps=steps, executor="picard(tolerance=1e-6)")
    together = hasten.build(model, plan).sample(2, condition=3)
    print("largest difference:", float((in_order - together).abs().max()))
    return in_order, together


if __name__ == "__main__":
    main()
