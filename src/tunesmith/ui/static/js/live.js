// @ts-check
/**
 * One connection to the server for each tab. What it says is fired on document.body:
 *   tunesmith:job       detail {job_id, seq, event}: each event of any job
 *   tunesmith:jobs      at most once a second: something about jobs has changed
 *   tunesmith:datasets  something about datasets may have changed; every few seconds while one on the page is processing
 *   tunesmith:back      the server is there again after it was away (the two above follow)
 * A tab in the background holds no connection; when it is seen again everything is asked anew.
 */
import { API, call } from "./api.js";
import { $, announce, throttle } from "./dom.js";

const EVENTS = ["step", "evaluation", "status", "phase", "notice", "progress", "checkpoint", "resources", "artifact", "metrics"];
/** How soon to try again when the browser has given up, and when to say that the server is away, ms. */
const AGAIN_MS = 1500, AWAY_MS = 2500;
/** What happens without a word on the stream (another server, the command line) is seen after at most so long, ms. */
const LOOK_MS = 15_000, PROCESSING_MS = 2500;

/** @type {EventSource | undefined} */
let source;
let away = false, awayTimer = 0, againTimer = 0, wasOpen = false;

/** @param {string} name @param {unknown} [detail] */
const fire = (name, detail) => document.body.dispatchEvent(new CustomEvent(name, { detail }));
const jobsChanged = throttle(() => fire("tunesmith:jobs"), 1000);
const datasetsChanged = throttle(() => fire("tunesmith:datasets"), 1000);

/** @param {boolean} now */
function setAway(now) {
  if (now === away) return;
  away = now;
  $("offline").hidden = !now;
  announce(now ? "Connection lost." : "Connected again.");
}

function opened() {
  clearTimeout(awayTimer);
  awayTimer = 0;
  const missed = wasOpen || away;
  setAway(false);
  wasOpen = true;
  if (!missed) return; // the page has just been made: it is fresh
  fire("tunesmith:back");
  jobsChanged();
  datasetsChanged();
}

/** The browser tries again by itself, unless somebody answered in the server's place. */
function broken() {
  awayTimer ||= window.setTimeout(() => setAway(true), AWAY_MS);
  if (source?.readyState !== EventSource.CLOSED) return;
  void call("/auth/me").catch(() => undefined); // a login that has ended is told from a server that is away
  clearTimeout(againTimer);
  againTimer = window.setTimeout(listen, AGAIN_MS);
}

/** @param {MessageEvent} message */
function take(message) {
  const detail = JSON.parse(message.data);
  fire("tunesmith:job", detail);
  jobsChanged();
}

function listen() {
  source?.close();
  source = new EventSource(`${API}/jobs/stream`);
  source.addEventListener("open", opened);
  source.addEventListener("error", broken);
  for (const type of EVENTS) source.addEventListener(type, take);
}

function seen() {
  if (document.hidden) {
    source?.close();
    clearTimeout(awayTimer);
    awayTimer = 0;
  } else listen();
}

/** Whether the server is away as far as this page knows. */
export const isAway = () => away;

export function startLive() {
  document.addEventListener("visibilitychange", seen);
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", event => { if (event.persisted) seen(); });
  seen();
  setInterval(() => { if (!document.hidden && !away) { jobsChanged(); datasetsChanged(); } }, LOOK_MS);
  setInterval(() => { if (!document.hidden && !away && document.querySelector("[data-processing]")) datasetsChanged(); }, PROCESSING_MS);
}
