// Moving among the cards by keyboard: one card is in the tab order, arrows move it, letters act on it.

import { $ } from "./dom.js";

const cards = () => [...document.querySelectorAll("#grid article")];

export function listenForGridKeys(act) {
  const grid = $("#grid");
  grid.addEventListener("keydown", (event) => {
    const card = event.target.closest("article");
    if (!card || event.target !== card || event.ctrlKey || event.metaKey || event.altKey) return;
    const moved = moves[event.key]?.(cards(), card);
    const action = { Enter: act.more, "-": act.less, x: act.exclude, o: act.open, " ": act.details }[event.key];
    if (moved) moveTo(moved);
    else if (action) action(card.dataset.id);
    if (moved || action) event.preventDefault();
  });
  grid.addEventListener("focusin", (event) => { const card = event.target.closest("article"); if (card) makeTabStop(card); });
}

// The first card can be reached by Tab after every change of the grid.
export function resetTabStop() {
  const all = cards();
  if (all.length && !all.some((card) => card.tabIndex === 0)) all[0].tabIndex = 0;
}

export function focusFirst() {
  const first = cards()[0];
  if (first) moveTo(first);
}

const columns = () => getComputedStyle($("#grid")).gridTemplateColumns.split(" ").length;
const step = (by) => (all, card) => all[all.indexOf(card) + by()] ?? null;

const moves = {
  ArrowRight: step(() => 1),
  ArrowLeft: (all, card) => all[Math.max(0, all.indexOf(card) - 1)],
  ArrowDown: step(columns),
  ArrowUp: (all, card) => (all.indexOf(card) >= columns() ? all[all.indexOf(card) - columns()] : null),
  Home: (all) => all[0],
  End: (all) => all.at(-1),
};

function moveTo(card) {
  makeTabStop(card);
  card.focus();
  card.scrollIntoView({ block: "nearest" });
}

function makeTabStop(card) {
  for (const other of document.querySelectorAll('#grid article[tabindex="0"]')) other.tabIndex = -1;
  card.tabIndex = 0;
}
