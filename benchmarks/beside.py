"""What the recommended plan gains over diffusers here: ``python -m benchmarks.beside demo``.

Adds a section to the tuner's report of ``builtin:shapes`` in that folder, and ``beside.json``,
``before.png`` and ``after.png``. Timed are whole requests, from a prompt to its picture: the stock
pipeline of diffusers, the same pipeline with the plan on it, and hasten's own sampler, each in a
process of its own and in turn on this machine. The pictures are those of the same prompts and
seeds by the first two.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

import hasten
from benchmarks.text_to_image import STOCK, prompts, raced, request_of
from hasten.core.files import write_text
from hasten.measuring.prompts import prompt_accuracy
from hasten.media.pictures import grid, png, save_png

PLACE = "<!-- beside -->"
ROUNDS, SHOWN, JUDGED, ZOOM = 9, 8, 40, 2
Facts = dict[str, Any]
SECTION = """<h2>Beside diffusers</h2>
<p class="soft">Whole requests on this machine: from a prompt that was not seen before to its
  picture, text encoder and VAE included, one at a time, each contender in a process of its own and
  timed in turn (medians of {{ rounds }}). Peak MB: the most that the process held, Python and
  libraries included. Prompt accuracy: how many of {{ judged }} pictures, of the same prompts and
  seeds, show what was asked.</p>
<div class="wide"><table>
  <tr><th></th><th>ms a request</th><th>times faster</th><th>prompt accuracy</th>
    <th>peak MB</th></tr>
  {% for row in rows %}
  <tr{% if loop.last %} class="best"{% endif %}><td>{{ row.name }}</td>
    <td>{{ "%.0f"|format(row.median) }}</td><td>{{ "%.1f"|format(row.times_faster) }}</td>
    <td>{{ "%.0f%%"|format(100 * row.met) if row.met is not none else "" }}</td>
    <td>{{ row.peak_mb }}</td></tr>
  {% endfor %}
</table></div>
<h2>Before and after</h2>
<p class="soft">The first {{ captions|length }} prompts of a list that the model was not trained on,
  seeds 0 to {{ captions|length - 1 }}, not selected. Above: the stock pipeline. Below: the same
  pipeline with the recommended plan.</p>
<p><img style="max-width:100%" alt="The stock pipeline's pictures" src="{{ before }}"><br>
  <img style="max-width:100%" alt="Pictures with the plan" src="{{ after }}"></p>
<ol class="soft">{% for caption in captions %}<li>{{ caption }}</li>{% endfor %}</ol>
"""
NAMES = {
    "diffusers": "diffusers, as published (PNDM, 50 steps, eager)",
    "hasten, applied": "the same pipeline with the plan on it (outside torch in float32)",
    "hasten": "the plan in hasten's own sampler",
}


def pictures(spec: Facts, asked: Sequence[str]) -> torch.Tensor:
    """What a contender draws for ``asked``, the number of each prompt as its seed."""
    request = request_of(spec)
    drawn: list[Any] = [request(prompt, seed) for seed, prompt in enumerate(asked)]
    arrays = [np.asarray(images[0]).copy() for images in drawn]
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in arrays])


def specs(plan: hasten.Plan) -> list[Facts]:
    """The contenders, the stock pipeline first."""
    stock = {"side": "diffusers", "engine": "eager", **STOCK}
    return [stock, *({"side": side, "plan": str(plan)} for side in ("hasten, applied", "hasten"))]


def section(rows: Sequence[Facts], sheets: Sequence[torch.Tensor], asked: Sequence[str]) -> str:
    """The section as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    shown = [
        "data:image/png;base64," + base64.b64encode(png(sheet, zoom=ZOOM)).decode()
        for sheet in sheets
    ]
    return environment.from_string(SECTION).render(
        rows=rows, rounds=ROUNDS, judged=JUDGED, before=shown[0], after=shown[1], captions=asked
    )


def main(folder: Path) -> None:
    plan, asked = hasten.Plan.read(folder / "plan.json"), prompts(JUDGED)
    timed = specs(plan)
    try:
        drawn = [pictures(spec, asked) for spec in timed[:2]]
        found = raced(timed, ROUNDS)
    except hasten.UserError as error:  # a plan that a pipeline cannot be given
        print(f"beside diffusers: not measured: {error}")
        return
    met = [prompt_accuracy(each, asked).share.value for each in drawn]
    rows = [
        {
            "name": NAMES[row["side"]],
            "median": row["median"],
            "times_faster": found[0]["median"] / row["median"],
            "met": met[number] if number < len(met) else None,
            "peak_mb": row["peak_mb"],
        }
        for number, row in enumerate(found)
    ]
    (folder / "beside.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sheets = [grid(each[:SHOWN], columns=SHOWN) for each in drawn]
    for name, sheet in zip(("before", "after"), sheets, strict=True):
        save_png(sheet, folder / f"{name}.png", {"prompts": "; ".join(asked[:SHOWN])}, ZOOM)
    page = folder / "report.html"
    text = page.read_text(encoding="utf-8")
    write_text(page, text.replace(PLACE, section(rows, sheets, asked[:SHOWN]), 1))
    for row in rows:
        print(
            f"{row['median']:8.0f} ms  {row['times_faster']:5.1f} times faster  "
            f"{row['peak_mb']:5.0f} MB  {row['name']}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
