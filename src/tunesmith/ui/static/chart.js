// @ts-check
/** A line chart of loss by step, drawn as SVG in the size it is shown in. Text goes in as text, never as markup. */

const HEIGHT = 260, LEFT = 48, BOTTOM = 28, TOP = 30, RIGHT = 14;

/** @typedef {[number, number]} Point step, loss */

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Finite points, at most two a pixel or so: the lowest and the highest of every stretch. @param {Point[]} points @param {number} most */
function thin(points, most) {
  const finite = points.filter(([, y]) => Number.isFinite(y));
  if (finite.length <= most) return finite;
  const stretch = Math.ceil(finite.length / (most / 2));
  /** @type {Point[]} */
  const kept = [finite[0]];
  for (let i = 1; i < finite.length - 1; i += stretch) {
    const part = finite.slice(i, Math.min(i + stretch, finite.length - 1));
    const low = part.reduce((a, b) => b[1] < a[1] ? b : a), high = part.reduce((a, b) => b[1] > a[1] ? b : a);
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]));
  }
  return [...kept, finite[finite.length - 1]];
}

/** About `wanted` round numbers from `low` to `high`. @param {number} low @param {number} high @param {number} wanted @param {number} finest smallest distance */
function ticks(low, high, wanted, finest) {
  const rough = Math.max((high - low) / wanted, finest), power = 10 ** Math.floor(Math.log10(rough));
  const distance = [1, 2, 5, 10].map(n => n * power).find(d => d >= rough * 0.999) ?? rough;
  const found = [];
  for (let i = Math.ceil(low / distance - 1e-9); i * distance <= high + distance * 1e-9; i++) found.push(i * distance);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(distance) + 1e-9)) };
}

/**
 * @param {Element} target
 * @param {{train: Point[], held: Point[]}} curves in order of steps
 * @returns {string} what the chart says, for those who cannot see it
 */
export function drawChart(target, curves) {
  const width = Math.max(240, target.clientWidth);
  const train = thin(curves.train, width), held = thin(curves.held, width), all = [...train, ...held];
  if (!all.length) { target.replaceChildren(); return "The curve begins with the first step."; }
  const lastX = Math.max(...all.map(p => p[0]), 2), firstX = Math.min(...all.map(p => p[0]), lastX - 1);
  const lowest = Math.min(...all.map(p => p[1])), highest = Math.max(...all.map(p => p[1]));
  const pad = (highest - lowest) * 0.05 || 0.05, lowY = lowest - pad, highY = highest + pad;
  const x = (/** @type {number} */ v) => LEFT + (v - firstX) / (lastX - firstX) * (width - LEFT - RIGHT);
  const y = (/** @type {number} */ v) => TOP + (highY - v) / (highY - lowY) * (HEIGHT - TOP - BOTTOM);
  const last = train.at(-1) ?? held[held.length - 1], first = train[0] ?? held[0];
  const text = `Loss by step: ${first[1].toFixed(3)} at step ${first[0]}, ${last[1].toFixed(3)} at step ${last[0]}`
    + (held.length && train.length ? `; held out ${held[held.length - 1][1].toFixed(3)} at step ${held[held.length - 1][0]}.` : ".");
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": text });
  const rows = ticks(lowY, highY, 4, 1e-6), columns = ticks(firstX, lastX, Math.max(2, width / 120), 1);
  for (const value of rows.found) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(element("text", { class: "axis", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(rows.digits)));
  }
  for (const step of columns.found) svg.append(element("text", { class: "axis", x: x(step), y: HEIGHT - 8, "text-anchor": "middle" }, String(step)));
  for (const [kind, points] of /** @type {const} */ ([["train", train], ["held", held]])) {
    if (points.length > 1) svg.append(element("polyline", { class: kind, points: points.map(p => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ") }));
    if (points.length === 1 || kind === "held") for (const p of points.slice(-60)) svg.append(element("circle", { class: `dot-${kind}`, cx: x(p[0]), cy: y(p[1]), r: 3 }));
  }
  svg.append(element("text", { class: "dot-train", x: LEFT, y: 18 }, "training"));
  if (held.length) svg.append(element("text", { class: "dot-held", x: LEFT + 70, y: 18 }, "● held out"));
  target.replaceChildren(svg);
  return text;
}
