// @ts-check
/** The machine as it goes: one stream of samples for whatever shows them on this page, and the small curves of "This machine". */
import { API } from "./api.js";
import { $, makeSvg, setText } from "./dom.js";
import { bytes, percent } from "./words.js";

/** As of GET /system/resources/history: lists of equal length. @typedef {{times: number[], cpu_cores: number, memory_total_bytes: number, disk_total_bytes: number, cpu_percent: number[], memory_used_bytes: number[], disk_used_bytes: number[], disk_read_bytes_per_s: number[], disk_written_bytes_per_s: number[], network_received_bytes_per_s: number[], network_sent_bytes_per_s: number[], gpus: Gpu[]}} Samples */
/** @typedef {{index: number, name: string, memory_total_bytes: number | null, utilization_percent: (number | null)[], memory_used_bytes: (number | null)[], temperature_c: (number | null)[], power_w: (number | null)[]}} Gpu */

const AGAIN_MS = 2000;
/** How much of the past the small curves show, seconds. */
const SHOWN_S = 600;
const WIDTH = 240, HEIGHT = 26;

/**
 * Call `take` with the samples after `since` and then with each new one. After a break it goes on where it was; in a tab that is
 * not seen it rests.
 * @param {number} since seconds since 1970 @param {(samples: Samples) => void} take
 */
export function watchMachine(since, take) {
  /** @type {EventSource | undefined} */
  let source;
  let last = since, timer = 0;
  const listen = () => {
    clearTimeout(timer);
    source?.close();
    if (document.hidden) return;
    source = new EventSource(`${API}/system/resources/stream?since=${last}`);
    source.addEventListener("sample", event => {
      const samples = /** @type {Samples} */ (JSON.parse(event.data));
      last = samples.times[samples.times.length - 1];
      take(samples);
    });
    source.addEventListener("error", () => {
      source?.close(); // its own way back would ask for what was first asked for
      timer = window.setTimeout(listen, AGAIN_MS);
    });
  };
  document.addEventListener("visibilitychange", listen);
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", event => { if (event.persisted) listen(); });
  listen();
}

/** Each line of the panel: its share of the whole, 0 to 1, and what is said of it. @param {Samples} now @param {number} at @returns {[string, number, string][]} */
function linesOf(now, at) {
  const of = (/** @type {number} */ used, /** @type {number} */ all) => `${bytes(used)} of ${bytes(all)}`;
  /** @type {[string, number, string][]} */
  const lines = [
    ["cpu", now.cpu_percent[at] / 100, percent(now.cpu_percent[at] / 100)],
    ["memory", now.memory_used_bytes[at] / now.memory_total_bytes, of(now.memory_used_bytes[at], now.memory_total_bytes)],
    ["disk", now.disk_used_bytes[at] / now.disk_total_bytes, `${bytes(now.disk_total_bytes - now.disk_used_bytes[at])} free`],
  ];
  for (const gpu of now.gpus) {
    const use = (gpu.utilization_percent[at] ?? 0) / 100, used = gpu.memory_used_bytes[at], all = gpu.memory_total_bytes;
    lines.push([`gpu-${gpu.index}`, use, percent(use)]);
    if (used != null && all) lines.push([`gpu-memory-${gpu.index}`, used / all, of(used, all)]);
  }
  return lines;
}

/** @param {Element} svg @param {[number, number][]} points time and share @param {number} now */
function draw(svg, points, now) {
  const line = points.map(([time, share], i) => {
    const x = Math.max(0, WIDTH * (1 - (now - time) / SHOWN_S)), y = HEIGHT - 1 - Math.min(1, share) * (HEIGHT - 2);
    return `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`;
  }).join("");
  const left = points.length ? Math.max(0, WIDTH * (1 - (now - points[0][0]) / SHOWN_S)).toFixed(1) : "0";
  svg.replaceChildren(
    makeSvg("path", { class: "area", d: line ? `${line}L${WIDTH},${HEIGHT}L${left},${HEIGHT}Z` : "" }),
    makeSvg("path", { d: line }),
  );
}

/** Keep the panel "This machine" fresh, and call `also` with what came. @param {(samples: Samples) => void} [also] */
export function showMachine(also) {
  /** @type {Map<string, [number, number][]>} */
  const past = new Map();
  watchMachine(Date.now() / 1000 - SHOWN_S, samples => {
    const now = samples.times[samples.times.length - 1];
    /** @type {[string, number, string][]} */
    let lines = [];
    samples.times.forEach((time, at) => {
      lines = linesOf(samples, at);
      for (const [name, share] of lines) past.set(name, [...(past.get(name) ?? []).filter(point => point[0] > now - SHOWN_S), [time, share]]);
    });
    for (const [name, share, said] of lines) {
      const line = $("machine")?.querySelector(`[data-line="${name}"]`);
      if (!line) continue;
      line.querySelector("meter").value = share;
      setText(line.querySelector("[data-said]"), said);
      const svg = line.querySelector("svg");
      if (svg) draw(svg, past.get(name) ?? [], now);
    }
    also?.(samples);
  });
}
