// Server-sent events read with fetch, because EventSource cannot send an API key.

import { send } from "./api.js";

// Calls `onEvent(name, data)` for each event until the stream ends or the signal aborts.
export async function readEvents(path, signal, onEvent) {
  const response = await send(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).replaceAll("\r\n", "\n").split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) deliver(block, onEvent);
  }
}

function deliver(block, onEvent) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (data.length || name === "end") onEvent(name, data.join("\n"));
}
