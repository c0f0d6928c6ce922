// @ts-check
/** The button in a field for a password that shows what was typed; it is hidden again when the form is sent. */
import { $ } from "./dom.js";

/** @param {HTMLElement} button @param {boolean} shown */
function set(button, shown) {
  const field = $(button.getAttribute("aria-controls") ?? "");
  field.type = shown ? "text" : "password";
  button.setAttribute("aria-pressed", String(shown));
}

export function startPasswords() {
  document.addEventListener("click", event => {
    const button = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest("[data-show-password]"));
    if (button) set(button, button.getAttribute("aria-pressed") !== "true");
  });
  document.addEventListener("submit", event => {
    for (const button of /** @type {HTMLFormElement} */ (event.target).querySelectorAll("[data-show-password]")) set(/** @type {HTMLElement} */ (button), false);
  }, true); // before the browser offers to save what it takes for a password
}
