// @ts-check
/** The API page: search, and opening the operation that an address names. */
import { $, setText } from "../dom.js";
import { plural } from "../words.js";

const operations = /** @type {HTMLDetailsElement[]} */ ([...document.querySelectorAll(".operation")]);

function search() {
  const words = $("wanted").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const one of operations) {
    const text = (one.textContent ?? "").toLowerCase();
    one.hidden = !words.every((/** @type {string} */ word) => text.includes(word));
    if (!one.hidden) count += 1;
  }
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".operations"))) {
    part.hidden = !part.querySelector(".operation:not([hidden])");
  }
  setText($("count"), plural(count, "operation"));
}

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

$("wanted").addEventListener("input", search);
addEventListener("hashchange", openNamed);
search();
openNamed();
