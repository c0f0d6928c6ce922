// @ts-check
/** The charts of one or more jobs: live, zoomed together, over steps, epochs or time. Their settings are in the address. */
import { token } from "../appearance.js";
import { lineChart } from "../chart.js";
import { $, icon, make, throttle } from "../dom.js";
import { number, percent, signif } from "../words.js";
import { Run } from "./jobs_runs.js";

/** @typedef {import("./jobs_runs.js").Point} Point */
/** @typedef {import("./jobs_runs.js").Axis} Axis */
/** @typedef {{title: string, unit: string, curves: string[], format?: (y: number) => string, wide?: boolean, min?: number}} Kind */

const COLORS = 8, REFRESH_MS = 700, QUIET_MS = 10_000, EVENTS = ["step", "evaluation", "metrics", "status"];
/** @type {Kind[]} Those that no method need name. */
const KINDS = [
  { title: "Learning rate", unit: "", curves: ["learning_rate"], format: y => signif(y, 3), min: 0 },
  { title: "Gradient norm", unit: "before clipping", curves: ["grad_norm"] },
  { title: "Speed", unit: "tokens a second", curves: ["tokens_per_s"], format: number, min: 0 },
  { title: "Use of the device", unit: "share of its peak", curves: ["mfu"], format: y => percent(y, y < 0.01 ? 3 : 1), min: 0 },
];
/** Not drawn for themselves. */
const RULERS = ["epoch", "elapsed_s", "samples_per_s", "eval_perplexity"];
const LOSS = { name: "loss", title: "Loss", unit: "", is_primary: true };
/** `1:02:03` of training, or `2:03`. @param {number} seconds */
const clock = seconds => {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${hours ? `${hours}:${two(Math.floor(whole / 60) % 60)}` : Math.floor(whole / 60)}:${two(whole % 60)}`;
};
const X_LABELS = { step: "step", epoch: "epoch", time: "training time" };

/** Settings as the address has them. */
export function settings() {
  const query = new URLSearchParams(location.search), axis = query.get("x") ?? "step";
  return {
    smoothing: Math.min(0.98, Math.max(0, Number(query.get("smooth")) || 0)),
    log: query.get("log") === "1",
    axis: /** @type {Axis} */ (["epoch", "time"].includes(axis) ? axis : "step"),
    overlaid: (query.get("with") ?? "").split(",").map(Number).filter(id => Number.isInteger(id) && id > 0).slice(0, 7),
  };
}

/** @param {Record<string, string>} changes empty ones are taken out of the address */
export function remember(changes) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  history.replaceState(history.state, "", url);
}

export class RunCharts {
  /** @param {HTMLElement} place @param {Run[]} runs */
  constructor(place, runs) {
    this.place = Object.assign(place, { charts: this }); // found there by tests, and by those who look into a page
    this.runs = runs;
    const { smoothing, log, axis } = settings();
    this.smoothing = smoothing;
    this.log = log;
    this.axis = axis;
    /** @type {Map<string, any>} title → chart */
    this.charts = new Map();
    /** @type {Set<Run>} */
    this.dirty = new Set();
    /** @type {[number, number] | undefined} */
    this.range = undefined;
    this.lookedAt = performance.now();
    this.removed = (/** @type {Run} */ _run) => {};
    this.removable = (/** @type {Run} */ _run) => true;
    this.update = throttle(() => void this.refresh(), REFRESH_MS);
    this.listen();
  }

  listen() {
    document.body.addEventListener("tunesmith:job", (/** @type {any} */ { detail }) => {
      const run = this.runs.find(one => one.id === detail.job_id);
      if (run && EVENTS.includes(detail.event.type)) this.touch([run]);
    });
    document.body.addEventListener("tunesmith:back", () => this.touch(this.runs));
    document.body.addEventListener("tunesmith:jobs", () => { if (performance.now() - this.lookedAt > QUIET_MS) this.touch(this.runs.filter(run => !run.isOver)); });
    document.addEventListener("tunesmith:theme", () => this.draw());
  }

  /** @param {Run[]} runs something may have come for */
  touch(runs) {
    for (const run of runs) this.dirty.add(run);
    if (this.dirty.size) this.update();
  }

  async refresh() {
    const runs = [...this.dirty];
    this.dirty.clear();
    this.lookedAt = performance.now();
    await Promise.all(runs.map(async run => {
      try {
        this.grow(run, await run.refresh());
      } catch (error) {
        const status = /** @type {any} */ (error).status;
        if (status === 404) run.status = "cancelled"; // deleted meanwhile: the curve stays as it is
        else if (status) throw error;
        else this.dirty.add(run); // the server is away; it is asked again when it is back
      }
    }));
  }

  /** @param {Run} run @param {Map<string, Point[]>} news by curve */
  grow(run, news) {
    if ([...news.keys()].some(name => !this.shown?.has(`${run.id} ${name}`) && !RULERS.includes(name))) return this.draw();
    for (const kind of this.kinds()) {
      for (const name of kind.curves) {
        const points = news.get(name);
        if (points) this.charts.get(kind.title)?.append(this.label(run, name), run.place(points, this.axis));
      }
    }
  }

  /** The charts there are something for: the metrics that the methods name with the main one first, the usual ones, then one for
   * each further score. @returns {Kind[]} */
  kinds() {
    const names = new Set(this.runs.flatMap(run => [...run.curves.keys()]));
    const told = new Map([...this.runs.flatMap(run => run.metrics), LOSS].reverse().map(metric => [metric.name, metric]));
    /** @type {Kind[]} */
    const named = [...told.values()].reverse().sort((a, b) => Number(b.is_primary) - Number(a.is_primary)).map(({ name, title, unit, is_primary }) => ({
      title, curves: [name, `eval_${name}`], wide: is_primary, unit: unit === "share" ? (names.has(name) ? "" : "on held-out rows") : unit,
      format: unit === "share" ? y => percent(y, 1) : undefined,
    }));
    const usual = [...named, ...KINDS].filter(kind => kind.curves.some(name => names.has(name) && !RULERS.includes(name)));
    const known = [...usual.flatMap(kind => kind.curves), ...RULERS];
    const further = [...names].filter(name => !known.includes(name)).sort().map(name => ({ title: name.replace(/^eval_/, "Held-out ").replaceAll("_", " "), unit: "", curves: [name] }));
    return [...usual, ...further];
  }

  /** @param {Run} run @param {string} name */
  label(run, name) {
    const held = name.startsWith("eval_"), both = run.curves.has(held ? name.slice(5) : `eval_${name}`);
    if (this.runs.length > 1) return `#${run.id}${held && both ? " held-out" : ""}`; // the names are above the charts
    if (held) return "held-out";
    return both || name === "loss" ? "training" : name.replaceAll("_", " ");
  }

  /** @param {number} place of a run */
  color(place) {
    return token(`--line-${place % COLORS + 1}`);
  }

  /** @param {Kind} kind */
  series(kind) {
    return this.runs.flatMap((run, place) => kind.curves.filter(name => run.curves.has(name)).map(name => ({
      label: this.label(run, name),
      points: run.over(name, this.axis),
      kind: !name.startsWith("eval_") ? "line" : this.runs.length > 1 && kind.curves.length > 1 ? "dashed" : "points",
      color: this.runs.length > 1 ? this.color(place) : undefined,
    })));
  }

  draw() {
    const kinds = this.kinds();
    this.shown = new Set(this.runs.flatMap(run => [...run.curves.keys()].map(name => `${run.id} ${name}`)));
    this.drawRuns();
    $("charts-wait")?.remove();
    const titles = kinds.map(kind => kind.title);
    for (const [title, chart] of this.charts) if (!titles.includes(title)) { chart.destroy(); this.charts.delete(title); this.place.querySelector(`[data-chart="${CSS.escape(title)}"]`)?.remove(); }
    for (const kind of kinds.length ? kinds : [{ title: "Loss", unit: "", curves: ["loss", "eval_loss"], wide: true }]) this.drawChart(kind);
  }

  /** @param {Kind} kind */
  drawChart(kind) {
    const axis = this.axis;
    const options = {
      series: this.series(kind), smoothing: kind.curves.includes("learning_rate") ? 0 : this.smoothing, log: this.log && kind.min === undefined,
      xLabel: X_LABELS[axis], xFormat: axis === "time" ? clock : axis === "epoch" ? (/** @type {number} */ x) => x.toFixed(2) : undefined,
      yLabel: kind.title, yFormat: kind.format ?? signif, min: kind.min, syncKey: "runs", height: kind.wide ? 320 : 220,
      onZoom: (/** @type {[number, number] | undefined} */ range) => this.zoom(range),
    };
    const known = this.charts.get(kind.title);
    if (known) return known.set(options);
    const box = make("div"), panel = make("section", undefined, { class: kind.wide ? "chart-panel is-wide" : "chart-panel", "data-chart": kind.title, "aria-label": kind.title });
    panel.append(make("h3", kind.title, {}, kind.unit ? [make("small", kind.unit)] : []), box);
    this.place.append(panel);
    this.charts.set(kind.title, lineChart(box, options));
  }

  /** Which colour is which job; nothing to say of one alone. */
  drawRuns() {
    const list = $("runs");
    list.hidden = this.runs.length < 2;
    list.replaceChildren(...this.runs.map((run, place) => {
      const mark = make("span", undefined, { class: "run-mark", "aria-hidden": "true" });
      mark.style.background = this.color(place);
      const item = make("li", undefined, {}, [mark, make("a", `#${run.id} ${run.name}`, { href: `/jobs/${run.id}` })]);
      if (this.removable(run)) {
        const button = make("button", undefined, { type: "button", "aria-label": `Take job ${run.id} out` }, [icon("x")]);
        button.addEventListener("click", () => this.removed(run));
        item.append(button);
      }
      return item;
    }));
  }

  /** All charts show the same stretch; long runs get its detail. @param {[number, number] | undefined} range */
  zoom(range) {
    if (range === this.range) return;
    this.range = range;
    for (const chart of this.charts.values()) if (chart.range !== range) chart.zoom(range);
    $("zoom-out")?.toggleAttribute("disabled", !range);
    if (range && this.runs.some(run => run.thinned)) void this.loadDetail(range);
  }

  /** @param {[number, number]} range */
  async loadDetail(range) {
    const axis = this.axis;
    await Promise.all(this.runs.filter(run => run.thinned).map(run => run.detail(run.stepAt(range[0], axis), run.stepAt(range[1], axis))));
    if (this.range === range) this.draw();
  }

  /** @param {{smoothing?: number, log?: boolean, axis?: Axis}} changes */
  change(changes) {
    if (changes.axis) this.zoom(undefined);
    Object.assign(this, changes);
    remember({ smooth: this.smoothing ? String(this.smoothing) : "", log: this.log ? "1" : "", x: this.axis === "step" ? "" : this.axis });
    this.draw();
  }
}

/** The controls above the charts. @param {RunCharts} charts */
export function startTools(charts) {
  const slider = $("smoothing"), said = $("smoothing-value"), axis = $("x-axis"), log = $("log-scale");
  slider.value = String(charts.smoothing);
  said.textContent = slider.value;
  axis.value = charts.axis;
  log.checked = charts.log;
  const smooth = throttle(() => charts.change({ smoothing: Number(slider.value) }), 60);
  slider.addEventListener("input", () => { said.textContent = slider.value; smooth(); });
  axis.addEventListener("change", () => charts.change({ axis: axis.value }));
  log.addEventListener("change", () => charts.change({ log: log.checked }));
  $("zoom-out").addEventListener("click", () => charts.zoom(undefined));
}
