"""``hasten export``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, ModelName, PlanText, Request, model_of, plan_of


def export(
    model: ModelName = "builtin:mnist",
    *,
    plan: PlanText = None,
    to: str = "onnx",
    request: Request = NOTHING,
    out: Path = Path("exported"),
) -> None:
    """Write a model and a plan for another runtime, into a folder that needs neither hasten nor
    torch. The folder appears only if the export makes the same pictures.

    Args:
        to: onnx, openvino, executorch, web (a static page), or folder (diffusers).
        out: the folder to write.
    """
    from hasten.exporting.export import export as run

    chosen = plan_of(plan)
    parity = run(model_of(model, request), chosen, to, out)
    print(
        f"wrote {out}: {to}; a network call is within {parity.apart:.1g} of eager float32, "
        f"pictures {parity.psnr:.0f} dB or nearer (n = {parity.n})"
    )
