// What pages are worked with: buttons, and boxes to write messages in.

import { make } from "./dom.js";
import { say } from "./language.js";

/** A button that shows the words for `key`. */
export function button(key, onclick, kind = "plain") {
  const node = make("button", { type: "button", class: kind, onclick });
  say(node, key);
  return node;
}

/** Enter sends, Shift+Enter breaks the line, Escape leaves; and the box grows with what is in it. */
export function onKeys(box, { send, leave }) {
  box.addEventListener("input", () => fitHeight(box));
  box.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // an input method's own Enter and Escape
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && leave) {
      event.stopPropagation();
      leave();
    }
  });
}

/** For browsers that cannot size a box by its content themselves. */
export function fitHeight(box) {
  if (CSS.supports("field-sizing", "content")) return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}
