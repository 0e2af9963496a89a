// The page of `hasten serve`: it speaks the server's own API, and keeps nothing.
const find = (id) => document.getElementById(id);
const state = { models: [], editing: false, stop: null, last: null, marked: false, token: "" };
const SMALL = 256; // pictures below this are shown with sharp pixels

function problem(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
  if (text) find("problem").scrollIntoView({ block: "nearest" });
}

async function ask(address, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const answer = await fetch(address, { ...options, headers });
  if (answer.status === 401) {
    await unlocked();
    return ask(address, options);
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the server answered ${answer.status}.`);
  }
  return answer;
}

function unlocked() {
  find("locked").showModal();
  return new Promise((go) => {
    find("locked").onclose = () => go((state.token = find("token").value));
  });
}

const model = () => state.models.find((each) => each.id === find("model").value);
const plans = () => Object.entries(model().plans);
const plan = () => plans()[Number(find("plan").value)];
const seconds = (value) =>
  value == null ? "" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;

function showPlan() {
  const [name, facts] = plan();
  const time = facts.seconds == null ? "" : `, ${seconds(facts.seconds)} a picture`;
  find("plan-name").textContent = `${name}${time}`;
  find("plan-text").textContent = facts.words;
  find("plan-text").title = facts.plan;
}

function showModel() {
  const { default_plan, labels, prompts, size, makes } = model();
  const all = plans();
  find("plan").max = all.length - 1;
  find("plan").value = all.findIndex(([name]) => name === default_plan);
  find("plan").hidden = all.length < 2;
  find("not-row").hidden = !prompts;
  const some = prompts || labels != null;
  find("prompt").parentElement.hidden = !some;
  find("prompt").required = prompts;
  find("asks").textContent = prompts ? "Prompt" : `Class, 0 to ${labels - 1}`;
  find("tab-edit").hidden = makes === "clips";
  find("report").hidden = !model().report || state.token !== ""; // a link sends no token
  find("report").href = `/report/${model().id}`;
  const small = Math.max(...size.split("x").map(Number)) < SMALL;
  for (const id of ["shown", "video", "both", "mask", "gallery"]) {
    find(id).classList.toggle("small", small);
  }
  if (makes === "clips") choose(false);
  showPlan();
}

function choose(editing) {
  state.editing = editing;
  find("tab-make").setAttribute("aria-selected", !editing);
  find("tab-edit").setAttribute("aria-selected", editing);
  find("sources").hidden = !editing;
  find("count").parentElement.hidden = editing;
  find("go").textContent = editing ? "Edit" : "Make";
}

// What the form asks for; OpenAI's fields, and those of hasten.
function wanted() {
  const body = { model: model().id, prompt: find("prompt").value, plan: plan()[0] };
  if (find("seed").value) body.seed = find("seed").value;
  if (find("negative").value && !find("not-row").hidden) body.negative_prompt = find("negative").value;
  return body;
}

const source = (base64) => `data:image/png;base64,${base64}`;

function show(pictures, rough) {
  find("video").hidden = true;
  find("shown").classList.toggle("one", pictures.length === 1);
  find("shown").replaceChildren(
    ...pictures.map((base64) => {
      const image = new Image();
      image.src = source(base64);
      image.alt = find("prompt").value;
      image.classList.toggle("rough", rough);
      return image;
    }),
  );
}

// Server-sent events of a request for pictures, as they come.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}

async function pictures(body, signal) {
  const files = state.editing ? await form(body) : null;
  const answer = await ask(`/v1/images/${files ? "edits" : "generations"}`, {
    method: "POST",
    signal,
    ...(files
      ? { body: files }
      : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
  });
  const [rough, done] = [new Map(), []];
  let facts = null;
  for await (const event of events(answer)) {
    if (event.error) throw new Error(event.error.message);
    if (event.type.endsWith("partial_image")) {
      const here = rough.get(event.partial_image_index) ?? [];
      rough.set(event.partial_image_index, [...here, event.b64_json]);
      show(rough.get(event.partial_image_index), true);
    } else {
      done.push(event.b64_json);
      facts = event;
    }
  }
  if (!facts) throw new Error("the server closed the connection.");
  return { done, facts };
}

async function form(body) {
  const file = find("source").files[0];
  if (!file) throw new Error("choose a picture or a clip to edit.");
  const out = new FormData();
  for (const [name, value] of Object.entries(body)) out.append(name, value);
  if (find("was").value) out.append("source_prompt", find("was").value);
  out.append("image", file);
  if (state.marked) out.append("mask", await marks(), "mask.png");
  return out;
}

async function make() {
  problem("");
  const stop = (state.stop = new AbortController());
  find("go").disabled = true;
  find("stop").hidden = false;
  find("comparing").hidden = true;
  find("took").textContent = "";
  const begun = performance.now();
  try {
    const file = find("source").files[0];
    const clip = model().makes === "clips" || (state.editing && file?.type.startsWith("video/"));
    if (clip) return await video(file, stop.signal, begun);
    const body = { ...wanted(), stream: true, partial_images: 3 };
    if (body.seed) body.seed = state.editing ? body.seed : Number(body.seed);
    if (!state.editing) body.n = Number(find("count").value);
    const { done, facts } = await pictures(body, stop.signal);
    show(done, false);
    const took = (performance.now() - begun) / 1000;
    find("took").textContent =
      `${seconds(took)}, ${seconds(facts.seconds)} of it on the server; ${facts.evaluations} ` +
      `network evaluations; seed ${facts.seed}`;
    find("took").title = facts.plan_text;
    problem(facts.warnings.join(" "));
    remember(done, find("took").textContent);
    const best = model().plans.best && facts.plan !== "best";
    state.last = { body: { ...body, seed: facts.seed, n: 1, plan: "best" }, picture: done[0], name: facts.plan };
    find("comparing").hidden = !best || state.editing;
    find("both").hidden = find("slide").hidden = find("sides").hidden = true;
  } catch (error) {
    problem(error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    find("go").disabled = false;
    find("stop").hidden = true;
  }
}

function remember(done, text) {
  find("history").hidden = false;
  for (const base64 of done) {
    const image = new Image();
    image.src = source(base64);
    image.alt = image.title = `${find("prompt").value}; ${text}`;
    image.onclick = () => {
      show([base64], false);
      find("took").textContent = image.title;
      find("comparing").hidden = true;
    };
    find("gallery").prepend(image);
  }
  while (find("gallery").children.length > 100) find("gallery").lastChild.remove();
}

async function compare() {
  problem("");
  find("compare").disabled = true;
  try {
    const { picture, body, name } = state.last;
    const { done } = await pictures({ ...body, stream: true, partial_images: 0 });
    find("before").src = source(done[0]);
    find("after").src = source(picture);
    find("this-plan").textContent = name;
    find("both").hidden = find("slide").hidden = find("sides").hidden = false;
    find("shown").replaceChildren();
    slide();
  } catch (error) {
    problem(error.message);
  } finally {
    find("compare").disabled = false;
  }
}

function slide() {
  const share = `${find("slide").value}%`;
  const over = find("both").querySelector(".over");
  over.style.width = find("both").querySelector(".edge").style.left = share;
  find("before").style.width = `${find("both").clientWidth}px`;
}

async function video(file, signal, begun) {
  const fields = { ...wanted() };
  const out = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (name !== "negative_prompt") out.append(name, value);
  }
  if (state.editing && find("was").value) out.append("source_prompt", find("was").value);
  if (state.editing) out.append("input_reference", file);
  let job = await (await ask("/v1/videos", { method: "POST", body: out, signal })).json();
  const stopped = () => ask(`/v1/videos/${job.id}`, { method: "DELETE" }).catch(() => null);
  signal.addEventListener("abort", stopped);
  while (job.status === "queued" || job.status === "in_progress") {
    find("took").textContent = `${job.status.replace("_", " ")}, ${job.progress}%`;
    await new Promise((go) => setTimeout(go, 250));
    job = await (await ask(`/v1/videos/${job.id}`, { signal })).json();
  }
  if (job.status === "failed") throw new Error(job.error.message);
  const content = await ask(`/v1/videos/${job.id}/content`, { signal });
  find("shown").replaceChildren();
  find("video").src = URL.createObjectURL(await content.blob());
  find("video").hidden = false;
  find("video").play().catch(() => null);
  find("took").textContent = seconds((performance.now() - begun) / 1000);
}

// The picture to edit, and marks upon it.
function open() {
  const file = find("source").files[0];
  const picture = file?.type.startsWith("image/");
  find("drawing").hidden = !picture;
  state.marked = false;
  if (!picture) return;
  const image = new Image();
  image.onload = () => {
    const canvas = find("mask");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    state.picture = image;
    draw();
  };
  image.onerror = () => problem("this picture cannot be read.");
  image.src = URL.createObjectURL(file);
}

function draw() {
  const canvas = find("mask");
  state.over = new OffscreenCanvas(canvas.width, canvas.height);
  state.marked = false;
  canvas.getContext("2d").drawImage(state.picture, 0, 0);
}

function mark(event) {
  if (!event.buttons || !state.over) return;
  const canvas = find("mask");
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * canvas.width;
  const y = ((event.clientY - box.top) / box.height) * canvas.height;
  const radius = Math.max(canvas.width, canvas.height) / 16;
  for (const [surface, colour] of [[state.over, "#fff"], [canvas, "rgba(232, 89, 12, .35)"]]) {
    const pen = surface.getContext("2d");
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
  }
  state.marked = true;
}

// White where the picture may change, black elsewhere.
async function marks() {
  const { width, height } = state.over;
  const whole = new OffscreenCanvas(width, height);
  const pen = whole.getContext("2d");
  pen.fillRect(0, 0, width, height);
  pen.drawImage(state.over, 0, 0);
  return whole.convertToBlob({ type: "image/png" });
}

async function begin() {
  try {
    state.models = (await (await ask("/v1/models")).json()).data;
  } catch (error) {
    return problem(`the server does not answer: ${error.message}`);
  }
  find("model").replaceChildren(...state.models.map(({ id }) => new Option(id)));
  find("model").hidden = state.models.length < 2;
  showModel();
}

find("model").onchange = showModel;
find("plan").oninput = showPlan;
find("tab-make").onclick = () => choose(false);
find("tab-edit").onclick = () => choose(true);
find("source").onchange = open;
find("unmark").onclick = draw;
find("mask").onpointerdown = find("mask").onpointermove = mark;
find("compare").onclick = compare;
find("slide").oninput = slide;
find("stop").onclick = () => state.stop?.abort();
find("form").onsubmit = (event) => {
  event.preventDefault();
  make();
};
begin();
