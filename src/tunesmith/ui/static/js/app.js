// @ts-check
/** What every page has: navigation, theme, keys, copying, menus, times that stay right, live updates, actions. */
import { startActions } from "./actions.js";
import { call } from "./api.js";
import { choose, chosen, isShortcut } from "./appearance.js";
import { $, announce } from "./dom.js";
import { startDrafts } from "./drafts.js";
import { startLive } from "./live.js";
import { startPasswords } from "./password.js";
import { showKept, toast } from "./toast.js";
import { ago, exact } from "./words.js";

const THEMES = ["system", "light", "dark"];

export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(chosen("theme")) + 1) % THEMES.length];
  choose("theme", next);
  showTheme();
  announce(`Theme: ${next}`);
}

function showTheme() {
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.setAttribute("aria-label", `Theme: ${chosen("theme")}. Change it`);
    button.setAttribute("title", `Theme: ${chosen("theme")}`);
  }
}

/** @param {boolean} open */
function setDrawer(open) {
  const side = $("sidebar"), opener = document.querySelector("[data-sidebar=open]");
  side.classList.toggle("is-open", open);
  opener?.setAttribute("aria-expanded", String(open));
  if (open) side.querySelector("nav a, a")?.focus();
  else if (side.contains(document.activeElement)) /** @type {HTMLElement | null} */ (opener)?.focus();
}

const fold = () => choose("side", chosen("side") === "narrow" ? "wide" : "narrow");

/** @param {"palette" | "shortcuts"} name */
async function open(name) {
  const dialog = $(name);
  if (dialog.open) return dialog.close();
  dialog.showModal(); // at once: what is typed now belongs into it
  if (name === "palette") (await import("./palette.js")).fillPalette();
}

/** @param {HTMLElement} button */
async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy ?? "");
    toast("Copied.");
  } catch {
    toast("The browser does not allow copying here.", { tone: "bad", hint: "Select the text and press Ctrl C." });
  }
}

/** @param {MouseEvent} event */
function clicked(event) {
  const target = /** @type {Element} */ (event.target);
  const find = (/** @type {string} */ selector) => /** @type {HTMLElement | null} */ (target.closest(selector));
  const side = find("[data-sidebar]")?.dataset.sidebar, opened = find("[data-open]")?.dataset.open, copied = find("[data-copy]");
  if (side === "fold") fold();
  else if (side) setDrawer(side === "open");
  if (opened) void open(/** @type {any} */ (opened));
  if (copied) void copy(copied);
  if (find("[data-theme-switch]")) nextTheme();
  if (find("[data-reload]")) location.reload();
  const dialog = find("[data-dialog]")?.dataset.dialog; // data-dialog="id": opens that <dialog>
  if (dialog) $(dialog).showModal();
  if (find(".menu button")) find("[popover].menu")?.hidePopover(); // what was chosen is being done
  if (find("[data-close-dialog]")) target.closest("dialog")?.close();
  if (target instanceof HTMLDialogElement && target.matches(".modal, .palette")) target.close(); // the veil around it
}

let going = 0; // until when a `g` waits for its second key

/** @param {KeyboardEvent} event */
function pressed(event) {
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    return void open("palette");
  }
  if (event.key === "Escape") setDrawer(false);
  if (!isShortcut(event)) return;
  if (performance.now() < going) {
    going = 0;
    const link = /** @type {HTMLAnchorElement | null} */ (document.querySelector(`.side a[data-key="${CSS.escape(event.key)}"]`));
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  if (event.key === "g") going = performance.now() + 1500;
  else if (event.key === "?") void open("shortcuts");
  else if (event.key === "[") fold();
  else if (event.key === "n") /** @type {HTMLElement | null} */ (document.querySelector(".side-new"))?.click();
  else if (event.key === "/") {
    const search = /** @type {HTMLElement | null} */ (document.querySelector("main input[type=search]"));
    event.preventDefault();
    if (search) search.focus();
    else void open("palette");
  }
}

/** A menu that has been opened. @param {Event} event */
function openedMenu(event) {
  const menu = /** @type {HTMLElement} */ (event.target);
  if (!menu.matches?.("[popover].menu") || /** @type {ToggleEvent} */ (event).newState !== "open") return;
  placeMenu(menu);
  /** @type {HTMLElement | null} */ (menu.querySelector("a, button"))?.focus();
}

/** Beside its button, inside the window. @param {HTMLElement} menu */
function placeMenu(menu) {
  const button = document.querySelector(`[popovertarget="${CSS.escape(menu.id)}"]`)?.getBoundingClientRect();
  if (!button) return;
  const { offsetWidth: width, offsetHeight: height } = menu;
  menu.style.left = `${Math.max(8, Math.min(button.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${button.bottom + height + 12 > innerHeight && button.top > height + 12 ? button.top - height - 4 : button.bottom + 4}px`;
}

/** Fresh markup has no place for a menu that is open. */
function placeOpenMenus() {
  for (const menu of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[popover].menu:popover-open"))) placeMenu(menu);
}

/** Arrow keys within an open menu. @param {KeyboardEvent} event */
function walkMenu(event) {
  const menu = /** @type {Element} */ (event.target).closest?.("[popover].menu");
  if (!menu || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const items = /** @type {HTMLElement[]} */ ([...menu.querySelectorAll("a, button:not(:disabled)")]);
  const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + (event.key === "ArrowDown" ? 1 : -1);
  items[(at + items.length) % items.length]?.focus();
}

function refreshTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.getAttribute("datetime") ?? "");
    if (Number.isNaN(moment.getTime())) continue;
    const text = ago(moment), title = exact(moment); // the server does not know the zone of who looks
    if (time.textContent !== text) time.textContent = text;
    if (time.getAttribute("title") !== title) time.setAttribute("title", title);
  }
}

/** How many jobs run, beside their entry in the navigation. */
async function countRunning() {
  const place = $("running-count");
  try {
    const { total } = await call("/jobs/?status=running&limit=1");
    place.textContent = String(total);
    place.setAttribute("title", `${total} running`);
    place.hidden = !total;
  } catch { /* the banner says it when the server is away */ }
}

/** @param {Event} event */
const maybeCount = event => { if (/** @type {CustomEvent} */ (event).detail.event.type === "status") void countRunning(); };

/** A form that has done its work closes the dialog that it stands in. @param {Event} event */
function finished(event) {
  const form = /** @type {Element} */ (event.target);
  if (form.matches("form[data-close]")) form.closest("dialog")?.close();
}

addEventListener("click", clicked);
addEventListener("tunesmith:done", finished);
addEventListener("keydown", pressed);
addEventListener("keydown", walkMenu);
document.addEventListener("toggle", openedMenu, true);
document.addEventListener("htmx:after:swap", placeOpenMenus);
const keys = $("shortcuts-on");
keys.checked = chosen("keys") === "on";
keys.addEventListener("change", () => choose("keys", keys.checked ? "on" : "off"));
setInterval(refreshTimes, 20_000);
refreshTimes();
document.addEventListener("htmx:after:swap", refreshTimes);
showTheme();
document.body.addEventListener("tunesmith:job", maybeCount);
document.body.addEventListener("tunesmith:back", () => void countRunning());
void countRunning();
startActions();
startDrafts();
startLive();
startPasswords();
showKept();
