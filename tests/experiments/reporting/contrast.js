// Text that stands out from its own ground less than the 4.5 to 1 that WCAG 2 asks for.
() => {
  const parse = text => (text.match(/[\d.]+/g) ?? []).map(Number);
  const linear = x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = at => {
    for (; at; at = at.parentElement) {
      const own = parse(getComputedStyle(at).backgroundColor);
      if (own.length === 3 || own[3] === 1) return own.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const at of document.querySelectorAll("main *, aside *")) {
    const words = [...at.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const skipped = ["OPTION", "SCRIPT", "STYLE"].includes(at.tagName) || at.closest(".static");
    if (!words || skipped || !at.getClientRects().length) continue;
    const style = getComputedStyle(at);
    const ink = luminance(parse(at instanceof SVGElement ? style.fill : style.color).slice(0, 3));
    const behind = luminance(ground(at));
    const ratio = (Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05);
    if (ratio < 4.5) bad.push([at.tagName, at.textContent.slice(0, 40), ratio]);
  }
  return bad;
}
