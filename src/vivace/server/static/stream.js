// Asks the server, and reads its answer as it comes. Knows the API; knows no page, no storage, no language.

import { readEvents } from "./events.js";

/**
 * Why there is no answer, or only part of one.
 *
 * `kind` is `unreachable`, `unauthorised`, `busy`, `too_long`, `refused`, `failed` or `broken`; `detail` is what the
 * server said, if it said something; `retryAfterS` is how long it asks to wait, or null.
 */
export class ChatError extends Error {
  constructor(kind, detail = "", retryAfterS = null) {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
    this.retryAfterS = retryAfterS;
  }
}

/** The models the server has, as `{ id, contextLength }`. */
export async function listModels({ key, language }) {
  const response = await send("/v1/models", { headers: headersFor(key, language) });
  const { data } = await response.json().catch(() => ({}));
  const models = Array.isArray(data) ? data.filter((model) => typeof model?.id === "string") : [];
  if (models.length === 0) throw new ChatError("failed", "The server lists no model.");
  return models.map((model) => ({ id: model.id, contextLength: Number(model.context_length) || null }));
}

/**
 * The answer to one conversation: `{ text }` for each piece, `{ finishReason }` when it is over, `{ usage }` last.
 * Throws `ChatError`, or whatever `signal` was aborted with.
 */
export async function* streamChat(request, { key, language, signal }) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { ...headersFor(key, language), "content-type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finished = false;
  try {
    for await (const { data } of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ChatError("failed", String(event.error.message ?? ""));
      const choice = event.choices?.[0];
      if (typeof choice?.delta?.content === "string" && choice.delta.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        finished = true;
        yield { finishReason: choice.finish_reason };
      }
      if (event.usage) yield { usage: event.usage };
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (finished && !(error instanceof ChatError)) return; // only the times are missing
    throw error instanceof ChatError ? error : new ChatError("broken");
  }
  if (!finished) throw new ChatError("broken");
}

function headersFor(key, language) {
  const headers = { "accept-language": language };
  if (key) headers.authorization = `Bearer ${key}`;
  return headers;
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new ChatError("unreachable");
  }
  if (!response.ok) throw await readError(response);
  return response;
}

async function readError(response) {
  const body = await response.json().catch(() => null);
  const detail = String(body?.error?.message ?? "").slice(0, 2000);
  const code = body?.error?.code;
  const wait = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new ChatError(kindOf(response.status, code), detail, wait >= 0 ? wait : null);
}

function kindOf(status, code) {
  if (status === 401 || status === 403) return "unauthorised";
  if (status === 429) return "busy";
  if (code === "context_length_exceeded") return "too_long";
  return status >= 500 ? "failed" : "refused";
}
