// The grid of results: skeletons while the first page is on its way, pages appended, nothing shown twice.

import { $, el, iconButton, keepFocus } from "./dom.js";
import { card, skeletons } from "./card.js";
import { plural, shortName } from "./format.js";
import { focusFirst, resetTabStop } from "./grid_keys.js";
import { fitNames } from "./name_line.js";
import { clearError, showError } from "./notices.js";
import { hideNothing, noAnswer, nothingFound, nothingIndexed } from "./nothing.js";
import { showProvenance } from "./provenance.js";
import { PAGE, abortSearch, browse, search } from "./search.js";
import { isAsking, state, update } from "./state.js";

const BROWSED = 24;
const SLOW_MILLISECONDS = 150; // faster answers replace the grid without a flicker
const shown = new Map(); // image id -> result
let offset = 0;
let turn = 0;
let refreshing = 0; // how many first pages are on their way
let act = {};
const atEnd = new IntersectionObserver((entries) => { if (entries.at(-1).isIntersecting && !$("#load-more").hidden) loadMore(); }, { rootMargin: "300px" });

export const resultOf = (id) => shown.get(id);

export function startResults(actions) {
  act = actions;
  new ResizeObserver(fitNames).observe($("#grid"));
  $("#load-more").addEventListener("click", loadMore);
}

// What stands on the page before the service has answered anything.
export function expectResults() {
  $(".columns").classList.toggle("idle", !isAsking());
  showWaiting();
}

// Asks anew for what the state says; older questions are dropped.
export async function refresh() {
  const mine = ++turn;
  showExcluded();
  $(".columns").classList.toggle("idle", !isAsking()); // nothing is asked: nothing to refine
  if (!isAsking() || !state.collection) return welcome(mine);
  refreshing += 1;
  const waiting = setTimeout(showWaiting, shown.size ? SLOW_MILLISECONDS : 0);
  try {
    const answer = await search();
    if (mine === turn) showFirst(answer);
  } catch (error) {
    if (mine === turn) showFailure(error);
  } finally {
    clearTimeout(waiting);
    refreshing -= 1;
    if (mine === turn) $("#grid").removeAttribute("aria-busy");
  }
}

async function loadMore() {
  const mine = turn;
  const button = $("#load-more");
  if (button.disabled || refreshing) return;
  button.disabled = true;
  try {
    const answer = await search({ offset });
    if (mine === turn) append(answer);
  } catch (error) {
    if (mine === turn) { button.hidden = true; showError(error, () => { button.hidden = false; loadMore(); }); }
  } finally {
    button.disabled = false;
  }
}

function showFirst(answer) {
  const inGrid = $("#grid").contains(document.activeElement);
  clearError();
  clear();
  append(answer);
  if (inGrid) focusFirst();
  showProvenance(answer);
  $("#share").hidden = false;
  if (shown.size) hideNothing();
  else nothingFound();
}

function append({ results }) {
  offset += results.length;
  const fresh = results.filter((result) => !shown.has(result.image_id));
  for (const result of fresh) shown.set(result.image_id, result);
  $("#grid").append(...fresh.map((result) => card(result, state.collection, act)));
  fitNames();
  $("#load-more").hidden = results.length < PAGE;
  $("#summary").textContent = results.length < PAGE ? plural(shown.size, "result") : `First ${plural(shown.size, "result")}`;
  resetTabStop();
  setTimeout(watchEnd); // when this answer is done with: a new look, for the end may still be in sight
}

function watchEnd() {
  atEnd.unobserve($("#more-place"));
  atEnd.observe($("#more-place"));
}

function clear() {
  shown.clear();
  offset = 0;
  $("#grid").replaceChildren();
}

function showWaiting() {
  hideNothing();
  $("#grid").setAttribute("aria-busy", "true");
  if (!shown.size) $("#grid").replaceChildren(...skeletons(12));
  $("#summary").textContent = isAsking() ? "Searching …" : "Find pictures that look alike";
}

function showFailure(error) {
  if (error.name === "AbortError") return;
  if (!$("#grid .score")) clear(); // pictures to begin with, or none: no results of anything
  $("#summary").textContent = shown.size ? "The results before" : "No answer";
  $("#load-more").hidden = true;
  if (!shown.size) noAnswer();
  showError(error, refresh);
}

// Before anything is asked: pictures of the collection to begin with.
async function welcome(mine) {
  abortSearch();
  clear();
  for (const id of ["#load-more", "#share"]) $(id).hidden = true;
  hideNothing();
  $("#provenance").replaceChildren();
  const lacking = state.parts.length > 0;
  $("#summary").textContent = lacking ? "Now add what it should look like" : "Find pictures that look alike";
  try {
    const images = state.collection ? await browse(BROWSED) : [];
    if (mine !== turn) return;
    clearError();
    $("#grid").replaceChildren(...images.map((image) => card(image, state.collection, act, { ranked: false })));
    fitNames();
    for (const image of images) shown.set(image.image_id, image);
    if (images.length && !lacking) $("#summary").textContent = "Start with a picture of your own, or one of these";
    if (!images.length) nothingIndexed();
    resetTabStop();
  } catch (error) {
    if (mine === turn) showFailure(error);
  } finally {
    if (mine === turn) $("#grid").removeAttribute("aria-busy");
  }
}

function showExcluded() {
  const ids = state.exclude;
  const chips = ids.map((id) => el("span", { class: "chip excluded" }, el("span", { class: "name", title: id }, shortName(id)),
    iconButton("close", `No longer exclude ${shortName(id)}`, () => keepFocus("#excluded button", "#results", () => update({ exclude: ids.filter((one) => one !== id) })))));
  $("#excluded").replaceChildren(...(ids.length ? [el("span", { class: "note" }, "Excluded"), ...chips] : []));
}
