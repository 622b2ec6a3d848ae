// Reads an answer out to a screen reader sentence by sentence. The prose itself is no live region: it is redrawn as it grows.

const SENTENCE_END = /[.!?:](?=\s)|[。！？：\n]/g;
const MAX_KEPT = 8;

/** `hear(text)` takes the text so far, `end(text)` the whole, `tell(words)` something else to say. */
export function announceIn(place) {
  let said = 0;

  function tell(words) {
    if (!words.trim()) return;
    const line = document.createElement("p");
    line.textContent = words;
    place.append(line);
    while (place.children.length > MAX_KEPT) place.firstElementChild.remove();
  }

  function sayUpTo(text, end) {
    tell(text.slice(said, end));
    said = end;
  }

  function hear(text) {
    const end = [...text.slice(said).matchAll(SENTENCE_END)].at(-1);
    if (end) sayUpTo(text, said + end.index + 1);
  }

  return {
    begin: () => { said = 0; },
    hear,
    end: (text) => sayUpTo(text, text.length),
    tell,
  };
}
