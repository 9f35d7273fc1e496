// A picture's name in one line: a long one loses its middle, for names of photos differ in their last characters.

import { $, el } from "./dom.js";
import { shortName } from "./format.js";

const END = 9; // characters: "_0123.jpg"
const pen = document.createElement("canvas").getContext("2d");

export const nameLine = (id) => el("p", { class: "name", title: id }, shortName(id));

// Cuts the names in the grid to the width of its columns, as wide as they are now.
export function fitNames() {
  const lines = document.querySelectorAll("#grid .name");
  const room = parseFloat(getComputedStyle($("#grid")).gridTemplateColumns); // NaN while it is hidden
  if (!lines.length || !room) return;
  pen.font = getComputedStyle(lines[0]).font;
  for (const line of lines) line.textContent = fitting([...shortName(line.title)], room);
}

function fitting(name, room) {
  const cut = (begin) => `${name.slice(0, begin).join("")}…${name.slice(-END).join("")}`;
  const whole = name.join("");
  if (widthOf(whole) <= room) return whole;
  let begin = Math.max(0, Math.floor((name.length * room) / widthOf(whole)) - END);
  while (widthOf(cut(begin + 1)) <= room) begin += 1;
  while (begin > 0 && widthOf(cut(begin)) > room) begin -= 1;
  return cut(begin);
}

const widthOf = (text) => pen.measureText(text).width;
