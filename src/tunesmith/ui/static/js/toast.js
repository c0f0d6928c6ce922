// @ts-check
/** Short messages in the corner; those of failures stay until they are closed. */
import { $, detailsOf, icon, make } from "./dom.js";

const SHOWN_MS = 5000, MOST = 4, KEPT = "tunesmith.toast";

/** @typedef {{tone?: "good" | "bad" | "info", hint?: string, details?: string[], action?: string, act?: () => void, href?: string, link?: string}} More */

/** @param {string} message @param {More} [more] @returns {HTMLElement} the message, which goes by itself */
export function toast(message, { tone = "good", hint = "", details = [], action = "", act, href = "", link = "" } = {}) {
  const place = $("toasts"), text = make("div", undefined, { class: "toast-text" }, [make("strong", message)]);
  const box = make("div", undefined, { class: "toast-box", "data-tone": tone, role: tone === "bad" ? "alert" : "status" }, [text]);
  if (details.length) text.append(make("ul", undefined, {}, details.slice(0, 5).map(detail => make("li", detail))));
  if (hint) text.append(make("p", hint));
  if (href) text.append(make("p", undefined, {}, [make("a", link || "Show", { href })]));
  const close = make("button", undefined, { type: "button", class: "btn", "data-variant": "ghost", "data-size": "icon-sm", "aria-label": "Close message" }, [icon("x")]);
  close.addEventListener("click", () => box.remove());
  if (action && act) {
    const button = make("button", action, { type: "button", class: "btn", "data-variant": "outline", "data-size": "sm" });
    button.addEventListener("click", () => { box.remove(); act(); });
    box.append(button);
  }
  box.append(close);
  place.append(box);
  while (place.childElementCount > MOST) place.firstElementChild.remove();
  if (tone !== "bad") leaveLater(box, act ? 2 * SHOWN_MS : SHOWN_MS);
  return box;
}

/** Not while somebody reads it. @param {HTMLElement} box @param {number} wait ms */
function leaveLater(box, wait) {
  window.setTimeout(() => box.matches(":hover, :focus-within") ? leaveLater(box, 1500) : box.remove(), wait);
}

/** @param {any} error */
export const toastError = error => toast(error.message ?? String(error), { tone: "bad", hint: error.hint, details: detailsOf(error) });

/** Shown by the page that comes next. @param {string} message */
export function toastNext(message) {
  try { sessionStorage.setItem(KEPT, message); } catch { /* forbidden: it is not said */ }
}

export function showKept() {
  try {
    const message = sessionStorage.getItem(KEPT);
    sessionStorage.removeItem(KEPT);
    if (message) toast(message);
  } catch { /* forbidden: nothing was kept */ }
}
