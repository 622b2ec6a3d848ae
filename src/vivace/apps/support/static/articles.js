// The knowledge base: its articles, files put into it, a search as customers' questions do it, and one article with its versions.

import { make } from "./dom.js";
import { choice, labelled, makeForm } from "./forms.js";
import { button } from "./hands.js";
import { say, wordsOf } from "./language.js";
import { address, drawGroup, drawHead, drawTable, pageThrough, text, whenTyped } from "./lists.js";
import { drawPassage } from "./messages.js";
import { showPreview } from "./preview.js";
import { describeProblem, showProblem } from "./problems.js";
import { age } from "./times.js";

const FORMATS = ["markdown", "html", "csv", "text"];
const ENDINGS = ".md,.markdown,.html,.htm,.csv,.txt";
const MAX_CHARACTERS = 1_000_000;

export async function drawArticles(place, page) {
  const { session } = page;
  const filter = make("input", { type: "search", maxlength: "200" });
  const table = drawTable([
    ["articleTitle", ({ id, title }) => make("a", { href: `#articles/${encodeURIComponent(id)}` }, title), "main"],
    ["format", ({ format }) => wordsOf("format", format), "narrow"],
    ["passages", ({ passages }) => String(passages), "number narrow"],
    ["version", ({ version }) => String(version), "number narrow"],
    ["changedAt", ({ updated_at: at }) => age(at), "narrow"],
  ]);
  const list = pageThrough(async (before) => {
    const { articles, next } = await session.request("GET", address("/api/admin/articles", { q: filter.value.trim(), before }));
    return { rows: articles, next };
  }, table, "noArticles");
  whenTyped(filter, list.start);

  const told = make("div", { role: "status" });
  const files = make("input", { type: "file", accept: ENDINGS, multiple: true, class: "unseen", tabindex: "-1", "aria-hidden": "true" });
  const upload = async (chosen) => {
    told.replaceChildren();
    for (const file of chosen) told.append(await putFile(session, file));
    files.value = "";
    list.start();
  };
  files.addEventListener("change", () => upload([...files.files]));
  const fresh = make("a", { href: "#articles/new", class: "button main" });
  say(fresh, "newArticle");
  const drop = make("div", { class: "drop" }, make("div", { class: "narrow-form" }, labelled("filterTitles", filter)), told, ...list.nodes);
  takeDrops(drop, upload);
  await list.start();
  place.append(drawHead("section_articles", [button("uploadFiles", () => files.click(), ""), files, fresh]), drawTry(session),
    drawGroup("allArticles", text("dropHint"), drop));
}

function takeDrops(place, upload) {
  const over = (on) => (event) => {
    event.preventDefault();
    place.classList.toggle("over", on);
  };
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", (event) => {
    over(false)(event);
    upload([...event.dataTransfer.files]);
  });
}

/** A line that says what became of a file. */
async function putFile(session, file) {
  try {
    const response = await session.open(`/api/admin/articles/file?${new URLSearchParams({ name: file.name })}`, {
      method: "POST", headers: { "content-type": "application/octet-stream" }, body: file,
    });
    const article = await response.json();
    const line = make("p", {}, make("a", { href: `#articles/${encodeURIComponent(article.id)}` }, article.title), " ");
    const words = make("span", { class: "quiet" });
    say(words, "fileTaken", { passages: article.passages });
    line.append(words);
    return line;
  } catch (error) {
    const reason = make("span");
    say(reason, ...describeProblem(error));
    return make("p", { role: "alert" }, make("strong", {}, file.name), " ", reason);
  }
}

function drawTry(session) {
  const query = make("input", { type: "search", name: "q", maxlength: "300" });
  const found = make("div");
  const form = makeForm("search", [labelled("trySearch", query)], async () => {
    if (!query.value.trim()) return;
    const { hits } = await session.request("GET", address("/api/admin/search", { q: query.value.trim() }));
    found.replaceChildren(...(hits.length > 0 ? hits.map(drawHit) : [text("nothingFound")]));
  });
  form.classList.add("narrow-form");
  return make("section", {}, form, found);
}

function drawHit(hit) {
  const edit = make("a", { href: `#articles/${encodeURIComponent(hit.article_id)}` });
  say(edit, "edit");
  return make("details", { class: "hit" },
    make("summary", {}, hit.title, " ", make("span", { class: "quiet number" }, hit.score.toFixed(3))),
    make("div", { class: "passage" }, ...drawPassage(hit), edit));
}

