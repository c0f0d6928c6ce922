// @ts-check
/** One row of a dataset, drawn: as a chat, as a picture or player, or as its cells. Everything goes in as text. */
import { icon, make } from "./dom.js";

/** @typedef {{id: number, version: string, newest: boolean, type: string, shape: string, mapping: Record<string, string>, total: number}} Data */

export const MEDIA = ["image", "audio", "video"];
const SHOWN_BY_BROWSERS = /\.(jpe?g|png|gif|bmp|webp|wav|flac|mp3|ogg|m4a|opus|mp4|webm|mov)$/;

/** Whether rows of this shape are conversations. @param {string} shape */
export const isChat = shape => ["messages", "conversations", "alpaca", "preference", "kto", "input_output", "prompt_completion", "question_answer"].includes(shape);

/** @param {unknown} value */
export const shown = value => value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

/** Rows → their conversations, as the server makes them by the function that training uses. @type {WeakMap<object, {role: string, text: string, note?: string}[]>} */
const talks = new WeakMap();

/** Keep the conversations that come with rows. @param {any} answer of a preview */
export function remember(answer) {
  answer.rows.forEach((/** @type {any} */ row, /** @type {number} */ place) => { const talk = answer.talks?.[place]; if (talk) talks.set(row, talk); });
  return answer;
}

/** The row as messages; null when it is none, and is shown as cells. @param {any} row */
export const messagesOf = row => talks.get(row) ?? null;

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
