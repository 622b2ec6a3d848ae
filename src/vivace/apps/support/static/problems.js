// Errors of the API in the reader's words: what happened, and what to do next.

import { say, words } from "./language.js";
import { ApiError } from "./session.js";

const KNOWN = new Set([
  "busy", "conflict", "email_taken", "forbidden", "invalid", "not_found", "passwords_differ", "rate_limited", "reset_gone", "signed_out", "too_large", "unreachable",
  "wrong_credentials",
]);

/** The key of words for an error, and what goes into them. What is no error of the API is ours, and goes to the console too. */
export function describeProblem(error) {
  if (!(error instanceof ApiError)) console.error(error);
  const code = error instanceof ApiError && KNOWN.has(error.code) ? error.code : "internal";
  return [`error_${code}`, { detail: error.detail ?? "", seconds: Math.ceil(error.retryAfterS ?? 1) }];
}

/** Shows it in a node that is an alert. */
export function showProblem(node, error) {
  say(node, ...describeProblem(error));
  node.hidden = false;
}

export const spokenProblem = (error) => words(...describeProblem(error));
