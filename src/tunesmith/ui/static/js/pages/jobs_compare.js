// @ts-check
/** Jobs side by side: which ones is in the address; every finished model can be asked the same. */
import { ApiError, stream } from "../api.js";
import { token } from "../appearance.js";
import { $, announce, showProblem } from "../dom.js";
import { remember, RunCharts, startTools } from "./jobs_charts.js";
import { startPicker } from "./jobs_picker.js";
import { Run } from "./jobs_runs.js";
import { duration } from "../words.js";

const MOST = 8, MAX_TOKENS = 200;
const ids = (new URLSearchParams(location.search).get("ids") ?? "").split(",").map(Number).filter(id => id > 0);

/** @param {number[]} wanted */
function open(wanted) {
  const url = new URL(location.href);
  url.searchParams.set("ids", wanted.join());
  location.assign(url);
}

/** @param {number} id @param {boolean} on */
function choose(id, on) {
  if (on && ids.length >= MOST) throw new ApiError(`${MOST} jobs are the most that can be compared.`, "Take one out first.");
  open(on ? [...ids, id] : ids.filter(one => one !== id));
}

function paintMarks() {
  for (const mark of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-mark]"))) mark.style.background = token(`--line-${Number(mark.dataset.mark) % 8 + 1}`);
}

async function startCharts() {
  const charts = new RunCharts($("charts"), ids.map(id => new Run(id)));
  charts.removable = () => ids.length > 2;
  charts.removed = run => open(ids.filter(id => id !== run.id));
  try {
    await Promise.all(charts.runs.map(run => run.load()));
    charts.draw();
    startTools(charts);
  } catch (error) {
    showProblem($("charts-wait"), error);
  }
}

function startTable() {
  const all = $("show-all"), box = $("settings-box");
  const nothingDiffers = box.hidden;
  const show = () => {
    for (const row of $("settings-table").querySelectorAll(".is-same")) row.hidden = !all.checked;
    box.hidden = nothingDiffers && !all.checked;
    remember({ all: all.checked ? "1" : "" });
  };
  all.checked = new URLSearchParams(location.search).get("all") === "1";
  all.addEventListener("change", show);
  show();
}

/** One after the other: they share the machine. @param {string} question @param {AbortSignal} signal */
async function askAll(question, signal) {
  const places = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-answer]")]).filter(place => place.dataset.ready);
  for (const place of places) {
    const [asked, ...others] = place.querySelectorAll("[data-asked]"), [said, ...more] = place.querySelectorAll(".said, [data-expected]");
    for (const old of [...others, ...more]) old.remove();
    asked.textContent = question;
    said.textContent = "…";
    place.setAttribute("aria-busy", "true");
  }
  for (const place of places) {
    const said = /** @type {HTMLElement} */ (place.querySelector(".said"));
    try {
      await ask(Number(place.dataset.answer), question, said, signal);
    } catch (error) {
      const text = signal.aborted ? "(stopped)" : [/** @type {any} */ (error).message, /** @type {any} */ (error).hint].filter(Boolean).join(" ");
      const came = said.textContent === "…" ? "" : said.textContent;
      said.textContent = `${came} ${text}`.trim();
    }
    place.removeAttribute("aria-busy");
  }
}

/** @param {number} id @param {string} question @param {HTMLElement} said @param {AbortSignal} signal */
async function ask(id, question, said, signal) {
  if (signal.aborted) throw new DOMException("stopped", "AbortError");
  let text = "", doing = "Waiting";
  const began = performance.now();
  const tick = () => { if (!text) said.textContent = `${doing} … ${duration((performance.now() - began) / 1000)}`; };
  const ticking = setInterval(tick, 1000);
  const body = { messages: [{ role: "user", content: question }], max_tokens: MAX_TOKENS, temperature: 0, stream: true };
  try {
    for await (const { kind, data } of stream(`/jobs/${id}/chat`, body, signal)) {
      if (kind === "error") throw new ApiError(data.message, data.hint);
      if (kind === "status") doing = "Loading the model";
      text += data.choices?.[0]?.delta?.content ?? "";
      if (text) said.textContent = text;
      else tick();
    }
  } finally {
    clearInterval(ticking);
    if (!text) said.textContent = "…";
  }
  said.textContent = text || "(nothing)";
}

function startAsking() {
  const form = $("ask"), stop = $("ask-stop"), button = form.querySelector("[type=submit]");
  /** @type {AbortController | undefined} */
  let asking;
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (asking) return;
    asking = new AbortController();
    button.disabled = true;
    stop.hidden = false;
    await askAll($("ask-text").value.trim(), asking.signal);
    announce("Every model has answered.");
    asking = undefined;
    button.disabled = false;
    stop.hidden = true;
  });
  stop.addEventListener("click", () => asking?.abort());
}

startPicker(id => ids.includes(id), choose);
if ($("compare")) {
  void startCharts();
  startTable();
  paintMarks();
  document.addEventListener("tunesmith:theme", paintMarks);
  document.addEventListener("htmx:after:swap", paintMarks);
  if ($("ask")) startAsking();
}
