// Filters made from the attributes that the collection has: values with counts as toggles, numbers as ranges.

import { get, query } from "./api.js";
import { $, debounced, el } from "./dom.js";
import { count } from "./format.js";
import { showError } from "./notices.js";
import { state, update } from "./state.js";

const FIRST_VALUES = 8;
const LIVE_MILLISECONDS = 250;
let known = [];
let loadedFor = null;
const unfolded = new Set();

export function forgetFilters() {
  loadedFor = null;
}

export async function loadFilters() {
  const collection = state.collection;
  if (!collection || loadedFor === collection) return;
  loadedFor = collection;
  try {
    const { attributes } = await get(query(`v1/collections/${encodeURIComponent(collection)}/attributes`, {}));
    if (collection === state.collection) known = attributes;
  } catch (error) {
    loadedFor = null;
    known = [];
    showError(error, loadFilters);
  }
  renderFilters();
}

export function renderFilters() {
  if (document.activeElement?.matches("#filters input")) return; // somebody is typing a bound
  const focused = document.activeElement?.closest("#filters [data-control]")?.dataset.control;
  $("#filters").replaceChildren(...known.map((attribute) => (attribute.kind === "number" ? range(attribute) : values(attribute))));
  if (focused) $(`#filters [data-control="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function values({ key, values: all }) {
  const chosen = state.filters[key]?.values ?? [];
  const missing = chosen.filter((one) => !all.some(({ value }) => value === one)).map((value) => ({ value, count: 0 }));
  const listed = unfolded.has(key) ? all : all.filter(({ value }, position) => position < FIRST_VALUES || chosen.includes(value));
  const hidden = all.length - listed.length;
  return el("fieldset", {}, el("legend", { title: key }, key),
    el("div", { class: "toggles" }, [...missing, ...listed].map((one) => toggle(key, one, chosen)),
      hidden ? el("button", { class: "fold", data: { control: `${key} more` }, on: { click: () => { unfolded.add(key); renderFilters(); } } }, `${hidden} more`) : null));
}

function toggle(key, { value, count: images }, chosen) {
  const pressed = chosen.includes(value);
  const click = () => {
    const values = pressed ? chosen.filter((one) => one !== value) : [...chosen, value];
    setRule(key, values.length ? { values } : null);
  };
  return el("button", { class: "toggle", "aria-pressed": `${pressed}`, data: { control: `${key} ${JSON.stringify(value)}` }, on: { click } },
    el("span", { class: "name" }, String(value)), el("span", { class: "count" }, count(images)));
}

function range({ key, min, max }) {
  const rule = state.filters[key] ?? {};
  const step = Number.isInteger(min) && Number.isInteger(max) ? 1 : "any";
  const field = (name, bound, label) => el("input", { type: "number", step, min, max, placeholder: `${bound}`, value: rule[name] ?? "", "aria-label": `${key} ${label}`,
    data: { control: `${key} ${name}` }, on: { input: debounced(LIVE_MILLISECONDS, (event) => bind(key, name, event.target.value)) } });
  return el("fieldset", {}, el("legend", { title: key }, key), el("div", { class: "range" }, field("gte", min, "at least"), el("span", {}, "to"), field("lte", max, "at most")));
}

function bind(key, name, text) {
  const { [name]: _, ...others } = state.filters[key] ?? {};
  const number = Number(text);
  const rule = text === "" || !Number.isFinite(number) ? others : { ...others, [name]: number };
  setRule(key, Object.keys(rule).length ? rule : null);
}

function setRule(key, rule) {
  const { [key]: _, ...others } = state.filters;
  update({ filters: rule ? { ...others, [key]: rule } : others });
}
