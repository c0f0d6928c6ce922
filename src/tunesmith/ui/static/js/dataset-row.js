// @ts-check
/** One row of a dataset, drawn: as a chat, as a picture or player, or as its cells. Everything goes in as text. */
import { icon, make } from "./dom.js";

/** @typedef {{id: number, version: string, newest: boolean, type: string, shape: string, mapping: Record<string, string>, total: number}} Data */

/** As dataprep/conversation.py has it. @type {Record<string, string>} */
const ROLES = { system: "system", user: "user", human: "user", prompter: "user", assistant: "assistant", gpt: "assistant", bot: "assistant", chatgpt: "assistant", model: "assistant", tool: "tool", function: "tool", observation: "tool" };
/** @type {Record<string, [string, string]>} */
const PAIRS = { input_output: ["input", "output"], prompt_completion: ["prompt", "completion"], question_answer: ["question", "answer"] };
export const MEDIA = ["image", "audio", "video"];
const SHOWN_BY_BROWSERS = /\.(jpe?g|png|gif|bmp|webp|wav|flac|mp3|ogg|m4a|opus|mp4|webm|mov)$/;

/** Whether rows of this shape are conversations. @param {string} shape */
export const isChat = shape => ["messages", "conversations", "alpaca", "preference"].includes(shape) || shape in PAIRS;

/** @param {unknown} value */
export const shown = value => value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

/** @param {unknown} value @returns {{role: string, text: string}[] | null} */
function turns(value) {
  let list = value;
  if (typeof value === "string" && value.trimStart().startsWith("[")) {
    try { list = JSON.parse(value); } catch { return null; }
  }
  if (!Array.isArray(list)) return null;
  return list.map(turn => ({ role: ROLES[String(turn?.role ?? turn?.from ?? "").trim().toLowerCase()] ?? String(turn?.role ?? turn?.from ?? "?"), text: shown(turn?.content ?? turn?.value) }));
}

/** The row as messages; null when it is none, and is shown as cells. @param {any} row @param {string} shape @param {Record<string, string>} mapping @returns {{role: string, text: string, note?: string}[] | null} */
export function messagesOf(row, shape, mapping) {
  const text = (/** @type {string} */ role) => mapping[role] ? shown(row[mapping[role]]) : "";
  const needed = { alpaca: ["instruction", "output"], preference: ["prompt", "chosen", "rejected"], ...PAIRS }[shape] ?? [];
  if (needed.some(role => !mapping[role])) return null;
  if (shape === "messages" || shape === "conversations") return turns(row[mapping[shape]]);
  if (shape === "alpaca") return [{ role: "user", text: [text("instruction"), text("input")].filter(part => part.trim()).join("\n\n") }, { role: "assistant", text: text("output") }];
  if (shape === "preference") {
    const said = (/** @type {string} */ role, /** @type {string} */ note) => {
      const list = turns(row[mapping[role]]);
      return { role: "assistant", text: list ? list[list.length - 1]?.text ?? "" : text(role), note };
    };
    const asked = turns(row[mapping.prompt]) ?? [{ role: "user", text: text("prompt") }];
    return [...asked, said("chosen", "better"), said("rejected", "worse")];
  }
  const pair = PAIRS[shape];
  return pair ? [{ role: "user", text: text(pair[0]) }, { role: "assistant", text: text(pair[1]) }] : null;
}

/** @param {{role: string, text: string, note?: string}[]} messages */
export function chat(messages) {
  const list = make("div", undefined, { class: "chat" });
  for (const { role, text, note } of messages) {
    const bubble = make("div", undefined, { class: "bubble", "data-role": role, ...(note ? { "data-note": note } : {}) });
    bubble.append(make("span", note ? `${role} · ${note}` : role, { class: "bubble-role" }), make("p", text || "(empty)", text ? {} : { class: "muted" }));
    list.append(bubble);
  }
  return list;
}

/** @param {Data} data @param {any} row */
const mediaAddress = (data, row) => `/api/v1/datasets/${data.id}/media/${encodeURIComponent(shown(row[data.mapping.media ?? "media"]))}`;

/** A picture, or a player. @param {Data} data @param {any} row @param {boolean} large */
export function media(data, row, large) {
  const name = shown(row.file_name) || shown(row.media), src = mediaAddress(data, row);
  if (!SHOWN_BY_BROWSERS.test(src)) return make("a", undefined, { class: "media-file", href: src, download: name }, [icon("download"), make("span", name)]);
  if (data.type === "image") {
    const image = make("img", undefined, { src, alt: label(data, row) || name, loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(make("span", "This picture cannot be shown.", { class: "muted small" })));
    return image;
  }
  const player = make(data.type, undefined, { src, controls: "", preload: large ? "metadata" : "none", "aria-label": name });
  player.addEventListener("error", () => player.replaceWith(make("span", "This browser cannot play the file.", { class: "muted small" })), true);
  return player;
}

/** What a row is labelled, if it is. @param {Data} data @param {any} row */
export const label = (data, row) => data.mapping.label ? shown(row[data.mapping.label]) : "";

/** Every cell with its column. @param {any} row @param {string[]} columns */
export function cells(row, columns) {
  const list = make("dl", undefined, { class: "cells" });
  for (const column of columns) {
    const text = shown(row[column]);
    list.append(make("div", undefined, {}, [make("dt", column), make("dd", text || "empty", text ? {} : { class: "muted" })]));
  }
  return list;
}
