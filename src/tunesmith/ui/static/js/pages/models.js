// @ts-check
/** Downloads on the pages of models: the bars move as the server tells, and lists refresh when one has ended. */
import { API } from "../api.js";
import { $, announce, setText } from "../dom.js";
import { bytes, duration } from "../words.js";

/** @type {EventSource | undefined} */
let source;

/** @param {string} name */
const fire = name => document.body.dispatchEvent(new CustomEvent(name));

/** @param {any} one a download */
function told(one) {
  const parts = [`${bytes(one.bytes_done)} of ${bytes(one.bytes_total)}`];
  if (one.bytes_per_s) parts.push(`${bytes(one.bytes_per_s)}/s`);
  if (one.remaining_s) parts.push(`${duration(one.remaining_s)} left`);
  if (one.note) parts.push(one.note);
  return parts.join(" · ");
}

/** @param {MessageEvent} message */
function take(message) {
  const one = JSON.parse(message.data), place = $(`download-${one.id}`);
  if (!place || place.dataset.state !== one.status) {
    fire("tunesmith:downloads");
    if (place && one.ended_at) announce(`The download of ${one.name} is ${one.status}.`);
    if (one.status === "completed") fire("tunesmith:fetched");
    return;
  }
  const bar = place.querySelector("progress");
  if (bar) bar.value = one.share;
  setText(place.querySelector("[data-told]"), one.ended_at ? place.querySelector("[data-told]").textContent : told(one));
}

function seen() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource(`${API}/models/downloads/stream`);
  source.addEventListener("download", take);
}

document.addEventListener("visibilitychange", seen);
addEventListener("pagehide", () => source?.close());
document.body.addEventListener("tunesmith:back", () => { fire("tunesmith:downloads"); seen(); });
seen();
