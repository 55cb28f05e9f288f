// What can be copied out of a trial: commands, and the one-file script.

// A script is its own texts and numbers of texts that others share; a number may stand for several.
function joined(pieces, texts) {
  return pieces.map((one) => typeof one === "string" ? one : Array.isArray(texts[one]) ? joined(texts[one], texts) : texts[one]).join("");
}

// A button that copies; where the clipboard is refused, it selects the text for the reader to copy.
function copier(text, block, what) {
  const said = document.createTextNode("Copy");
  const button = el("button", { type: "button", "aria-live": "polite", onclick: async () => {
    try { await navigator.clipboard.writeText(text); said.data = "Copied"; }
    catch { block.closest("details")?.setAttribute("open", ""); getSelection().selectAllChildren(block); said.data = "Selected"; }
    setTimeout(() => { said.data = "Copy"; }, 1500);
  } }, said, el("span", { class: "sr" }, ` ${what}`));
  return button;
}

// A command is one line, whatever a cell is called: more of them would run as soon as they are pasted.
function command(said, what) {
  const text = seen(said).replaceAll("\n", "\\n").replaceAll("\t", "\\t");
  const block = el("pre", {}, el("code", {}, text));
  return el("div", { class: "copy" }, block, copier(text, block, what));
}

function saver(text, name) {
  return el("button", { type: "button", onclick: () => {
    const url = URL.createObjectURL(new Blob([text], { type: "text/x-python" }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  } }, `Save ${name}`);
}

function scriptPart(trial, texts) {
  const head = el("h3", {}, "As one file");
  if (!Array.isArray(trial.script)) return el("div", {}, head, el("p", {}, `There is no script: ${trial.script}.`));
  const text = joined(trial.script, texts), lines = text.split("\n").length - 1;
  const block = el("pre", { class: "scroll script", tabindex: 0, role: "region", "aria-label": "full.py" }, el("code", {}, text));
  return el("div", {}, head,
    el("p", {}, "It needs the pinned packages and nothing of this suite: ", el("code", {}, "uv run full.py"), " builds an environment from its pins, ",
      el("code", {}, "python full.py"), " runs in one that is there. Exit code 0: absent, 1: reproduced, 125: it could not be told."),
    el("div", { class: "tools" }, copier(text, block, "the script"), saver(text, "full.py")),
    el("details", {}, el("summary", {}, `full.py, ${lines} lines`), block));
}
