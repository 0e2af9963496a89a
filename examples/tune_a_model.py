"""Find the fastest plan that is as good: python examples/tune_a_model.py [MODEL] [MINUTES]."""

import sys

import hasten


def main(source="builtin:mnist", minutes=5.0, out="tuned", **options):
    model = hasten.load(source)
    tuning = hasten.tune(model, minutes=minutes, out=out, quiet=False, **options)
    print(tuning.why)
    tuning.best.write(f"{out}/plan.json")
    sampler = hasten.build(model, f"{out}/plan.json")
    for number, picture in enumerate(sampler.pil(4, seed=0)):
        picture.save(f"{out}/{number}.png")
    return tuning


if __name__ == "__main__":
    main(*sys.argv[1:2], **({"minutes": float(sys.argv[2])} if len(sys.argv) > 2 else {}))
