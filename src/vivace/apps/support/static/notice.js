/** A line that says what went wrong or was done, and goes away by itself. */

import { make } from "./dom.js";
import { say } from "./language.js";

const NOTICE_MS = 20_000;

/** What tells a text by its key, in `node`; the next one replaces it. */
export function tellIn(node) {
  let timer = 0;
  return (key, filling = {}) => {
    const text = make("span");
    say(text, key, filling);
    node.replaceChildren(text);
    clearTimeout(timer);
    timer = setTimeout(() => node.replaceChildren(), NOTICE_MS);
  };
}
