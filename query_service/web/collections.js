// Which collections there are, which one is searched, and whether its model reads words.

import { get } from "./api.js";
import { $, el } from "./dom.js";
import { plural } from "./format.js";
import { clearError, showError } from "./notices.js";
import { setFirstCollection, state, update } from "./state.js";

const FIRST = "default"; // searched when the address names none and there is one of this name
let known = null; // not yet told

export function startCollections() {
  $("#collection").addEventListener("change", (event) => update({ collection: event.target.value, filters: {}, exclude: [], parts: state.parts.filter((part) => part.kind !== "image") }));
}

// Resolves once a collection is chosen; tries again by itself while the service is away.
export async function loadCollections(then) {
  try {
    known = await get("v1/collections");
    clearError();
  } catch (error) {
    return showError({ name: "Error", ...error, message: error.message, retryable: true }, () => loadCollections(then));
  }
  if (known.length) setFirstCollection((known.find(({ name }) => name === FIRST) ?? known[0]).name);
  renderCollections();
  then();
}

export function renderCollections() {
  if (!known) return;
  const names = known.some(({ name }) => name === state.collection) || !state.collection ? known : [...known, { name: state.collection, images: 0 }];
  const select = $("#collection");
  select.replaceChildren(...names.map(({ name, images }) => el("option", { value: name, selected: name === state.collection }, `${name} (${plural(images, "image")})`)));
  if (!names.length) select.replaceChildren(el("option", {}, "no collection yet"));
  select.disabled = !names.length;
  renderWords(known.find(({ name }) => name === state.collection));
}

// A model without a text tower cannot look for words: say so before somebody types.
function renderWords(collection) {
  const refused = collection !== undefined && !collection.text_search;
  $("#words").disabled = refused;
  $("#words").placeholder = refused ? "Add a picture" : "Words, a picture, or both";
  $("#no-words").textContent = refused ? `The model of this collection (${nameOf(collection.model)}) reads pictures only; words need a CLIP model.` : "";
  $("#both").hidden = refused;
}

const nameOf = (model) => (typeof model === "string" ? model : model?.name ?? "unknown");
