// A button that copies a text, and says that it has.

import { make } from "./dom.js";
import { say } from "./language.js";

const CONFIRM_MS = 1600;

/** A button that copies what `read` gives. */
export function copyButton(read) {
  let timer = 0;
  const button = make("button", { type: "button", class: "plain copy", onclick: copy });
  say(button, "copy");

  async function copy() {
    say(button, (await copyText(read())) ? "copied" : "copyFailed");
    clearTimeout(timer);
    timer = setTimeout(() => say(button, "copy"), CONFIRM_MS);
  }

  return button;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // over plain HTTP from another machine there is no clipboard
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const box = make("textarea", { class: "unseen", "aria-hidden": "true" });
  box.value = text;
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  before?.focus?.({ preventScroll: true });
  return copied;
}
