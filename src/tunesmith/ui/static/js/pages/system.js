// @ts-check
/** Charts of the machine: the past that was asked for at once, then each sample as it is taken. */
import { call } from "../api.js";
import { lineChart } from "../chart.js";
import { $, showProblem } from "../dom.js";
import { watchMachine } from "../machine.js";
import { bytes, timeOfDay } from "../words.js";

/** @typedef {import("../machine.js").Samples} Samples */
/** One curve: its name, and its values in samples. @typedef {{label: string, of: (samples: Samples) => (number | null)[]}} Curve */
/** @typedef {{id: string, yLabel: string, yFormat: (y: number) => string, max?: (samples: Samples) => number | undefined, curves: Curve[]}} Chart */

const POINTS = 1500;
const rate = (/** @type {number} */ value) => `${bytes(value)}/s`;
const share = (/** @type {number} */ value) => `${Math.round(value)} %`;

/** @param {Samples} first @returns {Chart[]} */
function chartsOf(first) {
  /** @type {Chart[]} */
  const charts = [
    { id: "chart-cpu", yLabel: "Processor use", yFormat: share, max: () => 100, curves: [{ label: "CPU", of: s => s.cpu_percent }] },
    { id: "chart-memory", yLabel: "Memory", yFormat: bytes, max: s => s.memory_total_bytes, curves: [{ label: "Used", of: s => s.memory_used_bytes }] },
    { id: "chart-disk", yLabel: "Disk traffic", yFormat: rate, curves: [{ label: "Read", of: s => s.disk_read_bytes_per_s }, { label: "Written", of: s => s.disk_written_bytes_per_s }] },
    { id: "chart-network", yLabel: "Network", yFormat: rate, curves: [{ label: "Received", of: s => s.network_received_bytes_per_s }, { label: "Sent", of: s => s.network_sent_bytes_per_s }] },
  ];
  for (const { index } of first.gpus) {
    const gpu = (/** @type {Samples} */ s) => s.gpus.find(one => one.index === index);
    const none = (/** @type {Samples} */ s) => s.times.map(() => null);
    charts.push(
      { id: `chart-gpu-${index}`, yLabel: "GPU use", yFormat: share, max: () => 100, curves: [{ label: "Use", of: s => gpu(s)?.utilization_percent ?? none(s) }] },
      { id: `chart-gpu-memory-${index}`, yLabel: "GPU memory", yFormat: bytes, max: s => gpu(s)?.memory_total_bytes ?? undefined, curves: [{ label: "Used", of: s => gpu(s)?.memory_used_bytes ?? none(s) }] },
    );
  }
  return charts.filter(chart => $(chart.id));
}

/** @param {Samples} samples @param {(number | null)[]} values @returns {[number, number][]} */
const pointsOf = (samples, values) => samples.times.flatMap((time, i) => values[i] == null ? [] : [/** @type {[number, number]} */ ([time, Number(values[i])])]);

async function start() {
  const rangeS = Number($("charts").dataset.rangeS), since = Date.now() / 1000 - rangeS;
  /** @type {Samples} */
  const past = await call(`/system/resources/history?since=${since}&points=${POINTS}`);
  const drawn = chartsOf(past).map(chart => ({
    chart,
    plot: lineChart($(chart.id), {
      series: chart.curves.map(curve => ({ label: curve.label, points: pointsOf(past, curve.of(past)) })),
      xLabel: "time", yLabel: chart.yLabel, yFormat: chart.yFormat, time: true, xFormat: timeOfDay, min: 0, max: chart.max?.(past), height: 200, syncKey: "machine",
      empty: "The first sample comes in a few seconds.",
    }),
  }));
  watchMachine(past.times[past.times.length - 1] ?? since, samples => {
    const oldest = samples.times[samples.times.length - 1] - rangeS;
    for (const { chart, plot } of drawn) chart.curves.forEach((curve, i) => {
      const kept = plot.options.series[i].points;
      kept.splice(0, kept.findIndex(point => point[0] >= oldest));
      plot.append(i, pointsOf(samples, curve.of(samples)));
    });
  });
}

start().catch(error => {
  $("charts").hidden = true;
  showProblem($("charts-problem"), error);
});
