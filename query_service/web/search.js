// Asking: turns the state into a request, lets only the newest request win, and walks on page by page.

import { call, post, query } from "./api.js";
import { state, uploads } from "./state.js";

export const PAGE = 30;
const NEAR_DUPLICATE_COSINE = 0.95;
let running = null;

// The answer to what the state asks now. A newer call aborts an older one, whose promise rejects as AbortError.
export async function search({ offset = 0, k = PAGE, explain = false } = {}) {
  running?.abort();
  const mine = running = new AbortController();
  return ask({ offset, k, explain }, mine.signal);
}

export function abortSearch() {
  running?.abort();
}

// The same search once more, with the way of each result through the rerank steps; aborts nothing.
export const explained = (offset, k) => ask({ offset, k, explain: true });

async function ask(page, signal) {
  const started = performance.now();
  const parts = state.parts.filter((part) => part.weight !== 0);
  const pictures = parts.filter((part) => part.kind === "upload");
  const body = requestOf(parts, page);
  const answer = pictures.length ? await call("v1/search", { method: "POST", form: formOf(body, pictures), signal }) : await post("v1/search", body, { signal });
  return { ...answer, roundTrip: (performance.now() - started) / 1000 };
}

function requestOf(parts, { offset, k, explain }) {
  const body = { query: parts.filter((part) => part.kind !== "upload").map(partOf), k, offset };
  if (state.collection) body.collection = state.collection;
  if (state.minScore > 0) body.min_score = state.minScore;
  if (state.diversity > 0) body.diversity = state.diversity;
  if (state.nearDuplicates) body.near_duplicates = NEAR_DUPLICATE_COSINE;
  if (state.exclude.length) body.exclude = state.exclude;
  const filters = Object.entries(state.filters).map(conditionOf);
  if (filters.length) body.filter = { op: "and", filters };
  if (explain) body.explain = true;
  return body;
}

const partOf = ({ kind, value, weight }) => ({ [kind === "text" ? "text" : "image_id"]: value, weight });

const conditionOf = ([key, rule]) => (rule.values ? { op: "in", key, values: rule.values } : { op: "range", key, ...rule });

function formOf(body, pictures) {
  const form = new FormData();
  const request = { ...body, image_weights: pictures.map((part) => part.weight) };
  form.append("request", JSON.stringify(request));
  for (const { value } of pictures) form.append("image", uploads.get(value).blob, uploads.get(value).name);
  return form;
}

// Some pictures of the collection to begin with.
export async function browse(limit) {
  const found = await call(query("v1/images", { collection: state.collection, limit }));
  return Array.isArray(found) ? found : found.images ?? found.items ?? [];
}
