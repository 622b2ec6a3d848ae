// Who did what, without a word of any message.

import { make } from "./dom.js";
import { words } from "./language.js";
import { address, drawHead, drawTable, pageThrough, text } from "./lists.js";
import { showMoment } from "./times.js";

export async function drawAudit(place, { session }) {
  const table = drawTable([
    ["when", ({ at }) => moment(at), "narrow main"],
    ["did", ({ action }) => make("code", {}, action), "narrow"],
    ["actor", ({ actor }) => (actor === null ? words("application") : drawId(actor))],
    ["subject", ({ subject }) => (subject === null ? "" : drawId(subject))],
    ["detail", ({ detail }) => (Object.keys(detail).length === 0 ? "" : make("span", { class: "quiet" }, Object.entries(detail).map(([name, value]) => `${name} ${spell(value)}`).join(" · ")))],
  ]);
  const list = pageThrough(async (before) => {
    const { entries, next } = await session.request("GET", address("/api/admin/audit", { before }));
    return { rows: entries, next };
  }, table, "noAudit");
  await list.start();
  place.append(drawHead("section_audit"), text("auditHint"), ...list.nodes);
}

/** The beginning of a long id; the whole is its title. */
function drawId(id) {
  return /^[0-9a-f]{16,}$/.test(id) ? make("code", { title: id }, `${id.slice(0, 8)}…`) : make("code", {}, id);
}

const spell = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : String(value));

function moment(at) {
  const node = make("time");
  showMoment(node, at);
  return node;
}
