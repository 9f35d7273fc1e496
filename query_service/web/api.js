// Requests to the HTTP API and its errors. Addresses are relative, so that the page also works below a prefix.

import { askForKey, currentKey, keyHeaders } from "./session_key.js";

export class ApiError extends Error {
  constructor(reason, message, { status = 0, retryable = false, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { reason, status, retryable, retryAfter });
  }
}

// Resolves to the JSON of the answer. Rejects with ApiError, or with AbortError when the signal says so.
export async function call(path, options = {}) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, options) => call(path, options);
export const post = (path, json, options = {}) => call(path, { method: "POST", json: json ?? {}, ...options });

// The raw response, for streams and pictures; anything but 2xx rejects.
export async function send(path, { method = "GET", json, form, signal, headers = {} } = {}) {
  const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
  const kind = json === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const used = currentKey();
    const response = await reach(path, { method, body, signal, headers: { ...headers, ...kind, ...keyHeaders() } });
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    const changed = currentKey() !== used; // another request was given one meanwhile
    if (!changed && !(await askForKey(used ? "This key was refused. Try another one." : "This service asks for an API key."))) throw error;
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The search service cannot be reached.", { retryable: true });
  }
}

async function errorOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const told = await response.json().then((body) => body.error, () => null);
  const retryable = told?.retryable ?? [429, 502, 503, 504].includes(response.status);
  const message = told?.message ?? `The service answered ${response.status} ${response.statusText}`.trim();
  return new ApiError(told?.reason ?? "http_error", message, { status: response.status, retryable, retryAfter });
}

export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const thumbnailAddress = (id, collection, size = 256) => query("v1/thumbnail", { id, collection, size });
export const originalAddress = (id, collection) => query("v1/original", { id, collection });
