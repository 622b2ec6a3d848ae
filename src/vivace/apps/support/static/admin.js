// The admin page: one section at a time, named in the address.

import { setUpLanguage, setUpTheme } from "./appearance.js";
import { drawArticle, drawArticles } from "./articles.js";
import { drawAudit } from "./audit.js";
import { drawDashboard } from "./dashboard.js";
import { byId, make } from "./dom.js";
import { drawFeedback } from "./feedback.js";
import { button } from "./hands.js";
import { drawIntent, drawIntents } from "./intents.js";
import { say, words } from "./language.js";
import { drawPeople } from "./people.js";
import { showProblem } from "./problems.js";
import { drawShopSettings } from "./shop_settings.js";
import { openDoor } from "./staff.js";
import { drawWebhooks } from "./webhooks.js";
import "./words.js";

/** By the first part of the address: what draws it, and what draws one of its things, if it has any. */
const SECTIONS = {
  dashboard: [drawDashboard],
  articles: [drawArticles, drawArticle],
  intents: [drawIntents, drawIntent],
  feedback: [drawFeedback],
  people: [drawPeople],
  settings: [drawShopSettings],
  webhooks: [drawWebhooks],
  audit: [drawAudit],
};

let redraw = () => {};
setUpTheme();
setUpLanguage(() => redraw());
openDoor(["admin"], openAdmin);

function openAdmin(session) {
  const place = byId("place");
  const links = new Map(Object.keys(SECTIONS).map((name) => {
    const link = make("a", { href: `#${name}` });
    say(link, `section_${name}`);
    return [name, link];
  }));
  const desk = make("a", { href: `/agent${location.search}` });
  say(desk, "agentDesk");
  document.querySelector("#sections .links").replaceChildren(...links.values(), desk);
  byId("who").textContent = session.account().name;

  /** What a section gets. It may set `mayLeave` to a function that tells whether nothing would be lost. */
  const page = { session, go: (address) => { location.hash = address; }, redraw: draw, mayLeave: () => true };
  let shown = location.hash;
  let drawing = 0;

  function findSection() {
    const [section, ...rest] = decodeAddress(location.hash);
    return Object.hasOwn(SECTIONS, section) ? [section, rest] : ["dashboard", []];
  }

  function name() {
    document.title = `${words(`section_${findSection()[0]}`)} · ${words("adminPage")}`;
  }

  async function draw() {
    const [section, rest] = findSection();
    const thing = rest.length > 0 && SECTIONS[section][1] ? rest.join("/") : null;
    for (const [each, link] of links) {
      if (each === section) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    links.get(section).scrollIntoView({ block: "nearest", inline: "nearest" });
    name();
    drawing += 1;
    const mine = drawing;
    page.mayLeave = () => true;
    const box = make("div", { class: "section" });
    try {
      await (thing === null ? SECTIONS[section][0](box, page) : SECTIONS[section][1](box, page, thing));
    } catch (error) {
      box.replaceChildren(drawFailure(error));
    }
    if (mine === drawing) place.replaceChildren(box);
  }

  function drawFailure(error) {
    const told = make("p", { role: "alert" });
    showProblem(told, error);
    return make("div", { class: "loading" }, told, make("div", { class: "row" }, button("tryAgain", () => draw(), "main")));
  }

  addEventListener("hashchange", () => {
    if (location.hash === shown) return;
    if (!page.mayLeave() && !confirm(words("leaveUnsaved"))) {
      location.hash = shown;
      return;
    }
    shown = location.hash;
    scrollTo(0, 0);
    draw().then(() => place.focus({ preventScroll: true }));
  });
  addEventListener("beforeunload", (event) => !page.mayLeave() && event.preventDefault());
  redraw = name;
  session.request("GET", "/api/admin/settings").then(({ name }) => { document.querySelector("#shop strong").textContent = name; }, () => {});
  draw();
}

function decodeAddress(hash) {
  const parts = hash.slice(1).split("/");
  try {
    return parts.map(decodeURIComponent);
  } catch {
    return [""];
  }
}
