// @ts-check
/** Small tools for the page. Text goes in as text, never as markup; what did not change is not touched. */

/** @param {string} id @returns {any} */
export const $ = id => document.getElementById(id);

/** @param {string} tag @param {string} [text] @param {Record<string, string>} [attributes] @returns {any} */
export function make(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A selection in an unchanged text stays. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say it to those who listen to the page. @param {string} text */
export const announce = text => setText($("news"), text);

/** What went wrong, where, and what to do. @param {HTMLElement} place @param {any} error */
export function showProblem(place, error) {
  const details = (error.details ?? []).map((/** @type {any} */ d) => [d.loc, d.message].filter(Boolean).join(": ")).filter(Boolean);
  const list = make("ul");
  list.append(...details.map((/** @type {string} */ text) => make("li", text)));
  place.replaceChildren(make("strong", error.message ?? String(error)), ...(details.length ? [list] : []), " ", error.hint ?? "");
  place.hidden = false;
}

/** @param {HTMLElement} place */
export function clearProblem(place) {
  if (place.hidden) return;
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

/** @param {HTMLFormElement} form @param {() => Promise<void>} work */
export function onSubmit(form, work) {
  form.addEventListener("submit", event => {
    event.preventDefault();
    void attempt(form, /** @type {HTMLElement} */ (form.querySelector(".problem")), work);
  });
}

/** Keep what is chosen while options change. @param {HTMLSelectElement} select @param {[string, string][]} options @param {string} none what to say when there are none */
export function setOptions(select, options, none = "") {
  const wanted = options.length || !none ? options : [["", none]];
  const same = wanted.length === select.options.length && wanted.every(([value, text], i) => select.options[i].value === value && select.options[i].text === text);
  if (same) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map(([value, text]) => make("option", text, { value })));
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}

/**
 * A table whose rows keep their elements, and so focus and selection, for as long as their item is there.
 * @param {HTMLTableElement} table
 * @param {HTMLElement} empty shown in its place when there are no items
 * @param {(id: number) => {body: HTMLElement, draw: (item: any) => void}} build
 */
export function keyedTable(table, empty, build) {
  /** @type {Map<number, {body: HTMLElement, draw: (item: any) => void}>} */
  const rows = new Map();
  return (/** @type {any[]} */ items) => {
    const ids = new Set(items.map(item => item.id));
    for (const [id, row] of rows) {
      if (ids.has(id)) continue;
      if (row.body.contains(document.activeElement)) /** @type {any} */ (table.closest("section")).querySelector("h2").focus();
      row.body.remove();
      rows.delete(id);
    }
    let place = /** @type {Element} */ (table.tHead).nextElementSibling;
    for (const item of items) {
      const row = rows.get(item.id) ?? build(item.id);
      rows.set(item.id, row);
      if (place === row.body) place = place.nextElementSibling;
      else table.insertBefore(row.body, place);
      row.draw(item);
    }
    table.hidden = !items.length;
    empty.hidden = items.length > 0;
  };
}

/** A row under the table's head, and a place below it for what needs the whole width. @param {HTMLTableElement} table */
export function makeRow(table) {
  const body = make("tbody", undefined, { role: "rowgroup" }), row = make("tr", undefined, { role: "row" });
  const heads = [.../** @type {any} */ (table.tHead).rows[0].cells];
  const cells = heads.map(head => make("td", undefined, { role: "cell", "data-label": head.textContent }));
  const more = make("tr", undefined, { role: "row", class: "more", hidden: "" }), place = make("td", undefined, { role: "cell", colspan: String(heads.length) });
  const problem = make("div", undefined, { class: "problem", role: "alert", hidden: "" }), notes = make("div");
  row.append(...cells);
  place.append(problem, notes);
  more.append(place);
  body.append(row, more);
  new MutationObserver(() => { more.hidden = problem.hidden && !notes.childNodes.length; }).observe(place, { subtree: true, childList: true, attributes: true });
  return { body, cells, problem, notes };
}

/** @param {string} text @param {string} label for those who hear the button without its row @param {() => void} press */
export function makeButton(text, label, press) {
  const button = make("button", text, { type: "button", class: "plain", "aria-label": label });
  button.addEventListener("click", press);
  return button;
}

/** Ask before something is lost. @param {string} question @param {string} action the word on the button @returns {Promise<boolean>} */
export function sure(question, action) {
  const dialog = $("sure");
  setText($("sure-question"), question);
  setText($("sure-yes"), action);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** @param {number} count @param {string} noun */
export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number | null} seconds */
export function duration(seconds) {
  if (seconds == null) return "";
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}
