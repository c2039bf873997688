// The model: its verdict check by check, the retraining, the registry.

import { chip, el, empty, table } from "./dom.js";
import { clause, compact, count, duration, moment, shortId, words } from "./format.js";

const STATES = { champion: "good", refused: "bad", failed: "bad", shadow: "warn", candidate: "warn" };
const RELATIONS = { ">=": "≥", "<=": "≤" };

/** One verdict: its outcome, the reasons in plain words, and every check. */
export function verdict({ verdict: shown, model, isChampion }) {
  if (!shown && !model) {
    return [
      empty("No candidate has been judged yet. The first verdict follows the first retraining."),
      empty("A candidate is trained on windows of the past and judged on the bars after each of them, which no "
        + "part of it has seen. It leads only if every hard check holds; missing evidence is a refusal."),
    ];
  }
  if (!shown) return empty(`No verdict is stored for ${model.model_id}.`);
  const outcome = isChampion ? chip("Leads", "good") : shown.passed ? chip("Passed", "good") : chip("Refused", "bad");
  const failed = shown.checks.filter((check) => !check.passed).length;
  return [
    el("p", { class: "verdict-line" }, outcome, " ", el("b", { title: shown.model_id }, shortId(shown.model_id)),
      el("span", { class: "hint" }, ` judged ${moment(shown.at)} UTC · `
        + `${count(shown.checks.length - failed)} of ${count(shown.checks.length)} checks passed`)),
    reasons(shown),
    shown.checks.length === 0 ? empty("The verdict holds no checks.") : checks(shown.checks),
  ];
}

export function retraining({ retraining: run, now }) {
  const running = run.state === "running";
  const lines = [["State", running ? words(run.stage ?? "starting") : words(run.state)]];
  if (running) {
    if (run.trigger) lines.push(["Trigger", words(run.trigger)]);
    if (run.started_at !== null) lines.push(["Running for", duration((now - run.started_at) / 1000)]);
  }
  if (run.next_run_at !== null) lines.push(["Next run (UTC)", moment(run.next_run_at)]);
  const outcomes = Object.entries(run.outcomes).filter(([, times]) => times > 0);
  if (outcomes.length > 0) {
    lines.push(["Runs", outcomes.map(([name, times]) => `${count(times)} ${name.replaceAll("_", " ")}`).join(", ")]);
  }
  return [
    running ? progress(run) : null,
    el("dl", { class: "lines" }, ...lines.map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    run.last_error ? el("p", { class: "note bad" }, el("b", {}, "The last run failed. "), clause(run.last_error)) : null,
  ];
}

/** Every model; choosing one shows its verdict above. */
export function models(rows, choose) {
  if (rows.length === 0) return empty("The registry is empty: nothing has been trained yet.");
  return table("Models, newest first", [
    { title: "Model", cell: (row) => el("button", {
      type: "button", class: "link", title: `Show the verdict of ${row.model_id}`,
      onclick: () => choose(row.model_id),
    }, shortId(row.model_id)) },
    { title: "State", cell: (row) => chip(row.state.replaceAll("_", " "), STATES[row.state] ?? "") },
    { title: "Trained (UTC)", cell: (row) => moment(row.created_at) },
    { title: "Promoted (UTC)", cell: (row) => moment(row.promoted_at) },
    { title: "Snapshot", cell: (row) => (row.snapshot_id ? shortId(row.snapshot_id) : "–") },
    { title: "Verdict", wide: true, cell: (row) => verdictInWords(row.verdict) },
  ], rows);
}

function reasons(shown) {
  if (shown.passed || shown.reasons.length === 0) return null;
  const explained = new Map(shown.checks.map((check) => [check.name, check.explanation]));
  return el("div", { class: "note bad" },
    el("b", {}, shown.reasons.length === 1 ? "Refused because" : `Refused for ${count(shown.reasons.length)} reasons`),
    el("ul", {}, ...shown.reasons.map((reason) =>
      el("li", {}, clause(explained.get(reason) ?? reason.replaceAll("_", " "))))));
}

function checks(rows) {
  return el("div", { class: "checks" }, table("Checks", [
    { title: "Result", cell: result },
    { title: "Check", cell: (check) => el("b", {}, words(check.name)) },
    { title: "Value", number: true, cell: (check) => compact(check.value) },
    { title: "Demanded", number: true, cell: (check) => (check.threshold === null ? "–"
      : `${RELATIONS[check.comparison] ?? check.comparison} ${compact(check.threshold)}`) },
    { title: "Kind", cell: (check) => (check.hard ? "hard" : "warning") },
    { title: "Explanation", wide: true, cell: (check) => check.explanation },
  ], rows, (check) => (check.passed ? "" : check.hard || check.value === null ? "failed" : "warned")));
}

function result(check) {
  if (check.passed) return chip("✓ pass", "good");
  if (check.value === null) return chip("? no evidence", "bad");
  return check.hard ? chip("✗ fail", "bad") : chip("! warning", "warn");
}

function progress(run) {
  const known = run.total > 0;
  const share = known ? Math.round((100 * run.done) / run.total) : null;
  const text = known ? `${count(run.done)} of ${count(run.total)} · ${share} %` : "under way";
  return el("div", { class: "progress" },
    el("progress", { max: known ? run.total : null, value: known ? run.done : null, "aria-label": "Retraining" }),
    el("span", { class: "hint" }, text));
}

function verdictInWords(row) {
  if (!row) return "–";
  return row.passed ? "Passed every hard check" : clause(row.reasons[0] ?? "refused");
}
