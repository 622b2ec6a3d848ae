// How a page looks and in which language it speaks: the buttons `#theme` and `#language`, and what the browser keeps of them.

import { byId } from "./dom.js";
import { WORDS, language, say, setLanguage } from "./language.js";
import { browserStorage, tryTo } from "./storage.js";

const THEME = "vivace.theme"; // theme.js reads it too
const LANGUAGE = "vivace.language";

/** The switch turns to the other scheme. Where that is the system's own, the page follows the system again. */
export function setUpTheme(kept = browserStorage()) {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const name = () => say(byId("theme"), isDark() ? "light" : "dark");

  byId("theme").addEventListener("click", () => {
    const dark = !isDark();
    if (dark === prefersDark.matches) delete root.dataset.theme;
    else root.dataset.theme = dark ? "dark" : "light";
    tryTo(() => (root.dataset.theme ? kept.setItem(THEME, root.dataset.theme) : kept.removeItem(THEME)));
    name();
  });
  prefersDark.addEventListener("change", name);
  name();
}

/** `translated` is called when the reader has switched. */
export function setUpLanguage(translated, kept = browserStorage()) {
  const chosen = kept.getItem(LANGUAGE);
  setLanguage(Object.hasOwn(WORDS, chosen) ? chosen : navigator.language.startsWith("zh") ? "zh" : "en");
  byId("language").addEventListener("click", () => {
    setLanguage(language() === "zh" ? "en" : "zh");
    tryTo(() => kept.setItem(LANGUAGE, language()));
    translated();
  });
}
