// @ts-check
/** Where the rows of a view come from: all of a version by ranges, some by their numbers, or those that hold a text. */
import { call } from "./api.js";
import { remember } from "./dataset-row.js";

const PAGE_ROWS = 60, MOST_PAGES = 60, SEARCH_ROWS = 100, NAMED_ROWS = 200, WAIT_MS = 40;
/** @typedef {{number: number, row: any}} Found */

/** @param {string} address @param {Record<string, string | number>} query @param {AbortSignal} [signal] */
async function ask(address, query, signal) {
  return remember(await call(`${address}&${new URLSearchParams(Object.entries(query).map(([key, value]) => [key, String(value)]))}`, { signal }));
}

/** @param {any} answer @returns {Found[]} */
const pairs = answer => answer.rows.map((/** @type {any} */ row, /** @type {number} */ i) => ({ number: answer.numbers[i], row }));

/** All rows, by pages that are asked for once scrolling rests and forgotten when there are many. */
export class AllRows {
  /** @param {string} address with its version @param {number} total @param {Record<string, number>} query @param {(error?: any) => void} changed */
  constructor(address, total, query, changed) {
    Object.assign(this, { address, query, changed });
    this.count = total;
    this.whole = true;
    /** @type {Map<number, Found[]>} */
    this.pages = new Map();
    /** @type {Map<number, AbortController>} */
    this.asked = new Map();
    this.timer = 0;
    this.from = this.to = 0;
  }

  /** @param {number} index @returns {Found | null} */
  get(index) {
    return this.pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS] ?? null;
  }

  /** These rows are seen. @param {number} from @param {number} to exclusive */
  want(from, to) {
    this.from = Math.floor(from / PAGE_ROWS);
    this.to = Math.floor(Math.max(from, Math.min(to, this.count) - 1) / PAGE_ROWS);
    const nothing = this.pages.size === 0 && this.asked.size === 0;
    clearTimeout(this.timer);
    if (nothing) this.load();
    else this.timer = window.setTimeout(() => this.load(), WAIT_MS);
  }

  load() {
    for (const [page, controller] of this.asked) if (page < this.from - 1 || page > this.to + 1) controller.abort();
    for (let page = this.from; page <= this.to; page++) if (!this.pages.has(page) && !this.asked.has(page)) void this.fetch(page);
  }

  /** @param {number} page */
  async fetch(page) {
    const controller = new AbortController();
    this.asked.set(page, controller);
    /** @type {Found[]} */
    const found = [];
    try {
      const end = Math.min(this.count, (page + 1) * PAGE_ROWS);
      for (let offset = page * PAGE_ROWS; offset < end;) {
        const answer = await ask(/** @type {any} */ (this).address, { ...(/** @type {any} */ (this).query), offset, limit: end - offset }, controller.signal);
        if (!answer.rows.length) break;
        found.push(...pairs(answer));
        offset += answer.rows.length; // long rows come in several answers
      }
      this.pages.set(page, found);
      for (const old of this.pages.keys()) if (this.pages.size > MOST_PAGES && (old < this.from - 1 || old > this.to + 1)) this.pages.delete(old);
      /** @type {any} */ (this).changed();
    } catch (error) {
      if (!controller.signal.aborted) /** @type {any} */ (this).changed(error);
    } finally {
      this.asked.delete(page);
    }
  }

  stop() {
    clearTimeout(this.timer);
    for (const controller of this.asked.values()) controller.abort();
  }
}

/** Rows that are found bit by bit. */
class FoundRows {
  /** @param {(error?: any) => void} changed */
  constructor(changed) {
    this.changed = changed;
    /** @type {Found[]} */
    this.found = [];
    this.whole = false;
    this.busy = false;
    this.controller = new AbortController();
  }

  get count() {
    return this.found.length;
  }

  /** @param {number} index */
  get(index) {
    return this.found[index] ?? null;
  }

  /** @param {number} _from @param {number} to */
  want(_from, to) {
    if (!this.whole && !this.busy && to + SEARCH_ROWS / 2 > this.count) void this.more();
  }

  async more() {
    this.busy = true;
    try {
      await this.next();
    } catch (error) {
      if (!this.controller.signal.aborted) { this.whole = true; this.changed(error); }
      return;
    } finally {
      this.busy = false;
    }
    if (!this.controller.signal.aborted) this.changed();
  }

  async next() { /* each kind its own */ }

  stop() {
    this.controller.abort();
  }
}

export class NamedRows extends FoundRows {
  /** @param {string} address @param {number[]} numbers @param {Record<string, number>} query @param {(error?: any) => void} changed */
  constructor(address, numbers, query, changed) {
    super(changed);
    Object.assign(this, { address, numbers, query });
  }

  async next() {
    const { address, numbers, query } = /** @type {any} */ (this), from = this.count;
    const list = numbers.slice(from, from + NAMED_ROWS).map((/** @type {number} */ number) => `row=${number}`).join("&");
    this.found.push(...pairs(await ask(`${address}&${list}`, query, this.controller.signal)));
    this.whole = this.count >= numbers.length || this.count === from;
  }
}

export class SearchedRows extends FoundRows {
  /** @param {string} address @param {string} text @param {Record<string, number>} query @param {(error?: any) => void} changed */
  constructor(address, text, query, changed) {
    super(changed);
    Object.assign(this, { address, text, query });
    this.offset = 0;
  }

  async next() {
    const { address, text, query } = /** @type {any} */ (this), enough = this.count + SEARCH_ROWS;
    while (!this.whole && this.count < enough) {
      const answer = await ask(address, { ...query, q: text, offset: this.offset, limit: enough - this.count }, this.controller.signal);
      this.found.push(...pairs(answer));
      this.offset = answer.next_offset ?? answer.total_rows;
      this.whole = answer.next_offset === null;
      if (answer.rows.length) this.changed();
    }
  }
}
