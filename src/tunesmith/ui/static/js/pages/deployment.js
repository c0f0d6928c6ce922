// @ts-check
/** One deployment: charts that stay fresh, and the form for a rollout. */
import { call } from "../api.js";
import { token } from "../appearance.js";
import { lineChart } from "../chart.js";
import { $, clearProblem, showProblem } from "../dom.js";
import { timeOfDay } from "../words.js";
import { startTrying } from "./deployment_try.js";

/** @typedef {{at: string, requests: number, errors: number, p50_latency_s: number | null, p95_latency_s: number | null, tokens: number}} Piece */
/** @typedef {{id: string, yLabel: string, yFormat: (y: number) => string, curves: [string, (piece: Piece) => number | null][]}} Chart */

const count = (/** @type {number} */ value) => Number.isInteger(value) ? value.toLocaleString("en") : "";
const seconds = (/** @type {number} */ value) => value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;

/** @type {Chart[]} */
const CHARTS = [
  { id: "chart-requests", yLabel: "Requests", yFormat: count, curves: [["Requests", piece => piece.requests], ["Failed", piece => piece.errors]] },
  { id: "chart-latency", yLabel: "Time to answer", yFormat: seconds, curves: [["p50", piece => piece.p50_latency_s], ["p95", piece => piece.p95_latency_s]] },
  { id: "chart-tokens", yLabel: "Tokens", yFormat: count, curves: [["Tokens", piece => piece.tokens]] },
];

/** @param {Chart} chart @param {Piece[]} pieces */
const seriesOf = (chart, pieces) => chart.curves.map(([label, of]) => ({
  label,
  color: label === "Failed" ? token("--line-7") : undefined,
  points: pieces.flatMap(piece => { const y = of(piece); return y == null ? [] : [/** @type {[number, number]} */ ([Date.parse(piece.at) / 1000, y])]; }),
  kind: chart.id === "chart-latency" ? "points" : "line",
}));

async function startCharts() {
  const path = `/deployments/${$("deployment").dataset.deployment}/metrics?window_s=${$("charts").dataset.windowS}`;
  /** @type {{chart: Chart, plot: import("../chart.js").LineChart}[]} */
  let drawn = [];
  const draw = async () => {
    const { series, total } = await call(path), pieces = total.requests ? series : [];
    const span = /** @type {[number, number]} */ ([series[0], series[series.length - 1]].map(piece => Date.parse(piece.at) / 1000));
    clearProblem($("charts-problem"));
    if (drawn.length) for (const { chart, plot } of drawn) plot.set({ series: seriesOf(chart, pieces), span });
    else drawn = CHARTS.filter(chart => $(chart.id)).map(chart => ({ chart, plot: lineChart($(chart.id), { series: seriesOf(chart, pieces), span, xLabel: "time", yLabel: chart.yLabel, yFormat: chart.yFormat, time: true, xFormat: timeOfDay, min: 0, height: 170, syncKey: "deployment", empty: "No requests in this time." }) }));
  };
  const fresh = () => draw().catch(error => showProblem($("charts-problem"), error));
  document.body.addEventListener("tunesmith:datasets", () => void fresh());
  await fresh();
}

/** What each way of taking over usually begins with, until somebody types another share. @type {Record<string, string>} */
const STEPS = { canary: "5, 25, 50", ab: "50", shadow: "100" };

function startRollout() {
  const form = $("roll-out-form"), steps = $("roll-out-steps"), asked = new URLSearchParams(location.search).get("roll-out");
  let isOurs = true;
  steps?.addEventListener("input", () => { isOurs = false; });
  form.addEventListener("change", (/** @type {Event} */ event) => {
    const field = /** @type {HTMLInputElement} */ (event.target);
    if (field.name === "strategy" && steps && isOurs && STEPS[field.value]) steps.value = STEPS[field.value];
  });
  if (asked === null) return;
  $("roll-out-model").value = asked;
  $("roll-out").showModal();
}

if ($("charts")) void startCharts();
if ($("roll-out")) startRollout();
if ($("try")) startTrying();
