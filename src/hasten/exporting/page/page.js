// The page: a prompt or buttons, a slider, a canvas; all pictures come from run.js.
import { reader } from "./prompts.js";
import { decoded, sample } from "./run.js";

const THREADS = 4; // more do not help a network this small
const RUNTIMES = {
  wasm: { file: "ort-wasm-simd-threaded", name: "WebAssembly" },
  webgpu: { file: "ort-wasm-simd-threaded.asyncify", name: "WebGPU" },
};

const find = (id) => document.getElementById(id);
const state = { label: null, seed: 0, program: null, busy: false, again: false };
const networks = {}; // by the names of their files
let bundle;
let read; // a prompt as tokens

async function unpacked(url) {
  const packed = await fetch(url);
  const stream = packed.body.pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Where the browser lets it, load the page once more from threads.js, which isolates it.
async function isolated() {
  if (self.crossOriginIsolated || sessionStorage.threads || !navigator.serviceWorker) return true;
  sessionStorage.threads = "asked";
  try {
    await navigator.serviceWorker.register("threads.js");
    await navigator.serviceWorker.ready;
  } catch {
    return true;
  }
  location.reload();
  return false;
}

// WebGPU where the folder has what speaks to it and the browser a GPU, else WebAssembly.
async function chosen() {
  const asked = document.documentElement.dataset.gpu !== undefined && navigator.gpu;
  return asked && (await navigator.gpu.requestAdapter()) ? "webgpu" : "wasm";
}

async function open() {
  bundle = await (await fetch("bundle.json")).json();
  const kind = await chosen();
  const ort = await import(`./ort/ort.${kind}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.wasmBinary = await unpacked(`ort/${RUNTIMES[kind].file}.wasm.gz`);
  const threads = self.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.numThreads = threads;
  networks.net = await network(ort, "net", kind);
  for (const name of ["start", "text", "decoder"].filter((name) => bundle[name])) {
    networks[name] = await network(ort, name, "wasm");
  }
  if (bundle.text) read = reader(await (await fetch("text.json")).json());
  await picture({}); // the first run of a network takes several times as long
  const many = threads === 1 ? "1 thread" : `${threads} threads`;
  find("runtime").textContent = RUNTIMES[kind].name + (kind === "wasm" ? `, ${many}` : "");
}

// A network as a function of x, a time, and a label or words: numbers, and the `dims` they have.
async function network(ort, name, kind) {
  const weights = await (await fetch(`${name}.onnx`)).arrayBuffer();
  const session = await ort.InferenceSession.create(weights, { executionProviders: [kind] });
  const condition = (given) =>
    given instanceof Float32Array
      ? new ort.Tensor("float32", given, given.dims)
      : new ort.Tensor("int64", BigInt64Array.of(BigInt(given ?? 0)), [1]);
  return async (x, t, given) => {
    const dims = name === "text" ? [1, x.length] : [1, ...bundle.shape];
    const values = [
      new ort.Tensor("float32", x, dims),
      new ort.Tensor("float32", Float32Array.of(t), [1]),
      condition(given),
    ];
    const feeds = Object.fromEntries(session.inputNames.map((input, i) => [input, values[i]]));
    const answer = (await session.run(feeds))[session.outputNames[0]];
    return Object.assign(answer.data, { dims: answer.dims });
  };
}

// One picture of a prompt or a label: {width, height, channels, pixels}, and `cut` as a reader says.
async function picture({ prompt = "", negative = "", label = null, ...options }) {
  const { net, start, text, decoder } = networks;
  const given = { label, start, ...options };
  let cut = null;
  if (text) {
    const wanted = read(prompt);
    const unwanted = read(negative);
    cut = wanted.cut ?? unwanted.cut;
    given.label = await text(wanted.tokens, 0);
    if (guided(options.program)) given.nothing = await text(unwanted.tokens, 0);
  }
  const x = await sample(bundle, net, given);
  if (!decoder) return { ...decoded(bundle, x), cut };
  const pixels = await decoder(x, 0);
  const [, channels, height, width] = pixels.dims;
  return { width, height, channels, pixels, cut };
}

// Whether a program asks for the answer without the prompt too.
function guided(program = bundle.plan) {
  return bundle.programs[program].rows.some((row) => row.branch === "null");
}

function paint(canvas, { width, height, channels, pixels }) {
  const image = new ImageData(width, height);
  const at = (channel, i) => pixels[Math.min(channel, channels - 1) * width * height + i] * 255;
  for (let i = 0; i < width * height; i++) {
    image.data.set([at(0, i), at(1, i), at(2, i), 255], 4 * i);
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const settled = () => new Promise((done) => requestAnimationFrame(() => done()));

async function draw() {
  if (state.busy) {
    state.again = true;
    return;
  }
  state.busy = true;
  const { seed, label, program } = state;
  const [prompt, negative] = [find("prompt").value, find("negative").value];
  let shown = 0; // time that goes into showing, not into making
  const look = async (_, x0) => {
    const from = performance.now();
    paint(find("picture"), decoded(bundle, x0));
    await settled();
    shown += performance.now() - from;
  };
  const looks = bundle.decoder ? {} : { look }; // a decoder takes too long to show every call
  const began = performance.now();
  let made;
  try {
    made = await picture({ prompt, negative, seed, label, program, ...looks });
  } catch (error) {
    state.busy = state.again = false;
    find("time").textContent = `That did not work: ${error.message}`;
    throw error;
  }
  const took = performance.now() - began - shown;
  paint(find("picture"), made);
  find("time").textContent = `${took.toFixed(0)} ms`;
  find("cut").textContent = made.cut === null ? "" : `Too long; read as far as “${made.cut}”.`;
  find("calls").textContent = `${program} network call${program === "1" ? "" : "s"}`;
  document.body.dataset.pixels = JSON.stringify(Array.from(made.pixels));
  document.body.dataset.took = took.toFixed(2);
  remember();
  state.busy = false;
  if (state.again) {
    state.again = false;
    draw();
  }
}

function remember() {
  const canvas = find("picture");
  const small = document.createElement("canvas");
  small.width = canvas.width;
  small.height = canvas.height;
  small.getContext("2d").drawImage(canvas, 0, 0);
  small.title = [find("prompt").value, `seed ${state.seed}`].filter(Boolean).join(", ");
  const strip = find("strip");
  strip.prepend(small);
  while (strip.children.length > 24) strip.lastChild.remove();
}

function choose(label, button) {
  state.label = label;
  document.querySelectorAll("#labels button").forEach((one) => {
    one.setAttribute("aria-pressed", String(one === button));
  });
  draw();
}

function labels() {
  if (bundle.labels === null) return;
  const texts = [...Array(bundle.labels).keys()].map(String);
  const values = [...Array(bundle.labels).keys()];
  if (bundle.null !== null) {
    texts.push("any");
    values.push(bundle.null);
  }
  texts.forEach((text, i) => {
    const button = document.createElement("button");
    button.textContent = text;
    button.onclick = () => choose(values[i], button);
    find("labels").append(button);
  });
  state.label = values[3 % values.length];
  find("labels").children[3 % values.length].setAttribute("aria-pressed", "true");
}

// A line to write prompts in, and a button for each that the model was exported with.
function prompts() {
  if (!bundle.text) return;
  find("prompts").hidden = false;
  find("choices").textContent = "Examples";
  for (const id of ["prompt", "negative"]) find(id).onchange = draw;
  for (const text of bundle.prompts) {
    const button = document.createElement("button");
    button.textContent = text;
    button.onclick = () => {
      find("prompt").value = text;
      draw();
    };
    find("labels").append(button);
  }
  find("prompt").value = bundle.prompts[0] ?? "";
}

function steps() {
  const known = Object.keys(bundle.programs);
  const slider = find("steps");
  slider.max = known.length - 1;
  slider.value = known.indexOf(String(bundle.plan));
  slider.disabled = known.length === 1;
  const take = () => {
    state.program = known[slider.value];
    find("program").textContent = bundle.programs[state.program].text;
    find("negatives").hidden = !bundle.text || !guided(state.program);
  };
  slider.oninput = () => {
    take();
    draw();
  };
  take();
}

find("again").onclick = () => {
  state.seed = Math.floor(Math.random() * 1e6);
  find("seed").value = state.seed;
  draw();
};
find("seed").onchange = () => {
  state.seed = Math.max(0, Math.floor(Number(find("seed").value)) || 0);
  draw();
};
find("save").onclick = () => {
  const link = document.createElement("a");
  link.download = `${find("prompt").value || (state.label ?? "picture")}-${state.seed}.png`;
  link.href = find("picture").toDataURL("image/png");
  link.click();
};

async function show() {
  await open();
  document.title = bundle.model.replace(/^.*[/\\]/, "");
  find("model").textContent = document.title;
  labels();
  prompts();
  steps();
  find("controls").disabled = false;
  await draw();
}

try {
  if (await isolated()) await show();
} catch (error) {
  find("time").textContent = `This browser cannot run the page: ${error.message}`;
  throw error;
}
