// Follows an event stream for as long as it is wanted: resumed after the last event seen, over lost connections and renewed sessions.
// Knows neither what the events are about nor who looks at them.

import { readEvents } from "./events.js";

const SILENCE_MS = 45_000; // the API says something every 15 s
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8000;
const FINAL = new Set(["not_found", "forbidden", "signed_out"]);

/**
 * Calls `event(kind, data, id)` for every event of `path` after number `after`, none twice; `link(live)` when the stream stands or
 * falls, and `lost(error)` when it is over for good. Returns a function that ends it.
 */
export function follow(session, path, { after = null, event, link, lost }) {
  const ending = new AbortController();
  let last = after;

  async function run() {
    let failures = 0;
    while (!ending.signal.aborted) {
      try {
        await readOnce(() => { failures = 0; });
      } catch (error) {
        if (ending.signal.aborted) return;
        if (FINAL.has(error.code)) {
          lost(error);
          return;
        }
        if (failures > 0) link(false); // one break that is mended at once is nobody's affair
        failures += 1;
      }
      await pause(failures, ending.signal);
    }
  }

  async function readOnce(opened) {
    const silence = new AbortController();
    const signal = AbortSignal.any([ending.signal, silence.signal]);
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    const heard = new TransformStream({
      transform(bytes, control) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        control.enqueue(bytes);
      },
    });
    try {
      const response = await session.open(path, { headers: last === null ? {} : { "last-event-id": String(last) }, signal });
      opened();
      link(true);
      for await (const { kind, id, data } of readEvents(response.body.pipeThrough(heard))) take(kind, id, JSON.parse(data));
    } finally {
      clearTimeout(timer);
    }
  }

  function take(kind, id, data) {
    if (ending.signal.aborted) return;
    const number = id === null ? null : Number(id);
    if (number !== null && last !== null && number <= last) return;
    event(kind, data, number);
    if (number !== null) last = number;
  }

  run();
  return () => ending.abort();
}

/** Until it is time to try again, or the network is back. */
function pause(failures, signal) {
  const ms = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures) * (0.5 + Math.random() / 2);
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}
