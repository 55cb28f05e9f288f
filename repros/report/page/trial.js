// What opening a trial shows. Figures are printed under the names that the record has.

// Controls, bidirectional and zero-width characters of a text by their numbers, as `repros.errors.printable` writes them.
const UNSEEN = /[^\P{C}\n\t]|[\p{Zl}\p{Zp}]|(?! )\p{Zs}|[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]|(?<=\p{M}{3})\p{M}/gu;
function seen(text) {
  return text.replace(UNSEEN, (one) => {
    const number = one.codePointAt(0), [sign, digits] = number > 0xffff ? ["U", 8] : number > 0xff ? ["u", 4] : ["x", 2];
    return `\\${sign}${number.toString(16).padStart(digits, "0")}`;
  });
}

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : seen(String(value)));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => typeof child === "string" ? seen(child) : child));
  return made;
}

function table(heads, rows, caption, classes = "plain") {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", { class: classes }, el("caption", { class: "sr" }, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head, i) => el("th", { scope: "col", class: rows[0]?.[i]?.className === "num" && "num" }, head)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row)))));
}

const td = (text, classes) => el("td", classes ? { class: classes } : {}, text);
const th = (text) => el("th", { scope: "row" }, text);

// A block keeps each value once: put them back where they are named by number.
function unpacked(block, trial) {
  const kept = (at) => at === undefined || at === null ? null : block.kept[at];
  const sum = (steps) => { let at = 0; return steps.map((step) => (at += step)); };
  for (const name of ["budget", "proposed", "remedies", "readings", "environment", "machine"]) trial[name] = kept(trial[name]);
  for (const arm of trial.arms) {
    arm.exception = kept(arm.exception);
    arm.phases = kept(arm.rest.phases); arm.marks = kept(arm.rest.marks);
    delete arm.rest.phases; delete arm.rest.marks;
    for (const rows of Object.values(arm.lists)) rows.forEach((row, i) => { rows[i] = kept(row); });
    for (const line of Object.values(arm.timelines)) { line.columns = kept(line.columns); line.steps = line.steps.map(sum); }
  }
  return trial;
}

function armsTable(trial) {
  const { figure, second, limit, unit } = trial.budget, budget = number(limit);
  const values = trial.arms.map((arm) => number(arm.figures[figure])).filter((v) => Number.isFinite(v));
  const largest = Math.max(budget, ...values, 0);
  const judged = trial.arms.flatMap((arm) => [arm.figures[figure], ...(second ? [arm.figures[second]] : [])]);
  const more = apart(judged, limit, unit);
  const error = figure !== "error" && trial.arms.some((arm) => "error" in arm.figures);
  const heads = ["arm", "reading", figure, el("span", { class: "sr" }, "beside the budget"), ...(second ? [second] : []), ...(error ? ["error"] : []), "seconds"];
  const rows = trial.arms.map((arm, i) => {
    const value = number(arm.figures[figure]);
    const repeated = trial.arms.findIndex((other) => other.arm === arm.arm) !== i;
    const reading = repeated ? "repeat" : trial.readings[arm.arm] || "";
    const said = arm.state === "done" ? reading : `${reading} (${arm.state})`;
    return [th(arm.arm), td(said), td(show(value, unit, more), "num"),
      el("td", {}, value === undefined ? "" : bar(arm.arm, value, budget, largest)),
      ...(second ? [td(show(arm.figures[second], unit, more), "num")] : []),
      ...(error ? [td(show(arm.figures.error, "ratio"), "num")] : []), td((arm.seconds.total || 0).toFixed(2), "num")];
  });
  rows.push([th("budget"), td(""), td(show(budget, unit, more), "num"), td(""), ...(second ? [td(show(budget, unit, more), "num")] : []), ...(error ? [td("")] : []), td("")]);
  return table(heads, rows, "Figures of all arms against the budget", "plain arms");
}

function figuresTable(trial) {
  const names = [...new Set(trial.arms.flatMap((arm) => Object.keys(arm.figures)))].sort();
  const rows = names.map((name) => [th(name), ...trial.arms.map((arm) =>
    el("td", { class: "num", title: String(arm.figures[name] ?? "") }, show(arm.figures[name], unitOf(name))))]);
  return table(["figure", ...trial.arms.map((arm) => arm.arm)], rows, "Every figure of every arm");
}

function times(value) {
  value = number(value);
  return value === null || value === undefined ? "-" : Number.isFinite(value) ? show(value, "times", apart([value], 1, "times")) : "∞";
}

// The series of timelines that the arms have, the one that the budget is about first.
function seriesOf(trial) {
  const found = [];
  for (const arm of trial.arms) for (const [name, line] of Object.entries(arm.timelines)) line.columns.forEach((label, i) => {
    if (!found.some((one) => one.name === name && one.column === i + 1)) found.push({ name, column: i + 1, label });
  });
  const words = trial.budget.figure.split("_");
  const score = (one) => words.filter((word) => `${one.name} ${one.label}`.replace("-", "").includes(word)).length;
  return found.sort((a, b) => score(b) - score(a));
}

