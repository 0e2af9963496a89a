"""Compare solvers, and a feature cache, at equal steps: python examples/compare_solvers.py."""

import hasten
from hasten.measuring.ode_error import reference

PLANS = (
    {"solver": "ddim"},
    {"solver": "dpmpp(order=2)"},
    {"solver": "unipc(order=3)"},
    {"solver": "unipc(order=3)", "clip": 1.0},
    {"solver": "unipc(order=3)", "levers": ["deep(branch=0, every=2)"]},
)


def main(steps=10, n=16):
    model = hasten.load("builtin:mnist")
    converged = reference(model, n)  # the model's own converged pictures from n draws of noise
    errors = {}
    for fields in PLANS:
        plan = hasten.Plan(**fields, steps=steps)
        error = converged.ode_error(plan)
        errors[str(plan)] = error.rmse
        print(f"{error.rmse:.4f} ({error.low:.4f} to {error.high:.4f})  {plan}")
    return errors


if __name__ == "__main__":
    main()
