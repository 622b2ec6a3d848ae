// The list of conversations: choose, rename, delete. On a narrow screen it is a drawer over the page.

import { byId, drawIcon, make } from "./dom.js";
import { say } from "./language.js";

const NAME_CHARACTERS = 80;

/** `hands` has `open(id)`, `rename(id, title)` and `remove(id)`. Gives `{ show, close }`. */
export function setUpSidebar(hands) {
  const [list, sidebar, menu, shade] = ["conversations", "sidebar", "menu", "shade"].map(byId);
  const page = byId("page");

  function toggle(open) {
    const wasOpen = sidebar.classList.contains("open");
    sidebar.classList.toggle("open", open);
    shade.hidden = !open;
    menu.setAttribute("aria-expanded", String(open));
    page.inert = open;
    if (open) (list.querySelector("[aria-current] .name, .name") ?? byId("new")).focus();
    else if (wasOpen) menu.focus();
  }

  menu.addEventListener("click", () => toggle(true));
  shade.addEventListener("click", () => toggle(false));
  sidebar.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !sidebar.classList.contains("open")) return;
    event.stopPropagation();
    toggle(false);
  });
  matchMedia("(min-width: 900px)").addEventListener("change", () => toggle(false));

  function show(conversations, currentId, running) {
    if (list.querySelector("input")) return; // a name is being written; it is drawn when that is done
    const focused = document.activeElement?.closest?.("#conversations li")?.dataset.id;
    list.replaceChildren(...conversations.map((one) => drawEntry(one, one.id === currentId, running.has(one.id))));
    if (focused) [...list.children].find((entry) => entry.dataset.id === focused)?.querySelector(".name").focus();
  }

  function drawEntry({ id, title }, isCurrent, isRunning) {
    const name = make("button", { type: "button", class: "name", onclick: () => open(id) }, make("span", {}, title));
    name.title = title;
    if (isRunning) {
      const state = make("span", { class: "quiet" });
      say(state, "answering");
      name.append(state);
    }
    const entry = make("li", { "data-id": id, "aria-current": isCurrent && "true" }, name,
      iconButton("rename", () => edit(entry, id, title)), iconButton("delete", () => hands.remove(id)));
    return entry;
  }

  function open(id) {
    toggle(false);
    hands.open(id);
  }

  function edit(entry, id, title) {
    const box = make("input", { type: "text", maxlength: String(NAME_CHARACTERS) });
    say(box, "renameLabel", {}, "label");
    box.value = title;
    let settled = false;
    const settle = (changed) => {
      if (settled) return;
      settled = true;
      box.remove();
      hands.rename(id, changed);
    };
    box.addEventListener("blur", () => settle(box.value));
    box.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.stopPropagation();
      event.preventDefault();
      settle(event.key === "Enter" ? box.value : title);
    });
    entry.replaceChildren(box);
    box.select();
  }

  return { show, close: () => toggle(false) };
}

function iconButton(key, onclick) {
  const node = make("button", { type: "button", class: "tool", onclick }, drawIcon(key));
  say(node, key, {}, "label");
  say(node, key, {}, "title");
  return node;
}
