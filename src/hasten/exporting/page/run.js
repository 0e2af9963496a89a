// Makes pictures from bundle.json and a network, in any JavaScript runtime: the same noise, the same
// rows and the same pictures as run.py. `net(x, t, label)` answers with a Float32Array; where a bundle
// takes prompts, words stand in the place of labels, and `nothing` are those of no prompt.

export function mixed(x) {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

// Number `place` of the numbers from 0 to 1 in `stream`; stream 0 chooses where a start begins.
export function uniform(seed, stream, place) {
  const key = mixed(seed ^ mixed(stream));
  return mixed(mixed(Math.imul(place, 0x9e3779b9)) ^ key) / 2 ** 32;
}

// The noise number `stream` of picture `seed`, standard normal.
export function normals(seed, stream, count) {
  const draw = (place) => uniform(seed, stream + 1, place);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const radius = Math.sqrt(-2 * Math.log(draw(2 * i) + 2 ** -32));
    out[i] = radius * Math.cos(2 * Math.PI * draw(2 * i + 1));
  }
  return out;
}

function combined(coefficients, terms) {
  const out = new Float32Array(terms[0].length);
  terms.forEach((term, k) => {
    const c = Math.fround(coefficients[k]);
    for (let i = 0; i < out.length; i++) out[i] += Math.fround(c * term[i]);
  });
  return out;
}

// One picture: `look(call, x0)` is called with what the network believes after each of its calls;
// `start` is the network of that name, where the bundle has one.
export async function sample(bundle, net, options = {}) {
  const { seed = 0, label = null, nothing = bundle.null, program = null, look, start } = options;
  const { spread, rows, output } = bundle.programs[program ?? bundle.plan];
  const count = bundle.shape.reduce((a, b) => a * b);
  const noise = normals(seed, 0, count);
  const x = start ? await start(noise, uniform(seed, 0, 0), label) : combined([spread], [noise]);
  const values = { x };
  let drawn = 0;
  let calls = 0;
  for (const row of rows) {
    let answer;
    if (row.op === "network") {
      const x = values[row.x];
      answer = await net(x, row.t, row.branch === "null" ? nothing : label);
      if (row.look && look) await look(calls, combined(row.look, [x, answer]));
      calls += 1;
    } else if (row.op === "combine") {
      answer = combined(row.coefficients, row.terms.map((name) => values[name]));
    } else if (row.op === "noise") {
      answer = normals(seed, ++drawn, count);
    } else {
      answer = values[row.x].map((v) => Math.min(Math.max(v, row.low), row.high));
    }
    values[row.out[0]] = answer;
    for (const name of row.frees) delete values[name];
  }
  return values[output];
}

// Blocks of pixels out of their channels: {width, height, channels, pixels} with pixels in [0, 1].
export function decoded(bundle, x) {
  const [c, h, w] = bundle.shape;
  const k = bundle.factor;
  const [channels, height, width] = [c / k ** 2, h * k, w * k];
  const pixels = new Float32Array(channels * height * width);
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const from = channel * k * k + (row % k) * k + (column % k);
        const v = x[(from * h + Math.floor(row / k)) * w + Math.floor(column / k)];
        pixels[(channel * height + row) * width + column] = Math.min(Math.max(v / 2 + 0.5, 0), 1);
      }
    }
  }
  return { width, height, channels, pixels };
}
