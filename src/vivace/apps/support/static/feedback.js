// What customers thought of answers, and the export of it as training data.

import { make } from "./dom.js";
import { download } from "./download.js";
import { choice } from "./forms.js";
import { button } from "./hands.js";
import { say, wordsOf } from "./language.js";
import { address, drawHead, drawTable, pageThrough, text } from "./lists.js";
import { showProblem } from "./problems.js";
import { age } from "./times.js";

export async function drawFeedback(place, { session }) {
  const rating = choice("rating", [["", "thumbs_all"], ["up", "thumb_up"], ["down", "thumb_down"]], "");
  say(rating, "rating", {}, "label");
  const table = drawTable([
    ["question", ({ question, answer }) => [make("div", {}, question ?? ""), make("div", { class: "quiet clip" }, answer)], "main"],
    ["rating", ({ rating: given }) => wordsOf("thumb", given), "narrow"],
    ["reason", ({ reason, text: more }) => [reason && make("div", {}, wordsOf("reason", reason)), more && make("div", { class: "quiet" }, more)].filter(Boolean)],
    ["when", ({ created_at: at }) => age(at), "narrow"],
    ["", ({ conversation_id: id }) => openAtDesk(id), "narrow"],
  ]);
  const list = pageThrough(async (before) => {
    const { feedback, next } = await session.request("GET", address("/api/admin/feedback", { rating: rating.value, before }));
    return { rows: feedback, next };
  }, table, "noFeedback");
  rating.addEventListener("change", list.start);
  const problem = make("p", { role: "alert", hidden: true });
  const exporting = (kind) => button(`export_${kind}`, async () => {
    try {
      const response = await session.open(`/api/admin/feedback/export?kind=${kind}`);
      download(`${kind}.jsonl`, await response.text(), "application/x-ndjson");
    } catch (error) {
      showProblem(problem, error);
    }
  }, "");
  await list.start();
  place.append(drawHead("section_feedback", [rating, exporting("conversations"), exporting("intents")]), text("exportHint"), problem, ...list.nodes);
}

function openAtDesk(id) {
  const link = make("a", { href: `/agent${location.search}#${encodeURIComponent(id)}` });
  say(link, "openConversation");
  return link;
}
