"""``hasten learn quantize``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hasten.cli.options import NOTHING, Device, ModelName, OwnPlan, Request, model_of


def quantize(
    model: ModelName = "builtin:mnist",
    *,
    plan: OwnPlan = None,
    bits: str = "w8a8",
    ode_error: float | None = None,
    rows: str = "auto",
    n: int = 64,
    rounding: str = "gptq",
    request: Request = NOTHING,
    out: Path = Path("quantized.safetensors"),
    device: Device = "cpu",
) -> None:
    """Quantize a network, with activation ranges that follow the steps of a plan; that plan then
    names the file, as in levers=quantize(file='quantized.safetensors').

    Args:
        plan: a plan file, or key=value,...: the one that will run the quantized network.
        bits: of weights and activations: w8a8, w8a16 (for memory), w4a8; or a mix of two, the
            narrower first, as in w4a8,w8a8 or w8a8,float, chosen by how sensitive each layer is.
        ode_error: for a mix: how far its pictures may be from those of the float network.
        rows: steps (each step has its own ranges), static (one for all), a number of groups, or
            auto: static where more rows gain little at eight bits.
        n: calibration pictures.
        rounding: of weights: gptq (later weights compensate for earlier ones), or nearest, for a
            network from quantization-aware training.
        out: the file to write.
    """
    from hasten.core.files import require_writable
    from hasten.core.plan import Plan
    from hasten.learning.compression.quantize import learn_quantize

    require_writable(out)
    chosen = None if plan is None else Plan.read(plan)
    loaded = model_of(model, request, device)
    chosen = chosen or Plan(**loaded.plan)
    groups = int(rows) if rows.isdigit() else rows
    options = {"bits": bits, "ode_error": ode_error, "rows": groups, "n": n, "rounding": rounding}
    quantized = learn_quantize(loaded, chosen, out, **options)
    use = chosen.with_lever(f"quantize(file={str(out)!r})")
    use = use.model_copy(update={"engine": "openvino"})
    for name, moved in sorted(quantized.sensitivities.items(), key=lambda pair: -pair[1]):
        print(f"{moved:.4f}  {quantized.bits.get(name, 'float')}  {name}")
    kinds = Counter(map(str, quantized.bits.values()))
    layers = ", ".join(f"{count} in {kind}" for kind, count in sorted(kinds.items()))
    print(
        f"wrote {out}: {len(quantized.bits)} layers ({layers}), {quantized.rows} rows of ranges "
        f'for {len(quantized.times)} steps; use it with --plan "{use}"'
    )
