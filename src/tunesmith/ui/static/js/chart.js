// @ts-check
/**
 * Line charts on uPlot. Points are thinned to the pixels that are there (the lowest and highest of every stretch), anew for
 * every zoom, so that 100,000 of them stay smooth. Drag to zoom, double click or Escape to see all again.
 */
import uPlot from "../vendor/uplot.js";
import { token } from "./appearance.js";
import { make, setText } from "./dom.js";
import { Smooth, join, latest, thin } from "./points.js";
import { clock, number, signif, timeOfDay } from "./words.js";

export { bars, sparkline } from "./smallchart.js";

/** @typedef {[number, number]} Point x (ascending), y */
/** kind: "line", "points" (dots on a line), "dashed" (dots on a dashed line). color: a CSS colour; else the next of the theme. @typedef {{label: string, points: Point[], kind?: string, color?: string, hidden?: boolean}} Series */
/** smoothing 0 to 0.99; height in px; time: x are seconds since 1970; min, max: limits of y; span: what of x is shown, else where the points are. @typedef {{series: Series[], xLabel?: string, yLabel?: string, log?: boolean, smoothing?: number, syncKey?: string, height?: number, time?: boolean, min?: number, max?: number, span?: [number, number], xFormat?: (x: number) => string, yFormat?: (y: number) => string, empty?: string, onZoom?: (range: [number, number] | undefined) => void}} Options */

const COLORS = 8;
/** Of another chart's cursor: where it is. A stretch that is dragged there comes by `onZoom`, once. @param {string} type */
const FOLLOWED = type => type === "mousemove" || type === "mouseleave";

/** @param {HTMLElement} place @param {Options} options */
export function lineChart(place, options) {
  return new LineChart(place, options);
}

export class LineChart {
  /** @param {HTMLElement} place @param {Options} options */
  constructor(place, options) {
    this.place = place;
    this.options = { ...options };
    /** @type {Set<string>} */
    this.off = new Set(options.series.filter(one => one.hidden).map(one => one.label));
    /** @type {[number, number] | undefined} what is zoomed to */
    this.range = undefined;
    /** @type {uPlot | undefined} */
    this.plot = undefined;
    this.waiting = 0;
    /** @type {Map<Point[], Smooth>} */
    this.smoothed = new Map();
    place.classList.add("linechart");
    place.dataset.keep = "";
    this.legend = make("ul", undefined, { class: "chart-legend" });
    this.canvas = make("div", undefined, { class: "chart-plot", role: "img" });
    this.none = make("p", options.empty ?? "Waiting for the first step.", { class: "chart-empty" });
    place.replaceChildren(this.legend, this.canvas, this.none);
    this.rebuild = () => { this.build(); };
    this.escape = (/** @type {KeyboardEvent} */ event) => { if (event.key === "Escape" && this.range) this.zoom(undefined); };
    document.addEventListener("tunesmith:theme", this.rebuild);
    document.addEventListener("keydown", this.escape);
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(place);
    this.build();
  }

  /** Change anything; series are replaced as a whole. @param {Partial<Options>} options */
  set(options) {
    Object.assign(this.options, options);
    this.smoothed.clear();
    this.build();
  }

  /** More points of a series; one that comes again (after a resume) replaces what was from there on. @param {number | string} which index or label @param {Point[]} points */
  append(which, points) {
    const series = typeof which === "number" ? this.options.series[which] : this.options.series.find(one => one.label === which);
    if (!series || !points.length) return;
    const all = series.points;
    if (all.length && all[all.length - 1][0] >= points[0][0]) this.smoothed.delete(all);
    while (all.length && all[all.length - 1][0] >= points[0][0]) all.pop();
    for (const point of points) all.push(point);
    this.later();
  }

  destroy() {
    document.removeEventListener("tunesmith:theme", this.rebuild);
    document.removeEventListener("keydown", this.escape);
    this.watcher.disconnect();
    cancelAnimationFrame(this.waiting);
    this.plot?.destroy();
    this.place.replaceChildren();
  }

  /** @param {[number, number] | undefined} range of x; undefined: all */
  zoom(range) {
    this.range = range;
    this.draw();
    this.options.onZoom?.(range);
  }

  later() {
    if (!this.waiting) this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
  }

  /** @param {number} i */
  color(i) {
    return this.options.series[i].color ?? token(`--line-${i % COLORS + 1}`);
  }

  get width() {
    return Math.max(120, this.place.clientWidth);
  }

  get height() {
    return this.options.height ?? 260;
  }

  resize() {
    if (!this.plot || this.plot.width === this.width) return;
    this.plot.setSize({ width: this.width, height: this.height });
    this.draw();
  }

  /** @param {Point[]} points @param {number} weight */
  smooth(points, weight) {
    const known = this.smoothed.get(points) ?? new Smooth(weight);
    this.smoothed.set(points, known);
    return known.of(points);
  }

  /** For each series one line; with smoothing a faint one before it. */
  lines() {
    const { series, smoothing = 0 } = this.options;
    return series.flatMap(({ points, kind }, at) => {
      if (!smoothing || kind === "points" || kind === "dashed") return [{ at, points, faint: false }];
      return [{ at, points, faint: true }, { at, points: this.smooth(points, smoothing), faint: false }];
    });
  }

