// Theme, keys, and the way into a trial and back.

const data = JSON.parse(document.getElementById("data").textContent);
const fields = [...document.querySelectorAll(".heat button")];
const blocks = [...document.querySelectorAll("script.evidence")];
const opened = new Map();
const root = document.documentElement;

// -- theme

const themes = ["system", "light", "dark"];
let stored = "system";
try { stored = localStorage.getItem("repros-theme") || "system"; } catch { /* a file may be refused storage */ }
const themeButton = document.getElementById("theme");
function setTheme(name) {
  if (name === "system") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", name);
  themeButton.textContent = `Theme: ${name}`;
  themeButton.value = name;
  try { localStorage.setItem("repros-theme", name); } catch { /* as above */ }
}
setTheme(themes.includes(stored) ? stored : "system");
themeButton.addEventListener("click", () => setTheme(themes[(themes.indexOf(themeButton.value) + 1) % themes.length]));

// -- keys in a heat map: one stop for the tabulator, arrows inside

function roam() {
  for (const body of document.querySelectorAll(".heat tbody")) {
    const buttons = [...body.querySelectorAll("tr:not([hidden]) button")];
    if (!buttons.some((button) => button.tabIndex === 0)) {
      body.querySelectorAll("button[tabindex='0']").forEach((button) => { button.tabIndex = -1; });
      if (buttons.length) buttons[0].tabIndex = 0;
    }
  }
}

function neighbour(button, key) {
  const cell = button.parentElement, row = cell.parentElement, column = [...row.children].indexOf(cell);
  const near = (start, step) => { for (let at = start; at; at = at[step]) { if (!at.hidden) { const found = at.children[column]?.querySelector("button"); if (found) return found; } } return null; };
  if (key === "ArrowDown") return near(row.nextElementSibling, "nextElementSibling");
  if (key === "ArrowUp") return near(row.previousElementSibling, "previousElementSibling");
  const inRow = [...row.querySelectorAll("button")], at = inRow.indexOf(button);
  return { ArrowRight: inRow[at + 1], ArrowLeft: inRow[at - 1], Home: inRow[0], End: inRow[inRow.length - 1] }[key] || null;
}

document.addEventListener("keydown", (event) => {
  if (dialog.open && (event.key === "ArrowLeft" || event.key === "ArrowRight") && !/SELECT|INPUT/.test(event.target.tagName) && !event.target.closest(".scroll")) {
    move(event.key === "ArrowRight" ? 1 : -1);
    return;
  }
  const button = event.target.closest?.(".heat button");
  const next = button && neighbour(button, event.key);
  if (next) { event.preventDefault(); next.focus(); }
});

document.addEventListener("focusin", (event) => {
  const button = event.target.closest?.(".heat button");
  if (!button) return;
  button.closest("tbody").querySelectorAll("button[tabindex='0']").forEach((other) => { other.tabIndex = -1; });
  button.tabIndex = 0;
});

// -- a trial: #trial-N, so that it can be linked to and Back closes it

const dialog = document.getElementById("trial"), holder = document.getElementById("panel");
let current = -1, way = null; // the trial that is shown; the element and the trial that it was opened with

// Evidence blocks: base64 of zlib's format.
async function openBlock(text) {
  if (typeof DecompressionStream !== "function") throw new Error("this browser cannot inflate: it has no DecompressionStream; a newer one has");
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

async function block(at) {
  const which = Math.floor(at / BLOCK);
  if (!opened.has(which)) opened.set(which, openBlock(blocks[which].textContent).then(JSON.parse));
  return opened.get(which);
}

// The texts that the trials' one-file scripts share; opened once, with the first trial.
function scriptTable() {
  if (!opened.has("scripts")) opened.set("scripts", openBlock(document.getElementById("scripts").textContent).then(JSON.parse));
  return opened.get("scripts");
}

async function openTrial(at) {
  const bar = el("div", { class: "panel-bar" },
    el("button", { type: "button", onclick: () => move(-1), "aria-label": "previous trial" }, "‹"),
    el("button", { type: "button", onclick: () => move(1), "aria-label": "next trial" }, "›"),
    el("span", { class: "place" }, `${at + 1} of ${data.trials.length}`),
    el("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  current = at;
  try {
    const [source, texts] = await Promise.all([block(at), scriptTable()]);
    const index = at % BLOCK;
    const trial = source.trials[index].unpacked || (source.trials[index].unpacked = unpacked(source, source.trials[index]));
    if (current !== at) return;
    holder.replaceChildren(bar, ...panel(data, at, trial, texts));
  } catch (error) {
    holder.replaceChildren(bar, el("h2", { id: "trial-head", tabindex: -1 }, "This trial cannot be opened"), el("p", {}, String(error)));
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  document.getElementById("trial-head").focus();
}

function visible() {
  return fields.filter((field) => !field.parentElement.classList.contains("off")).map((field) => Number(field.dataset.t));
}

function move(step) {
  const list = visible(), at = list.indexOf(current);
  const next = list[(at + step + list.length) % list.length];
  if (next !== undefined) { history.replaceState(null, "", `#trial-${next}`); openTrial(next); }
}

function follow() {
  const found = /^#trial-(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < data.trials.length) openTrial(Number(found[1]));
  else if (dialog.open) dialog.close();
}

document.addEventListener("click", (event) => {
  const from = event.target.closest(".heat button, a[href^='#trial-']");
  if (from) way = { from, at: Number(from.dataset.t ?? from.hash.slice("#trial-".length)) };
  if (from?.dataset.t) { location.hash = `#trial-${way.at}`; if (current === way.at) openTrial(current); }
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => {
  if (/^#trial-/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
  const back = way?.at === current ? way.from : document.querySelector(`.heat button[data-t="${current}"]`);
  current = -1; way = null;
  back?.focus();
});
addEventListener("hashchange", follow);
addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((one) => { one.open = true; }));
roam();
follow();
