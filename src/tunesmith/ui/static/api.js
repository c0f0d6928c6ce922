// @ts-check
/** The REST API: every failure is an `ApiError` that says what to do. */

export const API = "/api/v1";

export class ApiError extends Error {
  /** @param {string} message @param {string} [hint] @param {any[]} [details] @param {number} [status] of the answer; 0 when there was none */
  constructor(message, hint = "", details = [], status = 0) {
    super(message);
    this.hint = hint;
    this.details = details;
    this.status = status;
  }
}

/** The server's own words; a proxy's page has none. @param {number} status @param {string} text */
function errorOf(status, text) {
  try {
    const body = JSON.parse(text);
    if (body.message) return new ApiError(body.message, body.hint, body.details, status);
  } catch { /* not from Tunesmith */ }
  return new ApiError(`The server answered with status ${status} and no reason.`, "Try again. If a proxy stands before Tunesmith, look at its limits and its log.", [], status);
}

/** @param {string} path @param {RequestInit} [options] */
async function request(path, options) {
  let answer;
  try {
    answer = await fetch(API + path, options);
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached.", "Start it with “tunesmith up”, then try again.");
  }
  if (!answer.ok) throw errorOf(answer.status, await answer.text());
  return answer;
}

/** @param {string} path @param {RequestInit} [options] */
export async function call(path, options) {
  const answer = await request(path, options), text = await answer.text();
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw errorOf(answer.status, text);
  }
}

/** @param {unknown} body @returns {RequestInit} */
const json = body => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });

/** @param {string} path @param {unknown} [body] */
export const post = (path, body) => call(path, json(body));

/** @param {string} path */
export const remove = path => call(path, { method: "DELETE" });

/** Server-sent events of a POST, as they come. @param {string} path @param {unknown} body @param {AbortSignal} signal */
export async function* stream(path, body, signal) {
  const answer = await request(path, { ...json(body), signal });
  const reader = /** @type {ReadableStream<BufferSource>} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(error => {
      throw signal.aborted ? error : new ApiError("The connection to the server broke.", "Try again.");
    });
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (data && data !== "[DONE]") yield { kind: /^event: (.*)$/m.exec(block)?.[1], data: JSON.parse(data) };
    }
  }
}

/** Send a file; `fetch` could not say how much has gone. @param {File} file @param {(sent: number) => void} onSent bytes @returns {Promise<any>} the dataset */
export function upload(file, onSent) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("PUT", `${API}/datasets/upload?file_name=${encodeURIComponent(file.name)}`);
    sending.upload.onprogress = event => onSent(event.loaded);
    sending.onload = () => {
      try {
        if (sending.status === 201) return resolve(JSON.parse(sending.responseText));
      } catch { /* a page instead of an answer */ }
      reject(errorOf(sending.status, sending.responseText));
    };
    sending.onerror = () => reject(new ApiError("The upload was cut off.", "See that the server runs and that the file is still there, then try again."));
    sending.send(file);
  });
}
