// The sliders and the near-duplicate switch: what they show follows the state, what they change is asked live.

import { $, debounced, keepFocus } from "./dom.js";
import { hasFilters, state, update } from "./state.js";

const LIVE_MILLISECONDS = 120;

export function startRefine() {
  live("#min-score", "minScore");
  live("#diversity", "diversity");
  $("#near-duplicates").addEventListener("change", (event) => update({ nearDuplicates: event.target.checked }));
  $("#reset").addEventListener("click", () => keepFocus("#min-score", "#results", () => update({ minScore: 0, diversity: 0, nearDuplicates: false, filters: {}, exclude: [] })));
  $("#refine-toggle").addEventListener("click", toggle);
}

export function renderRefine() {
  $("#min-score").value = state.minScore;
  $("#diversity").value = state.diversity;
  $("#near-duplicates").checked = state.nearDuplicates;
  showValues();
  const used = (state.minScore > 0) + (state.diversity > 0) + state.nearDuplicates + Object.keys(state.filters).length;
  $("#refine-count").textContent = used ? `${used}` : "";
  $("#reset").hidden = !(used || hasFilters() || state.exclude.length);
}

// While the thumb is dragged the results follow, as one step for the back button: the first change makes it.
function live(selector, name) {
  const slider = $(selector);
  let dragging = false;
  const ask = debounced(LIVE_MILLISECONDS, () => {
    update({ [name]: Number(slider.value) }, { replace: dragging });
    dragging = true;
  });
  slider.addEventListener("input", () => { showValues(); ask(); });
  slider.addEventListener("change", () => setTimeout(() => { dragging = false; }, 2 * LIVE_MILLISECONDS));
}

function showValues() {
  const [lowest, variety] = [Number($("#min-score").value), Number($("#diversity").value)];
  $("#min-score-value").textContent = lowest > 0 ? lowest.toFixed(2) : "any";
  $("#diversity-value").textContent = variety > 0 ? variety.toFixed(2) : "off";
}

function toggle() {
  const open = $("#refine").classList.toggle("open");
  $("#refine-toggle").setAttribute("aria-expanded", open);
}
