// The parts of the query as chips: a picture or words, a weight to adjust, and a cross to remove it.

import { $, el, iconButton } from "./dom.js";
import { shortName } from "./format.js";
import { state, update, uploads } from "./state.js";
import { thumbnail } from "./thumbnails.js";

const LARGEST = 9;
const STEP = 0.25;

export function renderChips() {
  const focused = document.activeElement?.closest("#chips [data-part]")?.dataset.part;
  $("#chips").replaceChildren(...state.parts.map(chip));
  if (focused) $(`#chips [data-part="${CSS.escape(focused)}"] input`)?.focus();
}

const nameOf = (part) => (part.kind === "upload" ? uploads.get(part.value)?.name ?? "picture" : part.kind === "image" ? shortName(part.value) : part.value);

function chip(part) {
  const name = nameOf(part);
  const sign = part.weight < 0 ? "less" : part.weight === 0 ? "unused" : "more";
  const about = part.weight < 0 ? "less like" : "more like";
  return el("li", { class: `chip ${sign}`, data: { part: `${part.kind}:${part.value}` }, title: `${about} ${name}` },
    sign === "less" ? el("span", { class: "not" }, "not") : null,
    looks(part),
    el("span", { class: "name" }, part.kind === "text" ? `“${name}”` : name),
    el("span", { class: "times", "aria-hidden": "true" }, "×"),
    weightField(part, `Weight of ${name}; below zero means less like this`),
    iconButton("close", `Remove ${name}`, () => update({ parts: state.parts.filter((one) => one !== part) })),
  );
}

function looks(part) {
  if (part.kind === "upload") return el("img", { src: uploads.get(part.value)?.preview ?? "", alt: "", width: 32, height: 32, class: "loaded" });
  return part.kind === "image" ? thumbnail(part.value, state.collection, { size: 128, eager: true }) : null;
}

function weightField(part, label) {
  const change = (event) => {
    const weight = Math.min(LARGEST, Math.max(-LARGEST, Number(event.target.value) || 0));
    if (weight !== part.weight) update({ parts: state.parts.map((one) => (one === part ? { ...one, weight } : one)) });
  };
  return el("input", { type: "number", class: "weight", step: STEP, min: -LARGEST, max: LARGEST, value: part.weight, "aria-label": label, on: { change } });
}
