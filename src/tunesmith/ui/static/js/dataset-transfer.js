// @ts-check
/** A file on its way to the server in parts: it can be paused, and goes on where it stopped after a failure or a reload. */
import { ApiError, call, post, remove, upload } from "./api.js";

const PART_BYTES = 8 * 2 ** 20, TRIES = 5, KEPT = "tunesmith.uploads", MOST_KEPT = 50;
/** Answers after which trying again makes no sense. @param {number} status */
const isFinal = status => status >= 400 && ![408, 409, 429, 503, 502, 504].includes(status);

/** Upload ids by file, so that a file chosen again goes on. @returns {Record<string, string>} */
function kept() {
  try { return JSON.parse(localStorage.getItem(KEPT) ?? "{}"); } catch { return {}; }
}

/** @param {string} key @param {string} id "" forgets it */
function keep(key, id) {
  try {
    const { [key]: _, ...others } = kept();
    const all = Object.entries(id ? { ...others, [key]: id } : others).slice(-MOST_KEPT);
    localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(all)));
  } catch { /* forbidden: a reload begins anew */ }
}

/** @param {number} wait ms @param {AbortSignal} signal */
const sleep = (wait, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, wait);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("Stopped.", "AbortError")); }, { once: true });
});

export class Transfer {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.id = "";
    this.sent = 0;
    this.controller = new AbortController();
    this.key = `${file.name}|${file.size}|${file.lastModified}`;
  }

  /** Send what has not come yet. @param {(sent: number) => void} onSent bytes @param {(error: any) => void} onTrouble it tries again */
  async run(onSent, onTrouble) {
    this.controller = new AbortController();
    for (let tries = 0; ;) {
      try {
        await this.begin();
        onSent(this.sent);
        while (this.sent < this.file.size) {
          await this.part(onSent);
          tries = 0;
        }
        return;
      } catch (error) {
        const failed = /** @type {any} */ (error);
        if (failed.name === "AbortError" || isFinal(failed.status ?? 0) || ++tries > TRIES) throw error;
        onTrouble(error);
        await sleep(400 * 2 ** tries, this.controller.signal);
      }
    }
  }

  /** Find out where to go on, or begin. */
  async begin() {
    const signal = this.controller.signal;
    const id = this.id || kept()[this.key];
    if (id) {
      try {
        const state = await call(`/datasets/uploads/${encodeURIComponent(id)}`, { signal });
        if (state.size_bytes !== this.file.size) throw new ApiError("Another file.", "", [], 404);
        this.id = id;
        this.sent = state.offset;
        return;
      } catch (error) {
        if (/** @type {any} */ (error).status !== 404) throw error;
        keep(this.key, "");
      }
    }
    const made = await call("/datasets/uploads", { json: { name: this.file.name, size_bytes: this.file.size }, signal });
    this.id = made.id;
    this.sent = 0;
    keep(this.key, made.id);
  }

  /** @param {(sent: number) => void} onSent */
  async part(onSent) {
    const begun = this.sent, part = this.file.slice(begun, begun + PART_BYTES);
    const state = await upload("PATCH", `/datasets/uploads/${this.id}?offset=${begun}`, part, done => onSent(begun + done), this.controller.signal, { "Content-Type": "application/octet-stream" });
    this.sent = state.offset;
    onSent(this.sent);
  }

  pause() {
    this.controller.abort();
  }

  /** Stop, and have the server forget it. */
  async cancel() {
    this.controller.abort();
    keep(this.key, "");
    if (this.id) await remove(`/datasets/uploads/${this.id}`).catch(() => undefined); // it expires there
  }

  /** What it would become. @param {Record<string, unknown>} reading as it is to be read */
  preview(reading) {
    return post(`/datasets/uploads/${this.id}/preview`, reading);
  }

  /** Make it a dataset. @param {Record<string, unknown>} fields */
  async commit(fields) {
    const made = await post(`/datasets/uploads/${this.id}/commit`, fields);
    keep(this.key, "");
    return made;
  }
}