function plotPart(trial) {
  const series = seriesOf(trial);
  if (!series.length) return null;
  const holder = el("div"), bytes = trial.budget.unit === "bytes";
  const choose = el("select", { "aria-label": "what is plotted", onchange: () => draw(series[choose.selectedIndex]) },
    ...series.map((one) => el("option", {}, one.label)));
  const draw = (one) => {
    const made = timelines(trial.arms, one, bytes ? number(trial.budget.limit) : null);
    if (!made) return holder.replaceChildren("No timeline.");
    const keys = el("ul", { class: "keys" }, ...trial.arms.filter((arm) => arm.timelines[one.name]).map((arm) => el("li", {},
      svg("svg", { viewBox: "0 0 34 10", "aria-hidden": "true" }, svg("line", { class: `line key ${arm.arm}`, x1: 0, x2: 34, y1: 5, y2: 5 })), arm.arm)));
    const order = el("p", { class: "dim" }, `Phases: ${made.names.map((name, i) => `${i + 1} ${name}`).join(", ")}. Each is as wide for every arm, whatever time it took.` +
      (trial.arms.every((arm) => arm.marks) ? "" : " Where a phase begins was not recorded; it follows from the phases' lengths.") +
      (bytes ? ` The budget is on ${trial.budget.figure}.` : ` The budget is on ${trial.budget.figure}, which is no memory.`));
    holder.replaceChildren(made.picture, keys, order);
  };
  draw(series[0]);
  return el("div", {}, el("h3", {}, "Memory over time"), el("div", { class: "tools" }, choose), holder);
}

function listsPart(trial) {
  const names = [...new Set(trial.arms.flatMap((arm) => Object.keys(arm.lists)))];
  if (!names.length) return null;
  names.sort((a, b) => (b.includes("peak") ? 1 : 0) - (a.includes("peak") ? 1 : 0));
  const holder = el("div");
  const whose = el("select", { "aria-label": "arm", onchange: () => draw() }, ...trial.arms.map((arm) => el("option", {}, arm.arm)));
  const which = el("select", { "aria-label": "list of tensors", onchange: () => draw() }, ...names.map((name) => el("option", {}, name.replaceAll("_", " "))));
  const draw = () => {
    const rows = (trial.arms[whose.selectedIndex].lists[names[which.selectedIndex]] || []);
    if (!rows.length) return holder.replaceChildren(el("p", { class: "dim" }, "None."));
    const known = ["dtype", "shape", "made_by", "count", "bytes", "file_backed"];
    const extra = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((name) => !known.includes(name));
    holder.replaceChildren(table(["shape", "dtype", "count", "bytes", "made by", ...extra], rows.map((row) => [
      td(row.shape ? `[${[row.shape].flat().join(", ")}]` : "-"), td(row.dtype || "-"), td(String(row.count ?? 1), "num"), td(show(row.bytes, "bytes"), "num"),
      td((row.made_by || "-") + (row.file_backed ? " (file mapping)" : "")), ...extra.map((name) => td(String(row[name] ?? "")))]),
      "Tensors, largest first"));
  };
  draw();
  return el("div", {}, el("h3", {}, "Tensors alive at the peak, and others"), el("div", { class: "tools" }, whose, which), holder);
}

function exceptionsPart(trial) {
  const raised = trial.arms.filter((arm) => arm.exception || arm.reason);
  if (!raised.length) return null;
  return el("div", {}, el("h3", {}, "How arms ended"), ...raised.map((arm) => el("div", {},
    el("p", {}, el("b", {}, arm.arm), ` ${arm.state}${arm.exception ? ` in phase ${arm.exception.phase || "?"}: ${arm.exception.types[0]}` : ""}`),
    el("pre", {}, [arm.exception ? arm.exception.text : arm.reason, ...(arm.exception ? arm.exception.frames.map((frame) => `  at ${frame}`) : []),
      arm.log ? `log: ${arm.log}` : ""].filter(Boolean).join("\n")))));
}

