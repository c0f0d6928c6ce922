// @ts-check
/** What has been filled in so far: kept in the browser, so that a reload loses nothing. */

const KEPT = "tunesmith.new-job", NAMED = /** @type {const} */ ({ dataset: "dataset_id", model: "model", method: "method" });

/** A `JobCreate` as far as it is known. @typedef {Record<string, any>} Job */
/** @typedef {{job: Job, byHand: string[], heldOut: string, when: string, at: number, from?: number | null, fix?: string}} Draft */

/** @param {Job} [job] @returns {Draft} */
export function fresh(job = {}) {
  const { hyperparameters = {}, ...rest } = job;
  return { job: { method: "lora", ...rest, hyperparameters: { ...hyperparameters } }, byHand: [], heldOut: job.eval_dataset_id ? "dataset" : "split", when: whenOf(job), at: 0 };
}

/** @param {Job} job */
function whenOf(job) {
  if (job.after_job_id) return "after";
  if (job.not_before) return "at";
  return job.start ?? "now";
}

/**
 * The draft that is kept, unless the address begins another job than that one.
 * @param {{job: Job, from: number | null, fix?: string, defaults?: Job}} start what the address names, and what the settings say @returns {{draft: Draft, restored: boolean}}
 */
export function load(start) {
  const kept = read();
  const other = kept && (start.from ? kept.from !== start.from || (start.fix && kept.fix !== start.fix) : Object.values(NAMED).some(name => start.job[name] && start.job[name] !== kept.job[name]));
  if (kept && !other) return { draft: kept, restored: kept.at > 0 };
  return { draft: { ...fresh({ ...start.defaults, ...start.job }), from: start.from, fix: start.fix }, restored: false };
}

/** @returns {Draft | null} */
function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "null");
    return kept?.job?.hyperparameters && Array.isArray(kept.byHand) ? kept : null;
  } catch { // forbidden, or not ours
    return null;
  }
}

/** @param {Draft} draft */
export function keep(draft) {
  draft.at = Date.now();
  try { localStorage.setItem(KEPT, JSON.stringify(draft)); } catch { /* forbidden or full: the address still holds the choices */ }
}

export function forget() {
  try { localStorage.removeItem(KEPT); } catch { /* forbidden: there is none */ }
}

/** The address names dataset, model and method too, so that it can be shared. @param {Draft} draft @param {string} step */
export function writeAddress(draft, step) {
  const query = new URLSearchParams();
  if (draft.from) query.set("from", String(draft.from));
  for (const [name, field] of Object.entries(NAMED)) if (draft.job[field]) query.set(name, String(draft.job[field]));
  const whole = `/jobs/new?${query}#${step}`.replace("?#", "#");
  if (location.pathname + location.search + location.hash === whole) return;
  const moved = location.hash !== `#${step}`;
  history[moved && location.hash ? "pushState" : "replaceState"](null, "", whole);
}
