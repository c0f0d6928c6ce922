// @ts-check
import { drawChart } from "./chart.js";

const API = "/api/v1";
const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @param {string} tag @param {string} [text] @param {Record<string, string>} [attributes] */
function make(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** @param {unknown} error */
function complain(error) {
  $("problem").textContent = error instanceof Error ? error.message : String(error);
  $("problem").hidden = false;
}

/** @param {string} path @param {RequestInit} [options] */
async function call(path, options) {
  const answer = await fetch(API + path, options);
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) {
    const places = (body.details ?? []).map((/** @type {any} */ d) => `${d.loc ?? ""}: ${d.message ?? ""}`).join("; ");
    throw new Error([body.message, places, body.hint].filter(Boolean).join(" "));
  }
  return body;
}

/** @param {string} path @param {unknown} [body] */
const post = (path, body) => call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });

/** @param {HTMLFormElement} form @param {() => Promise<void>} work */
function onSubmit(form, work) {
  form.addEventListener("submit", async event => {
    event.preventDefault();
    $("problem").hidden = true;
    const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
    button.disabled = true;
    try { await work(); } catch (error) { complain(error); }
    button.disabled = false;
  });
}

/** Keep what is chosen while options change. @param {HTMLSelectElement} select @param {[string, string][]} options */
function setOptions(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", text, { value })));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** @param {HTMLElement} body @param {HTMLElement[][]} rows @param {HTMLElement} empty */
function fill(body, rows, empty) {
  body.replaceChildren(...rows.map(cells => { const row = make("tr"); row.append(...cells); return row; }));
  /** @type {HTMLElement} */ (body.closest("table")).hidden = !rows.length;
  empty.hidden = rows.length > 0;
}

const cell = (/** @type {string | Node} */ content) => { const made = make("td"); made.append(content); return made; };

async function showDatasets() {
  const { items } = await call("/datasets/?limit=20");
  fill($("datasets"), items.map((/** @type {any} */ d) => [
    cell(d.name), cell(d.status === "failed" ? `failed: ${d.error?.message ?? ""}` : d.status === "processing" ? `processing ${Math.round(d.progress * 100)} %` : d.status),
    cell(String(d.num_rows ?? "")), cell(d.shape ?? ""), cell(d.num_errors + d.num_warnings ? `${d.num_errors} errors, ${d.num_warnings} warnings` : ""),
  ]), $("no-datasets"));
  setOptions($("dataset"), items.filter((/** @type {any} */ d) => d.status === "ready").map((/** @type {any} */ d) => [String(d.id), d.name]));
  return items.some((/** @type {any} */ d) => d.status === "processing");
}

async function showModels() {
  const { items } = await call("/models/");
  $("models").replaceChildren(...items.map((/** @type {any} */ m) => make("option", undefined, { value: m.name })));
  setOptions($("partner"), items.map((/** @type {any} */ m) => [m.name, m.base_model ? `${m.name} (tuned ${m.base_model})` : m.name]));
}

const ACTIONS = /** @type {Record<string, string[]>} */ ({ created: ["start"], queued: ["pause", "stop"], running: ["pause", "checkpoint", "stop"], paused: ["resume", "stop"], failed: ["resume"], cancelled: ["resume"] });
let shown = 0;

async function showJobs() {
  const { items } = await call("/jobs/?limit=20");
  const states = await Promise.all(items.map((/** @type {any} */ j) => call(`/jobs/${j.id}/status`)));
  fill($("jobs"), states.map(s => {
    const open = make("button", `${s.id} ${s.name}`, { class: "plain", type: "button" });
    open.addEventListener("click", () => follow(s.id));
    const bar = make("progress", undefined, { max: "1", value: String(s.progress), "aria-label": `Progress of job ${s.id}` });
    const actions = make("span");
    for (const action of ACTIONS[s.status] ?? []) {
      const button = make("button", action, { class: "plain", type: "button", "aria-label": `${action} job ${s.id}` });
      button.addEventListener("click", async () => { try { await post(`/jobs/${s.id}/${action}`); await showJobs(); } catch (error) { complain(error); } });
      actions.append(button, " ");
    }
    const state = make("span", s.phase ?? s.status, { class: "status", title: s.status_reason || s.waiting_for });
    return [cell(open), cell(state), cell(bar), cell(s.loss == null ? "" : Number(s.loss).toFixed(3)), cell(duration(s.remaining_s)), cell(actions)];
  }), $("no-jobs"));
  if (!shown && items.length) follow(items[0].id, false);
}

/** @param {number | null} seconds */
const duration = seconds => seconds == null ? "" : seconds >= 60 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`;

/** @type {EventSource | undefined} */
let source;

/** Show one job's curve and follow it live; the browser reconnects with the last event's number. @param {number} id */
function follow(id, scroll = true) {
  shown = id;
  source?.close();
  const curves = { train: /** @type {[number, number][]} */ ([]), held: /** @type {[number, number][]} */ ([]) };
  let drawing = false, ended = false;
  $("job").hidden = false;
  $("job-title").textContent = `Job ${id}`;
  $("job-links").replaceChildren();
  const redraw = () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; $("chart-text").textContent = drawChart($("chart"), curves); });
  };
  redraw();
  source = new EventSource(`${API}/jobs/${id}/stream?after=0`);
  const take = (/** @type {MessageEvent} */ message) => {
    const { event } = JSON.parse(message.data);
    if (event.type === "step") curves.train.push([event.step, Number(event.loss)]);
    else if (event.type === "evaluation") curves.held.push([event.step, Number(event.loss)]);
    else if (event.type === "status" && ["completed", "failed", "cancelled", "paused"].includes(event.new)) { ended = true; showModels().catch(complain); showJobs().catch(complain); }
    if (["step", "evaluation"].includes(event.type)) redraw();
    if (event.type !== "evaluation") later(id, ended);
  };
  for (const type of ["step", "evaluation", "status", "phase"]) source.addEventListener(type, take);
  source.addEventListener("end", () => source?.close());
  if (scroll) $("job").scrollIntoView({ behavior: "smooth" });
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let waiting;
/** @param {number} id @param {boolean} ended */
function later(id, ended) {
  waiting ??= setTimeout(async () => { waiting = undefined; try { await describe(id); if (!ended) await showJobs(); } catch (error) { complain(error); } }, 500);
}

/** @param {number} id */
async function describe(id) {
  if (id !== shown) return;
  const s = await call(`/jobs/${id}/status`);
  const parts = [s.name, s.phase ?? s.status, s.total_steps ? `step ${s.step} of ${s.total_steps}` : "", s.tokens_per_s ? `${Math.round(s.tokens_per_s)} tokens/s` : "", s.remaining_s ? `${duration(s.remaining_s)} left` : "", s.waiting_for, s.message, s.hint];
  $("job-line").textContent = parts.filter(Boolean).join(" · ");
  $("diagnosis").replaceChildren(...s.diagnosis.map((/** @type {any} */ d) => make("li", `${d.message} ${d.advice}`)));
  if (s.status === "completed") {
    $("job-links").replaceChildren(make("a", "Report", { href: `${API}/jobs/${id}/report` }), " · ", make("a", "Download the model", { href: `${API}/jobs/${id}/download` }));
  }
}

onSubmit($("upload"), async () => {
  const bar = $("upload-progress");
  for (const file of $("file").files) {
    bar.hidden = false;
    await new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("PUT", `${API}/datasets/upload?file_name=${encodeURIComponent(file.name)}`);
      request.upload.onprogress = event => { bar.value = event.loaded / event.total; };
      request.onload = () => request.status < 300 ? resolve(null) : reject(new Error(JSON.parse(request.responseText).message));
      request.onerror = () => reject(new Error("The upload was cut off. Try again."));
      request.send(file);
    });
  }
  bar.hidden = true;
  $("upload").reset();
  while (await showDatasets()) await new Promise(resolve => setTimeout(resolve, 500));
});

onSubmit($("create"), async () => {
  const job = await post("/jobs/", { dataset_id: Number($("dataset").value), model: $("model").value, method: $("method").value });
  await showJobs();
  follow(job.id);
});

onSubmit($("chat"), async () => {
  const question = $("message").value, mine = make("p", `You: ${question}`), theirs = make("p", "…");
  $("answer").append(mine, theirs);
  $("message").value = "";
  const answer = await fetch(`${API}/models/chat`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: $("partner").value, messages: [{ role: "user", content: question }] }) });
  if (!answer.ok || !answer.body) throw new Error((await answer.json()).message);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const kind = /^event: (.*)$/m.exec(block)?.[1], data = /^data: (.*)$/m.exec(block)?.[1];
      if (!data || data === "[DONE]") continue;
      const told = JSON.parse(data);
      if (kind === "error") throw new Error([told.message, told.hint].join(" "));
      if (kind === "status") theirs.textContent = "Loading the model…";
      else { text += told.choices?.[0]?.delta?.content ?? ""; theirs.textContent = text; }
    }
  }
});

(async () => {
  const methods = await call("/jobs/methods");
  setOptions($("method"), methods.filter((/** @type {any} */ m) => !m.why_not && m.name !== "custom").map((/** @type {any} */ m) => [m.name, m.title]));
  const hint = () => { $("method-hint").textContent = methods.find((/** @type {any} */ m) => m.name === $("method").value)?.sentence ?? ""; };
  $("method").addEventListener("change", hint);
  hint();
  await Promise.all([showDatasets(), showModels(), showJobs()]);
})().catch(complain);
