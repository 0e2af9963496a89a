"""Learn a program of four evaluations with the weights frozen, and compare it with the solver that
it was initialised from: python examples/learn_a_program.py."""

import hasten
from hasten.learning.programs.fit import FitOptions
from hasten.learning.programs.program import learn_program
from hasten.learning.programs.reference_pairs import ReferenceOptions
from hasten.measuring.ode_error import reference


def main(pairs=256, steps=500, evaluations=4, out="four.json", **options):
    model = hasten.load("builtin:mnist")
    base = hasten.Plan(solver="dpmpp", steps=evaluations, clip=1.0)
    learn_program(
        model,
        evaluations,
        out,
        base=base,
        references=ReferenceOptions(pairs=pairs, **options),
        options=FitOptions(batch=min(pairs, 16), steps=steps),
    )
    learned = hasten.Plan(program=str(out))
    converged = reference(model, 2)  # the model's own converged pictures from two draws of noise
    for plan in (base, learned):
        print(plan, "ODE error", round(converged.ode_error(plan).rmse, 4))
    return learned


if __name__ == "__main__":
    main()
