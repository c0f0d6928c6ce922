// @ts-check
/** The table of jobs, what can be done with each, and the form for a new one. */
import { call, post, remove } from "./api.js";
import { describeJob, followJob, forgetJob, shownJob } from "./curve.js";
import { $, announce, attempt, clearProblem, duration, keyedTable, make, makeButton, makeRow, onSubmit, setText, showProblem, sure } from "./dom.js";

/** @type {Record<string, {path: string, when: string[], question?: string}>} */
const ACTIONS = {
  Start: { path: "start", when: ["created"] },
  Pause: { path: "pause", when: ["queued", "running"] },
  "Save checkpoint": { path: "checkpoint", when: ["running"] },
  Resume: { path: "resume", when: ["paused", "failed", "cancelled"] },
  Cancel: { path: "stop", when: ["queued", "running", "paused"], question: "Its checkpoints stay, so it can be resumed later." },
};
const FINAL = ["completed", "failed", "cancelled"], DELETABLE = ["created", ...FINAL];
/** The last word on each job. @type {Map<number, any>} */
const known = new Map();
let limit = 20, /** @type {number[]} */ listed = [];

/** @param {number} id */
function build(id) {
  const { body, cells, problem, notes } = makeRow($("jobs"));
  const [name, status, progress, loss, left, actions] = cells;
  const open = makeButton("", "", () => followJob(known.get(id), true));
  const state = make("span", undefined, { class: "status" }), why = make("small"), bar = make("progress", undefined, { max: "1", "aria-label": `Progress of job ${id}` });
  open.className = "link";
  name.append(open);
  status.append(state, why);
  progress.append(bar);
  const act = (/** @type {HTMLElement} */ button, /** @type {() => Promise<any>} */ work) => attempt(button, problem, async () => { await work(); await refreshJobs(); });
  const buttons = Object.entries(ACTIONS).map(([word, { path, when, question }]) => {
    const button = makeButton(word, `${word} job ${id}`, () => act(button, async () => {
      if (!question || await sure(`${word} job ${id}, “${known.get(id).name}”? ${question}`, `${word} job`)) await post(`/jobs/${id}/${path}`);
    }));
    return { button, when };
  });
  const drop = makeButton("Delete", `Delete job ${id}`, () => act(drop, async () => {
    if (!await sure(`Delete job ${id}, “${known.get(id).name}”, with its model and checkpoints? This cannot be undone.`, "Delete")) return;
    await remove(`/jobs/${id}`);
    announce(`Job ${id} is deleted.`);
    forgetJob(id);
  }));
  buttons.push({ button: drop, when: DELETABLE });
  actions.append(...buttons.map(b => b.button));
  let told = "";

  /** @param {any} s */
  function draw(s) {
    setText(open, `${s.id} ${s.name}`);
    open.setAttribute("aria-label", `Show the curve of job ${s.id}, ${s.name}`);
    setText(state, s.status === "running" ? s.phase ?? s.status : s.status);
    state.dataset.status = s.status;
    setText(why, s.status === "queued" ? s.waiting_for : "");
    bar.value = s.progress;
    setText(loss, s.loss == null ? "" : Number(s.loss).toFixed(3));
    setText(left, duration(s.remaining_s));
    for (const { button, when } of buttons) {
      const off = !when.includes(s.status);
      if (off && document.activeElement === button) open.focus();
      button.hidden = off;
    }
    const now = `${s.status} ${s.phase} ${s.message}`;
    if (now === told) return;
    if (told) { clearProblem(problem); announce(`Job ${s.id}: ${s.status === "running" ? s.phase ?? s.status : s.status}.`); }
    told = now;
    notes.replaceChildren(...(s.status === "failed" ? [make("p", [s.message, s.hint].filter(Boolean).join(" "))] : []));
  }
  return { body, draw };
}

const drawRows = keyedTable($("jobs"), $("no-jobs"), build);

function draw() {
  drawRows(listed.map(id => known.get(id)).filter(Boolean));
  describeJob(known.get(shownJob()));
}

/** The list, with a closer look at what may have changed. */
export async function refreshJobs() {
  const { items, next_cursor } = await call(`/jobs/?limit=${limit}`);
  const open = items.filter((/** @type {any} */ j) => !FINAL.includes(j.status) || known.get(j.id)?.status !== j.status);
  await Promise.all(open.map((/** @type {any} */ j) => look(j.id)));
  listed = items.map((/** @type {any} */ j) => j.id);
  $("more-jobs").hidden = next_cursor == null;
  draw();
  if (!known.has(shownJob()) && listed.length) followJob(known.get(listed[0]), false);
}

/** @param {number} id */
async function look(id) {
  try {
    known.set(id, await call(`/jobs/${id}/status`));
  } catch (error) {
    if (/** @type {any} */ (error).status !== 404) throw error; // deleted a moment ago
    known.delete(id);
  }
}

/** Jobs that something happened to; they are looked at together, at most twice a second. @type {Set<number>} */
const touched = new Set();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let looking;
/** @param {number} id */
export function touchJob(id) {
  touched.add(id);
  looking ??= setTimeout(async () => {
    looking = undefined;
    const ids = [...touched];
    touched.clear();
    try {
      if (ids.some(each => !listed.includes(each))) await refreshJobs();
      else { await Promise.all(ids.map(look)); draw(); }
    } catch (error) { showProblem($("problem"), error); }
  }, 500);
}

export async function startJobs() {
  onSubmit($("create"), async () => {
    const job = await post("/jobs/", { dataset_id: Number($("dataset").value), model: $("model").value.trim(), method: $("method").value });
    announce(`Job ${job.id} is made.`);
    await refreshJobs();
    followJob(known.get(job.id), true);
  });
  $("more-jobs").addEventListener("click", () => attempt($("more-jobs"), $("problem"), async () => { limit = Math.min(limit + 40, 200); await refreshJobs(); }));
  const methods = (await call("/jobs/methods")).filter((/** @type {any} */ m) => !m.why_not && m.name !== "custom");
  const hint = () => setText($("method-hint"), methods.find((/** @type {any} */ m) => m.name === $("method").value)?.sentence ?? "");
  $("method").replaceChildren(...methods.map((/** @type {any} */ m) => make("option", m.title, { value: m.name })));
  $("method").addEventListener("change", hint);
  hint();
}
