// @ts-check
/** The curves of one job as this page knows them. They grow by what the server has written since; nothing is lost or doubled. */
import { call } from "../api.js";

/** @typedef {[number, number]} Point step or x (ascending), y */
/** @typedef {"step" | "epoch" | "time"} Axis */

/** Most points of a curve that are asked for at once; a zoom brings the detail. */
export const MOST = 2500;
/** What turns a step into the x of an axis. */
const RULERS = { epoch: "epoch", time: "elapsed_s" };

/** @param {{steps: number[], values: (number | null)[]}} curve @returns {Point[]} */
const pointsOf = curve => curve.steps.map((step, i) => [step, curve.values[i] ?? NaN]);

/** More points; one that comes again (after a resume) replaces what was from there on. @param {Point[]} points @param {Point[]} more */
export function extend(points, more) {
  if (!more.length) return;
  while (points.length && points[points.length - 1][0] >= more[0][0]) points.pop();
  for (const point of more) points.push(point);
}

/** The y of a rising curve at `x`, between its points on a straight line. @param {Point[]} ruler @param {number} x @param {0 | 1} from which of the two is given */
function read(ruler, x, from) {
  const to = from ? 0 : 1, end = ruler.length - 1;
  let low = 0, high = end;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ruler[middle][from] < x) low = middle + 1;
    else high = middle;
  }
  const right = ruler[low], left = ruler[Math.max(0, low - 1)], wide = right[from] - left[from];
  if (x >= ruler[end][from]) return ruler[end][to];
  return wide > 0 ? left[to] + (right[to] - left[to]) * Math.max(0, (x - left[from]) / wide) : right[to];
}

export class Run {
  /** @param {number} id */
  constructor(id) {
    this.id = id;
    this.name = `job ${id}`;
    this.status = "";
    /** @type {Map<string, Point[]>} by step */
    this.curves = new Map();
    /** @type {{name: string, title: string, unit: string, is_primary: boolean}[]} what its method says of its curves */
    this.metrics = [];
    this.lastSeq = 0;
    this.thinned = false;
    this.working = false;
    this.again = false;
  }

  get isOver() {
    return ["completed", "failed", "cancelled"].includes(this.status);
  }

  async load() {
    const [job, found] = await Promise.all([call(`/jobs/${this.id}`), call(`/jobs/${this.id}/metrics?points=${MOST}`)]);
    this.name = job.name;
    this.status = job.status;
    this.curves = new Map(Object.entries(found.curves).map(([name, curve]) => [name, pointsOf(/** @type {any} */ (curve))]));
    this.metrics = found.metrics;
    this.lastSeq = found.last_seq;
    this.thinned = found.num_steps > MOST;
    return this;
  }

  /** What has come since, by curve; one question at a time. @returns {Promise<Map<string, Point[]>>} */
  async refresh() {
    /** @type {Map<string, Point[]>} */
    const all = new Map();
    if (this.working) {
      this.again = true;
      return all;
    }
    this.working = true;
    try {
      do {
        this.again = false;
        const found = await call(`/jobs/${this.id}/metrics?points=${MOST}&after=${this.lastSeq}`);
        this.lastSeq = found.last_seq;
        for (const [name, curve] of Object.entries(found.curves)) {
          const points = pointsOf(/** @type {any} */ (curve));
          if (!this.curves.has(name)) this.curves.set(name, []);
          extend(/** @type {Point[]} */ (this.curves.get(name)), points);
          if (!all.has(name)) all.set(name, []);
          extend(/** @type {Point[]} */ (all.get(name)), points);
        }
      } while (this.again);
    } finally {
      this.working = false;
    }
    return all;
  }

  /** Every point there is between two steps, as far as they can be drawn. @param {number} from @param {number} to */
  async detail(from, to) {
    const [low, high] = [Math.max(0, Math.floor(from)), Math.max(0, Math.ceil(to))];
    const found = await call(`/jobs/${this.id}/metrics?points=${MOST}&from_step=${low}&to_step=${high}`);
    for (const [name, curve] of Object.entries(found.curves)) {
      const known = this.curves.get(name) ?? [], points = pointsOf(/** @type {any} */ (curve));
      this.curves.set(name, [...known.filter(([step]) => step < low), ...points, ...known.filter(([step]) => step > high)]);
    }
  }

  /** @param {string} name of a curve @param {Axis} axis @returns {Point[]} over that axis; none when the job tells nothing of it */
  over(name, axis) {
    return this.place(this.curves.get(name) ?? [], axis);
  }

  /** Points by step as points over `axis`. @param {Point[]} points @param {Axis} axis @returns {Point[]} */
  place(points, axis) {
    if (axis === "step") return points.slice();
    const ruler = this.curves.get(RULERS[axis]) ?? [];
    return ruler.length && ruler[ruler.length - 1][1] > 0 ? points.map(([step, y]) => [read(ruler, step, 0), y]) : [];
  }

  /** The step at `x` of an axis. @param {number} x @param {Axis} axis */
  stepAt(x, axis) {
    if (axis === "step") return x;
    const ruler = this.curves.get(RULERS[axis]) ?? [];
    return ruler.length ? read(ruler, x, 1) : x;
  }
}
