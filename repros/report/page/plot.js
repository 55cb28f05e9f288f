// Numbers as the suite prints them, and the two pictures of a trial.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, seen(String(value)));
  made.append(...children.map((child) => typeof child === "string" ? seen(child) : child));
  return made;
}

function number(value) {
  return value === "inf" ? Infinity : value === "-inf" ? -Infinity : value === "nan" ? NaN : value;
}

// Python rounds half a digit to the even one, JavaScript away from zero: 30 more digits tell a half from what is near it.
const HALF = /[02468]\.?50{29}$/;

// As Python's `f"{value:.{digits}f}"`, below 1e21.
function fixed(value, digits) {
  const long = value.toFixed(digits + 30);
  return HALF.test(long) ? long.slice(0, -30).replace(/\.$/, "") : value.toFixed(digits);
}

// As Python's `f"{value:.{digits}g}"`.
function general(value, digits) {
  const long = value.toExponential(digits + 29).split("e"), bare = (text) => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  const [mantissa, power] = HALF.test(long[0]) ? [long[0].slice(0, -30), long[1]] : value.toExponential(digits - 1).split("e");
  if (power < -4 || power >= digits) return `${bare(mantissa)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
  return bare(Number(`${mantissa}e${power}`).toPrecision(digits));
}

// As `repros.verdict.show`.
function show(value, unit, more = 0) {
  value = number(value);
  if (value === undefined || value === null) return "-";
  if (!Number.isFinite(value)) return "non-finite";
  if (unit === "parameters") return `${general(value / 1e9, 3 + more)}B`;
  if (unit === "times") return `${fixed(value, 2 + more)}×`;
  if (unit !== "bytes") return general(value, (unit === "ratio" ? 3 : 6) + more);
  for (const [scale, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"]])
    if (Math.abs(value) >= scale) return `${fixed(value / scale, 2 + more)} ${name}`;
  return `${fixed(value, more)} B`;
}

// How many digits more it takes until no figure prints like the limit that it is not.
function apart(values, limit, unit) {
  const differ = values.map(number).filter((value) => Number.isFinite(value) && value !== number(limit));
  let more = 0;
  while (more < 24 && differ.some((value) => show(value, unit, more) === show(limit, unit, more))) more++;
  return more;
}

// As `repros.case.unit_of`.
function unitOf(name) {
  const counted = ["bytes", "parameters"].find((ending) => name.endsWith(`_${ending}`));
  return counted || (name.endsWith("error") ? "ratio" : "count");
}

// A bar for a figure, and a tick where the budget ends; both on one scale for all arms, logarithmic where it is wide.
function bar(arm, value, limit, largest) {
  const wide = largest > 20 * limit, floor = wide ? Math.min(limit, value || limit) / 10 : 0;
  const least = wide ? limit / 100 : 0;
  const place = (v) => !Number.isFinite(v) ? 100 : wide
    ? 100 * Math.max(0, Math.log(Math.max(v, least) / least)) / Math.log(Math.max(largest, limit * 1.2) / least)
    : 100 * v / Math.max(largest, limit * 1.2);
  const picture = svg("svg", { class: "bars", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(svg("rect", { class: `bar ${arm}`, x: 0, y: 2.5, height: 7, width: Math.max(0.6, Math.min(100, place(value))) }));
  picture.append(svg("line", { class: "axis-line", x1: place(limit), x2: place(limit), y1: 0, y2: 12, "stroke-width": 1.2, "vector-effect": "non-scaling-stroke" }));
  return picture;
}

// Where each phase of an arm begins, in seconds on its timeline's clock; from marks, or from the phases' lengths.
function phasesOf(arm, end) {
  if (arm.marks && arm.marks.length) return arm.marks.map(([at, name]) => ({ at, name }));
  const found = [];
  let at = 0;
  for (const name of (arm.phases || []).slice(1)) { found.push({ at, name }); at += arm.seconds[name] || 0; }
  return found.length ? found : [{ at: 0, name: "" }];
}

// All arms' memory over time on one plot. Arms take different times, so each phase is as wide for all of them as the
// longest of them needs, and an arm's time runs evenly through it.
function timelines(arms, series, budget) {
  const W = Math.max(340, Math.min(860, innerWidth - 30)), H = W < 600 ? 240 : 300, left = 68, right = 8, top = 26, bottom = 34;
  const lines = arms.filter((arm) => arm.timelines[series.name]).map((arm) => {
    const line = arm.timelines[series.name], phases = phasesOf(arm);
    const times = line.steps[0].map((t) => t / 1e4), values = line.steps[series.column];
    return { arm: arm.arm, times, values, phases, end: Math.max(times[times.length - 1], phases[phases.length - 1].at + 1e-6) };
  });
  if (!lines.length) return null;
  const names = lines.reduce((most, line) => line.phases.length > most.length ? line.phases : most, []).map((p) => p.name);
  const lengths = names.map((_, i) => Math.max(...lines.map(({ phases, end }) =>
    i < phases.length ? (i + 1 < phases.length ? phases[i + 1].at : end) - phases[i].at : 0), 1e-6));
  const sum = lengths.reduce((a, b) => a + b, 0), inner = W - left - right;
  const widths = lengths.map((one) => Math.max(one / sum, 0.08));
  const all = widths.reduce((a, b) => a + b, 0), starts = [];
  widths.reduce((x, width, i) => { starts[i] = x; widths[i] = width / all * inner; return x + widths[i]; }, left);
  const place = ({ phases, end }, t) => {
    let i = phases.length - 1;
    while (i > 0 && t < phases[i].at) i--;
    const from = phases[i].at, to = i + 1 < phases.length ? phases[i + 1].at : end;
    return starts[i] + widths[i] * Math.min(1, Math.max(0, to > from ? (t - from) / (to - from) : 0));
  };
  const highest = Math.max(budget || 0, ...lines.flatMap((line) => line.values)) * 1.08 || 1;
  const y = (value) => top + (H - top - bottom) * (1 - value / highest);
  const peaks = lines.map((line) => `${line.arm} peaks at ${show(Math.max(...line.values), "bytes")}`).join(", ");
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", width: "100%",
    "aria-label": `${series.label} over the phases ${names.join(", ")}: ${peaks}${budget ? `; budget ${show(budget, "bytes")}` : ""}` });
  names.forEach((name, i) => {
    if (i % 2) picture.append(svg("rect", { class: "band", x: starts[i], y: top, width: widths[i], height: H - top - bottom }));
    const fits = widths[i] > name.length * 6.2;
    const label = svg("text", { x: starts[i] + widths[i] / 2, y: H - bottom + 16, "text-anchor": "middle", class: "dim-text" }, fits ? name : String(i + 1));
    label.append(svg("title", {}, name));
    picture.append(label);
  });
  const step = 2 ** Math.ceil(Math.log2(highest / 5));
  for (let value = 0; value <= highest; value += step) {
    picture.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: y(value), y2: y(value) }));
    picture.append(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end", class: "dim-text" }, show(value, "bytes").replace(/\.00 /, " ")));
  }
  for (const line of lines) {
    let path = "";
    line.times.forEach((t, i) => {
      const x = place(line, t).toFixed(1);
      path += i ? `H${x}V${y(line.values[i]).toFixed(1)}` : `M${x} ${y(line.values[i]).toFixed(1)}`;
    });
    picture.append(svg("path", { class: `line ${line.arm}`, d: `${path}H${place(line, line.end).toFixed(1)}` }));
  }
  if (budget) {
    picture.append(svg("line", { class: "budget", x1: left, x2: W - right, y1: y(budget), y2: y(budget) }));
    picture.append(svg("text", { x: W - right, y: Math.max(12, y(budget) - 5), "text-anchor": "end", class: "halo" }, `budget ${show(budget, "bytes")}`));
  }
  return { picture, names };
}
