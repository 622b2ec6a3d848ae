// What the reader has set: theme, language, and how the model is asked. The key to the server is forgotten with the tab.

import { byId } from "./dom.js";
import { browserStorage } from "./store.js";
import { WORDS, language, say, setLanguage } from "./words.js";

const KEYS = { settings: "vivace.settings", theme: "vivace.theme", language: "vivace.language", key: "vivace.key" };
const MAX_SYSTEM_CHARACTERS = 20_000;

/** Gives `{ read, openAt }`. `read()` is `{ system, temperature, maxTokens, key }`, the last three null where not set. */
export function setUpSettings(translated) {
  const [kept, forgotten] = [browserStorage("localStorage"), browserStorage("sessionStorage")];
  const dialog = byId("settings");
  const fields = Object.fromEntries(["system", "temperature", "maxTokens", "key"].map((name) => [name, byId(`set-${name}`)]));

  fill(fields, parse(kept.getItem(KEYS.settings)));
  fields.key.value = forgotten.getItem(KEYS.key) ?? "";
  setUpTheme(kept);
  setUpLanguage(kept, translated);

  function read() {
    return {
      system: fields.system.value.trim().slice(0, MAX_SYSTEM_CHARACTERS),
      temperature: numberIn(fields.temperature),
      maxTokens: numberIn(fields.maxTokens),
      key: fields.key.value.trim() || null,
    };
  }

  function keep() {
    const { key, ...settings } = read();
    tryTo(() => kept.setItem(KEYS.settings, JSON.stringify(settings)));
    tryTo(() => (key ? forgotten.setItem(KEYS.key, key) : forgotten.removeItem(KEYS.key)));
  }

  function openAt(name = "system") {
    dialog.showModal();
    fields[name].focus();
  }

  dialog.addEventListener("change", keep);
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep();
    dialog.close();
  });
  byId("open-settings").addEventListener("click", () => openAt());
  return { read, openAt };
}

function fill(fields, { system, temperature, maxTokens }) {
  if (typeof system === "string") fields.system.value = system;
  if (Number.isFinite(temperature)) fields.temperature.value = String(temperature);
  if (Number.isFinite(maxTokens)) fields.maxTokens.value = String(maxTokens);
}

function parse(entry) {
  try {
    return JSON.parse(entry) ?? {};
  } catch {
    return {};
  }
}

function numberIn(field) {
  return field.value !== "" && field.checkValidity() ? field.valueAsNumber : null;
}

function tryTo(write) {
  try {
    write();
  } catch {
    // A full storage costs only that the setting is not remembered.
  }
}

/** The switch turns to the other scheme. Where that is the system's own, the page follows the system again. */
function setUpTheme(kept) {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const name = () => say(byId("theme"), isDark() ? "light" : "dark");

  byId("theme").addEventListener("click", () => {
    const dark = !isDark();
    if (dark === prefersDark.matches) delete root.dataset.theme;
    else root.dataset.theme = dark ? "dark" : "light";
    tryTo(() => (root.dataset.theme ? kept.setItem(KEYS.theme, root.dataset.theme) : kept.removeItem(KEYS.theme)));
    name();
  });
  prefersDark.addEventListener("change", name);
  name();
}

function setUpLanguage(kept, translated) {
  const chosen = kept.getItem(KEYS.language);
  setLanguage(Object.hasOwn(WORDS, chosen) ? chosen : navigator.language.startsWith("zh") ? "zh" : "en");
  byId("language").addEventListener("click", () => {
    setLanguage(language() === "zh" ? "en" : "zh");
    tryTo(() => kept.setItem(KEYS.language, language()));
    translated();
  });
}
