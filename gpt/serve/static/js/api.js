// Requests to the server. Every request names the model it is about: run, checkpoint, learning session.

import { state } from "./state.js";

export class ServerError extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status; // of HTTP; null where there was no answer, or an error in a stream
  }
}

function model() {
  return { run: state.run, step: state.step, session: state.session };
}

/** The result of `ask()`, a promise of the network; a ServerError where the connection is lost. */
async function connected(ask) {
  try {
    return await ask();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer: is gpt look still running?");
  }
}

async function request(path, options) {
  const response = await connected(() => fetch(path, options));
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 404) dispatchEvent(new Event("look-missing")); // a deleted checkpoint: live.js
  throw new ServerError(answer.error ?? `the server answered ${response.status}`, response.status);
}

function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify({ ...model(), ...body }), signal });
}

/** The JSON answer to a request about the chosen model. */
export async function post(path, body = {}, { signal } = {}) {
  const response = await send(path, body, signal);
  return connected(() => response.json());
}

/** Calls `onItem` with each line of a streamed answer. Aborting the signal stops the computation on the server. */
export async function stream(path, body, onItem, { signal } = {}) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await connected(() => reader.read());
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const item = JSON.parse(line);
      if (item.error) throw new ServerError(item.error);
      onItem(item);
    }
  }
}

/** The JSON answer to a GET request. */
export async function get(path, { signal } = {}) {
  const response = await request(path, { signal });
  return connected(() => response.json());
}
