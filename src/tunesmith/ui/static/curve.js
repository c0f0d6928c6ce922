// @ts-check
/** One job: its line, its curve as it grows, what the curve says, and what it left. */
import { API, call } from "./api.js";
import { drawChart } from "./chart.js";
import { $, duration, make, setText, showProblem } from "./dom.js";

/** @typedef {[number, number]} Point step, loss */

let shown = 0, drawing = false;
let curves = { train: /** @type {Point[]} */ ([]), held: /** @type {Point[]} */ ([]) };

export const shownJob = () => shown;

/** @param {any} job @param {boolean} go whether to bring it into view */
export function followJob(job, go) {
  if (job.id !== shown) curves = { train: [], held: [] };
  shown = job.id;
  $("job").hidden = false;
  setText($("job-title"), `Job ${job.id}: ${job.name}`);
  describeJob(job);
  redraw();
  loadCurve().catch(error => showProblem($("job-problem"), error));
  if (!go) return;
  $("job-title").focus({ preventScroll: true });
  $("job").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

/** @param {number} id a job that is no more */
export function forgetJob(id) {
  if (id !== shown) return;
  shown = 0;
  $("job").hidden = true;
}

/** The curve so far; steps that come while it is fetched are kept. */
export async function loadCurve() {
  const id = shown;
  if (!id) return;
  const found = (await call(`/jobs/${id}/metrics?points=1000`)).curves;
  if (id !== shown) return;
  const points = (/** @type {any} */ c) => (c?.steps ?? []).map((/** @type {number} */ step, /** @type {number} */ i) => [step, c.values[i] ?? NaN]);
  const merge = (/** @type {Point[]} */ past, /** @type {Point[]} */ live) => [...past, ...live.filter(([step]) => step > (past.at(-1)?.[0] ?? 0))];
  curves = { train: merge(points(found.loss), curves.train), held: merge(points(found.eval_loss), curves.held) };
  redraw();
}

/** A step or an evaluation of any job. After a resume a step may come again: the later word counts. @param {number} id @param {any} event */
export function takePoint(id, event) {
  if (id !== shown) return;
  const points = event.type === "step" ? curves.train : curves.held;
  while (points.length && points[points.length - 1][0] >= event.step) points.pop();
  points.push([event.step, Number(event.loss)]);
  redraw();
}

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; setText($("chart-text"), drawChart($("chart"), curves)); });
}

/** @param {any} s */
export function describeJob(s) {
  if (!s || s.id !== shown) return;
  const parts = [s.status === "running" ? s.phase ?? s.status : s.status, s.total_steps ? `step ${s.step} of ${s.total_steps}` : "", s.tokens_per_s ? `${Math.round(s.tokens_per_s).toLocaleString("en")} tokens/s` : "", s.remaining_s ? `${duration(s.remaining_s)} left` : "", s.waiting_for, s.message, s.hint];
  setText($("job-line"), parts.filter(Boolean).join(" · "));
  const told = s.diagnosis.map((/** @type {any} */ d) => `${d.message} ${d.advice}`);
  if ([...$("diagnosis").children].map(li => li.textContent).join() !== told.join()) $("diagnosis").replaceChildren(...told.map((/** @type {string} */ text) => make("li", text)));
  const links = s.status === "completed" ? [["Report", "report"], ["Download the model", "download"]] : [];
  if ($("job-links").childElementCount === links.length && $("job-links").dataset.job === String(s.id)) return;
  $("job-links").dataset.job = String(s.id);
  $("job-links").replaceChildren(...links.map(([text, end]) => make("a", text, { href: `${API}/jobs/${s.id}/${end}` })));
}

export const startCurve = () => new ResizeObserver(redraw).observe($("chart"));
