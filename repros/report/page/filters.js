// Filters: what is asked of a field is known before any block is opened, and what is chosen is in the address.

const form = document.getElementById("filters");
const rows = [...document.querySelectorAll(".heat tbody tr")].map((row) => {
  const buttons = [...row.querySelectorAll("button")];
  const numbers = buttons.map((button) => Number(button.dataset.t));
  const words = (at) => [data.cases[data.trials[at][0]].name, data.cases[data.trials[at][0]].report, data.conditions[data.trials[at][1]], data.cells[data.trials[at][2]]].join(" ").toLowerCase();
  return { row, buttons, numbers, texts: numbers.map(words), differs: new Set(numbers.map((at) => data.trials[at][3])).size > 1 };
});
const cases = [...document.querySelectorAll(".case")], sections = [...document.querySelectorAll("section.report")];

if (form) {
  const find = document.getElementById("find"), effect = document.getElementById("effect"), nothing = document.getElementById("nothing");
  const chips = [...form.querySelectorAll("[name=verdict]")];
  const ticks = ["differs", "failed", "changed"].map((id) => document.getElementById(id)).filter(Boolean);
  const totals = data.verdicts.map((_, verdict) => data.trials.filter((trial) => trial[3] === verdict).length);
  const of = (some, all) => some === all ? String(all) : `${some} of ${all}`;

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(chips.filter((chip) => chip.checked).map((chip) => data.verdicts.indexOf(chip.value)));
    const [differs, failed, changed] = ["differs", "failed", "changed"].map((id) => ticks.some((tick) => tick.id === id && tick.checked));
    const fix = effect.value === "" ? null : data.effects.indexOf(effect.value);
    const shown = data.verdicts.map(() => 0);
    for (const { row, buttons, numbers, texts, differs: isMixed } of rows) {
      let any = false;
      numbers.forEach((at, i) => {
        const trial = data.trials[at];
        const fits = wanted.has(trial[3]) && (!differs || isMixed) && (!failed || trial[5]) && (!changed || trial[6]) &&
          (fix === null || trial[4] === fix) && words.every((word) => texts[i].includes(word));
        buttons[i].parentElement.classList.toggle("off", !fits);
        any = any || fits;
        shown[trial[3]] += fits;
      });
      row.hidden = !any;
    }
    for (const one of cases) one.hidden = !one.querySelector("tbody tr:not([hidden])");
    for (const one of sections) one.hidden = [...one.querySelectorAll(".case")].every((inner) => inner.hidden);
    const count = shown.reduce((sum, some) => sum + some, 0);
    for (const chip of chips) {
      const verdict = data.verdicts.indexOf(chip.value);
      chip.parentElement.querySelector("b").textContent = of(shown[verdict], totals[verdict]);
    }
    document.getElementById("count").textContent = `${of(count, data.trials.length)} trials`;
    if (count && nothing.contains(document.activeElement)) find.focus();
    nothing.hidden = count > 0;
    roam();
  }

  // The address: what is left as it was is not in it, so a page that nobody filtered keeps its own.
  function toAddress() {
    const asked = new URLSearchParams();
    if (find.value.trim()) asked.set("find", find.value.trim());
    for (const chip of chips) if (!chip.checked) asked.append("without", chip.value);
    for (const tick of ticks) if (tick.checked) asked.set(tick.id, "1");
    if (effect.value !== "") asked.set("fix", effect.value);
    const query = asked.toString();
    try {
      history.replaceState(null, "", location.pathname + (query && `?${query}`) + location.hash);
    } catch { /* a browser may refuse it to a file, or after many in a row */ }
  }

  function fromAddress() {
    const asked = new URLSearchParams(location.search), without = asked.getAll("without");
    find.value = asked.get("find") || "";
    for (const chip of chips) chip.checked = !without.includes(chip.value);
    for (const tick of ticks) tick.checked = asked.has(tick.id);
    effect.value = data.effects.includes(asked.get("fix")) ? asked.get("fix") : "";
  }

  data.effects.forEach((name) => effect.append(el("option", { value: name }, name)));
  effect.parentElement.hidden = !data.effects.length;
  form.addEventListener("input", () => { filter(); toAddress(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); toAddress(); }));
  fromAddress();
  if (location.search) filter();
}
