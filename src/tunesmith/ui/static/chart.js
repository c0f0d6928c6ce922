// @ts-check
/** A line chart of loss by step, drawn as SVG. Text goes in as text, never as markup. */

const WIDTH = 900, HEIGHT = 260, LEFT = 50, BOTTOM = 28, TOP = 12, RIGHT = 12;

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

/**
 * @param {Element} target
 * @param {{train: [number, number][], held: [number, number][]}} curves `[step, loss]` pairs, in order
 * @returns {string} what the chart says, for those who cannot see it
 */
export function drawChart(target, curves) {
  const finite = (/** @type {[number, number][]} */ points) => points.filter(([, y]) => Number.isFinite(y));
  const train = finite(curves.train), held = finite(curves.held), all = [...train, ...held];
  if (!all.length) { target.replaceChildren(); return "The curve begins with the first step."; }
  const lastX = Math.max(...all.map(p => p[0]), 2), lowY = Math.min(...all.map(p => p[1])), highY = Math.max(...all.map(p => p[1]));
  const span = highY - lowY || 1;
  const x = (/** @type {number} */ v) => LEFT + (v - 1) / Math.max(1, lastX - 1) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ v) => TOP + (highY - v) / span * (HEIGHT - TOP - BOTTOM);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Loss by step" });
  for (let i = 0; i <= 4; i++) {
    const value = lowY + span * i / 4;
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(element("text", { class: "axis", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
    const step = Math.round(1 + (lastX - 1) * i / 4);
    svg.append(element("text", { class: "axis", x: x(step), y: HEIGHT - 8, "text-anchor": "middle" }, String(step)));
  }
  for (const [kind, points] of /** @type {const} */ ([["train", train], ["held", held]])) {
    if (points.length) svg.append(element("polyline", { class: kind, points: points.map(p => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ") }));
  }
  svg.append(element("text", { class: "key-train", x: WIDTH - 170, y: 22 }, "training"));
  if (held.length) svg.append(element("text", { class: "key-held", x: WIDTH - 100, y: 22 }, "held out"));
  target.replaceChildren(svg);
  const last = train.at(-1) ?? held.at(-1);
  return `Loss by step: ${all[0][1].toFixed(3)} at first, ${last ? last[1].toFixed(3) : ""} at step ${last ? last[0] : ""}.`;
}
