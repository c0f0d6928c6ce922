// @ts-check
/** Small charts as SVG: a sparkline and bars. */
import { makeSvg } from "./dom.js";
import { number } from "./words.js";

/** @param {(number | null)[]} values @param {{width?: number, height?: number, label?: string}} [options] px */
export function sparkline(values, { width = 120, height = 28, label = "" } = {}) {
  const svg = makeSvg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label || "Curve" });
  const all = values.map((y, x) => ({ x, y })).filter(point => point.y != null && Number.isFinite(point.y));
  if (all.length < 2) return svg;
  const ys = all.map(point => Number(point.y)), low = Math.min(...ys), high = Math.max(...ys), last = values.length - 1;
  const line = all.map((point, i) => `${i ? "L" : "M"}${(point.x / last * width).toFixed(1)},${(2 + (high - Number(point.y)) / (high - low || 1) * (height - 4)).toFixed(1)}`).join("");
  svg.append(makeSvg("path", { class: "area", d: `${line}L${width},${height}L0,${height}Z` }), makeSvg("path", { d: line }));
  return svg;
}

/** @param {{label: string, value: number, hint?: string}[]} items @param {{width?: number, height?: number, label?: string}} [options] px; it is stretched to its place */
export function bars(items, { width = 600, height = 120, label = "Bars" } = {}) {
  const svg = makeSvg("svg", { class: "bars", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label}: ${items.map(item => `${item.label} ${number(item.value)}`).join(", ")}` });
  const most = Math.max(...items.map(item => item.value), 1e-9), slot = width / Math.max(1, items.length), room = height - 18;
  items.forEach((item, i) => {
    const tall = Math.max(item.value > 0 ? 1.5 : 0, item.value / most * room);
    const bar = makeSvg("rect", { x: (i * slot + slot * 0.1).toFixed(1), y: (room - tall).toFixed(1), width: (slot * 0.8).toFixed(1), height: tall.toFixed(1), rx: 2 });
    bar.append(makeSvg("title", {}, item.hint ?? `${item.label}: ${number(item.value)}`));
    svg.append(bar);
  });
  const first = items[0], end = items[items.length - 1];
  if (first) svg.append(makeSvg("text", { x: 0, y: height - 4 }, first.label));
  if (end && end !== first) svg.append(makeSvg("text", { x: width, y: height - 4, "text-anchor": "end" }, end.label));
  return svg;
}
