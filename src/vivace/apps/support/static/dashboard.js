// How the shop does: speed, how often nobody had to step in, what customers thought, and what went unanswered.

import { make } from "./dom.js";
import { choice } from "./forms.js";
import { say, words, wordsOf } from "./language.js";
import { drawGroup, drawHead, drawTable, text } from "./lists.js";
import { drawDays, drawShares, drawSpans, spell } from "./plots.js";
import { showProblem } from "./problems.js";
import { age } from "./times.js";

const DAYS = [["1", "days_1"], ["7", "days_7"], ["30", "days_30"], ["90", "days_90"]];

export async function drawDashboard(place, { session }) {
  const days = choice("days", DAYS, "7");
  say(days, "period", {}, "label");
  const body = make("div");
  const problem = make("p", { role: "alert", hidden: true });

  async function load() {
    const figures = await session.request("GET", `/api/admin/dashboard?days=${days.value}`);
    body.replaceChildren(...draw(figures));
  }

  days.addEventListener("change", () => {
    problem.hidden = true;
    load().catch((error) => showProblem(problem, error));
  });
  await load();
  place.append(drawHead("section_dashboard", [days]), problem, body);
}

function draw(figures) {
  if (figures.conversations === 0 && figures.answers === 0) return [drawFigures(figures), text("noFigures")];
  return [drawFigures(figures), drawTimes(figures), drawByDay(figures), drawWhys(figures), drawUnanswered(figures)].filter(Boolean);
}

function drawFigures({ conversations, answers, deflection, handover_rate: handover, thumbs, answer_ms: answer, waiting }) {
  const rated = thumbs.up + thumbs.down;
  const figures = [
    ["answerMedian", answer.p50 === null ? null : spell(answer.p50).split("\u2009")],
    ["deflection", share(deflection)],
    ["handoverRate", share(handover)],
    ["thumbsUp", share(rated > 0 ? thumbs.up / rated : null)],
    ["talks", [String(conversations)]],
    ["answers", [String(answers)]],
    ["waitingNow", [String(waiting)]],
  ];
  return make("dl", { class: "big-figures" }, ...figures.map(([key, figure]) => {
    const term = make("dt");
    say(term, key);
    const value = make("dd", {}, figure?.[0] ?? "–");
    if (figure?.[1]) value.append(make("span", { class: "unit" }, `\u2009${figure[1]}`));
    return make("div", {}, term, value);
  }));
}

const share = (value) => (value === null ? null : [(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0), "%"]);

function drawTimes({ first_token_ms: first, answer_ms: whole, queue_wait_ms: wait, stages_ms: stages }) {
  const rows = [[words("firstWord"), first], [words("wholeAnswer"), whole], ...Object.entries(stages).filter(([stage]) => stage !== "total").map(([stage, figures]) => [wordsOf("stage", stage), figures]), [words("queueWait"), wait]];
  const plot = drawSpans(rows);
  return plot && drawGroup("responseTimes", text("spansKey", { n: whole.n }), plot);
}

function drawByDay({ by_day: days }) {
  if (days.length === 0) return null;
  const series = [["talks", "conversations"], ["answers", "answers"], ["handovers", "handovers"]].map(([key, name]) => [words(key), days.map((day) => day[name])]);
  return drawGroup("byDay", drawDays(days.map(({ day }) => day), series));
}

function drawWhys({ handovers, thumbs, sources, intents, languages }) {
  const groups = [
    ["handoversWhy", handovers, "why"],
    ["thumbsWhy", thumbs.reasons, "reason"],
    ["sourcesOf", sources, "source"],
    ["intentsOf", intents, "intent"],
    ["languagesOf", languages, "language"],
  ].filter(([, counts]) => Object.values(counts).some((count) => count > 0));
  return groups.length === 0 ? null : make("div", { class: "columns" }, ...groups.map(([key, counts, kind]) =>
    drawGroup(key, drawShares(Object.entries(counts).map(([name, count]) => [wordsOf(kind, name), count])))));
}

function drawUnanswered({ unanswered }) {
  if (unanswered.length === 0) return drawGroup("unanswered", text("noneUnanswered"));
  const table = drawTable([
    ["question", ({ question }) => question, "main"],
    ["times", ({ count }) => String(count), "number narrow"],
    ["lastTime", ({ last_at: at }) => age(at), "narrow"],
    ["", ({ question }) => writeArticle(question), "narrow"],
  ]);
  table.add(unanswered);
  return drawGroup("unanswered", table.element);
}

function writeArticle(question) {
  const link = make("a", { href: `#articles/new/${encodeURIComponent(question.slice(0, 200))}` });
  say(link, "answerIt");
  return link;
}
