// Starts the page and tells each part what has changed. Owns nothing itself.

import { $ } from "./dom.js";
import { loadCollections, renderCollections, startCollections } from "./collections.js";
import { partsInWords, renderChips } from "./chips.js";
import { showDetail } from "./detail.js";
import { forgetFilters, loadFilters, renderFilters } from "./filters.js";
import { focusFirst, listenForGridKeys } from "./grid_keys.js";
import { addPictures, showJobs, startJobs } from "./jobs_view.js";
import { showError, toast } from "./notices.js";
import { listenForPictures } from "./picture_input.js";
import { renderRefine, startRefine } from "./refine.js";
import { expectResults, refresh, resultOf, startResults } from "./results.js";
import { addPart, onChange, restore, state, update } from "./state.js";
import { openOriginal } from "./thumbnails.js";

const ASKED = ["collection", "parts", "minScore", "diversity", "nearDuplicates", "filters", "exclude"];
let ready = false;
let view = null;

const add = (kind, value, weight) => { if (!addPart({ kind, value, weight })) toast("A search takes at most 16 parts."); };

const act = {
  more: (id) => { add("image", id, 1); scrollTo({ top: 0 }); },
  less: (id) => add("image", id, -0.5),
  only: (id) => update({ parts: [{ kind: "image", value: id, weight: 1 }], exclude: [] }),
  exclude: (id) => update({ exclude: [...state.exclude.filter((one) => one !== id), id] }),
  open: (id) => openOriginal(id, state.collection).catch(showError),
  details: (result) => showDetail(typeof result === "string" ? resultOf(result) : result, act),
};

function render(changed) {
  renderChips();
  renderRefine();
  renderFilters();
  if (changed.includes("collection")) renderCollections();
  const about = state.view === "jobs" ? "Jobs" : partsInWords();
  document.title = about ? `${about} · Visual Search` : "Visual Search";
  if (ready && state.view === "jobs" && view === "jobs" && changed.includes("collection")) showJobs(true);
  if (showView() || !ready || state.view !== "search") return;
  if (changed.includes("collection")) loadFilters();
  if (changed.some((name) => ASKED.includes(name))) refresh();
}

// Says whether the view was changed; entering one asks for all it shows.
function showView() {
  if (view === state.view) return false;
  view = state.view;
  $("#search-view").hidden = view !== "search";
  $("#jobs-view").hidden = view !== "jobs";
  for (const tab of document.querySelectorAll("[data-view]")) tab.setAttribute("aria-current", tab.dataset.view === view ? "page" : "false");
  if (ready) enterView();
  return true;
}

function enterView() {
  showJobs(view === "jobs");
  if (view === "search") { loadFilters(); refresh(); }
}

function submitWords(event) {
  event.preventDefault();
  const words = $("#words").value.trim();
  $("#words").value = "";
  if (words) add("text", words, 1);
  else refresh();
}

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (event.key === "Escape") return typing ? leave(event.target) : clear();
  if (typing) return void (event.key === "ArrowDown" && event.target.id === "words" && focusFirst());
  if (event.key === "/") { event.preventDefault(); ($("#words").disabled ? $("#picture") : $("#words")).focus(); }
  if (event.key === "?") $("#keys-help").showModal();
}

// Escape goes one step back at a time: what is typed, the field, the search.
function leave(field) {
  if (field.id === "words" && field.value) field.value = "";
  else field.blur();
}

function clear() {
  if (state.view === "search" && (state.parts.length || state.exclude.length)) update({ parts: [], exclude: [] });
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast(state.parts.some((part) => part.kind === "upload") ? "Link copied. Pictures of your own are not part of it." : "Link copied.");
  } catch {
    toast("The address bar holds the link to this search.");
  }
}

function start() {
  onChange((_, changed) => render(changed));
  for (const begin of [startCollections, startRefine]) begin();
  listenForPictures(addPictures);
  startJobs(() => { forgetFilters(); loadCollections(() => {}); });
  startResults(act);
  listenForGridKeys(act);
  $("#composer").addEventListener("submit", submitWords);
  $("#share").addEventListener("click", share);
  $("#home").addEventListener("click", (event) => { event.preventDefault(); update({ view: "search", parts: [], exclude: [] }); });
  for (const tab of document.querySelectorAll("[data-view]")) tab.addEventListener("click", () => update({ view: tab.dataset.view }));
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", restore);
  addEventListener("online", () => ready && enterView());
  restore();
  expectResults();
  document.body.classList.remove("starting");
  loadCollections(() => { ready = true; enterView(); });
}

start();
