// Contrast of each text as it is painted, lowest first: WCAG 2's ratio against the nearest opaque background,
// what is dimmed mixed with it.
() => {
  const parse = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const light = ([r, g, b]) => { const f = [r, g, b].map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const behind = (el) => { for (; el; el = el.parentElement) { const c = parse(getComputedStyle(el).backgroundColor); if (c[3] === 1) return c; }
    return parse(getComputedStyle(document.documentElement).backgroundColor); };
  const clear = (el) => { let part = 1; for (; el; el = el.parentElement) part *= Number(getComputedStyle(el).opacity); return part; };
  const found = [];
  for (const el of document.querySelectorAll("body *")) {
    const own = [...el.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.checkVisibility({ opacityProperty: true }) || ["SCRIPT", "STYLE", "OPTION", "NOSCRIPT"].includes(el.tagName)) continue;
    const style = getComputedStyle(el), paper = behind(el), seen = clear(el);
    const ink = parse(el instanceof SVGElement ? style.fill : style.color).map((v, i) => v * seen + (paper[i] ?? v) * (1 - seen));
    const [a, b] = [light(ink), light(paper)], ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, el.tagName + "." + (el.className.baseVal ?? el.className), el.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}
