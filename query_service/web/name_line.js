// The line with a picture's name: a long one loses its middle, for names of photos differ in their last characters.

import { $, el } from "./dom.js";
import { beginAndEnd, shortName } from "./format.js";

const pen = document.createElement("canvas").getContext("2d");
let room = 0; // pixels of a line, the same on all cards

export const nameLine = (id) => el("p", { class: "name", title: id }, shortName(id));

// Whenever the columns of the grid get another width.
export function fitNamesToColumns() {
  new ResizeObserver(() => { room = 0; fitNames($("#grid").querySelectorAll(".name")); }).observe($("#grid"));
}

// Cuts the names of these lines, which stand in the grid, to what has room.
export function fitNames(lines) {
  if (!lines.length) return;
  room ||= parseFloat(getComputedStyle($("#grid")).gridTemplateColumns) || 0;
  if (!room) return; // the grid is not shown: its width changes when it is
  pen.font = getComputedStyle(lines[0]).font;
  for (const line of lines) line.textContent = fitting(shortName(line.title));
}

function fitting(name) {
  if (widthOf(name) <= room) return name;
  const [begin, end] = beginAndEnd(name);
  let [fits, tooMany] = [0, begin.length];
  while (tooMany - fits > 1) {
    const middle = Math.floor((fits + tooMany) / 2);
    if (widthOf(`${begin.slice(0, middle).join("")}…${end}`) <= room) fits = middle;
    else tooMany = middle;
  }
  return `${begin.slice(0, fits).join("").trimEnd()}…${end}`;
}

const widthOf = (text) => pen.measureText(text).width;
