// @ts-check
/** How the pages look, kept in this browser, else as the server's settings say: theme (system, light, dark), density (normal, compact), motion (system, less), side (wide, narrow), keys (on, off: shortcuts of a single letter). */

/** @typedef {"theme" | "density" | "motion" | "side" | "keys"} Choice */

const FIRST = { theme: "system", density: "normal", motion: "system", side: "wide", keys: "on" };

/** @param {Choice} name */
export function chosen(name) {
  const first = document.documentElement.dataset[`first${name[0].toUpperCase()}${name.slice(1)}`] ?? FIRST[name];
  try { return localStorage.getItem(`tunesmith.${name}`) ?? first; } catch { return first; }
}

/** Takes effect at once, in every tab. @param {Choice} name @param {string} value */
export function choose(name, value) {
  try { localStorage.setItem(`tunesmith.${name}`, value); } catch { /* forbidden: it lasts for nothing */ }
  document.dispatchEvent(new CustomEvent("tunesmith:appearance"));
}

/** Whether single letters are shortcuts; some people need them off (WCAG 2.1.4). @param {KeyboardEvent} event of a key that might be one */
export function isShortcut(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.closest?.("input, textarea, select, [contenteditable], [role=grid], dialog[open], [popover]");
  return chosen("keys") === "on" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.isComposing && !event.repeat && !typing && !document.querySelector("dialog[open]");
}

export const isDark = () => document.documentElement.classList.contains("dark");

/** The value of a colour or measure of the theme. @param {string} name such as "--line-1" */
export const token = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
