"""Write a solver, and run it sequentially and in parallel: python examples/write_a_solver.py."""

import dataclasses

import hasten
from hasten.core.ask import Denoise
from hasten.core.solver import Solver, solvers


@solvers.add("midpoint")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Midpoint(Solver):
    """Every second level is the midpoint of a step: second order, two evaluations per step."""

    def walk(self, x, levels):
        for here, middle, there in zip(levels[:-1:2], levels[1::2], levels[2::2], strict=False):
            x0 = yield Denoise(x, here)
            noise = (x - here.alpha * x0) / here.sigma
            x0 = yield Denoise(middle.alpha * x0 + middle.sigma * noise, middle)
            moved = x / here.alpha  # d(x / alpha) = noise d(sigma / alpha)
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
