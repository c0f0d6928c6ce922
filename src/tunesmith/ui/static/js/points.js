// @ts-check
/** What is done to points before they are drawn: pure, so that it is easy to test. Points are [x, y] by ascending x. */

/** @typedef {[number, number]} Point */

/** Index of the first point at or after `x`. @param {Point[]} points @param {number} x */
export function indexAt(points, x) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The last point at or before `x` (the last of all without `x`) whose y is finite. @param {Point[]} points @param {number} [x] @returns {Point | undefined} */
export function latest(points, x) {
  let i = x === undefined ? points.length - 1 : indexAt(points, x);
  if (i >= points.length || (x !== undefined && points[i][0] > x)) i = x === undefined ? i : Math.min(i, points.length) - 1;
  while (i >= 0 && !Number.isFinite(points[i][1])) i--;
  return points[i];
}

/**
 * At most about two points a pixel: the lowest and the highest of every stretch, in order. One point beyond each end of `range` is kept.
 * @param {Point[]} points
 * @param {number} pixels
 * @param {[number, number]} [range] of x
 * @param {number} [floor] only y above it count: 0 for a logarithmic axis
 * @returns {Point[]}
 */
export function thin(points, pixels, range, floor = -Infinity) {
  const fine = (/** @type {number} */ y) => Number.isFinite(y) && y > floor;
  const from = range ? Math.max(0, indexAt(points, range[0]) - 1) : 0;
  const to = range ? Math.min(points.length, indexAt(points, range[1]) + 1) : points.length;
  const stretch = Math.ceil((to - from) / Math.max(1, pixels));
  if (stretch <= 2) return points.slice(from, to).filter(point => fine(point[1]));
  /** @type {Point[]} */
  const kept = [];
  for (let start = from; start < to; start += stretch) {
    let low = -1, high = -1;
    for (let i = start; i < Math.min(start + stretch, to); i++) {
      const y = points[i][1];
      if (!fine(y)) continue;
      if (low < 0 || y < points[low][1]) low = i;
      if (high < 0 || y > points[high][1]) high = i;
    }
    if (low < 0) continue;
    if (low === high) kept.push(points[low]);
    else kept.push(points[Math.min(low, high)], points[Math.max(low, high)]);
  }
  const last = points[to - 1];
  if (last && fine(last[1]) && kept[kept.length - 1] !== last) kept.push(last);
  return kept;
}

/** Exponential moving average without a bias at the beginning; goes on where it was when points are added. */
export class Smooth {
  /** @param {number} weight 0 to 1 */
  constructor(weight) {
    this.weight = weight;
    this.mean = 0;
    this.norm = 0;
    /** @type {Point[]} */
    this.done = [];
  }

  /** @param {Point[]} points those before, unchanged, and more @returns {Point[]} */
  of(points) {
    for (let i = this.done.length; i < points.length; i++) {
      const [x, y] = points[i];
      if (Number.isFinite(y)) {
        this.mean = this.mean * this.weight + (1 - this.weight) * y;
        this.norm = this.norm * this.weight + (1 - this.weight);
      }
      this.done.push([x, Number.isFinite(y) ? this.mean / this.norm : y]);
    }
    return this.done;
  }
}

/** Several curves on one axis: all x in order, and for each curve its y or null. @param {Point[][]} curves */
export function join(curves) {
  const xs = [...new Set(curves.flatMap(points => points.map(point => point[0])))].sort((a, b) => a - b);
  const columns = curves.map(points => {
    let i = 0;
    return xs.map(x => {
      while (i < points.length && points[i][0] < x) i++;
      return i < points.length && points[i][0] === x ? points[i][1] : null;
    });
  });
  return { xs, columns };
}
