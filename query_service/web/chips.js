// The parts of the query as chips: a picture or words, a weight to adjust, and a cross to remove it.

import { $, el, iconButton } from "./dom.js";
import { shortName } from "./format.js";
import { state, update, uploads } from "./state.js";
import { thumbnail } from "./thumbnails.js";

const LARGEST = 9;
const STEP = 0.25;

let pictures = new Map(); // what the chips show is kept: no picture is fetched again for another weight

export function renderChips() {
  const active = document.activeElement?.closest("#chips li") && document.activeElement;
  const byKeyboard = active?.matches(":focus-visible");
  const { part } = active?.closest("li").dataset ?? {};
  const place = active ? [...$("#chips").children].indexOf(active.closest("li")) : -1;
  const kept = pictures;
  pictures = new Map();
  $("#chips").replaceChildren(...state.parts.map((one) => chip(one, kept)));
  const same = part && $(`#chips [data-part="${CSS.escape(part)}"]`);
  if (same) $(active.tagName, same).focus({ preventScroll: true });
  else if (byKeyboard) nextTo(place).focus();
}

// A part was taken away: on to the one in its place, or back to the field.
function nextTo(place) {
  const left = $("#chips").children;
  return left.length ? $("button", left[Math.min(place, left.length - 1)]) : $("#words").disabled ? $("#picture") : $("#words");
}

// All parts in words, for the title.
export const partsInWords = () => state.parts.map((part) => `${part.weight < 0 ? "not " : ""}${nameOf(part)}`).join(", ");

const keyOf = (part) => `${part.kind}:${part.value}`;
const nameOf = (part) => (part.kind === "upload" ? uploads.get(part.value)?.name ?? "picture" : part.kind === "image" ? shortName(part.value) : part.value);

function chip(part, kept) {
  const name = nameOf(part);
  const sign = part.weight < 0 ? "less" : part.weight === 0 ? "unused" : "more";
  const about = part.weight < 0 ? "less like" : "more like";
  return el("li", { class: `chip ${sign}`, data: { part: keyOf(part) }, title: `${about} ${name}` },
    sign === "less" ? el("span", { class: "not" }, "not") : null,
    looks(part, kept),
    el("span", { class: "name" }, part.kind === "text" ? `“${name}”` : name),
    el("span", { class: "times", "aria-hidden": "true" }, "weight"),
    weightField(part, `Weight of ${name}; below zero means less like this`),
    iconButton("close", `Remove ${name}`, () => update({ parts: state.parts.filter((one) => one !== part) })),
  );
}

function looks(part, kept) {
  if (part.kind === "text") return null;
  const key = `${state.collection} ${keyOf(part)}`;
  const picture = kept.get(key) ?? (part.kind === "upload" ? preview(part.value) : thumbnail(part.value, state.collection, { size: 128, eager: true }));
  pictures.set(key, picture);
  return picture;
}

const preview = (key) => el("img", { src: uploads.get(key)?.preview ?? "", alt: "", width: 32, height: 32, class: "loaded" });

function weightField(part, label) {
  const change = (event) => {
    const weight = Math.min(LARGEST, Math.max(-LARGEST, Number(event.target.value) || 0));
    if (weight !== part.weight) update({ parts: state.parts.map((one) => (one === part ? { ...one, weight } : one)) });
  };
  return el("input", { type: "number", class: "weight", step: STEP, min: -LARGEST, max: LARGEST, value: part.weight, "aria-label": label, on: { change } });
}