function facts(pairs) {
  return el("dl", { class: "facts two" }, ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function environmentPart(trial) {
  const { packages = {}, build, lock, lock_committed, overrides = {} } = trial.environment || {}, m = trial.machine || {};
  return el("div", {}, el("h3", {}, "Environment and lock"),
    facts([...Object.entries(packages), ["build of torch", build], ["in place of a pin", Object.entries(overrides).map(([k, v]) => `${k}=${v}`).join(", ")]]),
    facts([["lock", lock ? `${lock.slice(0, 16)}… (${lock_committed ? "committed" : "not committed, resolved here"})` : ""],
      ["machine", [m.cpu_model, m.cores && `${m.cores} cores`, m.memory_bytes && show(m.memory_bytes, "bytes"), m.system, m.libc].filter(Boolean).join(", ")],
      ["GPUs", (m.gpus || []).join(", ") || (m.cores ? "none" : "")], ["Python", m.python], ["CPU flags", (m.cpu_flags || []).join(" ")], ["compiler", m.cxx],
      ["tried", trial.date]]));
}

function panel(data, at, trial, texts) {
  const [c, k, l, v, , failed] = data.trials[at];
  const fact = data.cases[c], condition = data.conditions[k], cell = data.cells[l], verdict = data.verdicts[v];
  const outcome = data.outcomes.length ? data.outcomes[at] : "as expected";
  const claims = fact.claims.filter((claim) => claim.conditions.includes(condition));
  const repeat = trial.repeat || `python -m repros run ${fact.name} --cell ${cell} --condition ${condition}`;
  const change = data.changes[String(at)];
  const title = el("h2", { id: "trial-head", tabindex: -1 }, `${condition} `, el("span", { class: "title" }, `in ${cell}`));
  const parts = [
    title,
    el("p", { class: "dim" }, fact.url ? el("a", { href: fact.url, rel: "noreferrer" }, fact.report) : fact.report, ` ${fact.title} (${fact.name})`),
    fact.notes[condition] ? el("p", {}, fact.notes[condition]) : null,
    el("p", {}, el("span", { class: `pill v-${verdict}` }, verdict), ` ${data.trials[at][5] ? "not as recorded: " : ""}${verdict === "unsupported" ? "" : outcome}`),
    el("p", { class: "lead" }, trial.reason),
    change ? el("div", {}, el("h3", {}, `Changed against ${data.against}`), table(["what", "was", "is"], change.map(([name, was, is]) => [th(name), td(was), td(is)]), "What changed")) : null,
    claims.length ? el("h3", {}, "Claims that this condition speaks to") : null,
    ...claims.map((claim) => el("p", {}, claim.text, " ", el("span", { class: `s s-${claim.standing.split(" ")[0]}` }, claim.standing),
      ...(claim.reported.length ? [el("span", { class: "dim" }, " reported: " + claim.reported.map(([name, value]) => `${name}: ${value}`).join("; "))] : []))),
  ];
  if (trial.arms.length) {
    const m = trial.margins;
    parts.push(el("h3", {}, "Arms against the budget"), armsTable(trial),
      el("p", {}, `Margins: planted over budget ${times(m.planted_over_budget)}, budget over reference ${times(m.budget_over_reference)}.`),
      ...trial.arms.filter((arm) => arm.rest.tried_in && arm.rest.tried_in !== cell).map((arm) => el("p", { class: "dim" }, el("b", {}, arm.arm), arm.rest.tried_with ? ` was tried once, in ${arm.rest.tried_in}, with ${arm.rest.tried_with.join(" and ")} alone of the packages under test.` : ` was tried once for all cells, in ${arm.rest.tried_in}, where no package under test can be imported.`)),
      trial.proposed ? el("p", {}, el("b", {}, "Proposed fix"), ` (${fact.proposes}): `, el("span", { class: `e e-${trial.proposed.effect.split(" ")[0]}` }, trial.proposed.effect), ` ${trial.proposed.reason}`) : null,
      ...Object.entries(trial.remedies).map(([arm, one]) => el("p", {}, el("b", {}, arm.replace("remedy", "Remedy")), `: ${one.text}${one.recommended && ` (recommended by ${one.recommended})`}: `, el("span", { class: `e e-${one.effect.split(" ")[0]}` }, one.effect), ` ${one.reason}`)),
      plotPart(trial), listsPart(trial), exceptionsPart(trial),
      el("details", {}, el("summary", {}, "Every figure of every arm"), figuresTable(trial)),
      el("details", {}, el("summary", {}, "Other evidence"), el("pre", {}, trial.arms.map((arm) => `${arm.arm}: ${JSON.stringify(arm.rest)}; seconds: ${JSON.stringify(arm.seconds)}`).join("\n"))));
  }
  parts.push(environmentPart(trial), el("h3", {}, "Try it again"), command(repeat, "the command that tries it again"), scriptPart(trial, texts),
    el("p", {}, "The same with a comment ready to paste, the evidence and the plot, as a folder and a zip:"), command(`python -m repros bundle ${fact.name} --cell ${cell} --condition ${condition}`, "the command that makes the bundle"));
  if (fact.doc) parts.push(el("details", {}, el("summary", {}, "Claim, mechanism and derivation of the budget"), el("p", { class: "doc" }, fact.doc)));
  return parts.filter(Boolean);
}
