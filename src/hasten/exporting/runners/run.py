"""Makes pictures from this folder with NumPy and ONNX Runtime, and nothing else:

python run.py --seed 0 --label 3 --out picture.png      (or --prompt "a red circle")
"""

import argparse
import json
import struct
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BUNDLE = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
SHAPE = tuple(BUNDLE["shape"])


def mixed(x):
    """Thirty-two bits, stirred: every runner of this folder draws the same noise."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x735A2D97)
    return x ^ (x >> np.uint32(15))


def uniforms(seed, stream, count):
    """``count`` numbers from 0 to 1; stream 0 chooses where a start begins."""
    key = mixed(np.array([seed], np.uint32) ^ mixed(np.array([stream], np.uint32)))
    places = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
    return mixed(mixed(places) ^ key) / 2**32


def normals(seed, stream):
    """The noise number ``stream`` of picture ``seed``: (1, c, h, w), standard normal."""
    draws = uniforms(seed, stream + 1, 2 * int(np.prod(SHAPE)))
    radius = np.sqrt(-2 * np.log(draws[0::2] + 2**-32))
    return (radius * np.cos(2 * np.pi * draws[1::2])).astype(np.float32).reshape(1, *SHAPE)


def given(condition):
    """A label, or what stands in its place, as an array."""
    if isinstance(condition, np.ndarray):
        return condition
    return np.array([condition or 0], np.int64)


def network(name="net"):
    """A network as a function of x (1, ...), a time, and a label or words."""
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    file, providers = str(HERE / f"{name}.onnx"), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, quiet, providers=providers)
    names = [value.name for value in session.get_inputs()]

    def call(x, t, condition=None):
        inputs = [x, np.array([t], np.float32), given(condition)]
        return session.run(None, dict(zip(names, inputs, strict=False)))[0]

    return call


def sample(net, seed=0, label=None, program=None, start=None, null=None, decoder=None):
    """One picture (channels, height, width) in [0, 1]; ``start`` and ``decoder`` are the networks
    of these names, ``null`` the words of no prompt."""
    program = BUNDLE["programs"][str(program or BUNDLE["plan"])]
    x, drawn = normals(seed, 0), 0
    null = BUNDLE["null"] or 0 if null is None else null
    x = start(x, uniforms(seed, 0, 1)[0], label) if start else x * np.float32(program["spread"])
    values = {"x": x}
    for row in program["rows"]:
        if row["op"] == "network":
            answer = net(values[row["x"]], row["t"], null if row["branch"] == "null" else label)
        elif row["op"] == "combine":
            terms = zip(row["coefficients"], row["terms"], strict=True)
            answer = sum(np.float32(c) * values[name] for c, name in terms)
        elif row["op"] == "noise":
            answer = normals(seed, drawn := drawn + 1)
        else:
            answer = np.clip(values[row["x"]], row["low"], row["high"])
        values[row["out"][0]] = answer
        values = {name: value for name, value in values.items() if name not in row["frees"]}
    x = values[program["output"]]
    return decoder(x, 0)[0] if decoder else decoded(x)


def decoded(x):
    """Blocks of pixels out of their channels, from [-1, 1] to [0, 1]."""
    k, (c, h, w) = BUNDLE["factor"], SHAPE
    x = x[0].reshape(c // k**2, k, k, h, w).transpose(0, 3, 1, 4, 2)
    return np.clip(x.reshape(c // k**2, h * k, w * k) / 2 + 0.5, 0, 1)


def write_png(picture, file):
    pixels = (picture * 255).round().astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    chunks = [struct.pack(f">I4s{len(b)}sI", len(b), k, b, zlib.crc32(k + b)) for k, b in parts]
    Path(file).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=0)
    if BUNDLE["text"]:
        options.add_argument("--prompt", required=True)
        options.add_argument("--negative", default="", help="what guidance leads away from")
    else:
        options.add_argument("--label", type=int, default=BUNDLE["null"])
    options.add_argument("--program", help="evaluations: " + ", ".join(BUNDLE["programs"]))
    options.add_argument("--out", default="picture.png")
    args = options.parse_args()
    others = {name: network(name) if BUNDLE[name] else None for name in ("start", "decoder")}
    if BUNDLE["text"]:
        from prompts import tokens  # pyright: ignore[reportMissingImports]

        read = network("text")
        label, null = (read(tokens(text), 0) for text in (args.prompt, args.negative))
    else:
        label, null = args.label, None
    picture = sample(network(), args.seed, label, args.program, null=null, **others)
    write_png(picture, args.out)
