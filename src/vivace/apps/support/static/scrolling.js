// Keeps a reader at the end of what grows, unless they have gone up in it.

const END_PX = 24;

/** `box` scrolls; `latest` is the button to its end. Gives `{ follow, toEnd, watch }`. */
export function keepAtEnd(box, latest) {
  const distance = () => box.scrollHeight - box.scrollTop - box.clientHeight;
  const watch = () => { latest.hidden = distance() < 8 * END_PX; };

  function toEnd() {
    box.scrollTop = box.scrollHeight;
    watch();
  }

  /** Changes the page, and stays at its end if the reader was there. */
  function follow(change) {
    const atEnd = distance() < END_PX;
    change();
    if (atEnd) toEnd();
    else watch();
  }

  latest.addEventListener("click", toEnd);
  return { follow, toEnd, watch };
}
