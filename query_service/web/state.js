// What is being asked and seen. The address holds all of it except uploaded pictures, so that it can be shared;
// history entries remember the keys of uploads, whose bytes stay in `uploads` while the page lives.

const MAX_PARTS = 16;
const DEFAULTS = { view: "search", collection: "", parts: [], minScore: 0, diversity: 0, nearDuplicates: false, filters: {}, exclude: [] };

export const uploads = new Map(); // key -> { blob, name, preview }
export const state = structuredClone(DEFAULTS);
const listeners = [];
let firstCollection = ""; // meant by an address that names none

export const onChange = (listener) => listeners.push(listener);

// Merges the changes, notes them in the address, and tells everyone. `replace`: no new step for the back button.
export function update(changes, { replace = false } = {}) {
  Object.assign(state, changes);
  const address = addressOf(state);
  const memory = { uploads: state.parts.filter((part) => part.kind === "upload") };
  const same = address === location.search && JSON.stringify(memory.uploads) === JSON.stringify(history.state?.uploads ?? []);
  if (replace) history.replaceState(memory, "", address || location.pathname);
  else if (!same) history.pushState(memory, "", address || location.pathname);
  tell(changes);
}

export function setFirstCollection(name) {
  firstCollection = name;
  state.collection ||= name;
}

export function restore() {
  const kept = (history.state?.uploads ?? []).filter((part) => uploads.has(part.value));
  const read = stateOf(new URLSearchParams(location.search));
  Object.assign(state, read, { parts: [...kept, ...read.parts] });
  tell(state);
}

export function addPart(part) {
  const others = state.parts.filter((one) => !(one.kind === part.kind && one.value === part.value));
  if (others.length >= MAX_PARTS) return false;
  update({ parts: [...others, part] });
  return true;
}

export const isAsking = () => state.parts.some((part) => part.weight > 0);
export const hasFilters = () => Object.keys(state.filters).length > 0;

function tell(changes) {
  for (const listener of listeners) listener(state, Object.keys(changes));
}

function addressOf({ view, collection, parts, minScore, diversity, nearDuplicates, filters, exclude }) {
  const search = new URLSearchParams();
  if (view !== DEFAULTS.view) search.set("view", view);
  if (collection !== firstCollection) search.set("c", collection);
  for (const { kind, value, weight } of parts) if (kind !== "upload") search.append("p", `${kind === "text" ? "t" : "i"}${weight}:${value}`);
  if (minScore > 0) search.set("min", minScore);
  if (diversity > 0) search.set("div", diversity);
  if (nearDuplicates) search.set("dup", "1");
  for (const [key, rule] of Object.entries(filters)) search.append("f", JSON.stringify({ key, ...rule }));
  for (const id of exclude) search.append("x", id);
  const text = search.toString();
  return text && `?${text}`;
}

// An address may come from anybody: whatever is not understood is left out.
function stateOf(search) {
  const fraction = (name) => Math.min(1, Math.max(0, Number(search.get(name)) || 0));
  return {
    view: search.get("view") === "jobs" ? "jobs" : "search",
    collection: search.get("c") || firstCollection,
    parts: search.getAll("p").map(partOf).filter(Boolean).slice(0, MAX_PARTS),
    minScore: fraction("min"),
    diversity: fraction("div"),
    nearDuplicates: search.get("dup") === "1",
    filters: Object.fromEntries(search.getAll("f").map(ruleOf).filter(Boolean)),
    exclude: search.getAll("x"),
  };
}

function partOf(text) {
  const found = /^([ti])(-?\d+(?:\.\d+)?):(.+)$/s.exec(text);
  return found && { kind: found[1] === "t" ? "text" : "image", value: found[3], weight: Math.min(9, Math.max(-9, Number(found[2]))) };
}

function ruleOf(text) {
  try {
    const { key, values, gte, lte } = JSON.parse(text);
    if (typeof key !== "string" || key === "__proto__") return null;
    if (Array.isArray(values)) return [key, { values: values.filter((one) => ["string", "number", "boolean"].includes(typeof one)) }];
    const bounds = Object.fromEntries(Object.entries({ gte, lte }).filter(([, bound]) => Number.isFinite(bound)));
    return Object.keys(bounds).length ? [key, bounds] : null;
  } catch {
    return null;
  }
}
