// @ts-check
/** Small tools for pages. Text goes in as text, never as markup; what did not change is not touched. */

/** @param {string} id @returns {any} */
export const $ = id => document.getElementById(id);

/** @param {string} tag @param {string} [text] @param {Record<string, string>} [attributes] @param {(Node | string)[]} [children] @returns {any} */
export function make(tag, text, attributes = {}, children = []) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string | number>} [attributes] @param {string} [text] */
export function makeSvg(tag, attributes = {}, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A lucide icon. @param {string} name */
export function icon(name) {
  const drawn = makeSvg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" });
  drawn.append(makeSvg("use", { href: `/icons/${encodeURIComponent(name)}.svg#i` }));
  return drawn;
}

/** A selection in an unchanged text stays. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say it to those who listen to the page. @param {string} text */
export const announce = text => setText($("news"), text);

/** @param {any} error @returns {string[]} where and what, one a problem */
export const detailsOf = error => (error.details ?? []).map((/** @type {any} */ d) => {
  const where = [Number.isInteger(d.row) && `row ${d.row.toLocaleString("en")}`, d.column && `column ${d.column}`].filter(Boolean).join(", ");
  return [where || d.loc, d.message].filter(Boolean).join(": ");
}).filter(Boolean);

/** What went wrong, where, and what to do. @param {HTMLElement} place @param {any} error */
export function showProblem(place, error) {
  const details = detailsOf(error), text = make("div", undefined, {}, [make("strong", error.message ?? String(error))]);
  if (details.length) text.append(make("ul", undefined, {}, details.map(detail => make("li", detail))));
  if (error.hint) text.append(make("p", error.hint));
  place.classList.add("problem");
  place.setAttribute("role", "alert");
  place.replaceChildren(icon("triangle-alert"), text);
  place.hidden = false;
}

/** @param {HTMLElement} place */
export function clearProblem(place) {
  place.hidden = true;
  place.replaceChildren();
}

/** Run `work` once at a time for a button or form; its failure is shown in `place`. @param {HTMLElement} asker @param {HTMLElement} place @param {() => Promise<void>} work */
export async function attempt(asker, place, work) {
  if (asker.getAttribute("aria-busy") === "true") return;
  asker.setAttribute("aria-busy", "true");
  clearProblem(place);
  try { await work(); } catch (error) { showProblem(place, error); } finally { asker.removeAttribute("aria-busy"); }
}

/**
 * Ask before something is lost.
 * @param {string} question
 * @param {{action?: string, more?: string, typed?: string}} [options] the word on the button, what else there is to know, and what has to be typed
 * @returns {Promise<boolean>}
 */
export function sure(question, { action = "Yes", more = "", typed = "" } = {}) {
  const dialog = $("sure"), word = $("sure-word"), yes = $("sure-yes");
  setText($("sure-question"), question);
  setText($("sure-more"), more);
  setText($("sure-name"), typed);
  setText(yes, action);
  $("sure-more").hidden = !more;
  $("sure-typed").hidden = !typed;
  word.value = "";
  yes.disabled = Boolean(typed);
  word.oninput = () => { yes.disabled = word.value.trim() !== typed.trim(); };
  word.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // the form's first button is “Back”
    if (!yes.disabled) yes.click();
  };
  dialog.returnValue = "";
  dialog.showModal();
  if (typed) word.focus();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** `work` at most once in `wait` ms, the last time at the end. @param {() => void} work @param {number} wait */
export function throttle(work, wait) {
  let next = 0, timer = 0;
  return () => {
    if (timer) return;
    const now = performance.now();
    const run = () => { timer = 0; next = performance.now() + wait; work(); };
    if (now >= next) run();
    else timer = window.setTimeout(run, next - now);
  };
}

/** `work` once it has been silent for `wait` ms. @param {(...args: any[]) => void} work @param {number} wait */
export function debounce(work, wait) {
  let timer = 0;
  return (/** @type {any[]} */ ...args) => { clearTimeout(timer); timer = window.setTimeout(() => work(...args), wait); };
}
