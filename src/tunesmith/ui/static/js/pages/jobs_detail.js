// @ts-check
/** One job: charts with other jobs over them, what it uses of the machine, and keys. */
import { call } from "../api.js";
import { lineChart } from "../chart.js";
import { $, make, showProblem, throttle } from "../dom.js";
import { bytes, signif } from "../words.js";
import { remember, RunCharts, settings, startTools } from "./jobs_charts.js";
import { startKeys } from "./jobs_keys.js";
import { startPicker } from "./jobs_picker.js";
import { Run } from "./jobs_runs.js";

const REFRESH_MS = 3000, POINTS = 1500;
const id = Number($("job").dataset.job);
/** @type {{title: string, unit: string, curves: [RegExp, string][], format: (y: number) => string}[]} */
const MACHINE = [
  { title: "Processor", unit: "percent of one core", curves: [[/^cpu_percent$/, "this job"]], format: y => `${signif(y, 3)} %` },
  { title: "Memory", unit: "of this job", curves: [[/^memory_bytes$/, "this job"]], format: bytes },
  { title: "GPU use", unit: "percent", curves: [[/^gpu(\d+)_utilization_percent$/, "GPU $1"]], format: y => `${signif(y, 3)} %` },
  { title: "GPU memory", unit: "", curves: [[/^gpu(\d+)_memory_used_bytes$/, "GPU $1"]], format: bytes },
  { title: "GPU power", unit: "watts", curves: [[/^gpu(\d+)_power_w$/, "GPU $1"]], format: y => `${signif(y, 3)} W` },
  { title: "Disk", unit: "a second", curves: [[/^disk_written_bytes_per_s$/, "written"], [/^disk_read_bytes_per_s$/, "read"]], format: bytes },
];

/** What the job uses of the machine, growing. */
class Machine {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
    /** @type {Map<string, any>} */
    this.charts = new Map();
    /** @type {Map<string, [number, number][]>} */
    this.curves = new Map();
    this.lastSeq = 0;
    this.working = false;
  }

  async refresh() {
    if (this.working) return;
    this.working = true;
    try {
      const found = await call(`/jobs/${id}/resources?points=${POINTS}&after=${this.lastSeq}`);
      this.lastSeq = found.last_seq;
      for (const [name, curve] of Object.entries(found.curves)) {
        const points = this.curves.get(name) ?? [];
        curve.times.forEach((/** @type {number} */ at, /** @type {number} */ i) => points.push([at, curve.values[i] ?? NaN]));
        this.curves.set(name, points);
      }
      if (Object.keys(found.curves).length) this.draw();
    } catch { /* the server is away; it is asked again with the next sample */ } finally { this.working = false; }
  }

  draw() {
    for (const kind of MACHINE) {
      const series = kind.curves.flatMap(([pattern, label]) => [...this.curves.keys()].filter(name => pattern.test(name)).map(name => ({ label: name.replace(pattern, label), points: this.curves.get(name) ?? [] })));
      if (!series.length) continue;
      const known = this.charts.get(kind.title);
      if (known) { known.set({ series }); continue; }
      $("machine").hidden = false;
      const box = make("div"), panel = make("section", undefined, { class: "chart-panel", "aria-label": kind.title });
      panel.append(make("h3", kind.title, {}, kind.unit ? [make("small", kind.unit)] : []), box);
      this.place.append(panel);
      this.charts.set(kind.title, lineChart(box, { series, time: true, min: 0, height: 200, xLabel: "at", yLabel: kind.title, yFormat: kind.format, syncKey: "machine" }));
    }
  }
}

async function startCharts() {
  const place = $("charts"), mine = new Run(id), others = settings().overlaid.filter(one => one !== id).map(one => new Run(one));
  try {
    await mine.load();
    const loaded = await Promise.allSettled(others.map(run => run.load()));
    const charts = new RunCharts(place, [mine, ...others.filter((_, i) => loaded[i].status === "fulfilled")]);
    charts.removable = run => run !== mine;
    charts.removed = run => overlay(charts, run.id, false);
    charts.draw();
    startTools(charts);
    startPicker(other => charts.runs.some(run => run.id === other), (other, on) => overlay(charts, other, on), other => other !== id);
  } catch (error) {
    showProblem($("charts-wait") ?? place, error);
  }
  const machine = new Machine($("machine-charts")), update = throttle(() => void machine.refresh(), REFRESH_MS);
  document.body.addEventListener("tunesmith:job", (/** @type {any} */ { detail }) => { if (detail.job_id === id && detail.event.type === "resources") update(); });
  document.body.addEventListener("tunesmith:back", update);
  update();
}

/** @param {RunCharts} charts @param {number} other @param {boolean} on */
async function overlay(charts, other, on) {
  if (on) charts.runs.push(await new Run(other).load());
  else charts.runs = charts.runs.filter(run => run.id !== other);
  remember({ with: charts.runs.slice(1).map(run => run.id).join() });
  charts.draw();
}

/** @param {string} key of one of the actions that the job's state allows */
const act = key => /** @type {HTMLElement | null} */ (document.querySelector(`#job-actions [data-key="${key}"]`))?.click();

function startPageKeys() {
  const tabs = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".tabbar a"));
  startKeys({
    p: ["Start, pause or resume", () => act("p")],
    s: ["Stop", () => act("s")],
    k: ["Checkpoint now", () => act("k")],
    c: ["Clone with changes", () => act("c")],
    m: ["Compare with others", () => act("m")],
    ...($("add-run") ? { o: ["Overlay a job", () => $("add-run").click()] } : {}),
    ...Object.fromEntries([...tabs].map((tab, i) => [String(i + 1), [tab.firstChild?.textContent ?? "", () => tab.click()]])),
  });
}

startPageKeys();
if ($("charts")) void startCharts();