/** `new`, `new/TITLE`, or the id of one that there is. */
export async function drawArticle(place, page, id) {
  const isNew = id === "new" || id.startsWith("new/");
  const article = isNew
    ? { title: id.slice(4), format: "markdown", text: "", version: 0 }
    : await page.session.request("GET", `/api/admin/articles/${encodeURIComponent(id)}`);
  drawEditor(place, page, article, isNew);
}

function drawEditor(place, page, article, isNew) {
  const path = `/api/admin/articles/${encodeURIComponent(article.id)}`;
  const title = make("input", { name: "title", required: true, maxlength: "200" });
  const format = choice("format", FORMATS.map((each) => [each, `format_${each}`]), article.format);
  const source = make("textarea", { name: "text", required: true, maxlength: String(MAX_CHARACTERS), class: "source-text", spellcheck: "true" });
  const preview = make("div", { class: "prose preview", tabindex: "0" });
  title.value = article.title;
  source.value = article.text;
  let saved = snapshot();
  page.mayLeave = () => snapshot() === saved;

  function snapshot() {
    return JSON.stringify([title.value, format.value, source.value]);
  }

  const show = () => showPreview(preview, format.value, source.value);
  whenTyped(source, show);
  format.addEventListener("change", show);
  show();

  const form = makeForm("save", [make("div", { class: "pair" }, labelled("articleTitle", title), labelled("format", format)), labelled("articleText", source)], async (values) => {
    const body = { title: values.title.trim(), format: values.format, text: values.text };
    if (isNew) {
      const made = await page.session.request("POST", "/api/admin/articles", body);
      saved = snapshot();
      page.go(`articles/${encodeURIComponent(made.id)}`);
      return null;
    }
    article = await page.session.request("PUT", path, { ...body, version: article.version });
    saved = snapshot();
    versions?.start();
    return "saved";
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "s" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });

  const versions = isNew ? null : drawVersions(page, path, () => article);
  const remove = button("deleteArticle", async () => {
    if (!confirm(remove.textContent)) return;
    try {
      await page.session.request("DELETE", path);
      saved = snapshot();
      page.go("articles");
    } catch (error) {
      showProblem(problem, error);
    }
  });
  const problem = make("p", { role: "alert", hidden: true });
  const back = make("a", { href: "#articles" });
  say(back, "section_articles");
  place.append(drawHead("newArticle", isNew ? [back] : [back, remove], isNew ? null : article.title), problem,
    make("div", { class: "columns" }, form, drawGroup("preview", preview)), ...(versions ? [versions.element] : []));
  versions?.start();
}

/** Every version there was; one can be looked at, and brought back. */
function drawVersions(page, path, current) {
  const view = make("div");
  const table = drawTable([
    ["version", ({ version }) => String(version), "number narrow"],
    ["articleTitle", ({ title, deleted }) => (deleted ? text("deletedVersion") : title), "main"],
    ["changedAt", ({ updated_at: at }) => age(at), "narrow"],
    ["", (row) => (row.deleted ? null : button("view", () => look(row.version))), "narrow"],
  ]);
  const list = pageThrough(async () => ({ rows: (await page.session.request("GET", `${path}/versions`)).versions, next: null }), table, "noVersions");

  async function look(version) {
    try {
      const old = await page.session.request("GET", `${path}/versions/${version}`);
      const preview = make("div", { class: "prose preview" });
      showPreview(preview, old.format, old.text);
      const back = button("bringBack", async () => {
        try {
          await page.session.request("POST", `${path}/restore`, { version });
          page.mayLeave = () => true;
          page.redraw();
        } catch (error) {
          view.replaceChildren(alertOf(error));
        }
      }, "");
      const title = make("h3");
      say(title, "versionOf", { version, title: old.title });
      view.replaceChildren(title, ...(version === current().version ? [] : [make("div", { class: "row" }, back)]), preview);
      view.scrollIntoView({ block: "nearest" });
    } catch (error) {
      view.replaceChildren(alertOf(error));
    }
  }

  return { element: drawGroup("versions", ...list.nodes, view), start: list.start };
}

function alertOf(error) {
  const told = make("p", { role: "alert" });
  showProblem(told, error);
  return told;
}