  build() {
    this.plot?.destroy();
    const { options } = this, { log, syncKey, time } = options;
    const axis = { stroke: token("--muted-foreground"), grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false }, font: `11px ${token("--font-sans")}` };
    const yFormat = options.yFormat ?? signif;
    this.shape = this.lines().map(({ at, faint }) => `${at}${faint}`).join();
    this.plot = new uPlot({
      width: this.width,
      height: this.height,
      legend: { show: false },
      padding: [8, 26, 0, 0],
      cursor: {
        drag: { x: true, y: false, setScale: false },
        points: { size: 7 },
        sync: syncKey ? { key: syncKey, filters: options.onZoom ? { pub: () => true, sub: FOLLOWED } : undefined } : undefined,
        bind: { dblclick: () => () => { this.zoom(undefined); return null; } },
      },
      scales: { x: { time: Boolean(time) }, y: { distr: log ? 3 : 1, range: log ? undefined : (_, low, high) => this.reach(low, high) } },
      axes: [
        { ...axis, size: time ? 46 : 30, values: time ? (_, values, _axis, _space, every) => clock(values, every) : (_, values) => values.map(x => Number.isInteger(x) || options.xFormat ? (options.xFormat ?? number)(x) : "") },
        { ...axis, size: 62, values: (_, values) => values.map(y => y == null ? "" : yFormat(y)) },
      ],
      series: [{}, ...this.lines().map(line => this.line(line))],
      hooks: {
        setSelect: [plot => this.select(plot)],
        setCursor: [plot => this.tell(plot.cursor.idx)],
      },
    }, [[]], this.canvas);
    this.drawLegend();
    this.draw();
  }

  /** @param {{at: number, faint: boolean}} line @returns {uPlot.Series} */
  line({ at, faint }) {
    const { kind, label } = this.options.series[at], color = this.color(at);
    return {
      label,
      show: !this.off.has(label),
      stroke: color,
      width: faint ? 1 : 1.75,
      alpha: faint ? 0.28 : 1,
      dash: kind === "dashed" ? [6, 4] : undefined,
      spanGaps: true,
      points: { show: (kind === "points" || kind === "dashed") && !faint ? true : undefined, size: 5, fill: color },
    };
  }

  /** Of y, with a little room. @param {number | null} low @param {number | null} high @returns {[number, number]} */
  reach(low, high) {
    const { min, max } = this.options, bottom = min ?? low ?? 0, top = max ?? high ?? 1;
    const room = (top - bottom) * 0.06 || Math.abs(top) * 0.1 || 1;
    return [min ?? bottom - room, max ?? top + room];
  }

  /** @param {uPlot} plot */
  select(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = /** @type {[number, number]} */ ([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.zoom(range);
  }

  draw() {
    if (!this.plot) return;
    const lines = this.lines();
    if (lines.map(({ at, faint }) => `${at}${faint}`).join() !== this.shape) return this.build();
    const thinned = lines.map(({ points }) => thin(points, this.width, this.range, this.options.log ? 0 : undefined));
    const { xs, columns } = join(thinned);
    this.none.hidden = xs.length > 0;
    this.canvas.hidden = this.legend.hidden = !xs.length;
    this.plot.setData(/** @type {any} */ ([xs, ...columns]), false);
    const [low, high] = this.range ?? this.options.span ?? [xs[0] ?? 0, xs[xs.length - 1] ?? 1];
    this.plot.setScale("x", { min: low, max: high > low ? high : low + 1 });
    this.place.toggleAttribute("data-zoomed", Boolean(this.range));
    this.canvas.setAttribute("aria-label", this.summary());
    this.tell(this.plot.cursor.idx);
  }

  drawLegend() {
    this.legend.replaceChildren(...this.options.series.map((one, i) => {
      const mark = make("span", undefined, { class: "chart-mark", "aria-hidden": "true" }), value = make("span", "", { class: "chart-value" });
      mark.style.background = one.kind === "dashed" ? `repeating-linear-gradient(90deg, ${this.color(i)} 0 4px, transparent 4px 6px)` : this.color(i);
      const button = make("button", undefined, { type: "button", "aria-pressed": String(!this.off.has(one.label)), title: "Show or hide this curve" }, [mark, make("span", one.label), value]);
      button.addEventListener("click", () => this.toggle(one.label, button));
      return make("li", undefined, {}, [button]);
    }), make("li", "", { class: "chart-x" }));
  }

  /** @param {string} label @param {HTMLElement} button */
  toggle(label, button) {
    if (!this.off.delete(label)) this.off.add(label);
    button.setAttribute("aria-pressed", String(!this.off.has(label)));
    this.lines().forEach(({ at }, i) => {
      if (this.options.series[at].label === label) this.plot?.setSeries(i + 1, { show: !this.off.has(label) });
    });
  }

  /** The values under the cursor, or the last ones. @param {number | null | undefined} index */
  tell(index) {
    if (!this.plot) return;
    const { xFormat = number, yFormat = signif, time, xLabel = "" } = this.options, [xs] = this.plot.data;
    const x = index == null ? undefined : xs[index];
    const values = this.legend.querySelectorAll(".chart-value");
    this.lines().filter(line => !line.faint).forEach(({ at, points }) => {
      const point = latest(points, x);
      if (values[at]) setText(values[at], point ? yFormat(point[1]) : "");
    });
    const place = this.legend.querySelector(".chart-x");
    if (place) setText(place, x == null ? this.range ? "Zoomed: double click to see all" : "" : `${xLabel} ${time ? timeOfDay(x) : xFormat(x)}`);
  }

  /** What the chart says, for those who cannot see it. */
  summary() {
    const { series, xLabel = "x", yLabel = "value", xFormat = number, yFormat = signif } = this.options;
    const said = series.filter(one => one.points.length).map(({ label, points }) => {
      const [first, last] = [points[0], points[points.length - 1]];
      return `${label}: ${yFormat(first[1])} at ${xFormat(first[0])}, ${yFormat(last[1])} at ${xFormat(last[0])}`;
    });
    return `${yLabel} by ${xLabel}. ${said.join("; ")}.`;
  }
}
